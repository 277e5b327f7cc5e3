//! The verbs of a site of several gateways, on its first one: lists, policy, anchors, and what is
//! refused before there is a second.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::gateway::{Gateway, text};

/// A root certificate of a TPM vendor (see `attestation/testdata/README.md`).
const ROOT: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../attestation/testdata/vendors/st-rsa-root.der");

/// SHA-256 of it.
const FINGERPRINT: &str = "f8e37a86b689a20a6cc0c40cc3f81fb130fa9f44ce7ffa60d62590aaf87273a9";

fn list(gateway: &Gateway, arguments: &[&str]) -> Result<Vec<Value>> {
    gateway.ctl_json(arguments)?.as_array().cloned().context("a list")
}

/// Does an act of the operator.
fn act(gateway: &Gateway, arguments: &[&str]) -> Result<String> {
    let (key, passphrase) = gateway.operator_key();
    let (key, passphrase) = (text(&key)?, text(&passphrase)?);
    let signing = ["--operator-key", key, "--passphrase-file", passphrase, "--yes"];
    gateway.ctl_code(0, &[arguments, &signing].concat())
}

#[test]
fn the_first_gateway_is_listed_shown_and_has_a_history() -> Result<()> {
    let gateway = Gateway::with_site()?;
    let gateways = list(&gateway, &["gateway", "list"])?;
    assert_eq!(gateways.len(), 1);
    let own = &gateways[0];
    assert_eq!(
        (&own["own"], &own["voter"], &own["connected"]),
        (&true.into(), &true.into(), &true.into())
    );
    assert_eq!(own["standing"], "active");
    assert_eq!(own["attestation"], "unattested");
    let id = own["id"].as_str().context("id")?;
    let shown = gateway.ctl_json(&["gateway", "show", &id[..12]])?;
    assert_eq!(shown["id"], *id);
    assert_eq!(gateway.ctl_json(&["gateway", "show", "self"])?["id"], *id);
    gateway.ctl_json(&["gateway", "history", id])?;
    gateway.ctl_code(5, &["gateway", "show", "gw1nobody"])?;
    let status = gateway.ctl_json(&["status"])?;
    ensure!(status["endurance"].as_str().is_some_and(|words| words.contains("one gateway")));
    assert_eq!(status["gateways"][0]["id"], *id);
    assert_eq!(status["silent_voters"].as_array().map(Vec::len), Some(0));
    Ok(())
}

#[test]
fn nobody_asks_and_a_member_joins_nothing() -> Result<()> {
    let gateway = Gateway::with_site()?;
    ensure!(list(&gateway, &["gateway", "pending"])?.is_empty());
    let file = gateway.dir.path().join("approval");
    let request = ["gateway", "approve", "gw1nobody", "--request", text(&file)?];
    gateway.ctl_code(5, &request)?;
    assert_eq!(gateway.ctl_json(&["gateway", "progress"])?["step"], "idle");
    let card = gateway.ctl_json(&["site", "card"])?;
    let code = card["site_code"].as_str().context("site code")?;
    gateway.ctl_code(4, &["gateway", "join", "127.0.0.1", "--site", code])?;
    gateway.ctl_code(2, &["gateway", "join", "--site", code])?;
    gateway.ctl_code(1, &["gateway", "join", "--abandon"])?;
    Ok(())
}

#[test]
fn anchors_are_recognised_listed_and_removed() -> Result<()> {
    let gateway = Gateway::with_site()?;
    let anchors = || list(&gateway, &["site", "policy", "anchor", "list"]);
    ensure!(anchors()?.is_empty(), "somebody is trusted whom nobody added");
    let said = act(&gateway, &["site", "policy", "anchor", "add", ROOT])?;
    ensure!(said.contains("recognised, STMicroelectronics"), "{said}");
    let trusted = anchors()?;
    assert_eq!(trusted.len(), 1);
    assert_eq!(trusted[0]["sha256"], FINGERPRINT);
    ensure!(trusted[0]["vendor"].as_str().is_some_and(|vendor| vendor.contains("STM TPM EK")));
    let policy = gateway.ctl_json(&["site", "policy", "show"])?;
    assert_eq!(policy["ek_anchors"], "1");
    act(&gateway, &["site", "policy", "anchor", "remove", &FINGERPRINT[..8]])?;
    ensure!(anchors()?.is_empty());
    let file = gateway.dir.path().join("request");
    let unknown = ["site", "policy", "anchor", "remove", "00000000", "--request", text(&file)?];
    gateway.ctl_code(5, &unknown)?;
    Ok(())
}

#[test]
fn the_policy_is_shown_in_the_words_that_set_it() -> Result<()> {
    let gateway = Gateway::with_site()?;
    let settings = ["voters=all", "pcrs=0,2,4", "coordinator_attestation=key-only"];
    act(&gateway, &[&["site", "policy", "set"], &settings[..]].concat())?;
    let policy = gateway.ctl_json(&["site", "policy", "show"])?;
    for setting in settings {
        let (key, value) = setting.split_once('=').context("a setting")?;
        assert_eq!(policy[key], value, "{key}");
    }
    // Without a measurement log there is nothing to propose, and why is said.
    let words = gateway.ctl_code(1, &["site", "policy", "propose-from", "self"])?;
    ensure!(words.contains("log"), "{words}");
    Ok(())
}
