//! Where log messages go: to the journal with their fields when systemd reads our output, else to
//! standard error.
//!
//! Messages carry names, IDs and counts; no module logs keys, codes or payloads.

use tracing_journald::{Priority, PriorityMappings};
use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

use crate::config::LogLevel;

/// Our crates: the level of the configuration is theirs, third-party code speaks from `warn` on.
const OURS: [&str; 5] = ["gatewayd", "ledger", "drivers", "attestation", "sensor"];

/// Fields appear in the journal as `GATEWAYD_SENSOR`, `GATEWAYD_HEIGHT`, …
const FIELD_PREFIX: &str = "GATEWAYD";

/// Starts logging for the whole process.
///
/// # Errors
/// Logging was started before.
pub fn start(level: LogLevel) -> Result<(), TryInitError> {
    let filter = tracing_subscriber::registry().with(EnvFilter::new(directives(level)));
    match journal() {
        Some(journal) => filter.with(journal).try_init(),
        None => {
            let stderr = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
            filter.with(stderr).try_init()
        }
    }
}

fn directives(level: LogLevel) -> String {
    let ours = OURS.map(|name| format!("{name}={}", level.name())).join(",");
    match level {
        LogLevel::Error => format!("error,{ours}"),
        _ => format!("warn,{ours}"),
    }
}

/// The journal, if it is what reads our standard error.
fn journal() -> Option<tracing_journald::Layer> {
    // systemd sets JOURNAL_STREAM for a service whose output goes to the journal (systemd.exec(5)).
    std::env::var_os("JOURNAL_STREAM")?;
    let layer = tracing_journald::layer().ok()?;
    let priorities = PriorityMappings {
        info: Priority::Informational,
        debug: Priority::Debug,
        ..PriorityMappings::new()
    };
    Some(layer.with_field_prefix(Some(FIELD_PREFIX.into())).with_priority_mappings(priorities))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directives_are_valid_for_every_level() {
        let levels =
            [LogLevel::Error, LogLevel::Warn, LogLevel::Info, LogLevel::Debug, LogLevel::Trace];
        for level in levels {
            let directives = directives(level);
            let filter: Result<EnvFilter, _> = directives.parse();
            assert!(filter.is_ok(), "{directives}");
            assert!(directives.contains(&format!("gatewayd={}", level.name())));
        }
    }
}
