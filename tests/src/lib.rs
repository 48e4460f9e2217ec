//! The Federation harness, the CMR phantom, the demo, and stories between programs.

pub mod federation;
pub mod programs;
