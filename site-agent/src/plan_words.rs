//! A plan in plain words, for the person who is asked to approve it: what it asks of this site, and what has changed since the
//! plan that was approved last. Pure functions of plans.

use std::collections::BTreeMap;

use common::machine::bytes;
use common::plan::{Exchange, ShareBy};
use common::policy::{Purpose, SitePolicy};
use common::signed::Signer;
use common::words::plain;
use common::{Encoding, Plan};
use serde::Serialize;
use serde_json::Value;

use crate::architecture;

/// A setting that differs between two plans. None where a plan does not have it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// The key as plans write it.
    pub setting: String,
    /// In the plan that was approved.
    pub from: Option<String>,
    /// In this one.
    pub to: Option<String>,
}

impl Change {
    /// One line, whatever the plans say: one that is kept was held to what counted when it came.
    pub fn told(&self) -> String {
        plain(&match (&self.from, &self.to) {
            (Some(from), Some(to)) => format!("{} was {from}, and is {to}", self.setting),
            (Some(from), None) => format!("{} was {from}, and is not there any more", self.setting),
            (None, Some(to)) => format!("{} is new: {to}", self.setting),
            (None, None) => self.setting.clone(),
        })
    }
}

/// Which settings differ, by name. Two plans without a difference here are the same bytes.
pub fn changes(approved: &Plan, plan: &Plan) -> Vec<Change> {
    let (before, after) = (settings(approved), settings(plan));
    let mut names: Vec<&String> = before.keys().chain(after.keys()).collect();
    names.sort();
    names.dedup();
    let change =
        |name: &String| Change { setting: name.clone(), from: before.get(name).cloned(), to: after.get(name).cloned() };
    names.into_iter().filter(|name| before.get(*name) != after.get(*name)).map(change).collect()
}

fn settings(plan: &Plan) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    // A plan holds strings, numbers and lists only.
    flatten("", &serde_json::to_value(&plan.draft).unwrap_or_default(), &mut all);
    all.insert("first model".to_owned(), plan.first_model.to_string());
    // By the plan's own digest of them, as a list of all would hide the rest.
    let tensors = serde_json::to_vec(&plan.signature).unwrap_or_default();
    let told = format!(
        "{} tensors of {} values ({})",
        plan.signature.len(),
        plan.signature.value_count(),
        common::Digest::of(&tensors).short()
    );
    all.insert("tensors".to_owned(), told);
    all
}

fn flatten(name: &str, value: &Value, into: &mut BTreeMap<String, String>) {
    match value {
        Value::Object(fields) => {
            let within = |key: &String| if name.is_empty() { key.clone() } else { format!("{name}.{key}") };
            fields.iter().for_each(|(key, value)| flatten(&within(key), value, into));
        }
        Value::Array(items) if items.iter().any(Value::is_object) => {
            let called = |place: usize, item: &Value| match item["name"].as_str() {
                Some(own) => format!("{name}.{own}"),
                None => format!("{name}.{place}"),
            };
            items.iter().enumerate().for_each(|(place, item)| flatten(&called(place, item), item, into));
        }
        Value::String(text) => drop(into.insert(name.to_owned(), text.clone())),
        other => drop(into.insert(name.to_owned(), other.to_string())),
    }
}

/// What a plan means for a site.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Meaning {
    /// What the run is for.
    pub purpose: Purpose,
    /// The tasks that it finetunes.
    pub tasks: Vec<String>,
    /// Rounds of the run.
    pub rounds: u32,
    /// Optimizer steps of each.
    pub steps_per_round: usize,
    /// Images in a batch, of each task if they differ.
    pub batch_sizes: Vec<usize>,
    /// Bytes of the model that is fetched before each round.
    pub fetched_bytes: u64,
    /// Bytes of the update that is sent after each, with the heads of all tasks.
    pub sent_bytes: u64,
    /// What the update holds.
    pub sent: String,
    /// Names of the sites.
    pub sites: Vec<String>,
}

