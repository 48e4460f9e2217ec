//! The words both programs use: ids, weights, plan, update, shares, privacy.
//!
//! This crate knows no file, clock, network, device or global random source. Everything here is data or a pure
//! function of its arguments, so that the aggregator, the site agents and the tests agree by construction.

pub mod assignment;
pub mod bundle;
pub mod check;
pub mod codec;
pub mod encoding;
pub mod enrolment;
pub mod fixed_point;
pub mod holder;
pub mod ids;
pub mod ledger;
pub mod machine;
pub mod message;
mod noise;
pub mod pattern;
pub mod plan;
pub mod policy;
pub mod privacy;
pub mod refusal;
pub mod score;
pub mod seed;
pub mod share;
pub mod signed;
pub mod task;
pub mod update;
pub mod weights;
mod wide;
pub mod words;

pub use assignment::{Assignment, Decline, Directive, Phase, Progress};
pub use encoding::Encoding;
pub use holder::{Holder, Office, Person};
pub use ids::{Digest, FederationName, PersonId, RoundNumber, RunId, SiteId};
pub use plan::{Plan, PlanDraft};
pub use refusal::Refusal;
pub use score::Score;
pub use task::{Task, TaskName};
pub use update::{Meters, SealedUpdate, Update, UpdateManifest};
pub use weights::{NamedTensors, Signature, Tensor};
pub use wide::wide;
