//! One step's mathematics on a device: weights and crops in, loss and gradients out. It keeps nothing between steps.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use burn::tensor::Tensor;
use burn::tensor::backend::AutodiffBackend;
use common::plan::{Centering, ModelPlan};
use common::{NamedTensors, Task};

use crate::ModelError;
use crate::device::panics_told;
use crate::dino;
use crate::fused::{Fused, Kernels};
use crate::heads::{self, Shown};
use crate::names::BACKBONE;
use crate::parameters::{Parameters, host, tensor};
use crate::precision::{Precision, single};
use crate::training::{OnDevice, OnHost, State, Training};
use crate::vit::{self, Images};

/// What one step needs beside the networks.
pub(crate) struct StepInput<'a> {
    pub(crate) plan: &'a ModelPlan,
    pub(crate) precision: Precision,
    pub(crate) centering: Centering,
    pub(crate) center: &'a [f32],
    pub(crate) batch: usize,
    /// The two global crops, one after the other.
    pub(crate) global: &'a [f32],
    pub(crate) global_side: usize,
    /// The local crops, one after the other.
    pub(crate) local: &'a [f32],
    pub(crate) local_side: usize,
    pub(crate) locals: usize,
    pub(crate) teacher_temperature: f64,
    pub(crate) student_temperature: f64,
    pub(crate) koleo: f64,
    /// Stochastic depth for the global and the local pass.
    pub(crate) drop_path: [Vec<[Vec<f32>; 2]>; 2],
    /// Which tensors are trained at all.
    pub(crate) trained: &'a (dyn Fn(&str) -> bool + Sync),
}

/// Tensors by name, each in a row.
pub(crate) type Named<B> = BTreeMap<String, Tensor<B, 1>>;

/// What one step computes on a device, where its values lie.
pub(crate) struct Computed<B: AutodiffBackend> {
    /// The DINO loss, without regularisers.
    pub(crate) loss: f64,
    /// Those of the student's tensors that have one.
    pub(crate) gradients: Named<B::InnerBackend>,
    /// The teacher's raw logits, `[2 * batch, K]`.
    pub(crate) teacher_logits: Tensor<B::InnerBackend, 2>,
    /// The teacher's centered and sharpened output, `[2 * batch, K]`.
    pub(crate) taught: Tensor<B::InnerBackend, 2>,
    /// The student's raw logits, `[crops * batch, K]`.
    #[cfg(test)]
    pub(crate) student_logits: Tensor<B::InnerBackend, 2>,
}

/// What a step of a task's training needs.
pub(crate) struct TaskInput<'a> {
    pub(crate) plan: &'a ModelPlan,
    pub(crate) task: &'a Task,
    pub(crate) precision: Precision,
    pub(crate) weights: &'a NamedTensors,
    pub(crate) shown: Shown<'a>,
    pub(crate) drop_path: Vec<[Vec<f32>; 2]>,
    /// Which tensors are trained at all.
    pub(crate) trained: &'a (dyn Fn(&str) -> bool + Sync),
}

/// What it gives.
pub(crate) struct TaskOutput {
    pub(crate) loss: f64,
    /// Gradients by name.
    pub(crate) gradients: BTreeMap<String, Vec<f32>>,
}

/// From logits to a loss and its gradient, on the host.
pub(crate) type Loss<'a> = &'a (dyn Fn(&[f32]) -> (f64, Vec<f32>) + Sync);

