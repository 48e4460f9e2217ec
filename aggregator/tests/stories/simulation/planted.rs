//! Bugs that a simulated aggregator can be given, to see that the simulator finds them. They live here and in [`super::value`]
//! alone: the product has no switch for any of them.

use super::as_a_value;

/// A bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bug {
    /// An update that is stored already is stored and counted again when it is finished again.
    SkipsTheDedupe,
    /// `<=` where `==` belongs: a word of the round before counts for the open one.
    TakesTheRoundBefore,
    /// Deltas are folded in the order of arrival, as floats.
    FoldsFloats,
    /// The answer goes out before the transaction is written.
    AcknowledgesBeforeCommit,
    /// After a restart, updates that were discarded count again.
    ForgetsWhoWasRetired,
    /// A second digest takes the place of the first.
    TakesASecondDigest,
    /// Who declined counts for the quorum.
    CountsDeclinesAsReports,
    /// One update less than the quorum is enough.
    ClosesBelowTheQuorum,
    /// After a restart, who reported is forgotten.
    ResumesWithoutTheRoll,
    /// After a restart, no deadline runs.
    LosesTheDeadline,
    /// The digest of a stored update is not held against its bytes in the merge.
    MergesWhatIsDamaged,
    /// After a restart, a merge goes on from the sums that it had.
    AddsOnAfterARestart,
    /// Bytes of an upload that were not synced count after a restart, and nobody looks at the digest.
    TrustsBytesThatWereNotSynced,
    /// An update is not held to its digest when it is finished.
    SkipsTheCheck,
    /// A merge that is told twice moves the model twice.
    PublishesTwice,
    /// The next attempt at a round begins without the reports of the last one.
    ForgetsReportsOfAnAbandonedAttempt,
    /// The next round starts from the model before.
    StartsFromTheModelBefore,
    /// A chunk that arrives twice is appended twice.
    AppendsRepeatedChunks,
}

/// Histories in which a planted bug must show.
const HISTORIES: u64 = 3_000;

/// The first seed that shows a bug, and how.
fn shown(bug: Bug) -> (u64, String) {
    let found = (1..=HISTORIES).find_map(|seed| Some((seed, as_a_value(seed, false, Some(bug)).err()?)));
    found.unwrap_or_else(|| panic!("{bug:?} is not noticed in {HISTORIES} histories"))
}

macro_rules! are_caught {
    ($($test:ident: $bug:ident, $told:literal;)*) => {
        $(#[test]
        fn $test() {
            let (seed, why) = shown(Bug::$bug);
            println!("seed {seed}: {why}");
            assert!(why.contains($told), "seed {seed}: {why}");
        })*
    };
}

are_caught! {
    a_second_count_of_an_update_that_is_finished_again_is_caught: SkipsTheDedupe, "were counted";
    an_update_of_the_round_before_is_caught: TakesTheRoundBefore, "is merged with an update of Some";
    a_fold_of_floats_in_the_order_of_arrival_is_caught: FoldsFloats, "by integers";
    an_acknowledgement_before_the_commit_is_caught: AcknowledgesBeforeCommit, "";
    a_retired_update_that_counts_again_after_a_restart_is_caught: ForgetsWhoWasRetired, "discarded";
    a_second_digest_for_a_key_is_caught: TakesASecondDigest, "both acknowledged";
    a_decline_that_counts_for_the_quorum_is_caught: CountsDeclinesAsReports, "below the quorum";
    a_round_that_closes_below_its_quorum_is_caught: ClosesBelowTheQuorum, "below the quorum";
    a_round_that_is_resumed_without_its_roll_is_caught: ResumesWithoutTheRoll, "";
    a_deadline_that_is_lost_in_a_restart_is_caught: LosesTheDeadline, "has not ended";
    a_damaged_update_in_a_merge_is_caught: MergesWhatIsDamaged, "were counted";
    a_merge_that_adds_to_its_old_sums_after_a_restart_is_caught: AddsOnAfterARestart, "were counted";
    bytes_that_were_not_synced_and_count_after_a_restart_are_caught: TrustsBytesThatWereNotSynced, "were counted";
    an_update_that_is_not_held_to_its_digest_is_caught: SkipsTheCheck, "were counted";
    a_model_that_is_moved_twice_by_one_merge_is_caught: PublishesTwice, "by integers";
    reports_that_an_abandoned_attempt_takes_with_it_are_caught: ForgetsReportsOfAnAbandonedAttempt, "";
    a_round_that_starts_from_the_model_before_is_caught: StartsFromTheModelBefore, "from";
    a_repeated_chunk_that_is_appended_again_is_caught: AppendsRepeatedChunks, "were counted";
}
