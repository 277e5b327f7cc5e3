//! Proofs: their size, and how long it takes to verify one; and what an admission costs a verifier.
//! Two of these are programs of their own, since they are built without the daemon's libraries.

use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use ledger::light::{Options, verify_bytes};
use ledger::proof::Anchor;
use tests::gateway::{Gateway, binary, text};

use crate::daemon::Daemon;
use crate::figures::Figures;

/// Verifications that are timed.
const ROUNDS: usize = 1_000;

/// The proof of one reading out of a full batch.
pub(crate) fn measure(gateway: &Gateway, figures: &mut Figures) -> Result<()> {
    eprintln!("proofs");
    let daemon = Daemon::start(gateway)?;
    let card = gateway.ctl_json(&["site", "card"])?;
    let code = card["site_code"].as_str().context("site_code")?.to_owned();
    let file = gateway.dir.path().join("bench.proof");
    let path = text(&file)?;
    let done = gateway.ctl(&["reading", "export", "lora-1", "--last", "--out", path])?;
    ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    daemon.stop()?;

    let bytes = std::fs::read(&file)?;
    let how = "one reading of 40 B, one voter, from the newest certified block";
    figures.add("proof_bytes", bytes.len() as f64, "B", how);
    let anchor = Anchor::parse(&code).map_err(|error| anyhow::anyhow!("{error}"))?;
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        let verdict = verify_bytes(&bytes, &anchor, &Options::default());
        times.push(begun.elapsed().as_secs_f64() * 1e6);
        ensure!(verdict.is_valid(), "the proof does not verify: {:?}", verdict.failure());
    }
    times.sort_by(f64::total_cmp);
    let how = format!("median of {ROUNDS} of the same proof, aws-lc, one voter's signature");
    figures.add("proof_verify_us", times[ROUNDS / 2], "µs", &how);
    from_program(figures, "light_verify", &[path, &code])
}

/// What an admission costs a verifier, by the attestation crate's own program.
pub(crate) fn verifier(figures: &mut Figures) -> Result<()> {
    from_program(figures, "verifier_cpu", &[])
}

/// Takes the figures that a program prints, an object a line.
fn from_program(figures: &mut Figures, name: &str, arguments: &[&str]) -> Result<()> {
    let program = binary(&format!("examples/{name}"))
        .with_context(|| format!("`tests/run bench` builds the example {name} first"))?;
    let output = Command::new(program).args(arguments).output()?;
    ensure!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    for line in String::from_utf8(output.stdout)?.lines() {
        let object: serde_json::Value = serde_json::from_str(line)?;
        let word = |key: &str| object[key].as_str().context("a figure's text");
        let value = object["value"].as_f64().context("value")?;
        figures.add(word("figure")?, value, word("unit")?, word("how")?);
    }
    Ok(())
}
