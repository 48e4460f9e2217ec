//! A site with a folder of images and a cache: 16 x 16 frames of 1 mm, windows over the whole range.

use std::fs;
use std::path::PathBuf;

use common::plan::ImagePlan;
use data::{FrameCache, IntakeError, IntakeOptions, IntakeReport, SiteSecret, Workers, index};

use crate::support::Image;

pub(crate) struct Site {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) options: IntakeOptions,
}

impl Site {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let images = ImagePlan {
            frame_size: 16,
            spacing_mm: 1.0,
            low_percentile: 0.0,
            high_percentile: 100.0,
            ..ImagePlan::default()
        };
        let secret = SiteSecret::new([7; 32]);
        let options = IntakeOptions::new(folder.path().join("cache"), images, secret, Workers::InProcess);
        fs::create_dir(folder.path().join("images")).unwrap();
        Self { folder, options }
    }

    pub(crate) fn images(&self) -> PathBuf {
        self.folder.path().join("images")
    }

    pub(crate) fn index(&self) -> Result<IntakeReport, IntakeError> {
        index(&self.images(), &self.options, &mut |_| {})
    }

    pub(crate) fn cache(&self) -> FrameCache {
        FrameCache::open(&self.options.cache, &self.options.images).unwrap()
    }

    pub(crate) fn write(&self, name: &str, image: &Image) {
        image.write(&self.images().join(name));
    }

    /// Files under names that say nothing of their order.
    pub(crate) fn write_all(&self, folder: &str, images: &[Image]) {
        for (place, image) in images.iter().enumerate() {
            self.write(&format!("{folder}/{}", (place * 7 + 3) % images.len()), image);
        }
    }

    pub(crate) fn ledger(&self) -> String {
        fs::read_to_string(self.options.cache.join("skipped.jsonl")).unwrap()
    }
}
