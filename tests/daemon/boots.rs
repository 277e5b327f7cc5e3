//! A site that measures the boot: the storage key opens in the boots that the operator has signed.
//! Registers are extended by somebody else's tool, as firmware and kernel do.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use ledger::crypto::sha256;
use serde_json::Value;
use tests::gateway::{Gateway, text};
use tests::sensor::Load;

use crate::store::wait_state;

/// The register that a boot loader extends.
const PCR: &str = "4";

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Boots another kernel, as the TPM sees it: its registers begin anew. The daemon does not run.
fn boot(gateway: &mut Gateway, kernel: &str) -> Result<()> {
    gateway.tpm.kill();
    gateway.tpm.start()?;
    let extend = format!("{PCR}:sha256={}", hex(&sha256(&[kernel.as_bytes()]).0));
    let extended = Command::new("tpm2_pcrextend")
        .arg(extend)
        .env("TPM2TOOLS_TCTI", gateway.tpm.tcti())
        .env("TSS2_LOG", "all+NONE")
        .output()
        .context("tpm2_pcrextend (package tpm2-tools)")?;
    ensure!(extended.status.success(), "{}", String::from_utf8_lossy(&extended.stderr));
    Ok(())
}

/// What the register will hold after that.
fn predicted(kernel: &str) -> String {
    hex(&sha256(&[&[0; 32], &sha256(&[kernel.as_bytes()]).0]).0)
}

fn reboot(gateway: &mut Gateway, kernel: &str, state: &str) -> Result<Value> {
    gateway.stop()?;
    boot(gateway, kernel)?;
    gateway.start()?;
    wait_state(gateway, state).with_context(|| kernel.to_owned())
}

/// Runs a command with the operator's key at hand.
fn signed(gateway: &Gateway, code: i32, command: &[&str]) -> Result<String> {
    let (key, passphrase) = gateway.operator_key();
    let key = ["--operator-key", text(&key)?, "--passphrase-file", text(&passphrase)?, "--yes"];
    gateway.ctl_code(code, &[command, &key].concat())
}

/// A founder whose site measures the boot, not sealed yet.
fn measured(kernel: &str) -> Result<Gateway> {
    let mut gateway = Gateway::prepare()?;
    boot(&mut gateway, kernel)?;
    gateway.start()?;
    gateway.init_site()?;
    let words = signed(&gateway, 4, &["identity", "seal"])?;
    ensure!(words.contains("profile tpm-only"), "{words}");
    signed(&gateway, 0, &["site", "policy", "set", "profile=measured"])?;
    Ok(gateway)
}

fn request(gateway: &Gateway, name: &str, more: &[&str]) -> Result<PathBuf> {
    let file = gateway.dir.path().join(name);
    let command = ["identity", "seal", "--request", text(&file)?];
    gateway.ctl_code(0, &[&command[..], more].concat())?;
    Ok(file)
}

#[test]
fn a_foreign_boot_opens_nothing_and_a_signed_one_opens_all() -> Result<()> {
    let mut gateway = measured("kernel 1")?;
    let load = Load::counting(&gateway, "cellar", "0.1")?;
    let warned = |status: &Value| status["warnings"].to_string().contains("opens in any boot");
    gateway.wait_for("a warning that any boot opens the key", |gateway| {
        gateway.ctl_json(&["status"]).is_ok_and(|status| warned(&status))
    })?;
    let words = signed(&gateway, 0, &["identity", "seal"])?;
    ensure!(words.contains("sealed to the operator's word"), "{words}");
    let shown = gateway.ctl_json(&["identity", "show"])?["storage_key"].to_string();
    ensure!(shown.contains("opens in 1 boot(s)"), "{shown}");
    let status = reboot(&mut gateway, "kernel 1", "running")?;
    ensure!(!warned(&status), "{status}");

    // Another boot: it says so, stays up, signs nothing.
    let height = status["height"].as_u64().context("height")?;
    let status = reboot(&mut gateway, "kernel 2", "degraded")?;
    let reasons = status["reasons"].to_string();
    for word in ["this boot is not approved", "identity seal", "line sources are still buffered"] {
        ensure!(reasons.contains(word), "no `{word}` in {reasons}");
    }
    gateway.ctl_code(1, &["identity", "rotate"])?;

    // The operator signs it, elsewhere, and it opens by itself.
    let file = request(&gateway, "boot.request", &[])?;
    let words = gateway.ctl_code(2, &["identity", "seal", "--apply", text(&file)?])?;
    ensure!(words.contains("not signed yet"), "{words}");
    let words = signed(&gateway, 0, &["operator", "sign", text(&file)?])?;
    ensure!(words.contains("open in one boot"), "{words}");
    let words = gateway.ctl_code(0, &["identity", "seal", "--apply", text(&file)?])?;
    ensure!(words.contains("opens in 2 boot(s)"), "{words}");
    let status = wait_state(&gateway, "running")?;
    ensure!(status["height"].as_u64().is_some_and(|now| now >= height), "{status}");
    load.wait_more(3)?;
    gateway.make_block()?;
    // The boot of before is still good.
    reboot(&mut gateway, "kernel 1", "running")?;
    load.wait_more(3)?;
    gateway.stop()
}

