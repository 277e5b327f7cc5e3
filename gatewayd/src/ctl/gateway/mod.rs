//! `gatewayctl gateway`.

mod approve;
mod bridge;
mod join;

use clap::{Args, Subcommand};
use serde_json::Value;

use super::exit::Failure;
use super::operator::{self, Signing};
use super::output::{Output, local_time, plain, text};
use super::session::{Session, json, json_list};

/// What can be done with gateways.
#[derive(Subcommand)]
pub(super) enum Command {
    /// All gateways of the site, and the bridges of this one
    #[command(after_help = "D-Bus: org.gatewayd.Gateway1.Manager.ListGateways, ListBridges")]
    List,
    /// Everything about one gateway, or a bridge of this one
    #[command(after_help = "D-Bus: org.gatewayd.Gateway1.Gateway.Describe, \
                            Attestation.OfGateway, Manager.ListBridges")]
    Show {
        /// Its ID (`gw1…`), the beginning of it, `self`, or the name of a bridge
        #[arg(default_value = "self")]
        gateway: String,
    },
    /// Changes of a gateway on the record, newest first
    #[command(after_help = "D-Bus: org.gatewayd.Gateway1.Gateway.History")]
    History {
        /// Its ID (`gw1…`), the beginning of it, or `self`
        #[arg(default_value = "self")]
        gateway: String,
        /// How many changes
        #[arg(long, default_value_t = 50,
              value_parser = clap::value_parser!(u32).range(1..=10_000))]
        limit: u32,
    },
    /// Join a site with this gateway; shows each step until it is a member
    #[command(after_help = join::CALLS)]
    Join(join::Arguments),
    /// Where the join of this gateway stands
    #[command(after_help = "D-Bus: org.gatewayd.Gateway1.Manager.JoinProgress")]
    Progress,
    /// Newcomers that asked here to become members, and bridges that asked to be let in
    #[command(after_help = "D-Bus: org.gatewayd.Gateway1.Manager.ListAdmissions, ListBridges")]
    Pending,
    /// Let a newcomer in, within 30 days (an operator act); or a bridge, at once (--bridge)
    #[command(after_help = approve::CALLS)]
    Approve(approve::Approve),
    /// Let a bridge in no more; sensors on it stay paired and are not heard
    #[command(after_help = "D-Bus: org.gatewayd.Gateway1.Manager.ForgetBridge")]
    Forget(bridge::Forget),
    /// Move a gateway's place to a newcomer with another TPM, at once (an operator act)
    #[command(after_help = approve::CALLS)]
    Replace(approve::Replace),
    /// Take all rights from a gateway until it is pardoned (an operator act)
    #[command(after_help = operator::CALLS)]
    Suspend(Judgement),
    /// Refuse a gateway for ever under its identity (an operator act)
    #[command(after_help = operator::CALLS)]
    Revoke(Judgement),
    /// Give a gateway its rights back (an operator act)
    #[command(after_help = operator::CALLS)]
    Pardon(Judgement),
}

/// An act that changes a standing.
#[derive(Args)]
pub(super) struct Judgement {
    /// Its ID (`gw1…`) or the beginning of it
    gateway: String,
    /// Why, in a sentence; recorded for ever
    #[arg(long)]
    reason: String,
    #[command(flatten)]
    signing: Signing,
}

pub(super) async fn run(
    command: Command,
    session: Session,
    output: &mut Output,
) -> Result<(), Failure> {
    match command {
        Command::List => {
            let manager = session.client.manager().await?;
            let mut gateways = json_list(manager.list_gateways().await)?;
            let bridges = json_list(manager.list_bridges().await)?;
            gateways.extend(bridges.into_iter().filter(|bridge| bridge["state"] != "waiting"));
            list(gateways, output)
        }
        Command::Show { gateway } => {
            if let Some(bridge) = bridge::find(&gateway, &session).await? {
                output.value(&bridge)?;
                return bridge::show(&bridge, output);
            }
            let mut gateway = json(session.client.gateway(&gateway).await?.describe().await)?;
            gateway["appraisal"] = appraisal(&gateway, &session).await?;
            output.value(&gateway)?;
            show(&gateway, output)
        }
        Command::History { gateway, limit } => {
            let entries = json_list(session.client.gateway(&gateway).await?.history(limit).await)?;
            super::sensor::history(entries, output)
        }
        Command::Join(arguments) => join::run(arguments, session, output).await,
        Command::Progress => join::progress(session, output).await,
        Command::Pending => approve::pending(session, output).await,
        Command::Approve(arguments) => approve::approve(arguments, &session, output).await,
        Command::Forget(arguments) => bridge::forget(arguments, &session, output).await,
        Command::Replace(arguments) => approve::replace(arguments, &session, output).await,
        Command::Suspend(judgement) => judge("suspend", judgement, &session, output).await,
        Command::Revoke(judgement) => judge("revoke", judgement, &session, output).await,
        Command::Pardon(judgement) => judge("pardon", judgement, &session, output).await,
    }
}

/// How it stands with its attestation; nothing where that is not known now.
async fn appraisal(gateway: &Value, session: &Session) -> Result<Value, Failure> {
    let attestation = session.client.attestation().await?;
    Ok(json(attestation.of_gateway(text(gateway, "id")).await).unwrap_or_default())
}

