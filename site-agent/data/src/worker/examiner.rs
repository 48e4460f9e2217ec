//! Parses files in the process it runs in; a panic below is caught and is a reason like any other.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use super::{Content, Parser, Span};
use crate::archive::{Archive, is_archive, participant};
use crate::dicom::{
    FileSource, ImageHeader, MemorySource, Pixels, Source, Substitutes, read_header, read_pixels, transfer_syntax,
};
use crate::keys::SiteSecret;
use crate::limits::IntakeLimits;
use crate::skip::SkipReason;

/// Reads files here. Keeps the archive and the image that it looked at last, since requests come in runs.
pub(crate) struct Examiner {
    secret: SiteSecret,
    limits: IntakeLimits,
    archive: Option<(PathBuf, Archive)>,
    image: Option<(PathBuf, Option<u32>, ImageHeader, Pixels)>,
}

impl Examiner {
    /// A reader for a site.
    pub(crate) fn new(secret: SiteSecret, limits: IntakeLimits) -> Self {
        Self { secret, limits, archive: None, image: None }
    }

    fn guarded<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T, SkipReason>) -> Result<T, SkipReason> {
        guarded(|| work(self)).inspect_err(|reason| {
            if *reason == SkipReason::ParserCrashed {
                // What a panic left half done is not looked at again.
                self.archive = None;
                self.image = None;
            }
        })
    }

    fn archive(&mut self, path: &Path) -> Result<&mut Archive, SkipReason> {
        match &mut self.archive {
            Some((held, _)) if held == path => {}
            _ => self.archive = None,
        }
        let (_, archive) = match self.archive.take() {
            Some(held) => self.archive.insert(held),
            None => self.archive.insert((path.to_owned(), Archive::open(path, &self.limits)?)),
        };
        Ok(archive)
    }

    fn source(&mut self, path: &Path, entry: Option<u32>) -> Result<(Box<dyn Source>, Option<String>), SkipReason> {
        let Some(index) = entry else {
            let source = FileSource::open(path).map_err(|_| SkipReason::Unreadable)?;
            return Ok((Box::new(source), None));
        };
        let limits = self.limits;
        let archive = self.archive(path)?;
        let description = archive.description(index).map(str::to_owned);
        Ok((Box::new(MemorySource(archive.read(index, &limits)?)), description))
    }

    fn read_image(&mut self, path: &Path, entry: Option<u32>) -> Result<(ImageHeader, Box<dyn Source>), SkipReason> {
        let (mut source, description) = self.source(path, entry)?;
        let subject = entry.and(participant(path));
        let substitutes = Substitutes { subject, description: description.as_deref() };
        let header = read_header(&mut *source, &self.limits, &self.secret, substitutes)?;
        Ok((header, source))
    }
}

/// Makes a panic a reason: the parsers below are not ours.
pub(crate) fn guarded<T>(work: impl FnOnce() -> Result<T, SkipReason>) -> Result<T, SkipReason> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or(Err(SkipReason::ParserCrashed))
}

impl Parser for Examiner {
    fn open(&mut self, path: &Path) -> Result<Content, SkipReason> {
        self.guarded(|this| {
            if !is_archive(path)? {
                return Ok(Content::Image(Box::new(this.read_image(path, None)?.0)));
            }
            // Opened anew: the file may have changed since it was looked at.
            this.archive = None;
            Ok(Content::Archive(this.archive(path)?.entries().to_vec()))
        })
    }

    fn header(&mut self, path: &Path, entry: u32) -> Result<Box<ImageHeader>, SkipReason> {
        self.guarded(|this| Ok(Box::new(this.read_image(path, Some(entry))?.0)))
    }

    fn syntax(&mut self, path: &Path, entry: Option<u32>) -> Result<String, SkipReason> {
        self.guarded(|this| transfer_syntax(&mut *this.source(path, entry)?.0))
    }

    fn frames(&mut self, path: &Path, span: Span) -> Result<Vec<f32>, SkipReason> {
        self.guarded(|this| {
            let held = this.image.as_ref().is_some_and(|(file, at, ..)| file == path && *at == span.entry);
            if !held {
                this.image = None;
                let (header, mut source) = this.read_image(path, span.entry)?;
                let pixels = read_pixels(&mut *source, &header, &this.limits)?;
                this.image = Some((path.to_owned(), span.entry, header, pixels));
            }
            let Some((_, _, header, pixels)) = &this.image else { return Err(SkipReason::Damaged) };
            // The file may have changed since its header was read.
            if [header.rows, header.columns] != span.matrix {
                return Err(SkipReason::Damaged);
            }
            let mut values = Vec::new();
            for frame in span.first..span.first.saturating_add(span.count) {
                values.extend(pixels.frame(frame as usize).ok_or(SkipReason::Damaged)?);
            }
            Ok(values)
        })
    }
}
