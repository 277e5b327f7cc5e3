//! `gatewayctl verify`: judges a proof file with the light client; no daemon, no network.

use std::io::Read;
use std::path::{Path, PathBuf};

use clap::Args;
use drivers::senml::Pack;
use ledger::batch::Leaf;
use ledger::light::{self, Options, Verdict};
use ledger::proof::{Anchor, MAX_PROOF};
use serde_json::{Value, json};

use super::exit::{Exit, Failure};
use super::output::{Output, readings};
use super::time;
use crate::ingest::leaf::values_of;

/// What is judged, and by what.
#[derive(Args)]
#[command(after_help = "Offline: makes no D-Bus call. Ends with 7 when a check fails.")]
pub(super) struct Arguments {
    /// Proof file of `reading export` or `prove`; `-` is standard input
    file: PathBuf,
    /// Site code (`gws1…`) from the site's card, or any newer one you trust
    #[arg(long, value_name = "CODE", value_parser = anchor)]
    anchor: Anchor,
    /// Accept an anchor older than 30 days; the verdict says so
    #[arg(long)]
    old_anchor: bool,
}

fn anchor(code: &str) -> Result<Anchor, String> {
    Anchor::parse(code.trim()).map_err(|error| error.to_string())
}

pub(super) fn run(arguments: &Arguments, output: &mut Output) -> Result<(), Failure> {
    let proof = read(&arguments.file)?;
    let options = Options {
        old_anchor: arguments.old_anchor,
        now_ms: Some(time::now_ms()),
        anchor_from: Some("whoever gave the code on the command line".into()),
    };
    let verdict = light::verify_bytes(&proof, &arguments.anchor, &options);
    output.value(&as_json(&verdict))?;
    print(&verdict, output)?;
    match verdict.failure() {
        None if verdict.is_valid() => Ok(()),
        None => Err(Failure::new(Exit::VerificationFailed, "nothing could be checked")),
        Some(check) => Err(Failure::new(
            Exit::VerificationFailed,
            format!("NOT VALID: {}: {}", check.name, check.sentence),
        )),
    }
}

fn read(file: &Path) -> Result<Vec<u8>, Failure> {
    // One byte more than any proof has: the verifier itself then says that it is too long.
    let most = MAX_PROOF as u64 + 1;
    let mut bytes = Vec::new();
    let result = match file == Path::new("-") {
        true => std::io::stdin().take(most).read_to_end(&mut bytes),
        false => std::fs::File::open(file).and_then(|open| open.take(most).read_to_end(&mut bytes)),
    };
    result.map_err(|error| Failure::file(file, &error))?;
    Ok(bytes)
}

fn print(verdict: &Verdict, output: &mut Output) -> Result<(), Failure> {
    for check in &verdict.checks {
        let mark = if check.ok { "ok    " } else { "FAILED" };
        output.line(&format!("{mark}  {}: {}", check.name, check.sentence))?;
    }
    if let Some(leaf) = &verdict.reading {
        output.line("")?;
        output.line(&format!(
            "{}  {}  {}:{}  {}",
            time::local(leaf.time_ms),
            leaf.node.to_light_node_string(),
            leaf.epoch,
            leaf.counter,
            readings(&values(leaf)),
        ))?;
    }
    if !verdict.statements.is_empty() {
        output.line("")?;
    }
    for statement in &verdict.statements {
        output.line(statement)?;
    }
    if verdict.is_valid() {
        output.line("VALID")?;
    }
    Ok(())
}

fn as_json(verdict: &Verdict) -> Value {
    let checks: Vec<Value> = verdict
        .checks
        .iter()
        .map(|check| json!({ "name": check.name, "ok": check.ok, "sentence": check.sentence }))
        .collect();
    let reading = verdict.reading.as_ref().map(|leaf| {
        json!({
            "sensor": leaf.node.to_light_node_string(),
            "epoch": leaf.epoch,
            "counter": leaf.counter,
            "time_ms": leaf.time_ms,
            "level": leaf.level,
            "values": values(leaf),
        })
    });
    json!({
        "valid": verdict.is_valid(),
        "failed": verdict.failure().map(|check| check.name),
        "checks": checks,
        "statements": verdict.statements,
        "height": verdict.height.map(|height| height.0),
        "reading": reading,
    })
}

/// Values of a proved reading; none for an uplink without payload.
fn values(leaf: &Leaf) -> Value {
    match Pack::from_cbor(&leaf.senml) {
        Ok(pack) => serde_json::to_value(values_of(&pack.0)).unwrap_or_default(),
        Err(_) => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ledger::ids::{Hash, Height};

    fn arguments(file: &Path) -> Arguments {
        let anchor = Anchor { height: Height(0), hash: Hash([7; 32]) };
        Arguments { file: file.into(), anchor, old_anchor: false }
    }

    #[test]
    fn what_is_no_proof_fails_its_first_check() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let file = folder.path().join("proof");
        for bytes in [&b""[..], b"garbage", &vec![0x82; MAX_PROOF + 10]] {
            std::fs::write(&file, bytes).expect("written");
            let failure = run(&arguments(&file), &mut Output::nowhere()).expect_err("no proof");
            assert_eq!(failure.exit, Exit::VerificationFailed);
            assert!(failure.message.starts_with("NOT VALID: form"), "{}", failure.message);
        }
        let missing = run(&arguments(&folder.path().join("no")), &mut Output::nowhere());
        assert_eq!(missing.expect_err("missing").exit, Exit::NotFound);
    }

    #[test]
    fn anchors_are_site_codes() {
        let code = Anchor { height: Height(5), hash: Hash([1; 32]) }.to_code();
        assert!(anchor(&format!(" {code}\n")).is_ok());
        for wrong in ["", "gws1", "gw1qqqq", &code[..code.len() - 1]] {
            assert!(anchor(wrong).is_err(), "{wrong}");
        }
    }
}
