//! The calls of persons: who asks, whether that is permitted, question, answer. It decides nothing but what the table of
//! permissions says.

use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use certs::authority::Authority;
use common::signed::Ed25519;
use common::{Digest, Holder, Person, PersonId, Plan, Refusal, RunId, SiteId};
use proto::CHUNK_BYTES;
use proto::convert::{self, bytes, digest};
use proto::wire::coordination_server::Coordination;
use proto::wire::{self, start_run_part};
use tokio::io::AsyncWriteExt;
use tokio_stream::{Stream, iter};
use tonic::{Request, Response, Status, Streaming};

use super::first_model::FirstModel;
use super::{Asking, DeskError, Wanted};
use crate::authority;
use crate::clock::wall;
use crate::door::TurnedAway;
use crate::federation::Federation;
use crate::identity;
use crate::layout::Layout;
use crate::ledger::Actor;
use crate::permissions::{Deed, own_site, permit};
use crate::server::{off_the_loop, refused, unclear};
use crate::status;
use crate::store::durable;

/// The calls that demand a person's certificate.
#[derive(Clone, Debug)]
pub struct PersonCalls {
    federation: Arc<Federation>,
    authority: Arc<Authority>,
    /// Host names and addresses in the server's certificate.
    names: Arc<[String]>,
    /// The state folder, for a CA that was made just now.
    state: Arc<Path>,
}

type Parts = Pin<Box<dyn Stream<Item = Result<wire::Part, Status>> + Send>>;

impl PersonCalls {
    /// Calls on this federation, into which this authority lets people, at a server of these names.
    pub fn new(federation: Arc<Federation>, authority: Arc<Authority>, names: &[String], state: &Path) -> Self {
        Self { federation, authority, names: names.into(), state: state.into() }
    }

    /// Who calls, if the certificate still counts.
    fn caller<T>(&self, request: &Request<T>) -> Result<(Person, String), Status> {
        let (person, serial) = identity::person(request).map_err(refused)?;
        self.federation.admits_person(&person, &serial).map_err(|refusal| {
            self.federation.turned_away(TurnedAway::without_standing(person.clone().into(), &refusal));
            refused(refusal)
        })?;
        Ok((person, serial))
    }

    /// Who calls, if that is permitted to this person for whatever it is about.
    fn permitted<T>(&self, request: &Request<T>, deed: Deed, of: Option<&SiteId>) -> Result<Person, Status> {
        let (person, _) = self.caller(request)?;
        self.permits(deed, &Holder::Person(person.clone()), of)?;
        Ok(person)
    }

    /// Who calls, and the one site that it may see; none for all of them.
    fn seeing<T>(&self, request: &Request<T>, deed: Deed) -> Result<Option<SiteId>, Status> {
        let (person, _) = self.caller(request)?;
        let holder = Holder::Person(person);
        self.permits(deed, &holder, own_site(&holder))?;
        Ok(own_site(&holder).cloned())
    }

    /// Whether this caller may do this, of this site; who may not is in the ledger.
    fn permits(&self, deed: Deed, caller: &Holder, of: Option<&SiteId>) -> Result<(), Status> {
        permit(deed, Some(caller), of).map_err(|refusal| {
            let code = refusal.code();
            self.federation.turned_away(TurnedAway::Calling { who: Some(caller.clone()), deed: deed.words(), code });
            refused(refusal)
        })
    }

    /// Asks the federation, off the event loop, and takes over what was written.
    async fn ask<T, F>(&self, question: F) -> Result<T, Status>
    where
        T: Send + 'static,
        F: FnOnce(&Federation) -> Result<T, Refusal> + Send + 'static,
    {
        let federation = Arc::clone(&self.federation);
        off_the_loop(move || question(&federation)).await
    }

    /// Does what is asked of a run.
    async fn wish(&self, person: Person, run: &str, wanted: Wanted) -> Result<Response<wire::RunReply>, Status> {
        let run = convert::run("RunRequest", run).map_err(unclear)?;
        self.ask(move |federation| {
            super::ask(federation.store(), &run, &wanted, &by(person))?;
            taken_over(federation)
        })
        .await?;
        Ok(Response::new(wire::RunReply {}))
    }
}

fn by(person: Person) -> Asking {
    Asking { by: Actor::Person(person), now: wall() }
}

