//! CLS features of images in a file, for comparison with other programs:
//! `features <plan.toml> <backbone> <images.safetensors> <out.safetensors>`.
//!
//! `images` holds a tensor `images`, `[count, channels, side, side]`, already normalised; `out` gets `features`,
//! `[count, dim]`. The backbone is read as `site-agent init-model --from` reads it. `scripts/interchange.py` calls this.

use std::error::Error;

use common::{NamedTensors, PlanDraft};
use model::import::Network;
use model::{Backbone, DeviceChoice, import, weights_file};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [plan, backbone, images, out] = arguments.as_slice() else {
        return Err("give a plan, a backbone, images and where the features go".into());
    };
    let plan: PlanDraft = toml::from_str(&std::fs::read_to_string(plan)?)?;
    let read = |path: &String| -> Result<_, Box<dyn Error>> { Ok(weights_file::read(&std::fs::read(path)?)?) };
    let weights = import::backbone(read(backbone)?, &plan.model, Network::Teacher)?;
    let images = read(images)?;
    let images = images.get("images").ok_or("the images' file has no tensor `images`")?;
    let &[count, _, side, _] = images.shape.as_slice() else { return Err("`images` does not have four axes".into()) };
    let rows = Backbone::load(&plan.model, &DeviceChoice::Cpu, &weights)?.features(&images.values, count, side)?;
    let mut features = NamedTensors::new();
    features.insert("features", vec![count, plan.model.dim], rows.concat());
    std::fs::write(out, features.to_safetensors())?;
    Ok(())
}
