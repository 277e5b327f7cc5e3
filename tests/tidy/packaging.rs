//! The package and the program agree: actions, bus name, units, defaults.

use crate::source::{code, rust_files};
use crate::{read, report};

const ACTIONS: &str = "packaging/polkit-1/actions/org.gatewayd.gateway1.policy";
const PREFIX: &str = "org.gatewayd.gateway1.";

/// Everything after the prefix of an action, wherever it stands in a text.
fn actions(text: &str) -> Vec<String> {
    let mut found: Vec<String> = text
        .match_indices(PREFIX)
        .map(|(at, _)| {
            let rest = &text[at + PREFIX.len()..];
            rest.chars().take_while(|c| c.is_ascii_lowercase() || *c == '-').collect()
        })
        .filter(|name: &String| !name.is_empty() && name != "policy")
        .collect();
    found.sort();
    found.dedup();
    found
}

#[test]
fn every_polkit_action_is_used_and_packaged() {
    let packaged = actions(&read(ACTIONS));
    let text: String = rust_files()
        .into_iter()
        .filter(|(path, _)| path.starts_with("gatewayd/src/"))
        .map(|(_, text)| text)
        .collect();
    let used = actions(&text);
    let mut findings = Vec::new();
    for action in used.iter().filter(|action| !packaged.contains(action)) {
        findings.push(format!("{PREFIX}{action} is used but not in {ACTIONS}"));
    }
    for action in packaged.iter().filter(|action| !used.contains(action)) {
        findings.push(format!("{PREFIX}{action} is packaged but never asked for"));
    }
    report("polkit actions", &findings);
}

#[test]
fn shipped_defaults_change_nothing() {
    let defaults = read("packaging/defaults.toml");
    let set: Vec<&str> = defaults
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#') && !line.starts_with('['))
        .collect();
    assert!(set.is_empty(), "the shipped file is a comment, these lines set something: {set:?}");
}

#[test]
fn scripts_have_their_run_bit() {
    use std::os::unix::fs::PermissionsExt;
    for script in [".ci/run", "tests/run", "packaging/demo", "packaging/build-deb"] {
        let mode =
            std::fs::metadata(crate::root().join(script)).expect(script).permissions().mode();
        assert!(mode & 0o111 != 0, "{script} has no run bit");
    }
}

#[test]
fn the_unit_starts_the_program_that_is_packaged() {
    let unit = read("packaging/systemd/gatewayd.service");
    for line in ["Type=notify", "User=gatewayd", "ExecStart=/usr/bin/gatewayd", "LimitCORE=0"] {
        assert!(unit.lines().any(|each| each.starts_with(line)), "gatewayd.service lacks {line}");
    }
    let named = rust_files().iter().any(|(path, text)| {
        path.starts_with("gatewayd/src/dbus/")
            && text.contains("org.gatewayd.Gateway1")
            && !code(text).is_empty()
    });
    assert!(named, "the bus name of the policy file is not the program's");
}
