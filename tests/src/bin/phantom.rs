//! The phantom.
fn main() {}
