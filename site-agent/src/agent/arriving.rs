//! A model on its way here: what has changed of it, or the whole.

use std::fs;
use std::path::Path;

use common::{Digest, Directive};

use super::Agent;
use super::beside::Transfer;
use super::failure::{Failure, Then};
use crate::changes::Before;
use crate::decide;
use crate::link::{Link, LinkError};

impl Agent {
    /// Fetches a model as long as the directive holds that asks for it.
    pub(super) async fn fetch_model(
        &mut self,
        model: Digest,
        bytes: u64,
        directive: &Directive,
    ) -> Result<Then, Failure> {
        let (ear, path) = (self.ear(directive), self.home.model(model));
        let before = self.model_before(directive, bytes);
        let arriving = ear.beside(fetched(self.link.clone(), model, bytes, before, &path));
        Ok(match self.watching(arriving).await? {
            Transfer::Whole(()) => Then::AtOnce,
            Transfer::Dropped(told) => Then::Instead(told),
        })
    }

    /// An earlier model of the directive's run, if one is here and a later one is mostly the same.
    fn model_before(&self, directive: &Directive, bytes: u64) -> Option<Before> {
        let (run, ..) = decide::work(directive)?;
        let sealed = self.journal.run(&run)?.sealed.as_ref()?;
        let path = self.home.model(sealed.base);
        let is_whole = fs::metadata(&path).is_ok_and(|found| found.len() == bytes);
        let changing = self.read_plan(sealed.plan).ok().filter(|_| is_whole)?.changing();
        Some(Before { path, changing }).filter(|before| before.is_worth(bytes))
    }
}

/// Fetches a model: what has changed since the one before, where that is less, and the whole where those two do not make it.
async fn fetched(
    mut link: Link,
    model: Digest,
    bytes: u64,
    before: Option<Before>,
    path: &Path,
) -> Result<(), LinkError> {
    if let Some(before) = before {
        match link.fetch_changes(model, &before, path).await {
            Err(error @ (LinkError::DigestDiffers { .. } | LinkError::NotMade(_))) => {
                tracing::warn!(%model, %error, "what has changed does not make the model that was announced: it is fetched whole");
            }
            fetched => {
                let bytes = before.bytes();
                return fetched.inspect(|()| tracing::info!(%model, bytes, "what has changed of the model is here"));
            }
        }
    }
    link.fetch_model(model, bytes, path).await
}
