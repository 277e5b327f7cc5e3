//! `gatewayctl gateway approve --bridge` and `forget`: on a member, about a bridge. A bridge has no
//! rights in the record, so that this is an act of the member's administrator, as pairing is.

use clap::Args;
use serde_json::{Value, json as object};

use super::yes_no;
use crate::ctl::exit::{Exit, Failure};
use crate::ctl::output::{Output, local_time, text};
use crate::ctl::prompt;
use crate::ctl::session::{Session, json, json_list};
use crate::dbus::client::Arguments;

/// What lets a bridge in.
#[derive(Args)]
pub(super) struct LetIn {
    /// It is a bridge that asks here: let it in at once, as this gateway's administrator; no
    /// operator key is needed
    // In the group of how an operator act is signed, which then is not asked for.
    #[arg(long, group = "Way", conflicts_with = "pin")]
    bridge: bool,
    /// Name for the bridge, as in `pair serial bridge:NAME/dev/…`
    #[arg(long, requires = "bridge", conflicts_with_all = ["operator_key", "request", "apply"])]
    name: Option<String>,
}

impl LetIn {
    /// Whether a bridge is meant.
    pub(super) fn asked(&self) -> bool {
        self.bridge
    }
}

/// Which bridge goes.
#[derive(Args)]
pub(in crate::ctl) struct Forget {
    /// Its name, its ID (`gw1…`) or the beginning of it
    bridge: String,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

/// Shows the bridge, so that its owner can compare, and lets it in.
pub(super) async fn let_in(
    id: &str,
    arguments: &LetIn,
    session: &Session,
    output: &mut Output,
) -> Result<(), Failure> {
    let manager = session.client.manager().await?;
    let bridges = json_list(manager.list_bridges().await)?;
    let named = |bridge: &&Value| text(bridge, "id").starts_with(id);
    let Some(asking) = bridges.iter().find(named) else {
        return Err(Failure::new(Exit::NotFound, format!("no such bridge asks here: {id}"))
            .advise("`gatewayctl gateway pending` lists those that do"));
    };
    output.list(&[
        ("Bridge", text(asking, "id")),
        ("Identity key", text(asking, "identity_key")),
        ("Key digest", text(asking, "key_digest")),
        ("Asks from", text(asking, "address")),
        ("State", text(asking, "state")),
    ])?;
    output.line("Compare the key digest with `gatewayctl identity show` on that machine.")?;
    let options = Arguments::default().optional_text("name", arguments.name.as_deref());
    let done = json(manager.let_bridge_in(text(asking, "id"), options.dict()).await)?;
    output.value(&done)?;
    Ok(output.line("It is let in: its packet forwarder is heard, its ports can be paired on.")?)
}

pub(super) async fn forget(
    arguments: Forget,
    session: &Session,
    output: &mut Output,
) -> Result<(), Failure> {
    let Forget { bridge, yes } = arguments;
    prompt::confirm(&format!("Let the bridge {bridge} in no more?"), yes)?;
    session.client.manager().await?.forget_bridge(bridge.clone()).await?;
    output.value(&object!({ "forgotten": bridge }))?;
    Ok(output.line(&format!("{bridge} is disconnected and let in no more"))?)
}

/// The bridge of this gateway with that name, ID or beginning of it.
pub(super) async fn find(who: &str, session: &Session) -> Result<Option<Value>, Failure> {
    let bridges = json_list(session.client.manager().await?.list_bridges().await);
    // Without a site there are none; whoever asks is told by the next call.
    let bridges = bridges.unwrap_or_default();
    let is = |bridge: &Value| {
        let long = who.len() >= super::MIN_PREFIX;
        text(bridge, "name") == who || (long && text(bridge, "id").starts_with(who))
    };
    Ok(bridges.into_iter().find(|bridge| !who.is_empty() && is(bridge)))
}

/// In the list of gateways.
pub(super) fn row(bridge: &Value) -> Vec<String> {
    let id = text(bridge, "id");
    let named = match text(bridge, "name").as_str() {
        "" => id,
        name => format!("{id} ({name})"),
    };
    vec![
        "bridge".into(),
        "never".into(),
        "no".into(),
        yes_no(&bridge["connected"]),
        String::new(),
        format!("bridge of {}", text(bridge, "serving")),
        format!("let in {}", local_time(bridge, "since_ms")),
        named,
    ]
}

pub(super) fn show(bridge: &Value, output: &mut Output) -> Result<(), Failure> {
    let ports = bridge["ports"].as_array().map(Vec::as_slice).unwrap_or_default();
    let ports: Vec<&str> = ports.iter().filter_map(Value::as_str).collect();
    Ok(output.list(&[
        ("ID", text(bridge, "id")),
        ("Role", "bridge: no member, no vote; it vouches for nothing".into()),
        ("Name", text(bridge, "name")),
        ("Under", text(bridge, "serving")),
        ("State", text(bridge, "state")),
        ("Reason", text(bridge, "reason")),
        ("Address", text(bridge, "address")),
        ("Let in", local_time(bridge, "since_ms")),
        ("Heard", local_time(bridge, "seen_ms")),
        ("Serial ports", ports.join(", ")),
        ("Ports used", text(bridge, "ports_used")),
        ("Datagrams up", text(bridge, "uplinks")),
        ("Datagrams down", text(bridge, "downlinks")),
        ("Bytes", text(bridge, "bytes")),
        ("Dropped", text(bridge, "dropped")),
        ("Identity key", text(bridge, "identity_key")),
        ("Key digest", text(bridge, "key_digest")),
    ])?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bridge_is_a_line_among_gateways() {
        let bridge = object!({
            "id": "gw1b", "role": "bridge", "name": "barn", "serving": "gw1a", "connected": true,
        });
        let cells = row(&bridge);
        assert_eq!(cells[0], "bridge");
        assert_eq!((&*cells[2], &*cells[3], &*cells[5]), ("no", "yes", "bridge of gw1a"));
        assert_eq!(cells[7], "gw1b (barn)");
    }

    #[test]
    fn a_bridge_is_let_in_without_the_operator_key() {
        use clap::{Args as _, FromArgMatches};
        let parse = |given: &[&str]| {
            let command = super::super::approve::Approve::augment_args(clap::Command::new("a"));
            let matches = command.try_get_matches_from(["a"].iter().chain(given));
            matches.and_then(|one| super::super::approve::Approve::from_arg_matches(&one))
        };
        assert!(parse(&["gw1b", "--bridge", "--name", "barn"]).is_ok());
        assert!(parse(&["gw1b", "--operator-key", "k.pem"]).is_ok());
        for wrong in [
            &["gw1b"][..],
            &["gw1b", "--bridge", "--operator-key", "k.pem"],
            &["gw1b", "--bridge", "--pin"],
            &["gw1b", "--operator-key", "k.pem", "--name", "barn"],
        ] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
