//! `gatewayctl gateway join`: on the newcomer. The daemon joins; this shows how far it is.

use std::time::Duration;

use clap::{Args, ValueEnum};
use serde_json::{Value, json as object};

use crate::ctl::exit::{Exit, Failure};
use crate::ctl::output::{Output, local_time, printable, text};
use crate::ctl::session::{Session, json};
use crate::dbus::client::Arguments as Options;

/// Calls, for the help.
pub(super) const CALLS: &str =
    "D-Bus: org.gatewayd.Gateway1.Manager.Join, JoinProgress, AbandonJoin";

/// How often the progress is looked at.
const LOOK: Duration = Duration::from_millis(250);

/// Which site, and how it is found.
#[derive(Args)]
pub(in crate::ctl) struct Arguments {
    /// Any member of the site: HOST, HOST:PORT or [ADDRESS]:PORT
    #[arg(required_unless_present_any = ["discover", "abandon"])]
    address: Option<String>,
    /// Look for members on the local network, too
    #[arg(long)]
    discover: bool,
    /// The site code from the site card: members are checked against it before anything is said
    #[arg(long, value_name = "CODE", required_unless_present = "abandon")]
    site: Option<String>,
    /// What this gateway is to be
    #[arg(long, value_enum, default_value_t = Label::Both)]
    label: Label,
    /// Be no member but a bridge: lend serial ports and packet forwarder to one; needs no hardware
    /// TPM
    #[arg(long, conflicts_with = "label")]
    bridge: bool,
    /// Do not wait: the daemon goes on by itself, `gatewayctl gateway progress` tells
    #[arg(long)]
    no_wait: bool,
    /// Go on showing after a refusal, too: what it is for may change
    #[arg(long, conflicts_with = "no_wait")]
    wait: bool,
    /// Give up the join that is under way
    #[arg(long, conflicts_with_all = ["address", "discover", "site", "no_wait", "wait"])]
    abandon: bool,
}

/// The label that is asked for.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Label {
    /// Full node: keeps the record and the readings, may vote
    Full,
    /// Coordinator: takes join requests of sensors and assigns them
    Coordinator,
    /// Both
    Both,
}

pub(super) async fn run(
    arguments: Arguments,
    session: Session,
    output: &mut Output,
) -> Result<(), Failure> {
    let manager = session.client.manager().await?;
    if arguments.abandon {
        manager.abandon_join().await?;
        output.value(&object!({ "abandoned": true }))?;
        return Ok(output.line("the join was given up")?);
    }
    let (no_wait, site) = (arguments.no_wait, arguments.site.clone().unwrap_or_default());
    let begun = json(manager.join(site, options(&arguments).dict()).await)
        .map_err(|failure| without_tpm(failure, &arguments))?;
    if no_wait {
        output.value(&begun)?;
        return Ok(output.line("the daemon joins by itself: `gatewayctl gateway progress`")?);
    }
    let follow = follow(&session, arguments.wait, output);
    tokio::select! {
        done = follow => done,
        _ = tokio::signal::ctrl_c() => {
            eprintln!("the daemon goes on by itself: `gatewayctl gateway progress`");
            Ok(())
        }
    }
}

fn options(arguments: &Arguments) -> Options {
    Options::default()
        .optional_text("address", arguments.address.as_deref())
        .flag("discover", arguments.discover)
        .flag("full", !arguments.bridge && arguments.label != Label::Coordinator)
        .flag("coordinator", !arguments.bridge && arguments.label != Label::Full)
        .flag("bridge", arguments.bridge)
}

/// What a machine whose TPM does not answer can do.
fn without_tpm(failure: Failure, arguments: &Arguments) -> Failure {
    if !failure.message.starts_with("TPM: ") {
        return failure;
    }
    let place = arguments.address.as_deref().unwrap_or("--discover");
    let site = arguments.site.as_deref().unwrap_or_default();
    failure.advise(format!(
        "without a TPM this machine can be a bridge of a member, with its key in a software TPM: \
         `systemctl enable --now gatewayd-software-tpm.service`, then `gatewayctl gateway join \
         {place} --site {site} --bridge`"
    ))
}

