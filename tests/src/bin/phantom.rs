//! `cargo phantom`: phantom hearts as DICOM files on disk.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use serde::{Deserialize, Serialize};
use tests::experiment;
use tests::phantom::{self, SiteSpec};

/// Write phantom cardiac MR images as DICOM files, as four unlike hospitals would hold them.
///
/// Below `DIR/SITE/dicom` lie the images; below `DIR/SITE/labels` what readers would say of them (masks, landmarks,
/// diagnoses), as a site keeps its labels; below `DIR/SITE/truth` what is true (scar, disease, volumes). The same seed
/// writes the same bytes.
#[derive(Debug, Parser)]
#[command(name = "phantom", bin_name = "cargo phantom", version)]
struct Cli {
    /// Where to write.
    #[arg(long)]
    out: PathBuf,
    /// Which site: a (Siemens, UK Biobank zips), b (Philips), c (GE), d (Canon), or all.
    #[arg(long, default_value = "all")]
    site: String,
    /// Subjects of sites a and d; b has five for each twelve of them, c two, unless the size is to be the same.
    #[arg(long, default_value_t = 12)]
    subjects: usize,
    /// Seed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The matrices, phases and slices of real hospitals, instead of the demo's: 50 to 170 MB a subject.
    #[arg(long)]
    full: bool,
    /// The same scanner at every site: its signal, resolution and orientation.
    #[arg(long)]
    same_contrast: bool,
    /// The same sequences, views and diseases at every site.
    #[arg(long)]
    same_mix: bool,
    /// The same number of subjects at every site.
    #[arg(long)]
    same_size: bool,
    /// Draw a picture sheet (PNG) as well.
    #[arg(long)]
    sheet: Option<PathBuf>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match write(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// What a site's images depend on.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Images {
    subjects: usize,
    seed: u64,
    full: bool,
    same_contrast: bool,
    same_mix: bool,
    same_size: bool,
}

impl Images {
    fn of(cli: &Cli) -> Self {
        let Cli { subjects, seed, full, same_contrast, same_mix, same_size, .. } = *cli;
        Self { subjects, seed, full, same_contrast, same_mix, same_size }
    }
}

/// Refuses a folder with the images of other settings: those that are not written over would stay among these, under the same patients.
fn require_own(folder: &Path, images: &Images) -> anyhow::Result<()> {
    let is_begun = experiment::is_held(folder);
    let is_empty = std::fs::read_dir(phantom::dicom_folder(folder)).map_or(true, |mut files| files.next().is_none());
    anyhow::ensure!(
        is_begun || is_empty,
        "{} holds images of settings that are not known: name another folder with --out, or remove this one to start over",
        folder.display()
    );
    experiment::hold(folder, images)
}

fn write(cli: &Cli) -> anyhow::Result<()> {
    let site = cli.site.to_ascii_lowercase();
    let letters = if site == "all" { "abcd" } else { &site };
    for letter in letters.chars() {
        let share = match letter {
            'b' => 5,
            'c' => 2,
            _ => 12,
        };
        let Some(mut spec) = SiteSpec::of(letter, (cli.subjects * share).div_ceil(12)) else {
            anyhow::bail!("site {:?} is not known: use a, b, c, d or all", cli.site);
        };
        if cli.same_contrast {
            spec = spec.same_contrast();
        }
        if cli.same_mix {
            spec = spec.same_mix();
        }
        if cli.same_size {
            spec = spec.same_size(cli.subjects);
        }
        if cli.full {
            spec = spec.full();
        }
        let folder = cli.out.join(format!("site-{letter}"));
        require_own(&folder, &Images::of(cli))?;
        let truth = phantom::write_site(&spec, cli.seed, &folder, &|_| {})?;
        println!("site {letter}: {} subjects, {} images", truth.subjects.len(), truth.image_count());
    }
    if let Some(sheet) = &cli.sheet {
        phantom::write_sheet(sheet, cli.seed)?;
    }
    Ok(())
}

// Not `tests`, which is the crate.
#[cfg(test)]
mod typed {
    use super::*;

    fn written(out: &Path, words: &[&str]) -> anyhow::Result<()> {
        let out = out.display().to_string();
        write(&Cli::parse_from([&["phantom", "--out", &out], words].concat()))
    }

    #[test]
    fn a_site_has_the_same_share_of_the_subjects_however_its_letter_is_written() {
        let folder = tempfile::tempdir().unwrap();
        written(folder.path(), &["--site", "B", "--subjects", "2"]).unwrap();
        let patients = std::fs::read_dir(phantom::dicom_folder(&folder.path().join("site-b"))).unwrap();
        assert_eq!(patients.count(), 1, "five of twelve, rounded up");
    }

    #[test]
    fn images_of_other_settings_are_not_written_among_those_that_are_there() {
        let folder = tempfile::tempdir().unwrap();
        let words = ["--site", "c", "--subjects", "1"];
        written(folder.path(), &words).unwrap();
        written(folder.path(), &words).unwrap();
        for more in [["--seed", "2"], ["--subjects", "7"]] {
            let other = [&words[..2], &more[..]].concat();
            let why = written(folder.path(), &other).unwrap_err().to_string();
            assert!(why.contains("other settings") && why.contains("--out"), "{why}");
        }
        std::fs::remove_file(folder.path().join("site-c/experiment.json")).unwrap();
        let why = written(folder.path(), &words).unwrap_err().to_string();
        assert!(why.contains("not known"), "{why}");
    }
}