/// A device that computes steps and features.
pub(crate) trait Compute: Send {
    /// Refuses a precision that this device does not know.
    fn knows(&self, precision: Precision) -> Result<(), ModelError>;
    /// The state of a training, where this device keeps it between steps.
    fn training(self: Box<Self>, state: State) -> Box<dyn Training>;
    /// A step of a task's training.
    fn finetune(&self, input: &TaskInput<'_>, loss: Loss<'_>) -> TaskOutput;
    /// What a task's network says, row-major.
    fn logits(&self, plan: &ModelPlan, task: &Task, weights: &NamedTensors, shown: Shown<'_>) -> Vec<f32>;
    /// What a detection's head says of features that [`Self::features`] gave, `group` images a subject, row-major.
    fn pooled(&self, head: &NamedTensors, features: &[f32], group: usize) -> Vec<f32>;
    /// CLS features, `[count, dim]`, of a backbone with published names.
    fn features(&self, plan: &ModelPlan, backbone: &NamedTensors, images: Images<'_>) -> Vec<f32>;
    /// CLS attention of the last block, `[count, heads, patches]`.
    fn attention(&self, plan: &ModelPlan, backbone: &NamedTensors, images: Images<'_>) -> Vec<f32>;
}

/// Held from the first tensor of a graph to the last. burn keeps the graphs of a process in one place, and when two threads
/// build and walk theirs beside each other, a whole contribution to a gradient is lost now and then.
static ONE_GRAPH: Mutex<()> = Mutex::new(());

/// Nobody else's graph until it is dropped.
pub(crate) fn one_graph() -> MutexGuard<'static, ()> {
    // Nothing is kept between steps, so a step that panicked has left nothing behind.
    ONE_GRAPH.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Who does the host's part of the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Host {
    /// One of the threads that share it: what they do beside each other begins without waking the others first. Its memory is the
    /// device's, and a training's state stays there.
    Threads,
    /// Whoever asks: a GPU's runtime knows its callers by their threads. A training's state stays in the GPU's memory.
    #[cfg_attr(not(any(test, feature = "cuda")), expect(dead_code, reason = "of GPUs alone"))]
    Caller,
}

/// Runs `work` on the first of the shared threads, always the same: it keeps what it frees at hand for its next tensors, and
/// threads in turns would each keep a step's.
fn on_the_first_thread<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    let (work, over) = (Mutex::new(Some(work)), AtomicBool::new(false));
    let results = rayon::broadcast(|thread| {
        if thread.index() > 0 {
            help(&over);
            return None;
        }
        let _over = Raised(&over);
        let work = work.lock().unwrap_or_else(PoisonError::into_inner).take();
        work.map(|work| work())
    });
    results.into_iter().flatten().next().expect("there is a first thread")
}

/// Takes a share of what the first thread gives away until its work is over, and stays awake in the short stretches between:
/// to be woken takes longer than most of them. Whoever else wants the processor has it meanwhile.
fn help(over: &AtomicBool) {
    let mut since = Instant::now();
    while !over.load(Ordering::Acquire) && since.elapsed() < AWAKE {
        match rayon::yield_now() {
            Some(rayon::Yield::Executed) => since = Instant::now(),
            _ => thread::yield_now(),
        }
    }
}

/// Time without work after which a thread goes to sleep.
const AWAKE: Duration = Duration::from_millis(1);

/// A flag that is raised in the end, after a panic as well.
struct Raised<'a>(&'a AtomicBool);

impl Drop for Raised<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// A burn backend on one device.
pub(crate) struct On<B: AutodiffBackend> {
    pub(crate) device: B::Device,
    host: Host,
}

