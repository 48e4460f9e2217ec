//! `site-agent plans` and `approve`: what a person at this site reads, and agrees to.

use clap::Args;
use common::{Digest, Plan};

use super::{Json, print, print_json};
use crate::home::Home;
use crate::ledger::{Event, Ledger};
use crate::{approvals, durable};

#[derive(Debug, Args)]
pub(super) struct ApproveArgs {
    /// The plan's digest, all 64 digits.
    digest: Digest,
    #[command(flatten)]
    json: Json,
}

pub(super) fn plans(home: &Home, json: &Json) -> anyhow::Result<()> {
    let approved = approvals::approved(home)?;
    let mut known = Vec::new();
    for entry in std::fs::read_dir(home.plans()).into_iter().flatten() {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let Some(digest) = name.strip_suffix(".json").and_then(|name| name.parse::<Digest>().ok()) else { continue };
        known.push((digest, Plan::from_agreed_bytes(&durable::read(&home.plan(digest))?, digest)?));
    }
    if json.json {
        let rows = known.iter().map(|(digest, plan)| {
            serde_json::json!({ "plan": digest, "approved": approved.contains(digest), "draft": plan.draft })
        });
        return print_json(&rows.collect::<Vec<_>>());
    }
    if known.is_empty() {
        print(&"no plan has been announced to this site yet\n")?;
    }
    for (digest, plan) in known {
        let state = if approved.contains(&digest) { "approved" } else { "AWAITS APPROVAL" };
        print(&format!("{digest}  {state}\n{}\n", indented(&toml::to_string(&plan.draft)?)))?;
    }
    Ok(())
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("    {line}\n")).collect()
}

pub(super) fn approve(home: &Home, args: &ApproveArgs) -> anyhow::Result<()> {
    let digest = args.digest;
    let announced = home.plan(digest).exists();
    approvals::approve(home, digest)?;
    Ledger::at(home.ledger()).enter(&Event::Approved { plan: digest })?;
    if args.json.json {
        return print_json(&serde_json::json!({ "plan": digest, "approved": true, "announced": announced }));
    }
    if !announced {
        print(&"this plan has not been announced to this site yet; the approval is kept for when it is\n")?;
    }
    print(&format!("approved {digest}\n"))
}
