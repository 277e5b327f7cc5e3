//! `gatewayctl site policy`.

use clap::Subcommand;

use super::exit::Failure;
use super::operator::{self, Signing};
use super::output::{Output, plain};
use super::session::{Session, json};

/// What can be done with the policy.
#[derive(Subcommand)]
pub(super) enum Command {
    /// The policy in force
    #[command(after_help = "D-Bus: org.gatewayd.Gateway1.Manager.Site")]
    Show,
    /// Change settings of the policy (an operator act)
    #[command(after_help = operator::CALLS)]
    Set {
        /// Settings as KEY=VALUE; `show` names them all
        #[arg(required = true, value_parser = operator::setting)]
        settings: Vec<(String, String)>,
        #[command(flatten)]
        signing: Signing,
    },
}

pub(super) async fn run(
    command: Command,
    session: Session,
    output: &mut Output,
) -> Result<(), Failure> {
    match command {
        Command::Show => show(&session, output).await,
        Command::Set { settings, signing } => {
            operator::perform("policy", &settings, &signing, &session, output).await
        }
    }
}

async fn show(session: &Session, output: &mut Output) -> Result<(), Failure> {
    let site = json(session.client.manager().await?.site().await)?;
    let policy = &site["policy"];
    output.value(policy)?;
    let settings: Vec<(&str, String)> = policy
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| (key.as_str(), plain(value)))
        .collect();
    Ok(output.list(&settings)?)
}
