//! The phantom hospitals of one seed: their DICOM files, read into frame caches. The pooled site reads all three.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::Context;
use common::plan::ImagePlan;
use data::{IntakeOptions, SiteSecret, Workers};

use super::arm::{POOLED, TRAINING_SITES, UNSEEN_SITE};
use crate::phantom::{self, SiteSpec};

/// Subjects of each site: the biobank has the most.
const SUBJECTS: [(&str, char, usize); 4] = [("a", 'a', 60), ("b", 'b', 48), ("c", 'c', 56), (UNSEEN_SITE, 'd', 20)];

/// Where the cache of a site is.
pub fn cache(folder: &Path, site: &str) -> PathBuf {
    folder.join("caches").join(site)
}

/// Makes images and caches of a seed, unless they are there. Several threads may ask for the same ones.
pub fn prepare(folder: &Path, seed: u64, images: &ImagePlan) -> anyhow::Result<()> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let finished = folder.join("images-finished");
    if finished.exists() {
        return Ok(());
    }
    let source = |site: &str| folder.join("images").join(site);
    for (site, letter, subjects) in SUBJECTS {
        let spec = SiteSpec::of(letter, subjects).context("a site of the phantom")?;
        phantom::write_site(&spec, seed, &source(site), &|_| {})?;
    }
    // One secret for all, so that a subject is held out in the pooled cache if it is at its own site.
    let secret = || {
        let mut bytes = [7; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        SiteSecret::new(bytes)
    };
    let read = |to: &str, from: &str| -> anyhow::Result<()> {
        let options = IntakeOptions::new(cache(folder, to), images.clone(), secret(), Workers::InProcess);
        data::index(&phantom::dicom_folder(&source(from)), &options, &mut |_| {})?;
        Ok(())
    };
    for site in TRAINING_SITES {
        read(site, site)?;
        read(POOLED, site)?;
    }
    read(UNSEEN_SITE, UNSEEN_SITE)?;
    fs::remove_dir_all(folder.join("images"))?;
    Ok(fs::write(finished, b"")?)
}
