//! `site-agent stop` and `resume`: the switch of hospital IT.

use super::{Json, print, print_json};
use crate::home::Home;
use crate::switch;

pub(super) fn stop(home: &Home, json: &Json) -> anyhow::Result<()> {
    let changed = switch::stop(home)?;
    if json.json {
        return print_json(&serde_json::json!({ "stopped": true, "changed": changed }));
    }
    print(&format!(
        "stopped: an agent in {} ends its training within seconds and sends nothing, but for the word to the coordinator that \
         this site is stopped.\nWhat was trained stays here as a checkpoint; `site-agent resume` goes on from it.\n",
        home.root().display()
    ))
}

pub(super) fn resume(home: &Home, json: &Json) -> anyhow::Result<()> {
    let changed = switch::resume(home)?;
    if json.json {
        return print_json(&serde_json::json!({ "stopped": false, "changed": changed }));
    }
    print(&if changed { "resumed: an agent that runs goes on within seconds\n" } else { "this site was not stopped\n" })
}
