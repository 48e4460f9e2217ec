#![no_main]

#[path = "../takes.rs"]
#[allow(dead_code, reason = "a target needs one or two of these")]
mod takes;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| takes::update(bytes));
