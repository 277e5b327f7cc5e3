//! `gatewayctl`: a D-Bus client and nothing else, save what must work offline: `verify`,
//! `operator sign`, `config`. One file a noun.

mod config;
mod doctor;
mod exit;
mod gateway;
mod generate;
mod identity;
mod ledger;
mod monitor;
mod operator;
mod output;
mod pair;
mod policy;
mod prompt;
mod prove;
mod reading;
mod sensor;
mod session;
mod setup;
mod site;
mod status;
mod time;
mod verify;

use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand};

use exit::{Exit, Failure};
use output::Output;
use session::Session;

/// Manages gatewayd: the site, its sensors, their readings and the proofs of them.
#[derive(Parser)]
#[command(name = "gatewayctl", version, after_help = exit::HELP, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    globals: Globals,
    #[command(subcommand)]
    command: Command,
}

/// Options of every command.
#[derive(Args, Clone)]
struct Globals {
    /// Print JSON with stable keys; what is unknown is left out
    #[arg(long, global = true)]
    json: bool,
    /// Longest wait for each answer of the daemon
    #[arg(long, global = true, value_name = "SECONDS", default_value_t = 120,
          value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout: u64,
    /// Bus that the daemon is on: `system` or a D-Bus address
    #[arg(
        long,
        global = true,
        value_name = "ADDRESS",
        env = "GATEWAYD_BUS",
        hide_env_values = true,
        default_value = "system"
    )]
    bus: String,
}

#[derive(Subcommand)]
enum Command {
    /// Guide from the TPM check to the first reading
    Setup(setup::Arguments),
    /// State of the gateway in one look
    #[command(after_help = "D-Bus: org.gatewayd.Gateway1.Manager.Status")]
    Status,
    /// Found, show and govern the site
    #[command(subcommand)]
    Site(site::Command),
    /// Pair a sensor
    #[command(subcommand)]
    Pair(pair::Command),
    /// Gateways of the site
    #[command(subcommand)]
    Gateway(gateway::Command),
    /// Sensors of the site
    #[command(subcommand)]
    Sensor(sensor::Command),
    /// Readings as they arrive, and their proofs
    #[command(subcommand)]
    Reading(reading::Command),
    /// Check a proof file, offline: no daemon, no network
    Verify(verify::Arguments),
    /// Prove that an ID is on the record with its standing, or that it is not
    Prove(prove::Arguments),
    /// Blocks of the record
    #[command(subcommand)]
    Ledger(ledger::Command),
    /// Keys and TPM of this gateway
    #[command(subcommand)]
    Identity(identity::Command),
    /// Everything that happens, until interrupted
    #[command(after_help = "D-Bus: all signals of org.gatewayd.Gateway1")]
    Monitor(monitor::Arguments),
    /// Look at everything the gateway needs, and say what to do about what is missing
    #[command(after_help = "D-Bus: org.gatewayd.Gateway1.Manager.Doctor")]
    Doctor,
    /// Check and show the configuration, without the daemon
    #[command(subcommand)]
    Config(config::Command),
    /// Acts of the operator, signed with the operator key
    #[command(subcommand)]
    Operator(operator::Command),
    /// Write completions of a shell to standard output
    #[command(hide = true)]
    Completions(generate::CompletionsArguments),
    /// Write the man pages into a folder
    #[command(hide = true)]
    Man(generate::ManArguments),
}

/// Runs `gatewayctl` with the process's arguments.
pub fn main() -> ExitCode {
    // clap ends the process itself: 0 after --help and --version, 2 for wrong usage.
    let cli = Cli::parse();
    let mut output = Output::stdout(cli.globals.json);
    let result = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Failure::from)
        .and_then(|runtime| runtime.block_on(run(cli, &mut output)));
    match result {
        Ok(()) => ExitCode::from(Exit::Ok as u8),
        Err(failure) => {
            if !failure.is_closed_output() {
                eprintln!("gatewayctl: {}", output::printable(&failure.message));
                for advice in failure.advice.iter() {
                    eprintln!("  {}", output::printable(advice));
                }
            }
            ExitCode::from(failure.exit as u8)
        }
    }
}

async fn run(cli: Cli, output: &mut Output) -> Result<(), Failure> {
    let session = || Session::open(&cli.globals);
    match cli.command {
        Command::Setup(arguments) => setup::run(arguments, session().await?, output).await,
        Command::Status => status::run(session().await?, output).await,
        Command::Site(command) => site::run(command, session().await?, output).await,
        Command::Pair(command) => pair::run(command, &session().await?, output).await,
        Command::Gateway(command) => gateway::run(command, session().await?, output).await,
        Command::Sensor(command) => sensor::run(command, session().await?, output).await,
        Command::Reading(command) => reading::run(command, session().await?, output).await,
        Command::Verify(arguments) => verify::run(&arguments, output),
        Command::Prove(arguments) => prove::run(arguments, session().await?, output).await,
        Command::Ledger(command) => ledger::run(command, session().await?, output).await,
        Command::Identity(command) => identity::run(command, session().await?, output).await,
        Command::Monitor(arguments) => monitor::run(arguments, session().await?, output).await,
        Command::Doctor => doctor::run(session().await?, output).await,
        Command::Config(command) => config::run(command, output),
        Command::Operator(operator::Command::Sign(arguments)) => operator::sign(&arguments, output),
        Command::Operator(operator::Command::Act(arguments)) => {
            operator::act(arguments, session().await?, output).await
        }
        Command::Completions(arguments) => {
            generate::completions(&arguments, Cli::command(), output)
        }
        Command::Man(arguments) => generate::man(&arguments, Cli::command()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_and_option_has_help() {
        fn check(command: &clap::Command) {
            assert!(command.get_about().is_some(), "{} has no help", command.get_name());
            for argument in command.get_arguments() {
                let name = argument.get_id();
                assert!(argument.get_help().is_some(), "{} {name}: no help", command.get_name());
            }
            command.get_subcommands().for_each(check);
        }
        check(&Cli::command());
    }

    #[test]
    fn every_command_names_its_call() {
        fn check(command: &clap::Command) {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let names = help.contains("D-Bus: ") || help.contains("Offline: ");
            assert!(names || command.has_subcommands(), "{} names no call", command.get_name());
            command.get_subcommands().filter(|c| !c.is_hide_set()).for_each(check);
        }
        check(&Cli::command());
    }

    #[test]
    fn no_secret_is_an_argument() {
        fn check(command: &clap::Command) {
            for argument in command.get_arguments() {
                let name = argument.get_id().as_str();
                let secret = ["passphrase", "code", "app_key", "key"].contains(&name);
                assert!(!secret, "{} --{name} would show a secret", command.get_name());
            }
            command.get_subcommands().for_each(check);
        }
        check(&Cli::command());
    }

    #[test]
    fn pages_of_help_name_the_exit_codes() {
        assert!(Cli::command().render_help().to_string().contains("7  verification failed"));
    }
}
