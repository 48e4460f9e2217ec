//! Refusals as gRPC statuses: a canonical code, a message for people, and our stable code in the metadata.

use common::Refusal;
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};

use crate::convert::Malformed;

/// Metadata key of the stable code of the refusal's kind: what agents act on, of whatever version.
pub const REFUSAL: &str = "cmrfed-refusal";
/// Metadata key of the refusal's own code, where it is another: words for a log. It is not signed, so no agent acts on it, and one
/// whose calls are signed never sees it.
pub const FAULT: &str = "cmrfed-refusal-fault";

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
        Refusal::Update(..) | Refusal::Signature(_) | Refusal::Scores(_) | Refusal::Malformed(_) => {
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
    status.metadata_mut().insert(REFUSAL, MetadataValue::from_static(refusal.kind()));
    if refusal.code() != refusal.kind() {
        status.metadata_mut().insert(FAULT, MetadataValue::from_static(refusal.code()));
    }
    status
}

/// The stable code of the kind of a status's refusal, if the aggregator refused (and not the network).
pub fn code(status: &Status) -> Option<&str> {
    status.metadata().get(REFUSAL)?.to_str().ok()
}

/// The refusal's own code, for people: that of its kind if there is no finer one.
pub fn fault(status: &Status) -> Option<&str> {
    let kind = code(status)?;
    let finer = status.metadata().get(FAULT).and_then(|fault| fault.to_str().ok());
    finer.filter(|fault| fault.strip_prefix(kind).is_some_and(|rest| rest.starts_with('-'))).or(Some(kind))
}

/// A malformed message, as a refusal.
pub fn malformed(error: Malformed) -> Refusal {
    Refusal::Malformed(error.to_string())
}

#[cfg(test)]
mod tests {
    use common::refusal::UpdateFault;

    use super::*;

    #[test]
    fn of_an_update_the_kind_travels_as_ever_and_the_fault_beside_it_for_people() {
        let mut told = status(&Refusal::Update(UpdateFault::Norm, "too long".to_owned()));
        assert_eq!((code(&told), fault(&told)), (Some("update"), Some("update-norm")));
        told.metadata_mut().remove(FAULT);
        assert_eq!(fault(&told), Some("update"), "an aggregator or a connection without it");
        told.metadata_mut().insert(FAULT, MetadataValue::from_static("revoked"));
        assert_eq!((code(&told), fault(&told)), (Some("update"), Some("update")), "of another kind");
        let other = status(&Refusal::DiskFull);
        assert_eq!((code(&other), fault(&other), other.metadata().len()), (Some("disk-full"), Some("disk-full"), 1));
        assert_eq!(fault(&Status::new(Code::Unavailable, "the network")), None);
    }
}
