#![no_main]

#[path = "../takes.rs"]
mod takes;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| takes::take("message", bytes));
