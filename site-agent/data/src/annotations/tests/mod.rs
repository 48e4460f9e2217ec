//! Labels against small DICOM series that are indexed in the test.

mod codes;
mod folder;
mod landmarks;
mod masks;
mod projection;

use std::fs;
use std::path::Path;

use common::plan::ImagePlan;

use super::*;
use crate::cache::FrameRef;
use crate::dicom::support::{Image, SHORT_AXIS, along_axis, short_axis_cine};
use crate::geometry::{FrameGrid, Placement};
use crate::intake::{IntakeOptions, Workers, index};
use crate::labels::{Plane, Sequence};
use crate::nifti::{Affine, NiftiError, Volume, slice_affine, stack_affine, write_nifti};

const ROWS: usize = 12;
const COLUMNS: usize = 16;
const SLICES: usize = 4;
const SPACING: [f64; 2] = [1.5, 1.0];

/// Where the first slice of the cine lies.
const ORIGIN: [f64; 3] = [-20.0, 35.0, 12.0];

/// A subject with a short-axis cine of 4 slices 10 mm apart and 3 phases (series 1) and a single frame (series 2), and
/// another subject with a single frame (series 3).
struct Site {
    folder: tempfile::TempDir,
    cache: FrameCache,
}

fn secret() -> SiteSecret {
    SiteSecret::new([7; 32])
}

fn moved(by: [f64; 3]) -> [f64; 3] {
    [0, 1, 2].map(|i| ORIGIN[i] + by[i])
}

impl Site {
    fn new() -> Self {
        let template = Image { spacing: Some(SPACING), ..Image::new() };
        let mut images = short_axis_cine(&template, SLICES as u32, 3);
        images.iter_mut().for_each(|image| image.position = moved(image.position));
        let single = Image { position: ORIGIN, description: "T1 map SAX".into(), ..template };
        images.push(Image { series: 2, ..single.clone() });
        images.push(Image { series: 3, study: 2, patient: "PATIENT-2", ..single });
        Self::of(&images, 24)
    }

    fn of(images: &[Image], frame_size: usize) -> Self {
        Self::tolerating(images, frame_size, 0.1)
    }

    /// Of images of which this share may be faulty.
    fn tolerating(images: &[Image], frame_size: usize, tolerance: f64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("images");
        for (place, image) in images.iter().enumerate() {
            image.write(&source.join(place.to_string()));
        }
        let plan = ImagePlan { frame_size, spacing_mm: 1.0, ..ImagePlan::default() };
        let mut options = IntakeOptions::new(folder.path().join("cache"), plan.clone(), secret(), Workers::InProcess);
        options.tolerance = tolerance;
        index(&source, &options, &mut |_| {}).unwrap();
        let cache = FrameCache::open(&options.cache, &plan).unwrap();
        fs::create_dir(folder.path().join("labels")).unwrap();
        let site = Self { folder, cache };
        site.text(
            "labels.toml",
            "[codes]\nLV = 1\nmyocardium = 2\nRV = 3\nscar = 6\n[within]\nscar = \"myocardium\"\n",
        );
        site
    }

    fn labels(&self) -> std::path::PathBuf {
        self.folder.path().join("labels")
    }

    fn text(&self, name: &str, text: &str) {
        fs::write(self.labels().join(name), text).unwrap();
    }

    fn volume(&self, name: &str, dims: [usize; 3], affine: Affine, values: Vec<u8>) {
        let dims = [dims[0], dims[1], dims[2], 1];
        write_nifti(&self.labels().join(name), &Volume { dims, affine, values }).unwrap();
    }

    fn record(&self, series: u32) -> (u32, &SeriesRecord) {
        let key = SeriesKey::of(&secret(), &uid(series));
        let place = self.cache.series().iter().position(|record| record.key == key).unwrap();
        (place as u32, &self.cache.series()[place])
    }

    fn masks(&self, classes: &[&str]) -> Result<Vec<SeriesMask>, LabelError> {
        Labels::open(&self.labels(), &secret())?.masks(&self.cache, |_| true, &names(classes))
    }

    /// Of a table with these rows after its first line.
    fn rows(&self, rows: &str) -> Result<Vec<SeriesMask>, LabelError> {
        self.text("masks.csv", &format!("subject,series,phase,file\n{rows}\n"));
        self.masks(&["LV", "myocardium"])
    }

    fn landmarks(&self, rows: &str) -> Result<Vec<FrameLandmarks>, LabelError> {
        self.text("landmarks.csv", &format!("subject,series,phase,landmark,x_mm,y_mm,z_mm\n{rows}\n"));
        let labels = Labels::open(&self.labels(), &secret())?;
        labels.landmarks(&self.cache, |_| true, &names(&["apex", "insertion"]))
    }
}

fn uid(series: u32) -> String {
    format!("1.2.826.0.1.3680043.9.2.{series}")
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn row(phase: &str, file: &str) -> String {
    format!("PATIENT-1,{},{phase},{file}", uid(1))
}

/// A mask of the stack that no turn and no mirror leaves as it is: 0, 1, 2 and 6 in places of their own.
fn drawn() -> Vec<u8> {
    let code = |place: usize| [0, 0, 1, 2, 0, 6, 2][(place * place + 3 * place / 7) % 7];
    (0..SLICES * ROWS * COLUMNS).map(code).collect()
}

/// What becomes of [`drawn`] with the classes LV and myocardium.
fn expected() -> Vec<Option<Vec<u8>>> {
    let class = |code: &u8| if *code == 6 { 2 } else { *code };
    drawn().chunks(ROWS * COLUMNS).map(|slice| Some(slice.iter().map(class).collect())).collect()
}