async fn judge(
    kind: &str,
    judgement: Judgement,
    session: &Session,
    output: &mut Output,
) -> Result<(), Failure> {
    let Judgement { gateway, reason, signing } = judgement;
    let node = if signing.applies() { gateway } else { whole_id(&gateway, session).await? };
    let settings = [("node".to_owned(), node), ("reason".to_owned(), reason)];
    operator::perform(kind, &settings, &signing, session, output).await
}

/// The whole ID of a gateway.
async fn whole_id(gateway: &str, session: &Session) -> Result<String, Failure> {
    let found = json(session.client.gateway(gateway).await?.describe().await)?;
    Ok(text(&found, "id"))
}

fn list(gateways: Vec<Value>, output: &mut Output) -> Result<(), Failure> {
    let rows: Vec<Vec<String>> = gateways.iter().map(row).collect();
    output.value(&Value::Array(gateways))?;
    let heading = [
        "STANDING",
        "ATTESTATION",
        "VOTER",
        "ONLINE",
        "CONNECTED",
        "HEIGHT",
        "LABEL",
        "MEMBER SINCE",
        "ID",
    ];
    Ok(output.table(&heading, &rows, "no gateways yet: `gatewayctl site init` founds a site")?)
}

fn row(gateway: &Value) -> Vec<String> {
    if gateway["role"] == "bridge" {
        return bridge::row(gateway);
    }
    let own = if gateway["own"] == true { " (this one)" } else { "" };
    vec![
        text(gateway, "standing"),
        text(gateway, "attestation"),
        yes_no(&gateway["voter"]),
        online_word(gateway),
        yes_no(&gateway["connected"]),
        text(gateway, "height"),
        text(gateway, "label"),
        format!("height {}", text(gateway, "member_since")),
        format!("{}{own}", text(gateway, "id")),
    ]
}

fn show(gateway: &Value, output: &mut Output) -> Result<(), Failure> {
    let appraisal = &gateway["appraisal"];
    let standing =
        format!("{} since height {}", text(gateway, "standing"), text(gateway, "standing_since"));
    output.list(&[
        ("ID", text(gateway, "id")),
        ("This gateway", yes_no(&gateway["own"])),
        ("Label", text(gateway, "label")),
        ("Standing", standing),
        ("Reason", text(gateway, "reason")),
        ("Attestation", text(gateway, "attestation_words")),
        ("Attested", local_time(gateway, "attested_ms")),
        ("Valid until", local_time(appraisal, "valid_until_ms")),
        ("Not proven", plain(&appraisal["warnings"])),
        ("Renewal", text(appraisal, "renewal")),
        ("Voter", yes_no(&gateway["voter"])),
        ("Online", online(gateway)),
        ("Connected", yes_no(&gateway["connected"])),
        ("Address", text(gateway, "address")),
        ("Height", text(gateway, "height")),
        ("Member since", format!("height {}", text(gateway, "member_since"))),
        ("Returns", text(gateway, "liveness_epoch")),
        ("Identity key", text(gateway, "identity_key")),
        ("Vote key", text(gateway, "vote_key")),
    ])?;
    let last = appraisal["last"]["claims"].as_array().into_iter().flatten();
    for claim in last {
        output.line(&format!("  {}", join::claim(claim)))?;
    }
    Ok(())
}

/// Whether the record counts a gateway as online, for a column.
fn online_word(gateway: &Value) -> String {
    match local_time(gateway, "offline_since_ms").as_str() {
        "" => yes_no(&gateway["online"]),
        since => format!("no, since {since}"),
    }
}

/// The same as a sentence: since when it is not, and who found so.
fn online(gateway: &Value) -> String {
    if gateway["online"] == Value::Bool(true) {
        return "yes".into();
    }
    let mut words = "no: UNREACHABLE".to_owned();
    if gateway["offline_since"].is_u64() {
        let (since, height) =
            (local_time(gateway, "offline_since_ms"), text(gateway, "offline_since"));
        words.push_str(&format!(" since {since} (height {height})"));
    }
    let by = plain(&gateway["offline_by"]);
    if !by.is_empty() {
        words.push_str(&format!(", found so by {by}"));
    }
    words
}

/// Shortest beginning of an ID that is looked for among bridges.
const MIN_PREFIX: usize = 7;

fn yes_no(value: &Value) -> String {
    if *value == Value::Bool(true) { "yes" } else { "no" }.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn who_is_offline_is_said_with_time_and_voters() {
        assert_eq!(online(&json!({"online": true})), "yes");
        assert_eq!(online(&json!({"online": false})), "no: UNREACHABLE");
        let gone = json!({
            "online": false,
            "offline_since": 31,
            "offline_since_ms": 1_000_000,
            "offline_by": ["gw1a", "gw1b"],
        });
        let words = online(&gone);
        assert!(words.contains("(height 31)"), "{words}");
        assert!(words.contains("gw1a") && words.contains("gw1b"), "{words}");
        assert!(online_word(&gone).starts_with("no, since "), "{}", online_word(&gone));
        assert_eq!(online_word(&json!({"online": false})), "no");
    }
}
