//! `cargo phantom`: phantom hearts as DICOM files on disk.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
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

fn write(cli: &Cli) -> anyhow::Result<()> {
    let letters = if cli.site == "all" { "abcd" } else { cli.site.as_str() };
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
        let truth = phantom::write_site(&spec, cli.seed, &cli.out.join(format!("site-{letter}")), &|_| {})?;
        println!("site {letter}: {} subjects, {} images", truth.subjects.len(), truth.image_count());
    }
    if let Some(sheet) = &cli.sheet {
        phantom::write_sheet(sheet, cli.seed)?;
    }
    Ok(())
}
