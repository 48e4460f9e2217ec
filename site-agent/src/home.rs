//! The agent's state folder: where each thing lies. No decision is made here.
//!
//! ```text
//! site-agent.toml     the site's settings and policy
//! identity/           site.key, signing.key (0600), site.crt, authority.crt, federation.json
//! labels/<data set>/  the labels of a public data set
//! images/             secret.key (0600), sources.json, cache-<grid>/: a frame cache per image grid, with its skipped.jsonl
//! plans/              <digest>.json as received, <digest>.signed.json: who signed it; approved.json: the digests a person here
//!                     approved
//! models/             <digest>.safetensors, content-addressed
//! jobs/<run>/<round>-<base>/   one round's training: spec, progress, checkpoint, result, sealed update
//! journal             what was acknowledged
//! ledger              what happened here, each line with the digest of the one before
//! begun.json          which rounds were begun on which day
//! finetuned/<task>-<beginning>-<seed>/   a finetuning that was given no folder
//! stopped             while it is there, nothing trains and nothing is sent
//! lock                held by the running agent
//! ```

use std::path::{Path, PathBuf};

use common::{Digest, RoundNumber, RunId};

/// Paths under the agent's state folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Home(PathBuf);

impl Home {
    /// The state folder at `root`.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self(root.into())
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.0
    }

    /// The settings file.
    pub fn config(&self) -> PathBuf {
        self.0.join("site-agent.toml")
    }

    /// Key, certificate, CA certificate and the federation's address.
    pub fn identity(&self) -> PathBuf {
        self.0.join("identity")
    }

    /// Secret, sources and caches.
    pub fn images(&self) -> PathBuf {
        self.0.join("images")
    }

    /// The labels of a public data set.
    pub fn labels(&self, dataset: &str) -> PathBuf {
        self.0.join("labels").join(dataset)
    }

    /// Finetunings that were given no folder.
    pub fn finetuned(&self) -> PathBuf {
        self.0.join("finetuned")
    }

    /// A plan as received.
    pub fn plan(&self, plan: Digest) -> PathBuf {
        self.plans().join(format!("{plan}.json"))
    }

    /// Who signed a plan, as it was held to the CA when the plan was received.
    pub fn signed(&self, plan: Digest) -> PathBuf {
        self.plans().join(format!("{plan}.signed.json"))
    }

    /// All plans received.
    pub fn plans(&self) -> PathBuf {
        self.0.join("plans")
    }

    /// The digests that a person at this site approved.
    pub fn approvals(&self) -> PathBuf {
        self.0.join("plans/approved.json")
    }

    /// All models.
    pub fn models(&self) -> PathBuf {
        self.0.join("models")
    }

    /// A model's file.
    pub fn model(&self, model: Digest) -> PathBuf {
        self.models().join(format!("{model}.safetensors"))
    }

    /// One round's training.
    pub fn job(&self, run: &RunId, round: RoundNumber, base: Digest) -> PathBuf {
        self.0.join(format!("jobs/{run}/{:05}-{}", round.0, base.short()))
    }

    /// What was acknowledged.
    pub fn journal(&self) -> PathBuf {
        self.0.join("journal")
    }

    /// What happened here, chained.
    pub fn ledger(&self) -> PathBuf {
        self.0.join("ledger")
    }

    /// Which rounds were begun on which day.
    pub fn begun(&self) -> PathBuf {
        self.0.join("begun.json")
    }

    /// While it is there, nothing trains and nothing is sent.
    pub fn stopped(&self) -> PathBuf {
        self.0.join("stopped")
    }

    /// Held by the running agent, so that two never work in one folder.
    pub fn lock(&self) -> PathBuf {
        self.0.join("lock")
    }
}