/// What was written is believed at once, not with the next look.
fn taken_over(federation: &Federation) -> Result<(), Refusal> {
    federation.refresh().map_err(|error| DeskError::from(error).into())
}

/// A text in pieces.
fn parts(text: &[u8]) -> Parts {
    let pieces: Vec<_> = text.chunks(CHUNK_BYTES).map(|data| Ok(wire::Part { data: data.to_vec().into() })).collect();
    Box::pin(iter(pieces))
}

#[tonic::async_trait]
impl Coordination for PersonCalls {
    type ReadStatusStream = Parts;
    type ReadLedgerStream = Parts;

    async fn read_status(&self, request: Request<wire::ReadStatusRequest>) -> Result<Response<Parts>, Status> {
        let only = self.seeing(&request, Deed::ReadStatus)?;
        let text = self
            .ask(move |federation| {
                // Of a certificate that is new, so that whoever renews it is known to have it when the answer is there.
                federation.note_used().map_err(DeskError::from)?;
                let status = status::read(federation.store(), wall()).map_err(DeskError::from)?;
                let status = only.map_or_else(|| status.clone(), |site| status.clone().seen_by_site(&site));
                serde_json::to_vec(&status).map_err(|error| {
                    tracing::error!(%error, "the status cannot be written");
                    Refusal::Unavailable
                })
            })
            .await?;
        Ok(Response::new(parts(&text)))
    }

    async fn read_ledger(&self, request: Request<wire::ReadLedgerRequest>) -> Result<Response<Parts>, Status> {
        self.permitted(&request, Deed::ReadLedger, None)?;
        let text = self
            .ask(|federation| {
                let (mut lines, head) = super::ledger(federation.store())?;
                let colophon = federation.colophon(head).ok_or(Refusal::Unavailable)?;
                lines.push(serde_json::to_string(&colophon).map_err(|_| Refusal::Unavailable)?);
                Ok(lines.iter().flat_map(|line| [line.as_str(), "\n"]).collect::<String>())
            })
            .await?;
        Ok(Response::new(parts(text.as_bytes())))
    }

    async fn read_plan(
        &self,
        request: Request<wire::ReadPlanRequest>,
    ) -> Result<Response<wire::ReadPlanReply>, Status> {
        let only = self.seeing(&request, Deed::ReadPlan)?;
        let run: RunId = convert::run("ReadPlanRequest", &request.get_ref().run).map_err(unclear)?;
        let canonical = self
            .ask(move |federation| {
                let record = super::record(federation.store(), &run)?;
                let invites = |site: &SiteId| record.plan.draft.rounds.sites.contains(site);
                // To the administrator of another site there is no such run.
                match only.as_ref().is_none_or(invites) {
                    true => Ok(record.plan_bytes),
                    false => Err(Refusal::UnknownRun(run)),
                }
            })
            .await?;
        Ok(Response::new(wire::ReadPlanReply { canonical: canonical.into() }))
    }

    async fn start_run(
        &self,
        request: Request<Streaming<wire::StartRunPart>>,
    ) -> Result<Response<wire::StartRunReply>, Status> {
        let person = self.permitted(&request, Deed::StartRun, None)?;
        let mut arriving = request.into_inner();
        let Some(start_run_part::Part::Run(new)) = arriving.message().await?.and_then(|part| part.part) else {
            return Err(refused(Refusal::Malformed("StartRun begins with the plan".to_owned())));
        };
        let signature = Ed25519(bytes("NewRun", "signature", &new.signature).map_err(unclear)?);
        let plan = agreed(&new.canonical)?;
        let (plan, coordinator) = (Arc::new(plan), person.name);
        let (checked, signer) = (Arc::clone(&plan), coordinator.clone());
        self.ask(move |federation| may_start(federation, &checked, &signer, signature)).await?;
        self.take_first_model(&plan, &mut arriving).await?;
        let missing = self
            .ask(move |federation| {
                federation.start_signed(&coordinator, &plan, signature)?;
                Ok(super::not_enrolled(federation.store(), &plan)?)
            })
            .await?;
        Ok(Response::new(wire::StartRunReply { not_enrolled: missing.into_iter().map(String::from).collect() }))
    }

