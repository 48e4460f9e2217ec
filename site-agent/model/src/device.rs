//! Where to compute, chosen at run time: the CPU always, an NVIDIA GPU in a build with the feature `cuda`.

use std::fmt;
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
    // burn's CUDA backend panics without a driver, so look for one before touching it.
    let device = std::path::PathBuf::from(format!("/dev/nvidia{index}"));
    if !device.exists() {
        return Err(ModelError::Device(format!(
            "there is no {}: install the NVIDIA driver, give this process access to the GPU, or use device = \"cpu\"",
            device.display()
        )));
    }
    Ok(Box::new(On::<Autodiff<burn_cuda::Cuda>>::new(burn_cuda::CudaDevice::new(index), Host::Caller)))
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
    fn a_missing_gpu_or_driver_is_an_error_with_a_remedy() {
        let error = DeviceChoice::Cuda(99).open().err().map(|error| error.to_string()).unwrap_or_default();
        assert!(error.contains("device = \"cpu\""), "{error}");
    }
}
