//! The package and the program agree: actions, bus name, units, defaults.

use std::collections::BTreeSet;

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
fn every_setting_is_in_the_defaults_and_in_the_man_page() {
    let known = settings();
    assert!(known.len() >= 10, "settings.rs shows its settings in another way: {known:?}");
    let mut section = String::new();
    let mut shipped = BTreeSet::new();
    for line in read("packaging/defaults.toml").lines() {
        if let Some(name) = line.strip_prefix('[') {
            section = format!("{}.", name.trim_end_matches(']'));
        } else if let Some((key, _)) =
            line.strip_prefix('#').and_then(|line| line.split_once(" = "))
            && !key.starts_with(' ')
        {
            shipped.insert(format!("{section}{key}"));
        }
    }
    let page = read("packaging/man/gatewayd.toml.5");
    let mut findings = Vec::new();
    for key in known.difference(&shipped) {
        findings.push(format!("{key} is not in packaging/defaults.toml"));
    }
    for key in shipped.difference(&known) {
        findings.push(format!("{key} is in packaging/defaults.toml and not a setting"));
    }
    for key in &known {
        let name = key.rsplit('.').next().unwrap_or(key);
        if !page.lines().any(|line| line.starts_with(&format!(".It Ic {name}"))) {
            findings.push(format!("{key} is not in gatewayd.toml(5)"));
        }
    }
    report("settings", &findings);
}

/// Dotted keys that `gatewayctl config show` prints.
fn settings() -> BTreeSet<String> {
    let text = read("gatewayd/src/config/settings.rs");
    text.split("shown(")
        .skip(1)
        .filter_map(|rest| rest.trim_start().strip_prefix('"')?.split('"').next())
        .map(str::to_owned)
        .collect()
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
    let helper = read("packaging/systemd/gatewayd-logs.service");
    let started = "ExecStart=/usr/libexec/gatewayd-logs";
    assert!(helper.lines().any(|line| line == started), "gatewayd-logs.service lacks {started}");
    let rules = read("packaging/debian/rules");
    assert!(rules.contains("usr/libexec $(BUILT)/gatewayd-logs"), "the helper is not packaged");
    let socket = read("packaging/systemd/gatewayd-logs.socket");
    let program = read("gatewayd/src/measurement_logs/mod.rs");
    let listens = socket.lines().find_map(|line| line.strip_prefix("ListenStream="));
    let path = listens.expect("the socket unit listens");
    assert!(program.contains(&format!("\"{path}\"")), "the daemon asks elsewhere than {path}");
    let named = rust_files().iter().any(|(path, text)| {
        path.starts_with("gatewayd/src/dbus/")
            && text.contains("org.gatewayd.Gateway1")
            && !code(text).is_empty()
    });
    assert!(named, "the bus name of the policy file is not the program's");
}
