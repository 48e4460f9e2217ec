//! Where to compute, chosen at run time: the CPU always, an NVIDIA GPU in a build with the feature `cuda`.

use std::fmt;
#[cfg(any(test, feature = "cuda"))]
use std::path::{Path, PathBuf};
use std::str::FromStr;

use burn_autodiff::Autodiff;
use burn_flex::Flex;

use crate::ModelError;
use crate::compute::{Compute, Host, On};

/// A device as a person writes it: `cpu`, `cuda` or `cuda:<n>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The processor.
    Cpu,
    /// The NVIDIA GPU of this index.
    Cuda(usize),
}

impl FromStr for DeviceChoice {
    type Err = ModelError;
    fn from_str(written: &str) -> Result<Self, ModelError> {
        let unknown = || ModelError::Device(format!("device {written:?} is not known: use cpu, cuda or cuda:<n>"));
        match written.split_once(':') {
            None if written == "cpu" => Ok(Self::Cpu),
            None if written == "cuda" => Ok(Self::Cuda(0)),
            Some(("cuda", index)) => index.parse().map(Self::Cuda).map_err(|_| unknown()),
            _ => Err(unknown()),
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(index) => write!(f, "cuda:{index}"),
        }
    }
}

#[cfg(test)]
/// Does what a device without kernels of ours does, on the CPU: every operation from burn's own, worked by the caller.
pub(crate) fn as_on_a_device<T>(work: impl FnOnce(Box<dyn Compute>) -> T) -> T {
    crate::fused::BURNS.set(true);
    let done = work(Box::new(On::<Autodiff<Flex>>::new(Default::default(), Host::Caller)));
    crate::fused::BURNS.set(false);
    done
}

impl DeviceChoice {
    /// The device, if this program was built for it and this machine has it.
    pub(crate) fn open(&self) -> Result<Box<dyn Compute>, ModelError> {
        match self {
            Self::Cpu => Ok(Box::new(On::<Autodiff<Flex>>::new(Default::default(), Host::Threads))),
            Self::Cuda(index) => cuda(*index),
        }
    }
}

#[cfg(not(feature = "cuda"))]
fn cuda(_: usize) -> Result<Box<dyn Compute>, ModelError> {
    Err(ModelError::Device(
        "this program was built without CUDA: build it with `--features site-agent/cuda`, or use device = \"cpu\""
            .to_owned(),
    ))
}

#[cfg(feature = "cuda")]
fn cuda(index: usize) -> Result<Box<dyn Compute>, ModelError> {
    use burn::tensor::Tensor;

    // Which GPU has which file, a container decides; but no driver is without the first, or on WSL the second of these.
    let of_driver = ["/dev/nvidiactl", "/dev/dxg"];
    if !of_driver.iter().any(|file| Path::new(file).exists()) {
        return Err(ModelError::Device(format!(
            "there is no {}: install the NVIDIA driver, give this process access to the GPU (in a container `--gpus all`), or \
             use device = \"cpu\"",
            of_driver[0]
        )));
    }
    headers(std::env::var_os("CUDA_PATH").map(PathBuf::from), |path| path.exists()).map_err(ModelError::Device)?;
    crate::compiled::keep();
    let device = burn_cuda::CudaDevice::new(index);
    // What is missing for a first product, burn tells by a panic: the driver's library, the GPU of this number, NVRTC, headers.
    let first = panics_told(|| {
        let one = Tensor::<burn_cuda::Cuda, 2>::ones([1, 1], &burn_cuda::CudaDevice::new(index));
        crate::parameters::host(one.clone().matmul(one))
    });
    let why = match first {
        Ok(product) if product == [1.0] => {
            return Ok(Box::new(On::<Autodiff<burn_cuda::Cuda>>::new(device, Host::Caller)));
        }
        Ok(product) => format!("1 times 1 is {product:?} there"),
        Err(why) => why,
    };
    Err(ModelError::Device(format!(
        "cuda:{index} cannot compute ({why}): it needs NVIDIA's driver, NVRTC and CUDA's headers (CUDA_PATH, or /usr/local/cuda); \
         install CUDA 12.8 or later, name a GPU that `nvidia-smi -L` lists, or use device = \"cpu\""
    )))
}

