//! `gatewayctl identity`.

mod upgrade;

use clap::Subcommand;

use super::exit::Failure;
use super::operator::boot;
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
    /// Give this gateway a new vote key: it is on the record before the old one is destroyed
    #[command(after_help = "D-Bus: org.gatewayd.Gateway1.Attestation.RotateVoteKey")]
    Rotate,
    /// Move an unattested gateway to a hardware TPM, with all it has recorded (an operator act)
    #[command(after_help = upgrade::CALLS)]
    Upgrade(upgrade::Arguments),
    /// Have the keys of this gateway open in a boot that the operator has signed, and in no other
    #[command(after_help = boot::CALLS)]
    Seal(boot::Seal),
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
        Command::Rotate => rotate(&session, output).await,
        Command::Seal(arguments) => boot::seal(arguments, &session, output).await,
        Command::Upgrade(arguments) => upgrade::run(arguments, &session, output).await,
    }
}

async fn rotate(session: &Session, output: &mut Output) -> Result<(), Failure> {
    let attestation = session.client.attestation().await?;
    output.line("making a vote key, having the TPM certify it, waiting for a block with it")?;
    let done = json(attestation.rotate_vote_key().await).map_err(|failure| {
        match failure.advice {
        Some(_) => failure,
        None => failure.advise(
            "the old vote key goes on unless the record names the new one; trying again uses the \
             same new key, whatever came between",
        ),
    }
    })?;
    output.value(&done)?;
    output.list(&[
        ("Destroyed", text(&done, "old_vote_key")),
        ("Vote key", text(&done, "vote_key")),
        ("Height", text(&done, "height")),
    ])?;
    Ok(output.line(&text(&done, "summary"))?)
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
        ("Key digest", text(&identity, "key_digest")),
        ("Vote key", text(&identity, "vote_key")),
        ("Storage key", text(&identity, "storage_key")),
        ("Start counter", text(&identity, "start_counter")),
    ])?)
}