/// Where the join stands, once.
pub(super) async fn progress(session: Session, output: &mut Output) -> Result<(), Failure> {
    let progress = json(session.client.manager().await?.join_progress().await)?;
    output.value(&progress)?;
    show(&progress, output)
}

/// Shows each step until the gateway is a member, or is refused unless that is waited out.
async fn follow(session: &Session, wait: bool, output: &mut Output) -> Result<(), Failure> {
    let manager = session.client.manager().await?;
    let mut told = Told::default();
    loop {
        let progress = json(manager.join_progress().await)?;
        told.tell(&progress);
        match text(&progress, "step").as_str() {
            "done" => {
                output.value(&progress)?;
                return show(&progress, output);
            }
            "refused" if !wait => {
                output.value(&progress)?;
                return Err(refused(&progress));
            }
            "idle" => return Err(Failure::new(Exit::Failed, "the join was given up")),
            _ => tokio::time::sleep(LOOK).await,
        }
    }
}

fn refused(progress: &Value) -> Failure {
    let reason = text(progress, "detail");
    Failure::new(Exit::Refused, format!("refused: {reason}")).advise(
        "the daemon goes on trying by itself, in case that changes: `gatewayctl gateway progress` \
         tells, `gatewayctl gateway join … --wait` goes on showing, `gatewayctl gateway join \
         --abandon` stops it",
    )
}

/// What was told already: a step is told once, a voter when it changes its mind.
#[derive(Default)]
struct Told(Vec<String>);

impl Told {
    fn tell(&mut self, progress: &Value) {
        let now = lines(progress);
        for line in now.iter().filter(|line| !self.0.contains(line)) {
            eprintln!("{}", printable(line));
        }
        self.0 = now;
    }
}

/// A line for the step, one for each voter that has said something, one for each claim that does
/// not hold.
fn lines(progress: &Value) -> Vec<String> {
    let step = text(progress, "step");
    let mut lines = vec![format!("{step}: {}", text(progress, "detail"))];
    let said = progress["verifiers"].as_array().into_iter().flatten();
    lines.extend(said.filter(|voter| voter["state"] != "waiting").map(|voter| {
        let words = [text(voter, "gateway"), text(voter, "state"), text(voter, "detail")];
        format!("  {}", words.join("  ").trim_end())
    }));
    lines.extend(doubts(&progress["claims"]).map(|claim| format!("  {claim}")));
    if step == "awaiting-approval" {
        let (gateway, bridge) = (text(progress, "gateway"), progress["bridge"] == true);
        let how = if bridge { "--bridge" } else { "…" };
        lines.push(format!("  on a member: gatewayctl gateway approve {gateway} {how}"));
    }
    lines
}

/// Claims that do not hold, or are not proven.
fn doubts(claims: &Value) -> impl Iterator<Item = String> + '_ {
    let doubted = claims.as_array().into_iter().flatten().filter(|c| c["status"] != "affirming");
    doubted.map(claim)
}

/// A verdict in a line.
pub(super) fn claim(claim: &Value) -> String {
    format!("{}: {} ({})", text(claim, "claim"), text(claim, "status"), text(claim, "reason"))
}

