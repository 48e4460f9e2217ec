//! What is compared: one arm is one way to spend the same optimizer steps.

use std::fmt;
use std::str::FromStr;

use common::plan::{Exchange, Strategy};
use common::{Encoding, PlanDraft};
use serde::{Deserialize, Serialize};

/// The sites that train.
pub const TRAINING_SITES: [&str; 3] = ["a", "b", "c"];
/// The name of the site where all images are.
pub const POOLED: &str = "pooled";
/// The site that no training sees.
pub const UNSEEN_SITE: &str = "d";

/// One arm.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Arm {
    /// The network as it starts.
    Random,
    /// All images at one place: what may not be.
    Pooled,
    /// One site by itself.
    Alone(String),
    /// The sites together.
    Federated(Way),
}

/// How the sites train together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// As the plan says.
    Plan,
    /// With so many steps between two merges.
    Steps(usize),
    /// Teacher and center stay at their site.
    StudentOnly,
    /// Nesterov's momentum on the merged student, as in DiLoCo.
    Nesterov,
    /// Uniform shares, whatever a site's subjects.
    Uniform,
    /// Updates as one byte a value.
    Int8,
    /// The tenth of each student's update that moves most; what is left out is owed.
    TopK,
    /// Held to the round's start, as in FedProx with a weight of 0.01.
    Proximal,
    /// As the plan says, but from the middle on one site trains so that it must collapse.
    Injected(Fault),
}

/// What one site does wrong from the middle of a run on: a trainer misconfigured, or tampered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// Its teacher is not sharpened, so that it says all prototypes of everything.
    Uniform,
    /// Its teacher is not centered, so that it comes to say one prototype of everything.
    Peaky,
}

/// Where a fault is injected.
pub const FAULTY_SITE: &str = "b";

/// Not an arm.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "{0:?} is not an arm: use random, pooled, alone-a, alone-b, alone-c, federated, federated-student, federated-nesterov, federated-uniform, federated-int8, federated-top-k, federated-proximal, federated-h<steps>, injected-uniform, or injected-peaky"
)]
pub struct UnknownArm(String);

impl fmt::Display for Arm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Random => write!(f, "random"),
            Self::Pooled => write!(f, "pooled"),
            Self::Alone(site) => write!(f, "alone-{site}"),
            Self::Federated(Way::Plan) => write!(f, "federated"),
            Self::Federated(Way::Steps(steps)) => write!(f, "federated-h{steps}"),
            Self::Federated(Way::StudentOnly) => write!(f, "federated-student"),
            Self::Federated(Way::Nesterov) => write!(f, "federated-nesterov"),
            Self::Federated(Way::Uniform) => write!(f, "federated-uniform"),
            Self::Federated(Way::Int8) => write!(f, "federated-int8"),
            Self::Federated(Way::TopK) => write!(f, "federated-top-k"),
            Self::Federated(Way::Proximal) => write!(f, "federated-proximal"),
            Self::Federated(Way::Injected(Fault::Uniform)) => write!(f, "injected-uniform"),
            Self::Federated(Way::Injected(Fault::Peaky)) => write!(f, "injected-peaky"),
        }
    }
}

impl FromStr for Arm {
    type Err = UnknownArm;

    fn from_str(text: &str) -> Result<Self, UnknownArm> {
        let unknown = || UnknownArm(text.to_owned());
        match text {
            "random" => Ok(Self::Random),
            "pooled" => Ok(Self::Pooled),
            "federated" => Ok(Self::Federated(Way::Plan)),
            "federated-student" => Ok(Self::Federated(Way::StudentOnly)),
            "federated-nesterov" => Ok(Self::Federated(Way::Nesterov)),
            "federated-uniform" => Ok(Self::Federated(Way::Uniform)),
            "federated-int8" => Ok(Self::Federated(Way::Int8)),
            "federated-top-k" => Ok(Self::Federated(Way::TopK)),
            "federated-proximal" => Ok(Self::Federated(Way::Proximal)),
            "injected-uniform" => Ok(Self::Federated(Way::Injected(Fault::Uniform))),
            "injected-peaky" => Ok(Self::Federated(Way::Injected(Fault::Peaky))),
            _ => {
                if let Some(site) = text.strip_prefix("alone-") {
                    return TRAINING_SITES.contains(&site).then(|| Self::Alone(site.to_owned())).ok_or_else(unknown);
                }
                let steps = text.strip_prefix("federated-h").ok_or_else(unknown)?;
                steps.parse().map(|steps| Self::Federated(Way::Steps(steps))).map_err(|_| unknown())
            }
        }
    }
}

impl Arm {
    /// The plan of this arm: the same steps, spent in another way.
    pub fn plan(&self, plan: &PlanDraft) -> PlanDraft {
        let mut plan = plan.clone();
        match self {
            Self::Federated(Way::Steps(steps)) => {
                plan.rounds.count = plan.total_steps().div_ceil(*steps) as u32;
                plan.training.steps_per_round = *steps;
            }
            Self::Federated(Way::StudentOnly) => plan.aggregation.exchange = Exchange::Student,
            Self::Federated(Way::Nesterov) => {
                plan.aggregation.strategy = Strategy::Nesterov { learning_rate: 0.7, momentum: 0.9 };
            }
            Self::Federated(Way::Uniform) => plan.aggregation.share_alpha = 0.0,
            Self::Federated(Way::Int8) => plan.aggregation.encoding = Encoding::Int8,
            Self::Federated(Way::TopK) => {
                plan.aggregation.encoding = Encoding::TopK(0.1);
                plan.aggregation.exchange = Exchange::Student;
            }
            Self::Federated(Way::Proximal) => plan.training.proximal = 0.01,
            Self::Random | Self::Pooled | Self::Alone(_) | Self::Federated(Way::Plan | Way::Injected(_)) => {}
        }
        plan
    }

    /// Who trains.
    pub fn sites(&self) -> Vec<&str> {
        match self {
            Self::Random => Vec::new(),
            Self::Pooled => vec![POOLED],
            Self::Alone(site) => vec![site],
            Self::Federated(_) => TRAINING_SITES.to_vec(),
        }
    }

    /// The first round with a fault.
    pub fn faulty_from(&self, plan: &PlanDraft) -> Option<u32> {
        matches!(self, Self::Federated(Way::Injected(_))).then_some(plan.rounds.count / 2)
    }

    /// The plan that a site trains by in a round: the arm's, unless it is at fault.
    pub fn plan_at(&self, plan: &PlanDraft, site: &str, round: u32) -> PlanDraft {
        let mut plan = plan.clone();
        let Self::Federated(Way::Injected(fault)) = self else { return plan };
        if site == FAULTY_SITE && self.faulty_from(&plan).is_some_and(|from| round >= from) {
            match fault {
                Fault::Uniform => plan.training.teacher_temperature = [1.0, 1.0],
                Fault::Peaky => {
                    (plan.training.center_momentum, plan.training.teacher_temperature) = (1.0, [0.01, 0.01])
                }
            }
        }
        plan
    }
}

impl From<Arm> for String {
    fn from(arm: Arm) -> Self {
        arm.to_string()
    }
}

impl TryFrom<String> for Arm {
    type Error = UnknownArm;

    fn try_from(text: String) -> Result<Self, UnknownArm> {
        text.parse()
    }
}
