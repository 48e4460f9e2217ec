#![no_main]

#[path = "../takes.rs"]
#[allow(dead_code)]
mod takes;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    takes::frames(bytes);
    takes::head(bytes);
});
