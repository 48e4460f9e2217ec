#![no_main]

#[path = "../takes.rs"]
#[allow(dead_code)]
mod takes;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| takes::encoded_update(bytes));
