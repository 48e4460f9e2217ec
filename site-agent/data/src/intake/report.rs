//! What an intake found, for a person and for a script. Counts only: it may be shown to anyone at the site.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::frames::{Built, Counts, Sources};
use crate::cache::{FrameWriter, SeriesRecord};
use crate::labels::{Plane, Sequence};
use crate::skip::Skip;

/// What an intake found in one source, and did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct IntakeReport {
    /// Files walked.
    pub files: usize,
    /// Images in the cache from this source; an enhanced multi-frame image counts its frames.
    pub images: u64,
    /// Subjects.
    pub subjects: usize,
    /// Studies.
    pub studies: usize,
    /// Series.
    pub series: usize,
    /// Frames in the cache from this source.
    pub frames: u64,
    /// Frames in the cache from all sources.
    pub cache_frames: u64,
    /// Series decoded in this run.
    pub new_series: usize,
    /// Series that were in the cache already.
    pub unchanged_series: usize,
    /// Series dropped because their files have gone.
    pub removed_series: usize,
    /// By sequence and plane; only those there are.
    pub views: Vec<ViewCount>,
    /// What was left out, by reason.
    pub skipped: Vec<SkipCount>,
    /// Of those, how many should have been usable.
    pub faults: u64,
    /// Files that are images or archives, or claim to be.
    pub image_files: usize,
    /// Of those, how many gave nothing that can be used, for a fault.
    pub faulty_files: usize,
    /// Time the caller measured, in seconds.
    pub seconds: f64,
}

/// Images of one sequence in one plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ViewCount {
    /// The sequence.
    pub sequence: Sequence,
    /// The plane.
    pub plane: Plane,
    /// Subjects with any.
    pub subjects: usize,
    /// Series.
    pub series: usize,
    /// Frames.
    pub frames: u64,
}

/// How often something was left out for a reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SkipCount {
    /// The reason's code.
    pub reason: String,
    /// What to do about it.
    pub remedy: String,
    /// Whether it counts against the site's tolerance.
    pub fault: bool,
    /// How often.
    pub count: u64,
}

impl IntakeReport {
    pub(super) fn new(sources: &Sources<'_>, writer: &FrameWriter, built: &Built, skips: &[Skip]) -> Self {
        let Built { counts, shown, .. } = built;
        let records = || {
            let here = shown.iter().filter_map(|id| writer.latest().get(id));
            here.filter(|record| !record.slices.is_empty())
        };
        let found = sources.found.images.iter();
        let images = found.map(|image| {
            let entry = sources.found.entry_name(image.file, image.entry);
            (sources.files[image.file].relative.as_str(), entry)
        });
        let (faulty_files, image_files) = count_files(images, skips);
        let mut reasons: BTreeMap<&str, (&Skip, u64)> = BTreeMap::new();
        for skip in skips {
            reasons.entry(skip.reason.code()).or_insert((skip, 0)).1 += 1;
        }
        Self {
            skipped: reasons
                .into_iter()
                .map(|(code, (skip, count))| SkipCount {
                    reason: code.to_owned(),
                    remedy: skip.reason.remedy().to_owned(),
                    fault: skip.reason.is_fault(),
                    count,
                })
                .collect(),
            faults: skips.iter().filter(|skip| skip.reason.is_fault()).count() as u64,
            image_files,
            faulty_files,
            ..Self::of(records(), sources.files.len(), *counts, writer.frame_count())
        }
    }

