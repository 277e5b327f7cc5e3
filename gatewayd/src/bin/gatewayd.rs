//! The daemon: arguments, configuration, logging, `run`, exit code; nothing else.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use gatewayd::{config, logging, run};

/// Exit code when the configuration cannot be used (EX_CONFIG of sysexits.h): starting again would
/// not help, so the unit does not.
const EXIT_CONFIG: u8 = 78;

/// Threads for sockets, ports and the bus; ledger, buffer and TPM have their own.
const WORKERS: usize = 2;

/// IoT gateway service: a shared, signed record of verified sensor readings.
#[derive(Parser)]
#[command(name = "gatewayd", version)]
struct Arguments {
    /// A file, or a folder with gatewayd.toml, instead of the system's configuration
    #[arg(long, value_name = "PATH")]
    config: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let sources = config::Sources::from_argument(arguments.config.as_deref());
    let settings = match config::load(&sources) {
        Ok(settings) => settings,
        Err(error) => {
            eprintln!("gatewayd: configuration: {error}");
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    if let Err(error) = logging::start(settings.log_level) {
        eprintln!("gatewayd: logging: {error}");
        return ExitCode::FAILURE;
    }
    let ended = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .enable_all()
        .build()
        .map_err(anyhow::Error::from)
        .and_then(|runtime| {
            let ended = runtime.block_on(run::run(settings));
            // A task that still blocks has nothing to say any more.
            runtime.shutdown_background();
            ended
        });
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // One line, with all causes.
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
