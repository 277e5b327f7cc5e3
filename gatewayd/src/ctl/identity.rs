//! `gatewayctl identity`.

use clap::Subcommand;

use super::exit::Failure;
use super::output::{Output, text};
use super::session::{Session, json};

/// What can be seen of the gateway's identity.
#[derive(Subcommand)]
pub(super) enum Command {
    /// Public halves of the keys, and what is known of the TPM
    #[command(after_help = "D-Bus: org.gatewayd.Gateway1.Attestation.Identity")]
    Show,
    /// Renew the attestation of this gateway now: a quorum of the voters appraises it afresh
    #[command(after_help = "D-Bus: org.gatewayd.Gateway1.Attestation.Renew")]
    Attest,
}

pub(super) async fn run(
    command: Command,
    session: Session,
    output: &mut Output,
) -> Result<(), Failure> {
    match command {
        Command::Show => show(&session, output).await,
        Command::Attest => {
            let done = json(session.client.attestation().await?.renew().await)?;
            output.value(&done)?;
            Ok(output.line(&format!("{} (height {})", text(&done, "summary"), done["height"]))?)
        }
    }
}

async fn show(session: &Session, output: &mut Output) -> Result<(), Failure> {
    let identity = json(session.client.attestation().await?.identity().await)?;
    output.value(&identity)?;
    let software = match identity["software"].as_bool() {
        Some(true) => "yes: its keys can be copied by whoever has the disk",
        _ => "no",
    };
    let certificate = match identity["ek_certificate"].as_bool() {
        Some(true) => "in the TPM",
        _ => "none in the TPM",
    };
    Ok(output.list(&[
        ("Gateway", text(&identity, "gateway")),
        ("Attestation", text(&identity, "attestation")),
        ("TPM", text(&identity, "tpm")),
        ("Software TPM", software.into()),
        ("EK digest", text(&identity, "ek_digest")),
        ("EK type", text(&identity, "ek_type")),
        ("EK certificate", certificate.into()),
        ("AK name", text(&identity, "ak_name")),
        ("Identity key", text(&identity, "identity_key")),
        ("Vote key", text(&identity, "vote_key")),
        ("Start counter", text(&identity, "start_counter")),
    ])?)
}
