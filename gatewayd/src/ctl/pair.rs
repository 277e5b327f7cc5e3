//! `gatewayctl pair`: opens the window, shows its countdown, asks about the preview.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::Value;

use super::exit::{Exit, Failure};
use super::output::{Output, printable, readings, text};
use super::prompt;
use super::sensor;
use super::session::{Session, json};
use crate::dbus::client::Arguments;
use crate::dbus::pairing::PairingProxy;

/// How the sensor speaks.
#[derive(Subcommand)]
pub(super) enum Command {
    /// Pair a sensor on a serial port: with its printed code, or as a line source with --line
    #[command(after_help = "D-Bus: org.gatewayd.Gateway1.Pairing.Open, Confirm, Close, Status")]
    Serial(SerialArguments),
    /// Pair a LoRaWAN device (OTAA)
    #[command(after_help = "D-Bus: org.gatewayd.Gateway1.Pairing.Open, Close, Status")]
    Lora(LoraArguments),
}

/// What every pairing takes.
#[derive(Args)]
struct Common {
    /// Name for the sensor; its ID when it has none
    #[arg(long)]
    name: Option<String>,
    /// Expected seconds between two readings
    #[arg(long, value_name = "SECONDS")]
    interval: Option<u32>,
    /// Seconds that the window stays open
    #[arg(long, value_name = "SECONDS", default_value_t = 120,
          value_parser = clap::value_parser!(u32).range(10..=3600))]
    window: u32,
    /// Accept what the preview shows without asking
    #[arg(long)]
    yes: bool,
}

/// A serial sensor.
#[derive(Args)]
pub(super) struct SerialArguments {
    /// Port, best one under /dev/serial/by-id
    port: String,
    /// Bits per second; the daemon's default when not given
    #[arg(long)]
    baud: Option<u32>,
    /// File with the sensor's printed code, `-` for standard input; asked for when not given
    #[arg(long, visible_alias = "code-file", value_name = "FILE", conflicts_with = "line")]
    key_file: Option<PathBuf>,
    /// The port gives lines of text: file with their map (TOML)
    #[arg(long, visible_alias = "map", value_name = "FILE")]
    line: Option<PathBuf>,
    #[command(flatten)]
    common: Common,
}

/// A LoRaWAN device.
#[derive(Args)]
pub(super) struct LoraArguments {
    /// DevEUI as printed: 16 hexadecimal digits
    #[arg(long, value_name = "EUI", value_parser = hex::<8>)]
    dev_eui: [u8; 8],
    /// JoinEUI (AppEUI) as printed: 16 hexadecimal digits
    #[arg(long, value_name = "EUI", value_parser = hex::<8>)]
    join_eui: [u8; 8],
    /// File with the AppKey (32 hexadecimal digits), `-` for standard input; else it is asked for
    #[arg(long, visible_alias = "key-file", value_name = "FILE")]
    app_key_file: Option<PathBuf>,
    /// How payloads become values
    #[arg(long, value_enum, default_value_t = Codec::Raw)]
    codec: Codec,
    /// LoRaWAN version of the device
    #[arg(long, value_parser = ["1.0.4", "1.0.3", "1.0.2"], default_value = "1.0.4")]
    lorawan: String,
    #[command(flatten)]
    common: Common,
}

/// Payload codec.
#[derive(Clone, Copy, ValueEnum)]
enum Codec {
    /// Bytes as they are
    Raw,
    /// Cayenne LPP
    Cayenne,
}

fn hex<const N: usize>(text: &str) -> Result<[u8; N], String> {
    let digits: Vec<u8> = text
        .chars()
        .filter(|c| !matches!(c, ':' | '-' | ' '))
        .map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
        .collect::<Option<_>>()
        .unwrap_or_default();
    let mut bytes = [0; N];
    if digits.len() != 2 * N {
        return Err(format!("expected {} hexadecimal digits", 2 * N));
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = pair[0] << 4 | pair[1];
    }
    Ok(bytes)
}

/// Pairs and prints the new sensor.
pub(super) async fn run(
    command: Command,
    session: &Session,
    output: &mut Output,
) -> Result<(), Failure> {
    let pairing = session.client.pairing().await?;
    let (how, arguments, yes) = request(command)?;
    let window = pairing.open(how.into(), arguments.dict()).await?;
    let status = tokio::select! {
        status = watch(&pairing, window, yes) => status?,
        _ = tokio::signal::ctrl_c() => {
            pairing.close(window).await?;
            return Err(Failure::new(Exit::Failed, "interrupted; the window is closed"));
        }
    };
    let id = text(&status, "sensor");
    let described = json(session.client.sensor(&id).await?.describe().await)?;
    output.value(&described)?;
    sensor::show(&described, output)
}

fn request(command: Command) -> Result<(&'static str, Arguments, bool), Failure> {
    let (how, arguments, common) = match command {
        Command::Serial(SerialArguments { port, baud, key_file, line, common }) => {
            let arguments = Arguments::default().text("port", &port).optional_u32("baud", baud);
            match line {
                Some(file) => {
                    let map = std::fs::read_to_string(&file)
                        .map_err(|error| Failure::file(&file, &error))?;
                    ("line", arguments.text("map", &map), common)
                }
                None => {
                    let code = prompt::secret(prompt::source(&key_file), "Printed code")?;
                    ("serial", arguments.text("code", code.trim()), common)
                }
            }
        }
        Command::Lora(LoraArguments {
            dev_eui,
            join_eui,
            app_key_file,
            codec,
            lorawan,
            common,
        }) => {
            let key = prompt::secret(prompt::source(&app_key_file), "AppKey")?;
            let key = zeroize::Zeroizing::new(
                hex::<16>(key.trim())
                    .map_err(|error| Failure::usage(format!("AppKey: {error}")))?,
            );
            let codec = match codec {
                Codec::Raw => "raw",
                Codec::Cayenne => "cayenne",
            };
            let arguments = Arguments::default()
                .bytes("dev_eui", &dev_eui)
                .bytes("join_eui", &join_eui)
                .bytes("app_key", &*key)
                .text("codec", codec)
                .text("version", &lorawan);
            ("lora", arguments, common)
        }
    };
    let Common { name, interval, window, yes } = common;
    let arguments = arguments
        .optional_text("name", name.as_deref())
        .optional_u32("interval_s", interval)
        .u32("window_s", window);
    Ok((how, arguments, yes))
}

