//! `gatewayctl config`: offline, with the daemon's own reader.

use std::path::PathBuf;

use clap::Subcommand;
use serde_json::{Value, json};

use super::exit::Failure;
use super::output::Output;
use crate::config::{self, Origin, ShownSetting, Sources};

/// Said in the help.
const OFFLINE: &str = "Offline: makes no D-Bus call.";

/// What can be done with the configuration.
#[derive(Subcommand)]
pub(super) enum Command {
    /// Check the configuration; mistakes are named with file and line
    #[command(after_help = OFFLINE)]
    Check {
        /// A file, or a folder with gatewayd.toml, instead of the system's folders
        #[arg(long, value_name = "PATH")]
        config: Option<PathBuf>,
    },
    /// Every setting in force, with the file and line that sets it
    #[command(after_help = OFFLINE)]
    Show {
        /// A file, or a folder with gatewayd.toml, instead of the system's folders
        #[arg(long, value_name = "PATH")]
        config: Option<PathBuf>,
    },
}

pub(super) fn run(command: Command, output: &mut Output) -> Result<(), Failure> {
    match command {
        Command::Check { config } => {
            let sources = Sources::from_argument(config.as_deref());
            config::load(&sources)?;
            let files: Vec<String> =
                sources.files()?.iter().map(|file| file.display().to_string()).collect();
            output.value(&json!({ "ok": true, "files": files }))?;
            match files.as_slice() {
                [] => output.line("ok: no files, the defaults are in force")?,
                files => output.line(&format!("ok: {}", files.join(", ")))?,
            }
            Ok(())
        }
        Command::Show { config } => {
            let shown = config::show(&Sources::from_argument(config.as_deref()))?;
            output.value(&shown.iter().map(as_json).collect::<Value>())?;
            let rows: Vec<Vec<String>> = shown.iter().map(row).collect();
            Ok(output.table(&["SETTING", "VALUE", "FROM"], &rows, "")?)
        }
    }
}

fn as_json(shown: &ShownSetting) -> Value {
    json!({ "key": shown.key, "value": shown.value, "from": origin(&shown.origin) })
}

fn row(shown: &ShownSetting) -> Vec<String> {
    let value = shown.value.clone().unwrap_or_else(|| "(chosen by the daemon)".into());
    vec![shown.key.into(), value, origin(&shown.origin)]
}

fn origin(origin: &Origin) -> String {
    match origin {
        Origin::Default => "default".into(),
        Origin::File { file, line } => format!("{}:{line}", file.display()),
    }
}
