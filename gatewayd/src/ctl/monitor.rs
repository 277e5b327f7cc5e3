//! `gatewayctl monitor`.

use clap::Args;
use serde_json::{Value, json};

use super::exit::{Failure, not_running};
use super::output::{Output, text};
use super::reading;
use super::session::Session;
use super::time;
use crate::dbus::client::Signal;
use crate::dbus::variant::dict_to_json;

/// How long.
#[derive(Args)]
pub(super) struct Arguments {
    /// End after so many events; without it, go on until interrupted
    #[arg(long, value_name = "N")]
    count: Option<u64>,
}

pub(super) async fn run(
    arguments: Arguments,
    session: Session,
    output: &mut Output,
) -> Result<(), Failure> {
    let mut signals = session.client.signals().await?;
    let mut wanted = arguments.count.unwrap_or(u64::MAX);
    while wanted > 0 {
        match signals.next().await? {
            Signal::Reading(reading) => {
                let mut reading = dict_to_json(&reading);
                reading["event"] = "reading".into();
                reading::print(&reading, output)?;
            }
            Signal::Committed(height, transactions, readings) => {
                let event = json!({
                    "event": "committed",
                    "height": height,
                    "transactions": transactions,
                    "readings": readings,
                });
                print(&event, output)?;
            }
            Signal::Pairing(status) => {
                let mut status = dict_to_json(&status);
                status["event"] = "pairing".into();
                print(&status, output)?;
            }
            Signal::Event(event) => print(&dict_to_json(&event), output)?,
            Signal::Gone => return Err(not_running().advise("it has just left the bus")),
        }
        wanted -= 1;
    }
    Ok(())
}

fn print(event: &Value, output: &mut Output) -> Result<(), Failure> {
    output.stream_value(event)?;
    let words = match event["event"].as_str() {
        Some("committed") => format!(
            "block {}: {} transaction(s), {} reading(s)",
            event["height"], event["transactions"], event["readings"]
        ),
        Some("pairing") => format!(
            "pairing {}: {} ({} s left)",
            text(event, "state"),
            text(event, "message"),
            event["seconds_left"]
        ),
        Some("gateway") => format!("gateway {}: {}", text(event, "change"), text(event, "message")),
        Some("sensor") => format!("sensor {} {}", text(event, "id"), text(event, "change")),
        Some("state") => format!("state {} {}", text(event, "state"), text(event, "reasons")),
        Some("alert") => format!("ALERT {}: {}", text(event, "kind"), text(event, "message")),
        _ => event.to_string(),
    };
    Ok(output.line(&format!("{}  {words}", time::local(time::now_ms())))?)
}