/// What a plan means for a site.
pub fn meaning(plan: &Plan) -> Meaning {
    let draft = &plan.draft;
    let finetuning = draft.finetuning.as_ref();
    let frozen = finetuning.is_some_and(|finetuning| finetuning.frozen_backbone);
    let privacy = &draft.privacy;
    let mut batch_sizes: Vec<usize> = finetuning
        .map_or(vec![draft.training.batch_size], |all| all.tasks.iter().map(|task| task.training.batch_size).collect());
    batch_sizes.sort_unstable();
    batch_sizes.dedup();
    let leaving = plan.signature.filtered(|name| plan.travels(name));
    let weights = match (finetuning, draft.aggregation.exchange) {
        (Some(_), _) if frozen => "the change of the tasks' heads that this site has labels for",
        (Some(_), _) => "the change of the backbone, and of the tasks' heads that this site has labels for",
        (None, Exchange::All) => "the change of student, teacher and center",
        (None, Exchange::Student) => "the change of the student",
    };
    let written = match draft.aggregation.encoding {
        Encoding::F32 => "as 32-bit floats".to_owned(),
        Encoding::Bf16 => "as bfloat16".to_owned(),
        Encoding::F16 => "as 16-bit floats".to_owned(),
        Encoding::Int8 => "as 8-bit integers".to_owned(),
        Encoding::TopK(fraction) => format!("of which the largest {} % leave", fraction * 100.0),
    };
    let scores = if finetuning.is_some() {
        "; what this site measures of each model, unless `policy.scores` is false"
    } else {
        ""
    };
    let kept: Vec<&str> = draft.aggregation.keep_local.iter().collect();
    let without =
        if kept.is_empty() { String::new() } else { format!(" without {}, which stay here", kept.join(", ")) };
    let noise = match privacy.noise_multiplier {
        0.0 => String::new(),
        z => {
            format!(", with noise of standard deviation {} ({z} times that) on every value", privacy.noise_deviation())
        }
    };
    let count = match draft.aggregation.share_by {
        ShareBy::Subjects => "",
        ShareBy::Examples => "; the number of images trained from, in fives",
    };
    Meaning {
        purpose: Purpose::of(plan),
        tasks: plan.tasks().map(ToString::to_string).collect(),
        rounds: draft.rounds.count,
        steps_per_round: draft.training.steps_per_round,
        batch_sizes,
        fetched_bytes: plan.model_bytes(),
        sent_bytes: draft.aggregation.encoding.file_bytes(&leaving),
        sent: format!(
            "{weights}{without}, {written}, over all tensors no longer than {}{noise}{count}{scores}",
            privacy.max_delta_norm
        ),
        sites: draft.rounds.sites.iter().map(ToString::to_string).collect(),
    }
}

impl Meaning {
    /// Lines for a person.
    pub fn told(&self) -> String {
        let tasks = if self.tasks.is_empty() { String::new() } else { format!(" of {}", self.tasks.join(", ")) };
        let sizes = self.batch_sizes.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or ");
        format!(
            "for {}{tasks}, with the sites {}\n{} rounds of {} steps, {} steps in all, on batches of {sizes} images\n\
             fetched before each round: {}; sent after it: {}, {} in the whole run\nwhat is sent: {}; and meters, as for every run\n",
            self.purpose.name(),
            self.sites.join(", "),
            self.rounds,
            self.steps_per_round,
            u64::from(self.rounds) * self.steps_per_round as u64,
            bytes(self.fetched_bytes),
            bytes(self.sent_bytes),
            bytes(self.sent_bytes * u64::from(self.rounds)),
            self.sent,
        )
    }
}

/// Why this site would not train under a plan whoever approves it, a line each.
pub fn objections(policy: &SitePolicy, plan: &Plan, signers: &[Signer]) -> Vec<String> {
    let unsigned = policy.signed(plan, signers).err();
    let unlisted = architecture::check(plan).err().map(|unlisted| unlisted.to_string());
    let beyond = policy.objections(plan).into_iter().chain(unsigned).map(|objection| objection.to_string());
    unlisted.into_iter().chain(beyond).collect()
}

#[cfg(test)]
mod tests {
    use common::{Digest, NamedTensors, PlanDraft};

    use super::*;

    fn plan(change: impl FnOnce(&mut PlanDraft)) -> Plan {
        let mut draft: PlanDraft = toml::from_str(include_str!("../../tests/plans/story.toml")).unwrap();
        change(&mut draft);
        let mut first = NamedTensors::new();
        first.insert("center", vec![1, 4], vec![0.0; 4]);
        first.insert("student.w", vec![600], vec![0.0; 600]);
        draft.with_first_model(first.signature(), Digest::of(b"model"))
    }

