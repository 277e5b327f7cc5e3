//! `gatewayctl reading`.

use std::path::{Path, PathBuf};

use clap::{ArgGroup, Args, Subcommand};
use serde_json::{Value, json as object};

use super::exit::{Failure, not_running};
use super::output::{Output, local_time, readings, text};
use super::session::{Session, json_list};
use crate::dbus::client::{Arguments, Signal};
use crate::dbus::variant::dict_to_json;

/// What can be done with readings.
#[derive(Subcommand)]
pub(super) enum Command {
    /// Readings as they arrive
    #[command(
        after_help = "D-Bus: org.gatewayd.Gateway1.Ledger.Readings and signal Sensor.Reading"
    )]
    Tail(TailArguments),
    /// Write one reading with its proof to a file; it is committed first if it waits
    #[command(after_help = "D-Bus: org.gatewayd.Gateway1.Sensor.Export")]
    Export(ExportArguments),
}

/// Which readings.
#[derive(Args)]
pub(super) struct TailArguments {
    /// Only this sensor: its ID (`ln1…`) or name
    sensor: Option<String>,
    /// End after so many readings; without it, go on until interrupted
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// Begin with so many of the newest readings
    #[arg(long, value_name = "N", default_value_t = 10,
          value_parser = clap::value_parser!(u32).range(0..=10_000))]
    last: u32,
}

/// Which reading, and where to.
#[derive(Args)]
#[command(group(ArgGroup::new("which").args(["counter", "last"])))]
pub(super) struct ExportArguments {
    /// Sensor: its ID (`ln1…`) or name
    sensor: String,
    /// The reading with this session epoch and counter
    #[arg(long, value_name = "EPOCH:COUNTER", value_parser = counter)]
    counter: Option<(u32, u64)>,
    /// The newest reading; this is the default
    #[arg(long)]
    last: bool,
    /// Site code that the verifier holds; needed when it is not the newest
    #[arg(long, value_name = "CODE")]
    anchor: Option<String>,
    /// File for the proof; `-` is standard output
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

fn counter(text: &str) -> Result<(u32, u64), String> {
    let parse = || {
        let (epoch, counter) = text.split_once(':')?;
        Some((epoch.parse().ok()?, counter.parse().ok()?))
    };
    parse().ok_or_else(|| "a reading is named EPOCH:COUNTER, as in 1:42".into())
}

pub(super) async fn run(
    command: Command,
    session: Session,
    output: &mut Output,
) -> Result<(), Failure> {
    match command {
        Command::Tail(arguments) => tail(arguments, session, output).await,
        Command::Export(arguments) => export(arguments, session, output).await,
    }
}

async fn tail(
    arguments: TailArguments,
    session: Session,
    output: &mut Output,
) -> Result<(), Failure> {
    let mut wanted = arguments.count.unwrap_or(u64::MAX);
    // Subscribed before the listing; what is in both is shown once.
    let mut signals = session.client.signals().await?;
    let id = match &arguments.sensor {
        Some(sensor) => Some(
            session
                .client
                .sensor(sensor)
                .await?
                .id_property()
                .await
                .map_err(crate::dbus::Error::from)?,
        ),
        None => None,
    };
    let mut shown = std::collections::HashSet::new();
    if arguments.last > 0 {
        let sensor = id.clone().unwrap_or_default();
        let ledger = session.client.ledger().await?;
        let mut listed = json_list(ledger.readings(sensor, arguments.last).await)?;
        listed.reverse();
        for reading in listed.iter().take(usize::try_from(wanted).unwrap_or(usize::MAX)) {
            shown.insert(key(reading));
            print(reading, output)?;
            wanted -= 1;
        }
    }
    while wanted > 0 {
        match signals.next().await? {
            Signal::Reading(reading) => {
                let reading = dict_to_json(&reading);
                let of_sensor = id.as_deref().is_none_or(|id| reading["sensor"] == id);
                if of_sensor && !shown.remove(&key(&reading)) {
                    print(&reading, output)?;
                    wanted -= 1;
                }
            }
            Signal::Gone => return Err(not_running().advise("it has just left the bus")),
            Signal::Committed(..) | Signal::Pairing(_) | Signal::Event(_) => {}
        }
    }
    Ok(())
}

/// What names a reading.
fn key(reading: &Value) -> (String, u64, u64) {
    let number = |key: &str| reading[key].as_u64().unwrap_or(0);
    (text(reading, "sensor"), number("epoch"), number("counter"))
}

/// Prints one reading on one line.
pub(super) fn print(reading: &Value, output: &mut Output) -> Result<(), Failure> {
    output.stream_value(reading)?;
    let name = match text(reading, "sensor_name").as_str() {
        "" => text(reading, "sensor"),
        name => name.to_string(),
    };
    let height = match text(reading, "height").as_str() {
        "" => String::new(),
        height => format!(" in block {height}"),
    };
    Ok(output.line(&format!(
        "{}  {name}  {}:{}  level {}  {}  {}{height}",
        local_time(reading, "time_ms"),
        reading["epoch"],
        reading["counter"],
        reading["level"],
        readings(&reading["values"]),
        text(reading, "status"),
    ))?)
}

async fn export(
    arguments: ExportArguments,
    session: Session,
    output: &mut Output,
) -> Result<(), Failure> {
    let mut options = Arguments::default();
    if let Some((epoch, counter)) = arguments.counter {
        options = options.u32("epoch", epoch).u64("counter", counter);
    }
    if let Some(code) = &arguments.anchor {
        options = options.text("anchor", code);
    }
    let options = options.dict();
    let sensor = session.client.sensor(&arguments.sensor).await?;
    let proof = sensor.export(options).await?;
    write_proof(&arguments.out, &proof, output)
}

/// Writes a proof file, or sends it to standard output.
pub(super) fn write_proof(file: &Path, proof: &[u8], output: &mut Output) -> Result<(), Failure> {
    if file == Path::new("-") {
        return Ok(output.bytes(proof)?);
    }
    std::fs::write(file, proof).map_err(|error| Failure::file(file, &error))?;
    output.value(&object!({ "file": file.display().to_string(), "bytes": proof.len() }))?;
    output.line(&format!("{}: {} bytes", file.display(), proof.len()))?;
    Ok(output.line(
        "check it with `gatewayctl verify FILE --anchor CODE`; the code is on \
                    `gatewayctl site card`",
    )?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readings_are_named_by_epoch_and_counter() {
        assert_eq!(counter("3:70000"), Ok((3, 70_000)));
        for wrong in ["", "3", "3:", ":4", "a:b", "3:4:5", "-1:2", "4294967296:1"] {
            assert!(counter(wrong).is_err(), "{wrong}");
        }
    }
}
