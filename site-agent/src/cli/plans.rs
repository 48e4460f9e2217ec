//! `site-agent plans` and `approve`: what a person at this site reads, and agrees to.

use clap::Args;
use common::{Digest, Plan};

use super::{Json, print, print_json, say};
use crate::config::Config;
use crate::hands::Hands;
use crate::home::Home;
use crate::ledger::{Event, Ledger};
use crate::runs::{End, Runs};
use crate::{approvals, plan_words};

#[derive(Debug, Args)]
pub(super) struct PlansArgs {
    /// Show every setting of each plan as well.
    #[arg(long)]
    whole: bool,
    #[command(flatten)]
    json: Json,
}

#[derive(Debug, Args)]
pub(super) struct ApproveArgs {
    /// The plan's digest: all 64 digits, or the first 8 or more of a plan that `site-agent plans` shows.
    digest: String,
    #[command(flatten)]
    json: Json,
}

pub(super) fn plans(home: &Home, config: &Config, args: &PlansArgs) -> anyhow::Result<()> {
    let approved = approvals::approved(home)?;
    let known = approvals::announced(home)?;
    // Plans can be read where the ledger cannot.
    let runs = Runs::of(&Ledger::at(home.ledger())).unwrap_or_else(|error| {
        say(&format!("which runs are over is not known: {error}"));
        Runs::default()
    });
    let of = |digest: &Digest| known.iter().find(|(known, _)| known == digest).map(|(_, plan)| plan);
    let last = approved.iter().rev().find_map(|digest| Some((*digest, of(digest)?)));
    if args.json.json {
        let rows = known.iter().map(|(digest, plan)| {
            let hands = Hands::under(home, *digest)?;
            let is_approved = approved.contains(digest);
            let since = last.filter(|_| !is_approved);
            Ok(serde_json::json!({
                "plan": digest, "approved": is_approved, "over": runs.end(plan.run()).map(End::told), "means": plan_words::meaning(plan),
                "declined_because": plan_words::objections(&config.policy, plan, &hands.signers),
                "signed_by": hands.signers, "signatures_needed": config.policy.signatures.max(plan.draft.signatures),
                "approved_before": since.map(|(digest, _)| digest),
                "changes": since.map(|(_, before)| plan_words::changes(before, plan)), "draft": plan.draft,
            }))
        });
        return print_json(&rows.collect::<anyhow::Result<Vec<_>>>()?);
    }
    if known.is_empty() {
        print(&"no plan has been announced to this site yet\n")?;
    }
    for (digest, plan) in &known {
        let is_approved = approved.contains(digest);
        let state = match (runs.end(plan.run()), is_approved) {
            (Some(end), _) => format!("over: {}", end.told()),
            (None, true) => "approved".to_owned(),
            (None, false) => "AWAITS APPROVAL".to_owned(),
        };
        print(&format!("{digest}  {state}\n"))?;
        print(&indented(&format!("run {}, {}", plan.run(), plan_words::meaning(plan).told())))?;
        if runs.end(plan.run()).is_some() && !args.whole {
            print(&"\n")?;
            continue;
        }
        let hands = Hands::under(home, *digest)?;
        print(&indented(&hands.told()))?;
        let refused = plan_words::objections(&config.policy, plan, &hands.signers);
        print(&indented(&refused.iter().map(|why| format!("DECLINED HERE: {why}\n")).collect::<String>()))?;
        if !is_approved {
            print(&indented(&since_the_last(last, plan)))?;
        }
        if args.whole || !is_approved && last.is_none() {
            print(&format!("\n{}", indented(&toml::to_string(&plan.draft)?)))?;
        }
        print(&"\n")?;
    }
    Ok(())
}

/// What has changed since the plan that was approved last.
fn since_the_last(last: Option<(Digest, &Plan)>, plan: &Plan) -> String {
    let Some((digest, before)) = last else {
        return "no plan that is here was approved before: every setting is shown\n".to_owned();
    };
    let changes = plan_words::changes(before, plan);
    let lines: String = changes.iter().map(|change| format!("  {}\n", change.told())).collect();
    let (run, short) = (before.run(), digest.short());
    format!("since the plan that was approved last (run {run}, {short}), {} settings changed:\n{lines}", changes.len())
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("    {line}\n")).collect()
}

pub(super) fn approve(home: &Home, config: &Config, args: &ApproveArgs) -> anyhow::Result<()> {
    let known = approvals::announced(home)?;
    let digests: Vec<Digest> = known.iter().map(|(digest, _)| *digest).collect();
    let digest = approvals::meant(&args.digest, &digests)?;
    let plan = known.into_iter().find(|(known, _)| *known == digest).map(|(_, plan)| plan);
    let hands = Hands::under(home, digest)?;
    let refused = plan.as_ref().map(|plan| plan_words::objections(&config.policy, plan, &hands.signers));
    let refused = refused.unwrap_or_default();
    // First the ledger: no plan runs whose approval is not told there.
    Ledger::at(home.ledger()).enter(&Event::Approved { plan: digest })?;
    approvals::approve(home, digest)?;
    if args.json.json {
        return print_json(&serde_json::json!({
            "plan": digest, "approved": true, "announced": plan.is_some(), "declined_because": refused,
        }));
    }
    if plan.is_none() {
        print(&"this plan has not been announced to this site yet; the approval is kept for when it is\n")?;
    }
    for why in refused {
        print(&format!("approved, and declined here all the same: {why}\n"))?;
    }
    print(&format!("approved {digest}\n"))
}
