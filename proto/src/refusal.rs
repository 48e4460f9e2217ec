//! Refusals as gRPC statuses: a canonical code, a message for people, and our stable code in the metadata.

use common::Refusal;
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};

use crate::convert::Malformed;

/// Metadata key of the stable refusal code.
pub const REFUSAL: &str = "cmrfed-refusal";

/// The status that tells a refusal.
pub fn status(refusal: &Refusal) -> Status {
    let code = match refusal {
        Refusal::Unidentified => Code::Unauthenticated,
        Refusal::SpeaksForAnother { .. }
        | Refusal::NotPermitted { .. }
        | Refusal::Revoked(_)
        | Refusal::PersonRevoked(_)
        | Refusal::NotInvited { .. }
        | Refusal::Token(_) => Code::PermissionDenied,
        Refusal::UnknownRun(_) | Refusal::UnknownBlob(_) => Code::NotFound,
        Refusal::RoundNotOpen { .. }
        | Refusal::PlanDiffers { .. }
        | Refusal::BaseDiffers { .. }
        | Refusal::Refused(_) => Code::FailedPrecondition,
        Refusal::Conflict { .. } => Code::AlreadyExists,
        Refusal::Update(_) | Refusal::Signature(_) | Refusal::Scores(_) | Refusal::Malformed(_) => {
            Code::InvalidArgument
        }
        Refusal::Offset { .. } => Code::OutOfRange,
        Refusal::Corrupt { .. } => Code::DataLoss,
        Refusal::DiskFull => Code::ResourceExhausted,
        // Of signed calls: whoever stands in between can bring these about, and must not be able to end an agent by them.
        Refusal::Certificate(_)
        | Refusal::Altered(_)
        | Refusal::Replayed
        | Refusal::Clock { .. }
        | Refusal::Incarnation
        | Refusal::Crowded
        | Refusal::Unavailable => Code::Unavailable,
    };
    let mut status = Status::new(code, refusal.to_string());
    status.metadata_mut().insert(REFUSAL, MetadataValue::from_static(refusal.code()));
    status
}

/// The stable refusal code of a status, if the aggregator refused (and not the network).
pub fn code(status: &Status) -> Option<&str> {
    status.metadata().get(REFUSAL)?.to_str().ok()
}

/// A malformed message, as a refusal.
pub fn malformed(error: Malformed) -> Refusal {
    Refusal::Malformed(error.to_string())
}
