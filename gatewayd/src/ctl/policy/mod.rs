//! `gatewayctl site policy`.

mod anchors;
mod references;

use clap::Subcommand;

use crate::ctl::exit::Failure;
use crate::ctl::operator::{self, Signing};
use crate::ctl::output::{Output, plain};
use crate::ctl::session::{Session, json};

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
    /// Certificates of TPM vendors that may vouch for a gateway's TPM
    #[command(subcommand)]
    Anchor(anchors::Command),
    /// Reference values: what may boot on a gateway
    #[command(subcommand)]
    Reference(references::Command),
    /// Propose reference values from what a gateway has measured, for the operator to add
    #[command(after_help = references::CALLS)]
    ProposeFrom(references::Propose),
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
        Command::Anchor(command) => anchors::run(command, &session, output).await,
        Command::Reference(command) => references::run(command, &session, output).await,
        Command::ProposeFrom(arguments) => references::propose(arguments, &session, output).await,
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