    /// Of records that nothing was left out of. `cache_frames` are those of all sources.
    pub(crate) fn of<'a>(
        records: impl Iterator<Item = &'a SeriesRecord>,
        files: usize,
        counts: Counts,
        cache_frames: u64,
    ) -> Self {
        let mut views = BTreeMap::new();
        let (mut everybody, mut studies) = (BTreeSet::new(), BTreeSet::new());
        for record in records {
            let (subjects, series, frames) =
                views.entry((record.sequence, record.plane)).or_insert_with(|| (BTreeSet::new(), 0_usize, 0_u64));
            subjects.insert(record.subject);
            everybody.insert(record.subject);
            studies.insert((record.subject, record.study));
            *series += 1;
            *frames += record.frame_count();
        }
        let views: Vec<ViewCount> = views
            .into_iter()
            .map(|((sequence, plane), (subjects, series, frames))| ViewCount {
                sequence,
                plane,
                subjects: subjects.len(),
                series,
                frames,
            })
            .collect();
        let frames = views.iter().map(|view| view.frames).sum();
        Self {
            files,
            images: frames,
            subjects: everybody.len(),
            studies: studies.len(),
            series: views.iter().map(|view| view.series).sum(),
            frames,
            cache_frames,
            new_series: counts.new,
            unchanged_series: counts.unchanged,
            removed_series: counts.removed,
            views,
            skipped: Vec::new(),
            faults: 0,
            image_files: files,
            faulty_files: 0,
            seconds: 0.0,
        }
    }

    /// Whether more is faulty than this share, of the images or of the files: a lost archive holds many images, and
    /// nobody knows how many.
    pub(super) fn exceeds(&self, tolerance: f64) -> bool {
        let images = (self.faults as f64, self.faults as f64 + self.images as f64);
        let files = (self.faulty_files as f64, self.image_files as f64);
        [images, files].into_iter().any(|(faulty, all)| faulty > tolerance * all)
    }

    /// With the time that the caller measured.
    pub fn timed(self, elapsed: Duration) -> Self {
        Self { seconds: elapsed.as_secs_f64(), ..self }
    }

    /// The reasons with their counts, in one line.
    pub(super) fn reasons(&self) -> String {
        let listed: Vec<String> = self.skipped.iter().map(|skip| format!("{} {}", skip.count, skip.reason)).collect();
        listed.join(", ")
    }
}

/// Of the files that hold images or should, how many hold none that can be used, and how many there are. `images` are
/// those whose headers could be read, as the ledger would name them.
fn count_files<'a>(images: impl Iterator<Item = (&'a str, Option<&'a str>)>, skips: &'a [Skip]) -> (usize, usize) {
    let faults = || skips.iter().filter(|skip| skip.reason.is_fault());
    let lost: BTreeSet<_> = faults().map(|skip| (skip.file.as_str(), skip.entry.as_deref())).collect();
    let usable: BTreeSet<&str> = images.filter(|image| !lost.contains(image)).map(|(file, _)| file).collect();
    let faulty = faults().map(|skip| skip.file.as_str()).filter(|file| !usable.contains(file)).collect::<BTreeSet<_>>();
    (faulty.len(), faulty.len() + usable.len())
}

impl fmt::Display for IntakeReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { files, subjects, studies, series, frames, .. } = self;
        writeln!(f, "{files} files: {subjects} subjects, {studies} studies, {series} series, {frames} frames")?;
        let Self { new_series: new, unchanged_series: unchanged, removed_series: removed, .. } = self;
        write!(f, "{new} series decoded, {unchanged} unchanged, {removed} removed")?;
        if self.seconds > 0.0 {
            write!(f, " in {:.1} s", self.seconds)?;
        }
        writeln!(f, "\n\n{:<10}{:<8}{:>10}{:>10}{:>10}", "sequence", "plane", "subjects", "series", "frames")?;
        for ViewCount { sequence, plane, subjects, series, frames } in &self.views {
            writeln!(f, "{sequence:<10}{plane:<8}{subjects:>10}{series:>10}{frames:>10}")?;
        }
        if !self.skipped.is_empty() {
            writeln!(f, "\n{:<20}{:>8}  remedy", "left out", "count")?;
        }
        for SkipCount { reason, remedy, count, .. } in &self.skipped {
            writeln!(f, "{reason:<20}{count:>8}  {remedy}")?;
        }
        Ok(())
    }
}