    async fn sign_plan(
        &self,
        request: Request<wire::SignPlanRequest>,
    ) -> Result<Response<wire::SignPlanReply>, Status> {
        const MESSAGE: &str = "SignPlanRequest";
        let person = self.permitted(&request, Deed::SignPlan, None)?;
        let wire::SignPlanRequest { run, plan, signature } = request.into_inner();
        let run = convert::run(MESSAGE, &run).map_err(unclear)?;
        let plan = digest(MESSAGE, "plan", &plan).map_err(unclear)?;
        let signature = Ed25519(bytes(MESSAGE, "signature", &signature).map_err(unclear)?);
        let now = self.ask(move |federation| federation.sign(&person.name, &run, plan, signature)).await?;
        let counting = u32::try_from(now.counting).unwrap_or(u32::MAX);
        Ok(Response::new(wire::SignPlanReply { counting, needed: now.needed }))
    }

    async fn pause_run(&self, request: Request<wire::RunRequest>) -> Result<Response<wire::RunReply>, Status> {
        let person = self.permitted(&request, Deed::PauseRun, None)?;
        self.wish(person, &request.get_ref().run, Wanted::Pause).await
    }

    async fn resume_run(&self, request: Request<wire::RunRequest>) -> Result<Response<wire::RunReply>, Status> {
        let person = self.permitted(&request, Deed::ResumeRun, None)?;
        self.wish(person, &request.get_ref().run, Wanted::Resume).await
    }

    async fn abort_run(&self, request: Request<wire::AbortRunRequest>) -> Result<Response<wire::RunReply>, Status> {
        let person = self.permitted(&request, Deed::AbortRun, None)?;
        let wire::AbortRunRequest { run, because } = request.into_inner();
        self.wish(person, &run, Wanted::Abort(because)).await
    }

    async fn invite(&self, request: Request<wire::InviteRequest>) -> Result<Response<wire::InviteReply>, Status> {
        let wire::InviteRequest { holder, address } = request.get_ref().clone();
        let holder = convert::holder("InviteRequest", &holder).map_err(unclear)?;
        let person = self.permitted(&request, Deed::invite(&holder), holder_site(&holder))?;
        let (authority, names) = (Arc::clone(&self.authority), Arc::clone(&self.names));
        let address = convert::told(address);
        let invited = self
            .ask(move |federation| {
                Ok(super::invite(federation.store(), &authority, &names, holder, address, &by(person))?)
            })
            .await?;
        Ok(Response::new(wire::InviteReply {
            invitation: invited.invitation,
            expires_at_ms: invited.expires_at.0,
            earlier_expired: u32::try_from(invited.earlier_expired).unwrap_or(u32::MAX),
        }))
    }

    async fn revoke(&self, request: Request<wire::RevokeRequest>) -> Result<Response<wire::RevokeReply>, Status> {
        let holder = convert::holder("RevokeRequest", &request.get_ref().holder).map_err(unclear)?;
        let person = self.permitted(&request, Deed::revoke(&holder), holder.site())?;
        let revoked = self
            .ask(move |federation| {
                let revoked = super::revoke(federation.store(), &holder, &by(person))?;
                taken_over(federation)?;
                Ok(revoked)
            })
            .await?;
        let invitations = u32::try_from(revoked.invitations).unwrap_or(u32::MAX);
        Ok(Response::new(wire::RevokeReply { certificate: revoked.certificate, invitations }))
    }

    async fn renew_person(
        &self,
        request: Request<wire::RenewRequest>,
    ) -> Result<Response<wire::RenewPersonReply>, Status> {
        let (person, serial) = self.caller(&request)?;
        let holder = Holder::Person(person);
        permit(Deed::RenewPerson, Some(&holder), own_site(&holder)).map_err(refused)?;
        let (authority, state) = (Arc::clone(&self.authority), Arc::clone(&self.state));
        let csr_pem = request.into_inner().csr_pem;
        let (issued, authority_pem) = self
            .ask(move |federation| {
                // Whoever types `renew` when the next CA has just been made is not told to type it again.
                let changed = authority::changed(&state, &authority).map_err(DeskError::from)?;
                let authority = changed.as_ref().unwrap_or(&authority);
                Ok((federation.renew(authority, &holder, &serial, &csr_pem)?, authority.anchors_pem()))
            })
            .await?;
        Ok(Response::new(wire::RenewPersonReply {
            certificate_pem: issued.certificate_pem,
            authority_pem,
            signing_certificate_pem: convert::untold(issued.signing_certificate),
        }))
    }
}

