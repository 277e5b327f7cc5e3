//! `gatewayctl site`.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::Value;

use super::exit::Failure;
use super::operator::{self, Signing};
use super::output::{Output, plain, text};
use super::session::{Session, json};
use super::{policy, prompt};
use crate::dbus::client::Arguments;
use crate::operator_key;

/// What can be done with the site.
#[derive(Subcommand)]
pub(super) enum Command {
    /// Found a site: makes the operator key here and the record in the daemon
    #[command(after_help = "D-Bus: org.gatewayd.Gateway1.Manager.InitSite")]
    Init(InitArguments),
    /// The site, its record and its policy
    #[command(after_help = "D-Bus: org.gatewayd.Gateway1.Manager.Site")]
    Show,
    /// The card to print and keep: what others need to trust this site
    #[command(after_help = "D-Bus: org.gatewayd.Gateway1.Manager.Site")]
    Card,
    /// Show and change the rules that all gateways agree on
    #[command(subcommand)]
    Policy(policy::Command),
    /// Go on after the record was rolled back or its voters were lost (an operator act)
    #[command(after_help = operator::CALLS)]
    Recover {
        #[command(flatten)]
        signing: Signing,
    },
}

/// What founding takes.
#[derive(Args)]
pub(super) struct InitArguments {
    /// Name of the site
    #[arg(long)]
    pub(super) name: String,
    /// File for the new operator key; it must not exist. Keep it off the gateways
    #[arg(long, value_name = "FILE")]
    pub(super) operator_key: PathBuf,
    /// File with the key's passphrase, `-` for standard input; asked for when not given
    #[arg(long, value_name = "FILE")]
    pub(super) passphrase_file: Option<PathBuf>,
    /// Found it on a software TPM: every reading and proof will say *unattested*
    #[arg(long)]
    pub(super) unattested: bool,
}

pub(super) async fn run(
    command: Command,
    session: Session,
    output: &mut Output,
) -> Result<(), Failure> {
    match command {
        Command::Init(arguments) => {
            let site = init(&arguments, &session).await?;
            output.value(&site)?;
            founded(&site, &arguments.operator_key, output)
        }
        Command::Show => {
            let site = json(session.client.manager().await?.site().await)?;
            output.value(&site)?;
            show(&site, output)
        }
        Command::Card => {
            let site = json(session.client.manager().await?.site().await)?;
            output.value(&site)?;
            card(&site, output)
        }
        Command::Policy(command) => policy::run(command, session, output).await,
        Command::Recover { signing } => {
            operator::perform("recover", &[], &signing, &session, output).await
        }
    }
}

/// Makes the operator key and founds the site; the daemon sees the public half only.
pub(super) async fn init(arguments: &InitArguments, session: &Session) -> Result<Value, Failure> {
    let manager = session.client.manager().await?;
    // Looked at first, so that no key is made for a site that cannot be founded.
    let gateway = manager.gateway().await.map_err(crate::dbus::Error::from)?;
    if !gateway.is_empty() {
        return Err(crate::dbus::Error::AlreadyInitialised(format!(
            "an identity exists already ({gateway}); it is never overwritten"
        ))
        .into());
    }
    let passphrase = prompt::passphrase(&arguments.passphrase_file, true)?;
    let file = &arguments.operator_key;
    let key = operator_key::create(file, &passphrase)?;
    let options = Arguments::default().flag("unattested", arguments.unattested).dict();
    let public = key.public_key().as_bytes().to_vec();
    let founded = json(manager.init_site(arguments.name.clone(), public, options).await);
    founded.map_err(|failure| withdraw(file, failure))
}

/// Takes back a key that no genesis names, so that the command can be repeated. After a timeout the
/// site may yet be founded: then the key stays.
fn withdraw(file: &Path, failure: Failure) -> Failure {
    use super::exit::Exit;
    if matches!(failure.exit, Exit::Timeout | Exit::NotRunning) {
        return failure.advise(format!(
            "the site may have been founded all the same: keep {} and look at `gatewayctl status`",
            file.display()
        ));
    }
    match std::fs::remove_file(file) {
        Ok(()) => failure,
        Err(error) => {
            failure.advise(format!("{} belongs to no site: remove it ({error})", file.display()))
        }
    }
}

/// Prints what to do after founding.
pub(super) fn founded(site: &Value, key: &Path, output: &mut Output) -> Result<(), Failure> {
    card(site, output)?;
    output.line("")?;
    output.line(&format!(
        "The operator key is in {}. Move it, and its passphrase, off this gateway and keep two \
         copies: nothing replaces it.",
        key.display()
    ))?;
    if text(site, "attestation") == "unattested" {
        output.line(
            "This site is UNATTESTED: its TPM is a software one, and every reading says so.",
        )?;
    }
    Ok(())
}

fn show(site: &Value, output: &mut Output) -> Result<(), Failure> {
    output.list(&[
        ("Site", text(site, "name")),
        ("Chain ID", text(site, "chain_id")),
        ("Site code", text(site, "site_code")),
        ("As of height", text(site, "height")),
        ("Genesis code", text(site, "genesis_code")),
        ("Gateway", text(site, "gateway")),
        ("Operator key", text(site, "operator_key")),
        ("Attestation", text(site, "attestation")),
        ("Era", text(site, "era")),
    ])?;
    for (key, value) in site["policy"].as_object().into_iter().flatten() {
        output.line(&format!("policy {key} = {}", plain(value)))?;
    }
    Ok(())
}

fn card(site: &Value, output: &mut Output) -> Result<(), Failure> {
    output.line(&format!("Site card: {}", text(site, "name")))?;
    output.line("")?;
    output.line(&format!("  Site code     {}", text(site, "site_code")))?;
    output.line(&format!("  as of height  {}", text(site, "height")))?;
    output.line(&format!("  Chain ID      {}", text(site, "chain_id")))?;
    output.line(&format!("  Attestation   {}", text(site, "attestation")))?;
    output.line("")?;
    Ok(output
        .line("Whoever holds the site code can check this site's proofs, offline:")
        .and_then(|()| output.line("  gatewayctl verify FILE --anchor CODE"))?)
}
