//! How a command ends, for scripts: one code a kind of failure.

use std::process::ExitCode;

use crate::config::ConfigError;
use crate::desk::DeskError;
use crate::desk::folder::FolderError;
use crate::desk::remote::RemoteError;
use crate::federation::OpenError;
use crate::store::StoreError;

/// Why a command did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// What was asked cannot be done as asked: a wrong plan, a name that is taken, a folder without a federation.
    #[error("{0}")]
    Refused(String),
    /// The command line asks for what does not go together.
    #[error("{0}")]
    Usage(String),
    /// Another aggregator serves the folder.
    #[error("{0}")]
    Busy(String),
    /// Checks of the doctor's failed.
    #[error("{0} checks failed: each says what to do")]
    Unwell(usize),
    /// A run is finished, and not every site is in every round of it.
    #[error("{0}")]
    LeftOut(String),
    /// A run is not over in the time that it was waited for.
    #[error("{0}")]
    NotOver(String),
    /// A run ended before its last round.
    #[error("{0}")]
    RunFailed(String),
    /// The machine failed: disk, network, a damaged state.
    #[error("{0}")]
    Failed(String),
}

impl Failure {
    /// A refusal, from whatever can say why.
    pub fn refused(why: impl ToString) -> Self {
        Self::Refused(why.to_string())
    }

    /// A failure of the machine, from what was being done and what came of it.
    pub fn failed(what: impl std::fmt::Display, error: impl std::fmt::Display) -> Self {
        Self::Failed(format!("{what}: {error}"))
    }

    /// The process's exit code. 0 is success, and 2 a command line that is not understood.
    pub fn code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Failed(_) => 1,
            Self::Usage(_) => 2,
            Self::Refused(_) => 3,
            Self::Busy(_) => 4,
            Self::Unwell(_) => 5,
            Self::LeftOut(_) => 6,
            Self::NotOver(_) => 7,
            Self::RunFailed(_) => 8,
        })
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::NoFederation(_)
            | StoreError::Unreadable { .. }
            | StoreError::AlreadyThere(_)
            | StoreError::Version { .. }
            | StoreError::HalfMade { .. }
            | StoreError::RunExists(_)
            | StoreError::Token(_)
            | StoreError::TooOften => Self::refused(error),
            StoreError::Full | StoreError::Io { .. } | StoreError::Damaged(_) | StoreError::Database(_) => {
                Self::Failed(error.to_string())
            }
        }
    }
}

impl From<OpenError> for Failure {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Store(error) => error.into(),
            OpenError::Lock(error) => Self::Busy(error.to_string()),
            OpenError::Io(_) => Self::Failed(error.to_string()),
        }
    }
}

impl From<DeskError> for Failure {
    fn from(error: DeskError) -> Self {
        match error {
            DeskError::Store(error) => error.into(),
            DeskError::Certs(_) | DeskError::Ledger(_) => Self::Failed(error.to_string()),
            error => Self::refused(error),
        }
    }
}

impl From<FolderError> for Failure {
    fn from(error: FolderError) -> Self {
        match error {
            FolderError::NotEnrolled(_) | FolderError::Already { .. } => Self::refused(error),
            FolderError::Certs(_) | FolderError::Disk { .. } => Self::Failed(error.to_string()),
        }
    }
}

impl From<RemoteError> for Failure {
    fn from(error: RemoteError) -> Self {
        match error {
            RemoteError::Folder(error) => error.into(),
            RemoteError::Invitation(_)
            | RemoteError::ForASite(_)
            | RemoteError::Expired { .. }
            | RemoteError::Refused { .. }
            | RemoteError::Plan(_)
            | RemoteError::Proxy(_) => Self::refused(error),
            error => Self::Failed(error.to_string()),
        }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::refused(error)
    }
}
