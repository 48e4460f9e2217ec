//! Compiles `federation.proto` with protox, so that no `protoc` is needed; and lists the calls that it declares.

use std::path::Path;
use std::{env, fs};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=federation.proto");
    let descriptors = protox::compile(["federation.proto"], ["."])?;
    let mut calls = String::new();
    for file in &descriptors.file {
        for service in &file.service {
            for method in &service.method {
                calls += &format!("    \"/{}.{}/{}\",\n", file.package(), service.name(), method.name());
            }
        }
    }
    fs::write(Path::new(&env::var("OUT_DIR")?).join("calls.rs"), format!("&[\n{calls}]\n"))?;
    tonic_prost_build::configure().bytes(".").compile_fds(descriptors)?;
    Ok(())
}