impl<B: AutodiffBackend + Fused> On<B>
where
    B::InnerBackend: Fused + Kernels,
    B::Device: Send + Sync,
{
    pub(crate) fn new(device: B::Device, host: Host) -> Self {
        Self { device, host }
    }

    /// Works without a graph.
    fn apart<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        match self.host {
            Host::Threads => on_the_first_thread(work),
            Host::Caller => work(),
        }
    }

    /// Works with the graph of this process. The caller waits for it, and none of the shared threads: one that waits may be
    /// given other work meanwhile, and would wait for itself.
    pub(crate) fn alone<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        let _alone = one_graph();
        self.apart(work)
    }

    /// What the teacher says of the global crops, raw: `[2 * batch, K]`. It runs on the inner backend, without a graph.
    pub(crate) fn teach(teacher: &Parameters<B::InnerBackend>, input: &StepInput<'_>) -> Tensor<B::InnerBackend, 2> {
        let global = Images { values: input.global, count: 2 * input.batch, side: input.global_side };
        dino::project(teacher, vit::cls_features(input.plan, teacher, BACKBONE, global, &[]))
    }

    /// The student's loss under what the teacher said, and its gradients.
    pub(crate) fn learn(
        student: &Parameters<B>,
        teacher_logits: Tensor<B::InnerBackend, 2>,
        input: &StepInput<'_>,
    ) -> Computed<B> {
        let StepInput { plan, batch, .. } = *input;
        let global = Images { values: input.global, count: 2 * batch, side: input.global_side };
        let local = Images { values: input.local, count: input.locals * batch, side: input.local_side };
        let taught = match input.centering {
            Centering::Center => dino::sharpen(teacher_logits.clone(), input.center, input.teacher_temperature),
            Centering::SinkhornKnopp => dino::balance(teacher_logits.clone(), input.teacher_temperature),
        };

        let of_global = vit::cls_features(plan, student, BACKBONE, global, &input.drop_path[0]);
        let features = if input.locals == 0 {
            of_global.clone()
        } else {
            let of_local = vit::cls_features(plan, student, BACKBONE, local, &input.drop_path[1]);
            Tensor::cat(vec![of_global.clone(), of_local], 0)
        };
        let learnt = dino::project(student, features);
        let loss =
            dino::cross_crop_loss(Tensor::from_inner(taught.clone()), learnt.clone(), batch, input.student_temperature);
        let told = loss.clone().inner();
        let mut total = loss;
        if input.koleo > 0.0 {
            let dim = plan.dim;
            let spread =
                [0, 1].map(|crop| dino::koleo(of_global.clone().slice([crop * batch..(crop + 1) * batch, 0..dim])));
            let [first, second] = spread;
            total = total + (first + second) * (input.koleo / 2.0);
        }
        let gradients = student.gradients(total.backward());
        // Asked for last: a GPU has all its work by then.
        let loss = host(told).first().map_or(f64::NAN, |&loss| f64::from(loss));
        Computed {
            loss,
            gradients,
            teacher_logits,
            taught,
            #[cfg(test)]
            student_logits: learnt.inner(),
        }
    }

    fn finetuned(&self, input: &TaskInput<'_>, loss: Loss<'_>) -> TaskOutput {
        let weights = Parameters::<B>::new(input.weights, &self.device);
        let weights = weights.in_precision(input.precision).trained(input.trained);
        let logits = heads::logits(input.plan, input.task, &weights, input.shown, &input.drop_path);
        let (loss, gradient) = loss(&host(logits.clone().inner()));
        // A sum whose gradient in the logits is the loss's own.
        let toward = tensor::<B, 2>(gradient, logits.dims(), &self.device);
        let gradients = weights.gradients((logits * toward).sum().backward());
        TaskOutput { loss, gradients: gradients.into_iter().map(|(name, gradient)| (name, host(gradient))).collect() }
    }

    fn bare(&self, weights: &NamedTensors) -> Parameters<B::InnerBackend> {
        Parameters::new(weights, &self.device)
    }
}

impl<B: AutodiffBackend + Fused + 'static> Compute for On<B>
where
    B::InnerBackend: Fused + Kernels,
    B::Device: Send + Sync,
{
    fn knows(&self, precision: Precision) -> Result<(), ModelError> {
        let one = || Tensor::<B::InnerBackend, 2>::ones([1, 1], &self.device).cast(precision.of_products());
        let why = match (B::supports_dtype(&self.device, precision.of_products().into()), self.host) {
            (false, _) => "it does not know the type".to_owned(),
            (true, Host::Threads) => return Ok(()),
            // A device may know a type and yet not compile a product of it.
            (true, Host::Caller) => match panics_told(AssertUnwindSafe(|| host(single(one().matmul(one()))))) {
                Ok(product) if product == [1.0] => return Ok(()),
                Ok(product) => format!("1 times 1 is {product:?} there"),
                Err(why) => why,
            },
        };
        Err(ModelError::Device(format!(
            "this device does not compute in {precision} ({why}): use precision = \"f32\", or a GPU that does (NVIDIA's since Ampere)"
        )))
    }

    fn training(self: Box<Self>, state: State) -> Box<dyn Training> {
        match self.host {
            Host::Threads => Box::new(OnHost::new(*self, state)),
            Host::Caller => Box::new(OnDevice::new(*self, state)),
        }
    }

    fn finetune(&self, input: &TaskInput<'_>, loss: Loss<'_>) -> TaskOutput {
        self.alone(|| self.finetuned(input, loss))
    }

    fn logits(&self, plan: &ModelPlan, task: &Task, weights: &NamedTensors, shown: Shown<'_>) -> Vec<f32> {
        self.apart(|| host(heads::logits(plan, task, &self.bare(weights), shown, &[])))
    }

    fn pooled(&self, head: &NamedTensors, features: &[f32], group: usize) -> Vec<f32> {
        self.apart(|| host(heads::pooled(&self.bare(head), features, group)))
    }

    fn features(&self, plan: &ModelPlan, backbone: &NamedTensors, images: Images<'_>) -> Vec<f32> {
        self.apart(|| host(vit::cls_features(plan, &self.bare(backbone), "", images, &[])))
    }

    fn attention(&self, plan: &ModelPlan, backbone: &NamedTensors, images: Images<'_>) -> Vec<f32> {
        self.apart(|| host(vit::cls_attention(plan, &self.bare(backbone), "", images)))
    }
}
