//! The crate table of ARCHITECTURE.md, held by machine: who may use what.

#![expect(clippy::unwrap_used, reason = "what cannot be unwrapped fails the test")]

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, PackageId};

/// A crate, the workspace crates it may use, and what must not be reachable from it by any path.
const TABLE: &[(&str, &[&str], &[&str])] = &[
    ("common", &[], &["tokio", "tonic", "burn-core", "dicom-object", "rusqlite", "rustls"]),
    ("proto", &["common"], &["burn-core", "dicom-object", "rusqlite"]),
    ("certs", &["common"], &["burn-core", "dicom-object"]),
    ("data", &["common"], &["burn-core", "tokio", "tonic", "rustls"]),
    ("model", &["common"], &["dicom-object", "tokio", "tonic", "rustls"]),
    ("aggregator", &["certs", "common", "proto"], &["burn-core", "dicom-object"]),
    ("site-agent", &["certs", "common", "data", "model", "proto"], &["rusqlite"]),
];

/// The dependency graph on this platform: a crate's wasm-only dependencies are of no concern here.
fn metadata() -> Metadata {
    let version = Command::new("rustc").arg("-vV").output().unwrap();
    let version = String::from_utf8(version.stdout).unwrap();
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).unwrap().to_owned();
    let options = ["--locked", "--offline", "--filter-platform", &host].map(str::to_owned);
    MetadataCommand::new().manifest_path("../Cargo.toml").other_options(options).exec().unwrap()
}

/// Everything reachable from a package through normal dependencies, by name.
fn reachable(metadata: &Metadata, from: &str) -> BTreeSet<String> {
    let resolve = metadata.resolve.as_ref().unwrap();
    let edges: BTreeMap<&PackageId, Vec<&PackageId>> = resolve
        .nodes
        .iter()
        .map(|node| {
            let normal =
                node.deps.iter().filter(|dep| dep.dep_kinds.iter().any(|kind| kind.kind == DependencyKind::Normal));
            (&node.id, normal.map(|dep| &dep.pkg).collect())
        })
        .collect();
    let start = metadata.workspace_packages().into_iter().find(|package| package.name.as_str() == from).unwrap();
    let mut seen = BTreeSet::from([&start.id]);
    let mut queue = vec![&start.id];
    while let Some(id) = queue.pop() {
        queue.extend(edges[id].iter().copied().filter(|next| seen.insert(next)));
    }
    seen.remove(&start.id);
    let name = |id: &&PackageId| metadata[id].name.to_string();
    seen.iter().map(name).collect()
}

#[test]
fn each_crate_uses_only_what_the_table_permits() {
    let metadata = metadata();
    let members: BTreeSet<_> = metadata.workspace_packages().iter().map(|package| package.name.to_string()).collect();
    for (name, permitted, never) in TABLE {
        let reachable = reachable(&metadata, name);
        let used: BTreeSet<_> = reachable.intersection(&members).map(String::as_str).collect();
        let permitted = permitted.iter().copied().collect();
        assert!(used.is_subset(&permitted), "{name} uses {:?}", used.difference(&permitted));
        let broken: Vec<_> = never.iter().filter(|name| reachable.contains(**name)).collect();
        assert!(broken.is_empty(), "{name} reaches {broken:?}");
    }
}

#[test]
fn nothing_depends_on_the_tests_and_every_crate_is_in_the_table() {
    let metadata = metadata();
    for package in metadata.workspace_packages() {
        assert!(package.dependencies.iter().all(|dependency| dependency.name != "tests"), "{}", package.name);
        let listed = TABLE.iter().any(|(name, ..)| *name == package.name.as_str());
        assert!(listed || package.name.as_str() == "tests", "{} is not in the table", package.name);
    }
}

#[test]
fn only_model_names_burn_and_only_common_names_bincode() {
    let metadata = metadata();
    let direct = |prefix: &str| -> BTreeSet<String> {
        let uses =
            |package: &&cargo_metadata::Package| package.dependencies.iter().any(|dep| dep.name.starts_with(prefix));
        metadata.workspace_packages().into_iter().filter(uses).map(|package| package.name.to_string()).collect()
    };
    assert_eq!(direct("burn"), BTreeSet::from(["model".to_owned()]));
    assert_eq!(direct("bincode"), BTreeSet::from(["common".to_owned()]));
}