    #[test]
    fn the_settings_that_changed_are_told_from_what_to_what_and_no_others() {
        let before = plan(|_| {});
        assert_eq!(changes(&before, &before), []);
        let after = plan(|draft| {
            (draft.rounds.count, draft.training.batch_size) = (30, 8);
            draft.aggregation.encoding = Encoding::TopK(0.1);
            draft.rounds.sites.push("site-x".parse().unwrap());
        });
        let told: Vec<String> = changes(&before, &after).iter().map(Change::told).collect();
        assert_eq!(
            told,
            [
                "aggregation.encoding.top-k is new: 0.1",
                "rounds.count was 3, and is 30",
                "rounds.sites was [\"site-a\",\"site-c\"], and is [\"site-a\",\"site-c\",\"site-x\"]",
                "training.batch_size was 4, and is 8",
            ]
        );
        let mut other = before.clone();
        other.first_model = Digest::of(b"another");
        assert_eq!(changes(&before, &other)[0].setting, "first model");
    }

    #[test]
    fn a_change_is_told_in_one_line_that_no_terminal_obeys() {
        let obeyed = "x\u{1b}[8m\n\u{202e}";
        let change = |from: Option<&str>, to: Option<&str>| Change {
            setting: obeyed.to_owned(),
            from: from.map(str::to_owned),
            to: to.map(str::to_owned),
        };
        for (from, to) in [(None, None), (None, Some(obeyed)), (Some(obeyed), None), (Some(obeyed), Some(obeyed))] {
            let told = change(from, to).told();
            assert!(told.starts_with("x\u{fffd}[8m\u{fffd}\u{fffd}") && !told.contains(char::is_control), "{told:?}");
        }
    }

    #[test]
    fn every_changed_byte_of_a_plan_that_is_still_a_plan_is_another_plan_with_a_change_that_is_told() {
        let before = plan(|_| {});
        let bytes = before.canonical_bytes();
        let mut plans = 0;
        for place in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[place] = if changed[place] == b'1' { b'2' } else { b'1' };
            let Ok(after) = Plan::from_agreed_bytes(&changed, Digest::of(&changed)) else { continue };
            assert_ne!(after.digest(), before.digest());
            assert!(!changes(&before, &after).is_empty(), "byte {place}");
            plans += 1;
        }
        assert!(plans > 20, "{plans}");
    }

    #[test]
    fn what_a_plan_means_is_said_with_the_bytes_of_the_very_files() {
        let plain = plan(|_| {});
        let mut delta = NamedTensors::new();
        delta.insert("center", vec![1, 4], vec![0.5; 4]);
        delta.insert("student.w", vec![600], vec![0.25; 600]);
        let means = meaning(&plain);
        assert_eq!(means.fetched_bytes, delta.to_safetensors().len() as u64);
        let told = means.told();
        for part in [
            "for pretraining",
            "site-a, site-c",
            "3 rounds of 300 steps, 900 steps",
            "batches of 4 images",
            "no longer than 1000",
        ] {
            assert!(told.contains(part), "{part:?} is missing from:\n{told}");
        }
        let own = plan(|draft| {
            draft.aggregation.keep_local = toml::Value::from(vec!["center"]).try_into().unwrap();
            draft.aggregation.share_by = ShareBy::Examples;
            draft.privacy.noise_multiplier = 0.5;
        });
        assert_eq!(
            meaning(&own).sent_bytes,
            delta.clone().filtered(|name| name != "center").to_safetensors().len() as u64
        );
        for part in
            ["without center, which stay here", "deviation 500 (0.5 times that)", "images trained from, in fives"]
        {
            assert!(meaning(&own).told().contains(part), "{part:?} is missing from:\n{}", meaning(&own).told());
        }
        for encoding in [Encoding::F32, Encoding::F16, Encoding::Int8, Encoding::TopK(0.1)] {
            let plan = plan(|draft| draft.aggregation.encoding = encoding);
            assert_eq!(meaning(&plan).sent_bytes, encoding.encode(&delta).len() as u64, "{encoding:?}");
        }
    }
}