/// Refuses a machine without CUDA's headers where burn looks for them: it would only say that a kernel was not compiled.
#[cfg(any(test, feature = "cuda"))]
fn headers(cuda_path: Option<PathBuf>, exists: impl Fn(&Path) -> bool) -> Result<(), String> {
    let usual = ["/usr/local/cuda", "/opt/cuda", "/usr"].map(PathBuf::from);
    let all = cuda_path.map_or(usual.to_vec(), |path| vec![path]);
    let header = |cuda: &PathBuf| cuda.join("include/cuda_runtime.h");
    if all.iter().any(|cuda| exists(&header(cuda))) {
        return Ok(());
    }
    Err(format!(
        "there is no {}: install CUDA's headers, 12.8 or later, set CUDA_PATH to the folder whose include/ has them, or use \
         device = \"cpu\"",
        header(&all[0]).display()
    ))
}

/// Does `work`, or says what the first panic was, on whichever thread: burn works on threads of its own, and whoever waits for
/// one that panicked only knows that it is gone. Nothing else panics meanwhile that should be heard: a device is opened before
/// there is work for it.
pub(crate) fn panics_told<T>(work: impl FnOnce() -> T + std::panic::UnwindSafe) -> Result<T, String> {
    use std::panic;
    use std::sync::{Arc, Mutex, PoisonError};

    /// Characters of a panic that are told: the rest is a list of what was searched.
    const TOLD: usize = 300;
    let told = Arc::new(Mutex::new(None));
    let (before, heard) = (panic::take_hook(), Arc::clone(&told));
    panic::set_hook(Box::new(move |panicked| {
        let said = panicked.payload_as_str().unwrap_or("it did not say why").split_whitespace();
        let said = said.collect::<Vec<_>>().join(" ").chars().take(TOLD).collect::<String>();
        heard.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(said);
    }));
    let done = panic::catch_unwind(work);
    panic::set_hook(before);
    // A panic that is only passed on is no hook's: then there is its payload.
    let passed_on = |panicked: Box<dyn std::any::Any + Send>| match panicked.downcast::<String>() {
        Ok(said) => *said,
        Err(panicked) => panicked.downcast_ref::<&str>().map_or("it did not say why", |said| said).to_owned(),
    };
    let first = told.lock().unwrap_or_else(PoisonError::into_inner).take();
    done.map_err(|panicked| first.unwrap_or_else(|| passed_on(panicked)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_read_as_it_is_written() {
        for (written, meant) in
            [("cpu", DeviceChoice::Cpu), ("cuda", DeviceChoice::Cuda(0)), ("cuda:3", DeviceChoice::Cuda(3))]
        {
            assert_eq!(written.parse::<DeviceChoice>().unwrap(), meant);
        }
        assert!("gpu".parse::<DeviceChoice>().unwrap_err().to_string().contains("use cpu, cuda or cuda:<n>"));
    }

    #[test]
    fn missing_headers_of_cuda_are_named_with_where_they_were_looked_for() {
        let only = |there: &'static str| move |path: &Path| path == Path::new(there);
        let named = |path: &str| Some(PathBuf::from(path));
        assert_eq!(headers(None, only("/opt/cuda/include/cuda_runtime.h")), Ok(()));
        assert_eq!(headers(named("/cuda"), only("/cuda/include/cuda_runtime.h")), Ok(()));
        // A folder that is named is the only one.
        let error = headers(named("/cuda"), only("/usr/local/cuda/include/cuda_runtime.h")).unwrap_err();
        assert!(error.contains("/cuda/include/cuda_runtime.h") && error.contains("CUDA_PATH"), "{error}");
        let error = headers(None, |_| false).unwrap_err();
        assert!(error.contains("/usr/local/cuda/include/cuda_runtime.h"), "{error}");
    }

    #[test]
    fn the_first_panic_is_told_whoever_panicked() {
        let of_another = panics_told(|| {
            let lost = std::thread::spawn(|| panic!("there is no   library {}", 7)).join();
            lost.expect("RecvError");
        });
        assert_eq!(of_another, Err("there is no library 7".to_owned()));
        let passed_on = panics_told(|| std::panic::resume_unwind(Box::new("as it was")));
        assert_eq!(passed_on, Err::<(), _>("as it was".to_owned()));
        assert_eq!(panics_told(|| 7), Ok(7));
    }

    #[test]
    fn a_missing_gpu_or_driver_is_an_error_with_a_remedy() {
        let error = DeviceChoice::Cuda(99).open().err().map(|error| error.to_string()).unwrap_or_default();
        assert!(error.contains("device = \"cpu\""), "{error}");
    }
}
