//! Which announcements could be an update of the round that is open: decided from the plan, before a byte of it is taken.

use std::sync::Arc;

use common::plan::ShareBy;
use common::privacy::SUBJECTS_ROUNDED_TO;
use common::refusal::UpdateFault;
use common::update::MOST_MEASURED;
use common::{Encoding, Refusal, RoundNumber, UpdateManifest};

use super::LiveRun;
use crate::layout::Layout;

/// More subjects than any site has.
const MAX_SUBJECTS: u32 = 1 << 24;

/// Whether updates of this round are taken.
pub(super) fn takes(run: &LiveRun, round: RoundNumber) -> bool {
    run.open().is_some_and(|(attempt, _)| attempt.round == round)
}

/// That they are not.
pub(super) fn not_open(run: &LiveRun, asked: RoundNumber) -> Refusal {
    Refusal::RoundNotOpen { asked, open: run.open().map_or(RoundNumber(0), |(attempt, _)| attempt.round) }
}

fn is_count(subjects: u32) -> bool {
    (1..=MAX_SUBJECTS).contains(&subjects) && subjects.is_multiple_of(SUBJECTS_ROUNDED_TO)
}

/// What is wrong with a count of images, which is there if shares are counted by it, and else is not.
fn miscounted_examples(by: ShareBy, examples: u32) -> Option<String> {
    match by {
        ShareBy::Subjects if examples == 0 => None,
        ShareBy::Subjects => Some(format!("{examples} images are told, and the plan does not ask for their count")),
        ShareBy::Examples if examples > 0 && examples.is_multiple_of(SUBJECTS_ROUNDED_TO) => None,
        ShareBy::Examples => {
            Some(format!("{examples} images: shares are counted by them, a multiple of {SUBJECTS_ROUNDED_TO} above 0"))
        }
    }
}

/// The bound on the norm of an update of this layout.
pub(super) fn max_norm(run: &LiveRun, layout: &Layout) -> f64 {
    run.record.plan.draft.privacy.max_sent_norm(layout.signature().value_count())
}

/// The layout of an announced update: the model's, or of the part that its heads name.
pub(super) fn update_layout(run: &LiveRun, manifest: &UpdateManifest) -> Result<Arc<Layout>, Refusal> {
    let told = |error: &dyn std::fmt::Display| Refusal::Update(UpdateFault::Heads, error.to_string());
    let signature = run.record.plan.update_signature(&manifest.tasks()).map_err(|error| told(&error))?;
    let encoding = run.record.plan.draft.aggregation.encoding;
    if signature == run.record.plan.signature && encoding == Encoding::F32 {
        return Ok(Arc::clone(&run.layout));
    }
    Layout::encoded(&signature, encoding).map(Arc::new).map_err(|error| told(&error))
}

/// Whether an update of this announcement could be one of the open round.
pub(super) fn require_acceptable(run: &LiveRun, manifest: &UpdateManifest, layout: &Layout) -> Result<(), Refusal> {
    let Some((attempt, _)) = run.open().filter(|(attempt, _)| attempt.round == manifest.round) else {
        return Err(not_open(run, manifest.round));
    };
    if manifest.plan != run.record.plan_digest {
        return Err(Refusal::PlanDiffers { expected: run.record.plan_digest, found: manifest.plan });
    }
    if manifest.base != attempt.base {
        return Err(Refusal::BaseDiffers { expected: attempt.base, found: manifest.base });
    }
    let UpdateManifest { bytes, subjects, heads, examples, steps, meters, .. } = manifest;
    let (expected, most) = (layout.bytes(), run.record.plan.draft.training.steps_per_round);
    let miscounted = [*subjects].into_iter().chain(heads.values().copied()).find(|count| !is_count(*count));
    let (fault, why) = if *bytes != expected {
        (UpdateFault::Length, format!("{bytes} bytes were announced, but the plan's tensors take {expected}"))
    } else if let Some(subjects) = miscounted {
        let range = format!("from {SUBJECTS_ROUNDED_TO} to {MAX_SUBJECTS}");
        (UpdateFault::Share, format!("{subjects} subjects: a multiple of {SUBJECTS_ROUNDED_TO} {range}"))
    } else if let Some(why) = miscounted_examples(run.record.plan.draft.aggregation.share_by, *examples) {
        (UpdateFault::Share, why)
    } else if *steps == 0 || *steps as usize > most {
        (UpdateFault::Steps, format!("{steps} steps, but a round has 1 to {most}"))
    } else if !meters.can_be() {
        (UpdateFault::Meters, format!("a meter is no number from -{MOST_MEASURED:e} to {MOST_MEASURED:e}"))
    } else {
        return Ok(());
    };
    Err(Refusal::Update(fault, why))
}