/// The site that an invitation is about: an administrator's as well.
fn holder_site(holder: &Holder) -> Option<&SiteId> {
    own_site(holder)
}

/// A plan whose bytes are those that everybody would write of it.
fn agreed(canonical: &[u8]) -> Result<Plan, Status> {
    let refuse = |why: String| refused(Refusal::Refused(why));
    let plan = Plan::from_agreed_bytes(canonical, Digest::of(canonical)).map_err(|error| refuse(error.to_string()))?;
    match plan.canonical_bytes() == canonical {
        true => Ok(plan),
        false => {
            Err(refuse("the plan's bytes are not its canonical ones: use the same version of the program".to_owned()))
        }
    }
}

/// Whether a run of this plan may start, before its first model is sent.
fn may_start(federation: &Federation, plan: &Plan, coordinator: &PersonId, signature: Ed25519) -> Result<(), Refusal> {
    super::require_signatures(plan, federation.least_signatures())?;
    federation.signature(coordinator, plan.digest(), signature)?;
    match super::record(federation.store(), plan.run()) {
        Err(DeskError::NoRun(_)) => Ok(()),
        Ok(_) => Err(Refusal::Refused(crate::store::StoreError::RunExists(plan.run().clone()).to_string())),
        Err(error) => Err(error.into()),
    }
}

/// Numbers the files of models on their way.
static ARRIVING: AtomicU64 = AtomicU64::new(0);

/// A file on its way, which is gone in the end: it has its name among the blobs by then, or is of no use.
struct Part {
    federation: Arc<Federation>,
    name: String,
}

impl Drop for Part {
    fn drop(&mut self) {
        self.federation.blobs().remove_part(&self.name);
    }
}

impl PersonCalls {
    /// Takes a first model's file in and stores it, if it is the plan's.
    async fn take_first_model(&self, plan: &Plan, arriving: &mut Streaming<wire::StartRunPart>) -> Result<(), Status> {
        let layout = Layout::of(&plan.signature).map_err(|error| refused(Refusal::Refused(error.to_string())))?;
        super::require_room(layout.bytes(), self.federation.limits().spool_bytes)
            .map_err(|error| refused(error.into()))?;
        let name = format!("first-{}", ARRIVING.fetch_add(1, Ordering::Relaxed));
        // Also if the caller hangs up in the middle: then this future is dropped where it is.
        let _part = Part { federation: Arc::clone(&self.federation), name: name.clone() };
        self.spooled(&name, plan, &layout, arriving).await
    }

    async fn spooled(
        &self,
        name: &str,
        plan: &Plan,
        layout: &Layout,
        arriving: &mut Streaming<wire::StartRunPart>,
    ) -> Result<(), Status> {
        let failed = |error: std::io::Error| {
            tracing::error!(%error, "a first model cannot be stored");
            refused(if durable::is_full(&error) { Refusal::DiskFull } else { Refusal::Unavailable })
        };
        let wrong = |why: super::first_model::NotThisModel| refused(Refusal::Refused(why.to_string()));
        let (blobs, named) = (self.federation.blobs().clone(), name.to_owned());
        let (file, path) = off_the_loop(move || Ok(blobs.begin_file(&named))).await?.map_err(failed)?;
        let mut file = tokio::fs::File::from_std(file);
        let mut model = FirstModel::of(layout);
        while let Some(part) = arriving.message().await? {
            let Some(start_run_part::Part::Data(data)) = part.part else {
                return Err(refused(Refusal::Malformed("StartRun names one plan".to_owned())));
            };
            model.take(&data).map_err(wrong)?;
            file.write_all(&data).await.map_err(failed)?;
        }
        model.finish(plan.first_model).map_err(wrong)?;
        file.flush().await.map_err(failed)?;
        let (file, blobs, digest) = (file.into_std().await, self.federation.blobs().clone(), plan.first_model);
        let adopted = move || {
            durable::sync_file(&file, &path);
            Ok(blobs.adopt(&path, digest))
        };
        off_the_loop(adopted).await?.map_err(failed)
    }
}