/// How often the window is looked at.
const LOOK: Duration = Duration::from_millis(250);

/// Shows the countdown until the window closes; the last status when it closed well.
async fn watch(pairing: &PairingProxy<'_>, window: u64, yes: bool) -> Result<Value, Failure> {
    let mut progress = Progress::new();
    let mut confirmed = false;
    loop {
        let status = json(pairing.status().await)?;
        if status["window"] != window {
            progress.end();
            return Err(Failure::new(Exit::Failed, "another window was opened instead"));
        }
        progress.show(&status);
        match status["state"].as_str().unwrap_or_default() {
            "done" => {
                progress.end();
                return Ok(status);
            }
            "failed" => {
                progress.end();
                return Err(failure(&status));
            }
            "preview" if !confirmed && has_preview(&status) => {
                progress.end();
                confirm(&status, yes).await?;
                pairing.confirm(window).await?;
                confirmed = true;
            }
            _ => {}
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn has_preview(status: &Value) -> bool {
    status["preview"].as_array().is_some_and(|values| !values.is_empty())
}

/// Asks in a thread of its own, so that an interrupt is heard meanwhile.
async fn confirm(status: &Value, yes: bool) -> Result<(), Failure> {
    let question = format!("The port says: {}. Is that right?", readings(&status["preview"]));
    if yes {
        eprintln!("{}", printable(&question));
        return Ok(());
    }
    tokio::task::spawn_blocking(move || prompt::confirm(&printable(&question), false))
        .await
        .map_err(|error| Failure::new(Exit::Failed, error.to_string()))?
}

fn failure(status: &Value) -> Failure {
    let name = text(status, "failure");
    let exit = match name.as_str() {
        "window-expired" => Exit::Timeout,
        "port-missing" => Exit::NotFound,
        "already-registered" | "refused" => Exit::Refused,
        _ => Exit::Failed,
    };
    Failure::new(exit, format!("pairing failed ({name}): {}", text(status, "message")))
}

/// The line on standard error that tells how it goes.
struct Progress {
    terminal: bool,
    shown: String,
}

impl Progress {
    fn new() -> Self {
        Self { terminal: std::io::stderr().is_terminal(), shown: String::new() }
    }

    fn show(&mut self, status: &Value) {
        let mut words = format!("{}: {}", text(status, "state"), text(status, "message"));
        if let Some(count @ 1..) = status["uplinks_counted"].as_u64() {
            words.push_str(&format!(" ({count} uplinks heard)"));
        }
        // A terminal shows the countdown in place; a log gets a line for each step.
        if self.terminal {
            let left = status["seconds_left"].as_u64().unwrap_or(0);
            words = format!("{left:4} s  {words}");
        }
        if words == self.shown {
            return;
        }
        let words_shown = printable(&words);
        match self.terminal {
            true => eprint!("\r\x1b[K{words_shown}"),
            false => eprintln!("{words_shown}"),
        }
        // Progress is a courtesy: whether it is seen does not matter.
        let _ = std::io::stderr().flush();
        self.shown = words;
    }

    fn end(&mut self) {
        if self.terminal && !self.shown.is_empty() {
            eprintln!();
        }
        self.shown.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn printed_identities_are_read_with_or_without_separators() {
        let expected = [0x00, 0x04, 0xa3, 0x0b, 0x00, 0x1b, 0x78, 0xff];
        for text in ["0004A30B001B78FF", "00:04:a3:0b:00:1b:78:ff", "0004a30b-001b78ff"] {
            assert_eq!(hex::<8>(text), Ok(expected), "{text}");
        }
        for wrong in ["", "0004A30B001B78F", "0004A30B001B78FFF", "0004A30B001B78FG", "é"] {
            assert!(hex::<8>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn failures_of_the_window_have_exit_codes() {
        let table = [
            ("window-expired", Exit::Timeout),
            ("port-missing", Exit::NotFound),
            ("already-registered", Exit::Refused),
            ("wrong-key", Exit::Failed),
        ];
        for (name, exit) in table {
            let status = json!({ "state": "failed", "failure": name, "message": "why" });
            assert_eq!(failure(&status).exit, exit, "{name}");
        }
    }

    #[test]
    fn a_secret_in_a_file_becomes_the_request() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let file = folder.path().join("key");
        std::fs::write(&file, "000102030405060708090a0b0c0d0e0f\n").expect("written");
        let common = Common { name: Some("t".into()), interval: None, window: 60, yes: true };
        let command = Command::Lora(LoraArguments {
            dev_eui: [1; 8],
            join_eui: [2; 8],
            app_key_file: Some(file.clone()),
            codec: Codec::Cayenne,
            lorawan: "1.0.4".into(),
            common,
        });
        let (how, arguments, yes) = request(command).expect("complete");
        assert_eq!((how, yes), ("lora", true));
        let json = crate::dbus::variant::dict_to_json(&arguments.dict());
        assert_eq!(json["app_key"], json!([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]));
        assert_eq!(json["codec"], "cayenne");
        assert_eq!(json["window_s"], 60);
        assert!(json.get("interval_s").is_none());
    }
}
