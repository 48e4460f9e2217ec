//! What a round costs: a real `aggregator serve` in a process of its own, sites that do not train, mutual TLS on loopback;
//! and in the same run, in turns with it, what the machine could do at best.
//!
//! ```sh
//! cargo bench --locked -p aggregator --bench round -- --sites 3,8,32 --parameters 21.7M --runs 3 --json
//! cargo bench --locked -p aggregator --bench round -- --merge-only
//! cargo bench --locked -p aggregator --bench round -- --recover --sites 32
//! ```
//!
//! A table goes to the standard error, JSON to the standard output. `docs/results/aggregator.md` has figures, and says how
//! to read them. Without `--bench`, which `cargo bench` adds, it measures a small model once: `cargo test --bench round`
//! shows that it still works.

mod limits;
mod merging;
mod model;
mod oracle;
mod process;
mod recovery;
mod report;
mod rounds;
mod server;
mod sites;
mod tls;

use std::path::PathBuf;

use clap::Parser;

use model::Size;
use report::Report;

/// Measures rounds and merges of the aggregator, beside the limits of the machine.
#[derive(Debug, Parser)]
struct Arguments {
    /// Sites of a round.
    #[arg(long, value_delimiter = ',', default_values_t = [3, 8])]
    sites: Vec<usize>,
    /// Size of the model: the backbone ViT-S/8, or with its DINO head.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Size::Backbone])]
    parameters: Vec<Size>,
    /// Pieces into which every tensor is cut: the same bytes under more names.
    #[arg(long, value_delimiter = ',', default_values_t = [1])]
    pieces: Vec<usize>,
    /// Rounds that are measured, each after a measurement of the limit; one more goes before them.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Only the merge, over files in the page cache.
    #[arg(long)]
    merge_only: bool,
    /// Only how long a killed server takes until it answers again, with the updates of so many sites on its disk; prints JSON.
    #[arg(long)]
    recover: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Where state folders are made; they are removed again.
    #[arg(long, value_name = "FOLDER", default_value_os_t = std::env::temp_dir())]
    folder: PathBuf,
    /// Be the far side of the TLS limit, with the keys of a state folder.
    #[arg(long, hide = true, value_name = "STATE")]
    tls_peer: Option<PathBuf>,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() {
    let mut arguments = Arguments::parse();
    if let Some(state) = &arguments.tls_peer {
        return tls::serve(state);
    }
    if !arguments.bench {
        (arguments.sites, arguments.parameters, arguments.pieces) = (vec![3], vec![Size::Small], vec![1]);
        arguments.runs = 1;
    }
    if arguments.recover {
        for (&sites, &size) in
            arguments.sites.iter().flat_map(|sites| arguments.parameters.iter().map(move |size| (sites, size)))
        {
            println!("{}", recovery::measure(model::Case { sites, size, pieces: 1 }, &arguments.folder));
        }
        return;
    }
    let mut report = Report::of_this_machine(limits::measure(&arguments.folder, arguments.bench));
    for &size in &arguments.parameters {
        for &sites in &arguments.sites {
            let case = model::Case { sites, size, pieces: 1 };
            report.add_merge(merging::measure(case, arguments.runs, &arguments.folder));
            if arguments.merge_only {
                continue;
            }
            // Beside each other, so that a change of the machine's pace meets all of them.
            let cases: Vec<_> = arguments.pieces.iter().map(|&pieces| model::Case { pieces, ..case }).collect();
            report.add_rounds(rounds::measure(&cases, arguments.runs, &arguments.folder));
        }
    }
    if arguments.json {
        println!("{}", report.json());
    }
}
