//! The root helper that reads the measurement logs for the daemon: arguments, socket, `serve`.

use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use gatewayd::measurement_logs::helper::{Helper, IDLE, SECURITYFS, user_number};

/// Reads the measurement logs of this machine for gatewayd (started by gatewayd-logs.socket).
///
/// The listening socket is standard input.
#[derive(Parser)]
#[command(name = "gatewayd-logs", version)]
struct Arguments {
    /// The user, beside root, that may ask: a name or a number
    #[arg(long, value_name = "USER", default_value = "gatewayd")]
    user: String,
    /// The folder with the kernel's logs
    #[arg(long, value_name = "DIR", default_value = SECURITYFS)]
    securityfs: PathBuf,
    /// Seconds after which the helper ends when nobody asks
    #[arg(long, value_name = "SECONDS", default_value_t = IDLE.as_secs())]
    idle: u64,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let served = user_number(&arguments.user).and_then(|user| {
        let socket = io::stdin().as_fd().try_clone_to_owned()?;
        let helper = Helper::new(&arguments.securityfs, user);
        helper.serve(socket, Duration::from_secs(arguments.idle))
    });
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("gatewayd-logs: {error}");
            ExitCode::FAILURE
        }
    }
}
