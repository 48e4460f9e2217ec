//! Room, memory, device.

use std::time::Duration;

use common::check::Check;
use common::machine::bytes;
use model::Precision;

/// Room in the state folder, against what a run needs.
pub(in crate::doctor) fn disk(free: Option<u64>, need: u64) -> Check {
    match free {
        None => Check::warning(
            "disk",
            "the room in the state folder is not known",
            "does the folder exist, and may this user look into it?",
        ),
        Some(free) if free < need => {
            let remedy = "free some room, or move the state folder to a larger disk";
            Check::failure("disk", format!("{} free, and a run needs {}", bytes(free), bytes(need)), remedy)
        }
        Some(free) if free < need.saturating_mul(2) => Check::warning(
            "disk",
            format!("{} free, and a run needs {}", bytes(free), bytes(need)),
            "another run may not find room",
        ),
        Some(free) => Check::ok("disk", format!("{} free, and a run needs {}", bytes(free), bytes(need))),
    }
}

/// Memory that is free, against what a trainer needs.
pub(in crate::doctor) fn memory(free: Option<u64>, need: u64) -> Check {
    let remedy =
        "end other programs, or for pretraining set `micro_batch` in site-agent.toml: less memory, the same step";
    match free {
        None => Check::warning("memory", "how much is free is not known on this system", remedy),
        Some(free) if free < need => {
            Check::warning("memory", format!("{} free, and training needs about {}", bytes(free), bytes(need)), remedy)
        }
        Some(free) => Check::ok("memory", format!("{} free, and training needs about {}", bytes(free), bytes(need))),
    }
}

/// Whether the kernel holds the process that parses images to their files.
pub(in crate::doctor) fn parser(holds_files: bool) -> Check {
    match holds_files {
        true => Check::ok("parser", "the kernel lets it read the images, and nothing else"),
        false => Check::warning(
            "parser",
            "this kernel has no Landlock: what takes over the process that parses images could read this user's files, though not \
             send them",
            "Linux 5.13 or later with `landlock` among its security modules (`lsm=` of its command line)",
        ),
    }
}

/// The device and the precision that the settings name, whether this build can use a GPU, and the version of the NVIDIA driver.
pub(in crate::doctor) fn gpu(
    device: &str,
    precision: Precision,
    is_built_for_cuda: bool,
    driver: Option<&str>,
) -> Check {
    let has = driver.map_or("no NVIDIA driver is loaded".to_owned(), |version| format!("NVIDIA driver {version}"));
    match (device.starts_with("cuda"), is_built_for_cuda, driver) {
        (false, ..) if precision != Precision::F32 => Check::warning(
            "GPU",
            format!(
                "not used (device = \"{device}\"), but precision = \"{precision}\", which makes the CPU slower; {has}"
            ),
            "set `precision = \"f32\"` for training on the CPU",
        ),
        (false, _, None) => Check::ok("GPU", format!("not used (device = \"{device}\"); {has}")),
        (false, _, Some(_)) => {
            let remedy = "with `device = \"cuda\"` and a build for CUDA it would train there";
            Check::ok("GPU", format!("not used (device = \"{device}\"), though there is one: {has}; {remedy}"))
        }
        (true, false, _) => {
            let remedy = "install the build with `--features site-agent/cuda`, or set `device = \"cpu\"`";
            Check::failure(
                "GPU",
                format!("device = \"{device}\", but this program is built for the CPU alone; {has}"),
                remedy,
            )
        }
        (true, true, None) => {
            let remedy = "install NVIDIA's driver, and in a container pass the GPU in (`--gpus all`)";
            Check::failure("GPU", format!("device = \"{device}\", but {has}"), remedy)
        }
        (true, true, Some(_)) => Check::ok("GPU", format!("device = \"{device}\", precision = \"{precision}\"; {has}")),
    }
}

/// A step of a tiny network in a child process, on the configured device.
pub(in crate::doctor) fn trainer(device: &str, step: Result<Duration, &str>) -> Check {
    match step {
        Ok(took) => {
            Check::ok("trainer", format!("starts on {device}; began and took a step in {:.1} s", took.as_secs_f64()))
        }
        Err(why) => {
            let remedy = "see the check of the GPU; `device = \"cpu\"` trains on every machine, slowly";
            Check::failure("trainer", format!("does not start on {device}"), remedy).here(why)
        }
    }
}
