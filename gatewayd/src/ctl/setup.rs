//! `gatewayctl setup`: from the TPM check to the first reading, one question after the other.

use std::path::PathBuf;

use clap::Args;
use serde_json::Value;

use super::exit::{Exit, Failure, not_running};
use super::output::{Output, text};
use super::session::{Session, json, json_list};
use super::site::{self, InitArguments};
use super::{doctor, pair, prompt, reading};
use crate::dbus::client::{Signal, Signals};
use crate::dbus::variant::dict_to_json;

/// Answers given beforehand.
#[derive(Args)]
#[command(
    after_help = "D-Bus: org.gatewayd.Gateway1.Manager.Doctor, Status, InitSite; Pairing.Open"
)]
pub(super) struct Arguments {
    /// Take the defaults where nothing is given, and do not ask
    #[arg(long)]
    yes: bool,
    /// Name of the site
    #[arg(long)]
    name: Option<String>,
    /// File for the new operator key
    #[arg(long, value_name = "FILE")]
    operator_key: Option<PathBuf>,
    /// File with the key's passphrase, `-` for standard input; asked for when not given
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
    /// Found the site on a software TPM: every reading and proof will say *unattested*
    #[arg(long)]
    unattested: bool,
    /// The first sensor, as for `gatewayctl pair`
    #[command(subcommand)]
    pair: Option<pair::Command>,
}

pub(super) async fn run(
    arguments: Arguments,
    session: Session,
    output: &mut Output,
) -> Result<(), Failure> {
    let manager = session.client.manager().await?;
    output.line("1. Looking at the gateway")?;
    let mut checks = json_list(manager.doctor().await)?;
    // That there is no site yet is why this runs.
    checks.retain(|check| check["check"] != "site");
    doctor::print(&checks, output)?;
    if let Some(tpm) = checks.iter().find(|c| c["check"] == "tpm" && c["result"] == "failed") {
        return Err(Failure::new(Exit::Failed, format!("TPM: {}", text(tpm, "detail")))
            .advise(text(tpm, "fix")));
    }
    output.line("2. The site")?;
    let status = json(manager.status().await)?;
    match text(&status, "site").as_str() {
        "" => {
            let (site, key) = found(&arguments, &session).await?;
            site::founded(&site, &key, output)?;
        }
        site => output.line(&format!("this gateway belongs to the site {site} already"))?,
    }
    output.line("3. The first sensor")?;
    // Subscribed before pairing: the first reading may follow at once.
    let signals = session.client.signals().await?;
    let Some(command) = first_sensor(arguments.pair, arguments.yes)? else {
        output.line("none now; later: `gatewayctl pair serial` or `gatewayctl pair lora`")?;
        return Ok(());
    };
    pair::run(command, &session, output).await?;
    output.line("4. Waiting for its first reading")?;
    first_reading(signals, output).await?;
    Ok(output.line("Done. `gatewayctl status` shows how it goes.")?)
}

/// Founds the site with what was given or is answered.
async fn found(arguments: &Arguments, session: &Session) -> Result<(Value, PathBuf), Failure> {
    let given = |value: Option<String>, question: &str, default: &str| match value {
        Some(value) => Ok(value),
        None if arguments.yes => Ok(default.to_string()),
        None => prompt::ask(question, default),
    };
    let name = given(arguments.name.clone(), "Name of the site", &default_name())?;
    let key = arguments.operator_key.as_ref().map(|file| file.display().to_string());
    let key = given(key, "File for the operator key (to be moved away later)", "operator-key.pem")?;
    let identity = json(session.client.attestation().await?.identity().await)?;
    let software = identity["software"] == true;
    let unattested = arguments.unattested || software && confirm_unattested(arguments.yes)?;
    let init = InitArguments {
        name,
        operator_key: key.into(),
        passphrase_file: arguments.passphrase_file.clone(),
        unattested,
    };
    let site = site::init(&init, session).await?;
    Ok((site, init.operator_key))
}

/// An unattested site is never a default: `--yes` alone does not found one.
fn confirm_unattested(yes: bool) -> Result<bool, Failure> {
    let advice = "the TPM is a software one: only `--unattested` founds a site on it";
    if yes {
        return Err(Failure::usage(advice));
    }
    let question = "The TPM is a software one. Found an UNATTESTED site?";
    prompt::confirm(question, false).map(|()| true).map_err(|failure| failure.advise(advice))
}

fn default_name() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match host.trim() {
        "" => "site".into(),
        host => format!("site of {host}"),
    }
}

/// The sensor that was given, or the one that is answered; `None`: not now.
fn first_sensor(given: Option<pair::Command>, yes: bool) -> Result<Option<pair::Command>, Failure> {
    if given.is_some() || yes {
        return Ok(given);
    }
    let ports = serial_ports();
    for (number, port) in ports.iter().enumerate() {
        eprintln!("  {}  {port}", number + 1);
    }
    let answer = match ports.is_empty() {
        true => {
            prompt::ask("No serial ports. Pair a LoRaWAN device (lora), or nothing", "nothing")?
        }
        false => prompt::ask("Number of the sensor's port, lora, or nothing", "nothing")?,
    };
    if answer == "lora" {
        let (dev_eui, join_eui) = (prompt::ask("DevEUI", "")?, prompt::ask("JoinEUI", "")?);
        return parse(&["lora", "--dev-eui", &dev_eui, "--join-eui", &join_eui]).map(Some);
    }
    let chosen = answer.parse::<usize>().ok().and_then(|number| ports.get(number.checked_sub(1)?));
    match chosen {
        Some(port) => parse(&["serial", port]).map(Some),
        None => Ok(None),
    }
}

/// The same reading of answers as of arguments.
fn parse(arguments: &[&str]) -> Result<pair::Command, Failure> {
    use clap::{FromArgMatches, Subcommand};
    let command = pair::Command::augment_subcommands(clap::Command::new("pair"));
    command
        .try_get_matches_from(["pair"].iter().chain(arguments))
        .and_then(|matches| pair::Command::from_arg_matches(&matches))
        .map_err(|error| Failure::usage(error.to_string()))
}

fn serial_ports() -> Vec<String> {
    /// Most ports that are offered.
    const MAX_PORTS: usize = 32;
    let entries = std::fs::read_dir("/dev/serial/by-id").into_iter().flatten().flatten();
    let mut ports: Vec<String> =
        entries.take(MAX_PORTS).map(|entry| entry.path().display().to_string()).collect();
    ports.sort();
    ports
}

async fn first_reading(mut signals: Signals, output: &mut Output) -> Result<(), Failure> {
    loop {
        tokio::select! {
            signal = signals.next() => match signal? {
                Signal::Reading(reading) => return reading::print(&dict_to_json(&reading), output),
                Signal::Gone => return Err(not_running().advise("it has just left the bus")),
                Signal::Committed(..) | Signal::Pairing(_) | Signal::Event(_) => {}
            },
            _ = tokio::signal::ctrl_c() => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_like_arguments() {
        let lora = ["lora", "--dev-eui", "0004A30B001B78FF", "--join-eui", "70B3D57ED0000000"];
        assert!(matches!(parse(&lora), Ok(pair::Command::Lora(_))));
        assert!(matches!(parse(&["serial", "/dev/ttyACM0"]), Ok(pair::Command::Serial(_))));
        let wrong = parse(&["lora", "--dev-eui", "x", "--join-eui", "y"]);
        assert_eq!(wrong.err().map(|failure| failure.exit), Some(Exit::Usage));
    }

    #[test]
    fn yes_alone_founds_no_unattested_site() {
        assert!(confirm_unattested(true).is_err());
    }
}