#[test]
fn a_boot_that_is_signed_before_bricks_nothing_and_a_new_epoch_ends_the_old_ones() -> Result<()> {
    let mut gateway = measured("kernel 1")?;
    // The first one is the boot of now: else the key would be gone.
    let ahead = format!("{PCR}={}", predicted("kernel 2"));
    let words = signed(&gateway, 4, &["identity", "seal", "--pcr", &ahead])?;
    ensure!(words.contains("is the one of now"), "{words}");
    signed(&gateway, 0, &["identity", "seal"])?;
    signed(&gateway, 0, &["identity", "seal", "--pcr", &ahead])?;
    reboot(&mut gateway, "kernel 2", "running")?;

    signed(&gateway, 0, &["identity", "seal", "--new-epoch"])?;
    let shown = gateway.ctl_json(&["identity", "show"])?["storage_key"].to_string();
    ensure!(shown.contains("1 boot(s)") && shown.contains("epoch 2"), "{shown}");
    let status = reboot(&mut gateway, "kernel 1", "degraded")?;
    ensure!(status["reasons"].to_string().contains("not approved"), "{status}");
    let words = signed(&gateway, 4, &["identity", "seal", "--new-epoch"])?;
    ensure!(words.contains("not open now"), "{words}");
    reboot(&mut gateway, "kernel 2", "running")?;
    gateway.make_block()?;
    gateway.stop()
}

#[test]
fn only_the_operator_signs_a_boot() -> Result<()> {
    let mut gateway = measured("kernel 1")?;
    signed(&gateway, 0, &["identity", "seal"])?;
    let first = request(&gateway, "first.request", &[])?;
    signed(&gateway, 0, &["operator", "sign", text(&first)?])?;
    let ahead = format!("{PCR}={}", predicted("kernel 2"));
    let other = request(&gateway, "other.request", &["--pcr", &ahead])?;
    // The signature under one boot on another.
    let signature = std::fs::read_to_string(&first)?;
    let at = signature.find("-----BEGIN GATEWAYD OPERATOR SIGNATURE").context("a signature")?;
    let forged = std::fs::read_to_string(&other)? + &signature[at..];
    std::fs::write(&other, forged)?;
    let words = gateway.ctl_code(4, &["identity", "seal", "--apply", text(&other)?])?;
    ensure!(words.contains("the signature is not the operator's"), "{words}");
    // Registers that the policy does not look at, and no registers at all.
    let unseen = format!("23={}", "00".repeat(32));
    let words = signed(&gateway, 4, &["identity", "seal", "--pcr", &unseen])?;
    ensure!(words.contains("does not look at PCR 23"), "{words}");
    reboot(&mut gateway, "kernel 2", "degraded")?;
    gateway.stop()?;
    gateway.tpm.kill();
    gateway.tpm.start()?;
    gateway.start()?;
    wait_state(&gateway, "degraded")?;
    let words = signed(&gateway, 4, &["identity", "seal"])?;
    ensure!(words.contains("every register is zero"), "{words}");
    gateway.stop()
}
