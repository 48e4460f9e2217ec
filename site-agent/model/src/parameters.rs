//! A network's tensors on a device, found by their published names.

use std::collections::BTreeMap;

use burn::tensor::backend::{AutodiffBackend, Backend};
use burn::tensor::{Tensor, TensorData};
use common::NamedTensors;
use rayon::prelude::*;

use crate::compute::Named;
use crate::precision::Precision;

/// Flat leaf tensors by name; the shape is given where one is used.
#[derive(Clone)]
pub(crate) struct Parameters<B: Backend> {
    tensors: BTreeMap<String, (Tensor<B, 1>, Vec<usize>)>,
    device: B::Device,
    precision: Precision,
}

impl<B: Backend> Parameters<B> {
    /// A copy of `weights` on `device`.
    pub(crate) fn new(weights: &NamedTensors, device: &B::Device) -> Self {
        let named: Vec<_> = weights.iter().collect();
        // Copied beside each other; burn is told of them one after the other.
        let copies: Vec<Vec<f32>> = named.par_iter().map(|(_, tensor)| tensor.values.clone()).collect();
        let flat = |((name, tensor), values): ((&str, &common::Tensor), Vec<f32>)| {
            let count = values.len();
            (name.to_owned(), (Tensor::from_data(TensorData::new(values, [count]), device), tensor.shape.clone()))
        };
        let tensors = named.into_iter().zip(copies).map(flat).collect();
        Self { tensors, device: device.clone(), precision: Precision::F32 }
    }

    /// `weights` themselves on `device`.
    pub(crate) fn of(weights: NamedTensors, device: &B::Device) -> Self {
        let tensors = weights.into_iter().map(|(name, common::Tensor { shape, values })| {
            let count = values.len();
            (name, (Tensor::from_data(TensorData::new(values, [count]), device), shape))
        });
        Self { tensors: tensors.collect(), device: device.clone(), precision: Precision::F32 }
    }

    /// The same weights, multiplied in this precision.
    pub(crate) fn in_precision(mut self, precision: Precision) -> Self {
        self.precision = precision;
        self
    }

    /// The weights again, without a copy where nothing else holds them.
    pub(crate) fn back(self) -> NamedTensors {
        let back = |(name, (tensor, shape))| (name, common::Tensor { shape, values: host(tensor) });
        self.tensors.into_iter().map(back).collect()
    }

    /// The same tensors with a graph from them on.
    pub(crate) fn tracked<G: AutodiffBackend<InnerBackend = B> + Backend<Device = B::Device>>(&self) -> Parameters<G> {
        let tracked = |(name, (tensor, shape)): (&String, &(Tensor<B, 1>, Vec<usize>))| {
            (name.clone(), (Tensor::from_inner(tensor.clone()), shape.clone()))
        };
        let tensors = self.tensors.iter().map(tracked).collect();
        Parameters { tensors, device: self.device.clone(), precision: self.precision }
    }

    /// Names and shapes.
    pub(crate) fn shapes(&self) -> Vec<(String, Vec<usize>)> {
        self.tensors.iter().map(|(name, (_, shape))| (name.clone(), shape.clone())).collect()
    }

    /// A tensor's values in a row.
    pub(crate) fn flat(&self, name: &str) -> Option<Tensor<B, 1>> {
        Some(self.tensors.get(name)?.0.clone())
    }

    /// Takes a tensor's values out, with its shape.
    pub(crate) fn take(&mut self, name: &str) -> Option<(Tensor<B, 1>, Vec<usize>)> {
        self.tensors.remove(name)
    }

    /// Puts a tensor's values in.
    pub(crate) fn put(&mut self, name: &str, values: Tensor<B, 1>, shape: Vec<usize>) {
        self.tensors.insert(name.to_owned(), (values, shape));
    }

    /// The device.
    pub(crate) fn device(&self) -> &B::Device {
        &self.device
    }

    /// The tensor of that name, with its first axis kept and the others joined: `[rows, columns]`.
    ///
    /// # Panics
    /// If there is none: signatures are checked where weights come in.
    pub(crate) fn matrix(&self, name: &str) -> Tensor<B, 2> {
        let (tensor, shape) = &self.tensors[name];
        let columns = shape[1..].iter().product::<usize>();
        tensor.clone().reshape([shape[0], columns])
    }

    /// The same as an operand of products: rounded, where they are in less than single precision.
    pub(crate) fn operand(&self, name: &str) -> Tensor<B, 2> {
        self.matrix(name).cast(self.precision.of_products())
    }

    /// The tensor of that name as one row: `[1, values]`.
    pub(crate) fn row(&self, name: &str) -> Tensor<B, 2> {
        let (tensor, shape) = &self.tensors[name];
        tensor.clone().reshape([1, shape.iter().product::<usize>()])
    }
}

impl<B: AutodiffBackend> Parameters<B> {
    /// The same tensors, with gradients asked of those that `trained` names.
    pub(crate) fn trained(mut self, trained: impl Fn(&str) -> bool) -> Self {
        for (name, (tensor, _)) in &mut self.tensors {
            if trained(name) {
                *tensor = tensor.clone().require_grad();
            }
        }
        self
    }

    /// The gradient of each tensor that has one, and nothing else that was kept for them.
    pub(crate) fn gradients(&self, gradients: B::Gradients) -> Named<B::InnerBackend> {
        let of = |(name, (tensor, _)): (&String, &(Tensor<B, 1>, _))| Some((name.clone(), tensor.grad(&gradients)?));
        self.tensors.iter().filter_map(of).collect()
    }
}

/// A tensor's values on the host.
pub(crate) fn host<B: Backend, const D: usize>(tensor: Tensor<B, D>) -> Vec<f32> {
    // Every tensor of ours is f32; `convert` only changes it on a device that computes in another type.
    tensor.into_data().convert::<f32>().into_vec().unwrap_or_default()
}

/// Values of the host as a tensor.
pub(crate) fn tensor<B: Backend, const D: usize>(
    values: Vec<f32>,
    shape: [usize; D],
    device: &B::Device,
) -> Tensor<B, D> {
    Tensor::from_data(TensorData::new(values, shape), device)
}
