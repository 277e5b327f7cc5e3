//! `gatewayctl gateway pending|approve|replace`: on a member, about a newcomer.

use clap::Args;
use serde_json::Value;

use super::{bridge, join, whole_id};
use crate::ctl::exit::{Exit, Failure};
use crate::ctl::operator::{self, Signing};
use crate::ctl::output::{Output, local_time, text};
use crate::ctl::session::{Session, json, json_list};

/// Calls, for the help.
pub(super) const CALLS: &str = "D-Bus: org.gatewayd.Gateway1.Manager.ListAdmissions, \
                                PrepareOperatorAct, SubmitOperatorAct; of a bridge ListBridges, \
                                LetBridgeIn";

/// Which newcomer may come in.
#[derive(Args)]
pub(in crate::ctl) struct Approve {
    /// Its ID (`gw1…`) or the beginning of it, as `gateway pending` lists it; with --pin also a
    /// member's
    gateway: String,
    /// Trust this very TPM without a certificate: you know that it is the one in that gateway.
    /// Also for a member, such as a founder that newcomers could not attest otherwise
    #[arg(long)]
    pin: bool,
    #[command(flatten)]
    bridge: bridge::LetIn,
    #[command(flatten)]
    signing: Signing,
}

/// Which gateway goes, and which takes its place.
#[derive(Args)]
pub(in crate::ctl) struct Replace {
    /// The gateway that goes: its ID (`gw1…`) or the beginning of it
    old: String,
    /// The newcomer that takes its place, as `gateway pending` lists it
    new: String,
    /// Why, in a sentence; recorded for ever
    #[arg(long)]
    reason: String,
    #[command(flatten)]
    signing: Signing,
}

pub(super) async fn pending(session: Session, output: &mut Output) -> Result<(), Failure> {
    let manager = session.client.manager().await?;
    let mut newcomers = json_list(manager.list_admissions().await)?;
    let bridges = json_list(manager.list_bridges().await)?;
    newcomers.extend(bridges.into_iter().filter(|bridge| bridge["state"] == "waiting"));
    let row = |newcomer: &Value| {
        vec![
            text(newcomer, "state"),
            label(newcomer).into(),
            text(newcomer, "tpm"),
            // Of a bridge it is where it connects from.
            text(newcomer, "from") + &text(newcomer, "address"),
            local_time(newcomer, "seen_ms"),
            text(newcomer, "id"),
            text(newcomer, "reason"),
        ]
    };
    let rows: Vec<Vec<String>> = newcomers.iter().map(row).collect();
    output.value(&Value::Array(newcomers))?;
    let heading = ["STATE", "LABEL", "TPM", "FROM", "SEEN", "ID", "WHY"];
    Ok(output.table(
        &heading,
        &rows,
        "no gateway asks here to become a member, and no bridge to be let in",
    )?)
}

pub(super) async fn approve(
    arguments: Approve,
    session: &Session,
    output: &mut Output,
) -> Result<(), Failure> {
    let Approve { gateway, pin, bridge, signing } = arguments;
    if bridge.asked() {
        return bridge::let_in(&gateway, &bridge, session, output).await;
    }
    let node = match signing.applies() {
        true => gateway,
        false => match shown(&gateway, session, output).await {
            Err(failure) if pin && failure.exit == Exit::NotFound => {
                member(&gateway, session, output).await?
            }
            shown => shown?,
        },
    };
    let settings = [("node".to_owned(), node), ("pin".to_owned(), pin.to_string())];
    operator::perform("approve", &settings, &signing, session, output).await
}

pub(super) async fn replace(
    arguments: Replace,
    session: &Session,
    output: &mut Output,
) -> Result<(), Failure> {
    let Replace { old, new, reason, signing } = arguments;
    let (old, new) = match signing.applies() {
        true => (old, new),
        false => (whole_id(&old, session).await?, shown(&new, session, output).await?),
    };
    let settings = [("node", old), ("new", new), ("reason", reason)];
    let settings = settings.map(|(key, value)| (key.to_owned(), value));
    operator::perform("replace", &settings, &signing, session, output).await
}

/// Shows a newcomer, so that its owner can compare; its whole ID.
async fn shown(id: &str, session: &Session, output: &mut Output) -> Result<String, Failure> {
    let newcomers = json_list(session.client.manager().await?.list_admissions().await)?;
    let newcomer = choose(&newcomers, id)?;
    output.list(&[
        ("Newcomer", text(newcomer, "id")),
        ("Identity key", text(newcomer, "identity_key")),
        ("EK digest", text(newcomer, "ek_digest")),
        ("EK type", text(newcomer, "ek_type")),
        ("TPM", text(newcomer, "tpm")),
        ("Label", label(newcomer).into()),
        ("Measured of itself", text(newcomer, "measurements")),
        ("Asked from", text(newcomer, "from")),
        ("First seen", local_time(newcomer, "since_ms")),
        ("Takes the place of", text(newcomer, "replaces")),
        ("State", format!("{}: {}", text(newcomer, "state"), text(newcomer, "reason"))),
    ])?;
    for claim in newcomer["claims"].as_array().into_iter().flatten() {
        output.line(&format!("  {}", join::claim(claim)))?;
    }
    output.line("Compare the EK digest with `gatewayctl identity show` on that gateway.")?;
    Ok(text(newcomer, "id"))
}

/// Shows a member whose TPM is to be pinned; its whole ID.
async fn member(id: &str, session: &Session, output: &mut Output) -> Result<String, Failure> {
    let found = json(session.client.gateway(id).await?.describe().await)?;
    output.list(&[
        ("Member", text(&found, "id")),
        ("Standing", text(&found, "standing")),
        ("Attestation", text(&found, "attestation")),
    ])?;
    output.line(
        "Its TPM, whose EK is on the record, will be trusted without a certificate. Be sure that \
         it is the one in that gateway: `gatewayctl identity show` there.",
    )?;
    Ok(text(&found, "id"))
}

fn choose<'a>(newcomers: &'a [Value], id: &str) -> Result<&'a Value, Failure> {
    let mut found = newcomers.iter().filter(|newcomer| text(newcomer, "id").starts_with(id));
    match (found.next(), found.next()) {
        (Some(newcomer), None) => Ok(newcomer),
        (None, _) => Err(Failure::new(Exit::NotFound, format!("no such newcomer asks here: {id}"))
            .advise("`gatewayctl gateway pending` lists those that do")),
        (Some(_), Some(_)) => Err(Failure::usage(format!("several newcomers begin with {id}"))),
    }
}

fn label(newcomer: &Value) -> &'static str {
    let is = |key: &str| newcomer[key] == true;
    if newcomer["role"] == "bridge" {
        return "bridge";
    }
    match (is("full"), is("coordinator")) {
        (true, true) => "full, coordinator",
        (true, false) => "full",
        _ => "coordinator",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_newcomer_is_named_by_the_beginning_of_its_id() {
        let newcomers = [json!({"id": "gw1aab"}), json!({"id": "gw1aac"})];
        assert_eq!(choose(&newcomers, "gw1aab").map(|one| text(one, "id")), Ok("gw1aab".into()));
        assert_eq!(choose(&newcomers, "gw1b").map_err(|f| f.exit), Err(Exit::NotFound));
        assert_eq!(choose(&newcomers, "gw1aa").map_err(|f| f.exit), Err(Exit::Usage));
    }
}
