//! Which crate may depend on which, as `cargo metadata` sees it: design of the workspace, bounds on
//! the number of dependencies, no loose versions.

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::Value;

use crate::{report, root};

/// Crate of ours, crates of ours that it may know, direct dependencies at most. The numbers may
/// only shrink; raising one is a decision for the commit that raises it to defend.
const CRATES: [(&str, &[&str], usize); 7] = [
    ("sensor", &["ledger"], 8),
    ("drivers", &["sensor"], 14),
    ("ledger", &[], 10),
    ("attestation", &[], 11),
    ("gatewayd", &["sensor", "drivers", "ledger", "attestation"], 33),
    ("tests", &["sensor", "drivers", "ledger", "attestation", "gatewayd"], 20),
    ("fuzz", &["sensor", "drivers", "ledger", "attestation", "gatewayd"], 10),
];

/// Packages in the lock file at most, ours included.
const LOCKED: usize = 345;

fn metadata() -> Value {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON")
}

/// Our packages by name, each with its declared dependencies.
fn packages() -> BTreeMap<String, Vec<Value>> {
    let metadata = metadata();
    let packages = metadata["packages"].as_array().expect("packages");
    packages
        .iter()
        .map(|package| {
            let name = package["name"].as_str().expect("name").to_owned();
            (name, package["dependencies"].as_array().expect("dependencies").clone())
        })
        .collect()
}

#[test]
fn crates_know_only_whom_they_may() {
    let packages = packages();
    let mut findings = Vec::new();
    for name in packages.keys() {
        if !CRATES.iter().any(|(known, ..)| known == name) {
            findings.push(format!("crate {name} is not in the design: see directions.rs"));
        }
    }
    for (name, may_know, _) in CRATES {
        for dependency in packages.get(name).into_iter().flatten() {
            let other = dependency["name"].as_str().expect("name");
            let ours = CRATES.iter().any(|(known, ..)| *known == other);
            if ours && !may_know.contains(&other) {
                findings.push(format!("{name} must not depend on {other}"));
            }
        }
    }
    report("directions between crates", &findings);
}

#[test]
fn dependencies_stay_few() {
    let mut findings = Vec::new();
    for (name, dependencies) in packages() {
        let direct = dependencies.iter().filter(|each| each["kind"].is_null()).count();
        let limit =
            CRATES.iter().find(|(known, ..)| *known == name).map_or(0, |(.., limit)| *limit);
        if direct > limit {
            findings.push(format!("{name} has {direct} direct dependencies, at most {limit}"));
        }
    }
    let locked = crate::read("Cargo.lock").matches("[[package]]").count();
    if locked > LOCKED {
        findings.push(format!("Cargo.lock has {locked} packages, at most {LOCKED}"));
    }
    report("number of dependencies", &findings);
}

#[test]
fn no_dependency_has_a_loose_version() {
    let mut findings = Vec::new();
    for (name, dependencies) in packages() {
        for dependency in dependencies {
            let what = dependency["name"].as_str().expect("name");
            let version = dependency["req"].as_str().expect("req");
            let source = dependency["source"].as_str();
            if dependency["path"].is_null() && (version == "*" || version == ">=0") {
                findings.push(format!("{name}: {what} has version {version}"));
            }
            if source.is_some_and(|source| source.starts_with("git")) {
                findings.push(format!("{name}: {what} comes from git"));
            }
        }
    }
    report("versions", &findings);
}
