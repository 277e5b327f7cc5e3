//! Libraries that stay in their folder, and what the pure halves must not know. The lists are the
//! design's; README "Architecture" says the same in words.

use crate::report;
use crate::source::{code, has_word, rust_files};

/// A library, and the only places whose code may name it.
const AT_HOME: [(&str, &[&str]); 7] = [
    ("tss_esapi", &["attestation/src/tpm/", "attestation/tests/"]),
    ("arc_malachitebft_core_consensus", &["gatewayd/ledger/src/consensus/"]),
    ("arc_malachitebft_core_types", &["gatewayd/ledger/src/consensus/"]),
    ("arc_malachitebft_signing", &["gatewayd/ledger/src/consensus/"]),
    (
        "rusqlite",
        &["gatewayd/ledger/src/store/", "gatewayd/ledger/tests/", "gatewayd/src/store/", "tests/"],
    ),
    ("zbus", &["gatewayd/src/dbus/", "drivers/src/ble/link.rs", "tests/"]),
    ("lorawan_encoding", &["drivers/src/lora/frame.rs", "drivers/src/lora/frame/"]),
];

/// What code that must give the same answer everywhere cannot ask for.
const WORLD: [&str; 11] = [
    "std::time",
    "std::net",
    "std::thread",
    "std::env",
    "std::fs",
    "std::process",
    "rand",
    "getrandom",
    "SysRng",
    "OsRng",
    "tokio",
];

/// Pure code: where it lies, which parts of that are not pure, why it must be pure.
const PURE: [(&str, &[&str], &str); 8] = [
    (
        "gatewayd/ledger/src/",
        &["gatewayd/ledger/src/store/", "gatewayd/ledger/src/consensus/wal"],
        "the ledger is replayed and simulated: time, randomness and I/O come in with the input",
    ),
    (
        "attestation/src/",
        &["attestation/src/tpm/"],
        "the verifier gives the same verdict on every machine, with no TPM at hand",
    ),
    ("drivers/sensor/src/", &[], "firmware links it"),
    ("drivers/src/codec/", &[], "a codec sees bytes alone"),
    ("drivers/src/serial/frame.rs", &[], "only link.rs does I/O"),
    ("drivers/src/serial/session.rs", &[], "only link.rs does I/O"),
    ("drivers/src/lora/frame.rs", &[], "only link.rs does I/O"),
    ("drivers/src/lora/session.rs", &[], "only link.rs does I/O"),
];

#[test]
fn libraries_stay_at_home() {
    let mut findings = Vec::new();
    for (path, text) in rust_files() {
        let code = code(&text);
        for (library, homes) in AT_HOME {
            if homes.iter().any(|home| path.starts_with(home)) {
                continue;
            }
            if let Some(line) = has_word(&code, library) {
                findings.push(format!("{path}:{line} names {library}; only {homes:?} may"));
            }
        }
    }
    report("libraries outside their folder", &findings);
}

#[test]
fn pure_code_does_not_touch_the_world() {
    let mut findings = Vec::new();
    let files = rust_files();
    let tests = test_modules(&files);
    for (path, text) in files {
        let Some((_, _, why)) = PURE.iter().find(|(place, besides, _)| {
            path.starts_with(place) && !besides.iter().any(|other| path.starts_with(other))
        }) else {
            continue;
        };
        // Tests of pure code may make files and threads; the product may not.
        let code = product_code(&code(&text));
        let is_test = tests.iter().any(|module| path.starts_with(module));
        for word in WORLD.iter().filter(|_| !is_test) {
            if let Some(line) = has_word(&code, word) {
                findings.push(format!("{path}:{line} names {word}: {why}"));
            }
        }
    }
    report("pure code that knows the world", &findings);
}

#[test]
fn firmware_code_needs_neither_std_nor_a_heap() {
    let lib = crate::read("drivers/sensor/src/lib.rs");
    assert!(code(&lib).contains("#![no_std]"), "drivers/sensor must be no_std unconditionally");
    let mut findings = Vec::new();
    let files = rust_files();
    let tests = test_modules(&files);
    for (path, text) in files {
        if !path.starts_with("drivers/sensor/src/")
            || tests.iter().any(|module| path.starts_with(module))
        {
            continue;
        }
        let code = product_code(&code(&text));
        for word in ["std", "alloc"] {
            // `no_std` is another word; `std::` and `extern crate alloc` are these.
            if let Some(line) = has_word(&code, word) {
                findings.push(format!("{path}:{line} names {word}"));
            }
        }
    }
    report("drivers/sensor is linked by firmware", &findings);
}

#[test]
fn the_light_client_builds_without_std() {
    let lib = code(&crate::read("gatewayd/ledger/src/lib.rs"));
    assert!(lib.contains("no_std"), "gatewayd/ledger without features must be no_std");
}

#[test]
fn unsafe_code_has_at_most_one_home() {
    let allowing: Vec<String> = rust_files()
        .into_iter()
        .filter(|(_, text)| {
            let code = code(text);
            code.contains("(unsafe_code") && !code.contains("forbid(unsafe_code)")
        })
        .map(|(path, _)| path)
        .collect();
    assert!(allowing.len() <= 1, "unsafe code is allowed in {allowing:?}, one reviewed module may");
}

/// Where the modules lie that are declared as `#[cfg(test)] mod NAME;`: beginnings of paths.
fn test_modules(files: &[(String, String)]) -> Vec<String> {
    let mut found = Vec::new();
    for (path, text) in files {
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
        let folder = match name {
            "mod.rs" | "lib.rs" | "main.rs" => folder.to_owned(),
            other => format!("{folder}/{}", other.trim_end_matches(".rs")),
        };
        for declared in code(text).split("#[cfg(test)]").skip(1) {
            let declared = declared.trim_start().trim_start_matches("pub(crate) ");
            if let Some((module, _)) =
                declared.strip_prefix("mod ").and_then(|rest| rest.split_once(';'))
                && !module.contains('{')
            {
                found.extend([format!("{folder}/{module}.rs"), format!("{folder}/{module}/")]);
            }
        }
    }
    found
}

/// The code before the test module at the end of the file.
fn product_code(code: &str) -> String {
    code.split_once("#[cfg(test)]").map_or(code, |(product, _)| product).to_owned()
}
