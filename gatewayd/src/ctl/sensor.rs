//! `gatewayctl sensor`.

use clap::Subcommand;
use serde_json::{Value, json as object};

use super::exit::Failure;
use super::output::{Output, local_time, plain, readings, text};
use super::prompt;
use super::session::{Session, json, json_list};

/// What can be done with sensors.
#[derive(Subcommand)]
pub(super) enum Command {
    /// All sensors
    #[command(after_help = "D-Bus: org.gatewayd.Gateway1.Manager.ListSensors")]
    List,
    /// Everything about one sensor
    #[command(after_help = "D-Bus: org.gatewayd.Gateway1.Sensor.Describe")]
    Show {
        /// Its ID (`ln1…`) or name
        sensor: String,
    },
    /// Changes of a sensor on the record, newest first
    #[command(after_help = "D-Bus: org.gatewayd.Gateway1.Sensor.History")]
    History {
        /// Its ID (`ln1…`) or name
        sensor: String,
        /// How many changes
        #[arg(long, default_value_t = 50,
              value_parser = clap::value_parser!(u32).range(1..=10_000))]
        limit: u32,
    },
    /// Retire a sensor; what it has said stays on the record
    #[command(after_help = "D-Bus: org.gatewayd.Gateway1.Sensor.Forget")]
    Forget {
        /// Its ID (`ln1…`) or name
        sensor: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// Give a sensor another name
    #[command(after_help = "D-Bus: org.gatewayd.Gateway1.Sensor.Rename")]
    Rename {
        /// Its ID (`ln1…`) or name
        sensor: String,
        /// New name
        name: String,
    },
}

pub(super) async fn run(
    command: Command,
    session: Session,
    output: &mut Output,
) -> Result<(), Failure> {
    match command {
        Command::List => {
            let sensors = json_list(session.client.manager().await?.list_sensors().await)?;
            list(sensors, output)
        }
        Command::Show { sensor } => {
            let sensor = json(session.client.sensor(&sensor).await?.describe().await)?;
            output.value(&sensor)?;
            show(&sensor, output)
        }
        Command::History { sensor, limit } => {
            let entries = json_list(session.client.sensor(&sensor).await?.history(limit).await)?;
            history(entries, output)
        }
        Command::Forget { sensor, yes } => {
            let proxy = session.client.sensor(&sensor).await?;
            prompt::confirm(&format!("Retire the sensor {sensor}?"), yes)?;
            let done = json(proxy.forget().await)?;
            output.value(&done)?;
            Ok(output.line(&format!("{} (height {})", text(&done, "summary"), done["height"]))?)
        }
        Command::Rename { sensor, name } => {
            session.client.sensor(&sensor).await?.rename(name.clone()).await?;
            output.value(&object!({ "name": name }))?;
            Ok(output.line(&format!("{sensor} is now called {name}"))?)
        }
    }
}

fn list(sensors: Vec<Value>, output: &mut Output) -> Result<(), Failure> {
    let row = |sensor: &Value| {
        vec![
            text(sensor, "name"),
            text(sensor, "kind"),
            text(sensor, "level"),
            text(sensor, "presence"),
            text(sensor, "standing"),
            readings(&sensor["last_reading"]["values"]),
            local_time(sensor, "last_heard_ms"),
            text(sensor, "id"),
        ]
    };
    let rows: Vec<Vec<String>> = sensors.iter().map(row).collect();
    output.value(&Value::Array(sensors))?;
    Ok(output.table(
        &["NAME", "KIND", "LEVEL", "PRESENCE", "STANDING", "LAST READING", "HEARD", "ID"],
        &rows,
        "no sensors yet: `gatewayctl pair serial` or `gatewayctl pair lora` takes one in",
    )?)
}

/// Prints one sensor; also the end of a pairing.
pub(super) fn show(sensor: &Value, output: &mut Output) -> Result<(), Failure> {
    let last = &sensor["last_reading"];
    Ok(output.list(&[
        ("Name", text(sensor, "name")),
        ("ID", text(sensor, "id")),
        ("Kind", text(sensor, "kind")),
        ("Identity", text(sensor, "identity")),
        ("Assurance", format!("level {}: {}", sensor["level"], text(sensor, "level_words"))),
        ("Presence", text(sensor, "presence")),
        ("Standing", text(sensor, "standing")),
        ("Label", text(sensor, "label")),
        ("Serving gateway", text(sensor, "serving")),
        ("Link", text(sensor, "link")),
        ("Link state", text(sensor, "link_state")),
        ("Over the bridge", text(sensor, "bridge")),
        ("That means", text(sensor, "bridge_words")),
        ("Session epoch", text(sensor, "epoch")),
        ("Highest committed", text(sensor, "highest")),
        ("Missing counters", ranges(&sensor["gaps"])),
        ("Expected every", seconds(&sensor["interval_s"])),
        ("Last heard", local_time(sensor, "last_heard_ms")),
        ("Last reading", readings(&last["values"])),
        ("Reading's time", clock(last)),
        ("Refused frames", refused(&sensor["refused"])),
        ("Can it move?", text(sensor, "mobility")),
    ])?)
}

/// Prints what the record says of one node.
pub(super) fn history(entries: Vec<Value>, output: &mut Output) -> Result<(), Failure> {
    let row = |entry: &Value| {
        vec![text(entry, "height"), local_time(entry, "time_ms"), text(entry, "what")]
    };
    let rows: Vec<Vec<String>> = entries.iter().map(row).collect();
    output.value(&Value::Array(entries))?;
    Ok(output.table(&["HEIGHT", "TIME", "WHAT"], &rows, "nothing on the record yet")?)
}

fn ranges(gaps: &Value) -> String {
    let one = |range: &Value| match (&range[0], &range[1]) {
        (first, last) if first == last => plain(first),
        (first, last) => format!("{first}–{last}"),
    };
    gaps.as_array().into_iter().flatten().map(one).collect::<Vec<_>>().join(", ")
}

fn seconds(value: &Value) -> String {
    value.as_u64().map(|seconds| format!("{seconds} s")).unwrap_or_default()
}

fn clock(reading: &Value) -> String {
    match local_time(reading, "time_ms") {
        time if time.is_empty() => time,
        time => format!("{time} (clock: {})", text(reading, "time_quality")),
    }
}

fn refused(counts: &Value) -> String {
    let one = |(reason, count): (&String, &Value)| format!("{reason}: {count}");
    counts.as_object().into_iter().flatten().map(one).collect::<Vec<_>>().join(", ")
}