fn show(progress: &Value, output: &mut Output) -> Result<(), Failure> {
    output.list(&[
        ("Join", text(progress, "step")),
        ("Detail", text(progress, "detail")),
        ("Since", local_time(progress, "since_ms")),
        ("Site", text(progress, "site")),
        ("Gateway", text(progress, "gateway")),
        ("Tries", text(progress, "attempts")),
        ("Next try", local_time(progress, "next_try_ms")),
    ])?;
    for line in lines(progress).iter().skip(1) {
        output.line(line)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stops_a_join_is_told_with_its_reason() {
        let progress = object!({
            "step": "attesting",
            "detail": "two voters are asked",
            "verifiers": [
                {"gateway": "gw1a", "state": "waiting", "detail": ""},
                {"gateway": "gw1b", "state": "refused", "detail": "the EK certificate has expired"},
            ],
            "claims": [
                {"claim": "freshness", "status": "affirming", "reason": "the nonce is in it"},
                {"claim": "endorsement", "status": "contraindicated", "reason": "it has expired"},
            ],
        });
        assert_eq!(
            lines(&progress),
            [
                "attesting: two voters are asked",
                "  gw1b  refused  the EK certificate has expired",
                "  endorsement: contraindicated (it has expired)",
            ]
        );
        let waiting = object!({"step": "awaiting-approval", "gateway": "gw1new", "detail": "d"});
        assert!(lines(&waiting)[1].contains("gateway approve gw1new …"));
        let bridge = object!({"step": "awaiting-approval", "gateway": "gw1b", "bridge": true});
        assert!(lines(&bridge)[1].ends_with("gateway approve gw1b --bridge"));
        let refused = refused(&object!({"detail": "no"}));
        assert_eq!(refused.exit, Exit::Refused);
        let advice = refused.advice.unwrap_or_default();
        assert!(advice.contains("goes on trying") && advice.contains("--abandon"), "{advice}");
    }

    #[test]
    fn each_line_is_told_once() {
        let mut told = Told::default();
        let progress = object!({"step": "finding", "detail": "a"});
        told.tell(&progress);
        assert_eq!(told.0, ["finding: a"]);
        told.tell(&object!({"step": "checking", "detail": "b"}));
        assert_eq!(told.0, ["checking: b"]);
    }

    #[test]
    fn both_labels_are_asked_for_unless_one_is_named() {
        use clap::{Args as _, FromArgMatches};
        let parse = |given: &[&str]| {
            let command = Arguments::augment_args(clap::Command::new("join"));
            let matches = command.try_get_matches_from(["join"].iter().chain(given));
            matches.and_then(|matches| Arguments::from_arg_matches(&matches))
        };
        let asked = |given: &[&str]| {
            let options = options(&parse(given).expect("complete")).dict();
            let options = crate::dbus::variant::dict_to_json(&options);
            (
                options["full"].clone(),
                options["coordinator"].clone(),
                options.get("address").cloned(),
            )
        };
        let (yes, no) = (Value::Bool(true), Value::Bool(false));
        let there = Some(Value::from("10.0.0.1"));
        let given = asked(&["10.0.0.1", "--site", "gws1x"]);
        assert_eq!(given, (yes.clone(), yes.clone(), there));
        let given = asked(&["--discover", "--site", "gws1x", "--label", "coordinator"]);
        assert_eq!(given, (no, yes.clone(), None));
        let bridge = options(&parse(&["h", "--site", "gws1x", "--bridge"]).expect("complete"));
        let bridge = crate::dbus::variant::dict_to_json(&bridge.dict());
        assert_eq!((&bridge["bridge"], &bridge["full"]), (&yes, &Value::Bool(false)));
        assert!(parse(&["h", "--site", "gws1x", "--bridge", "--label", "full"]).is_err());
        let no_tpm = Failure::new(Exit::Failed, "TPM: no such device");
        let said = without_tpm(no_tpm, &parse(&["h", "--site", "gws1x"]).expect("complete"));
        assert!(said.advice.is_some_and(|advice| advice.contains("join h --site gws1x --bridge`")));
        assert!(parse(&["--site", "gws1x"]).is_err(), "nowhere to look");
        assert!(parse(&["10.0.0.1"]).is_err(), "no site code");
        let both = ["10.0.0.1", "--site", "gws1x", "--wait", "--no-wait"];
        assert!(parse(&both).is_err(), "waiting and not waiting");
        assert!(parse(&["--abandon"]).is_ok_and(|arguments| arguments.abandon));
    }
}
