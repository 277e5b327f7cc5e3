//! `gatewayctl identity seal`: the operator signs a boot in which the storage key of a gateway
//! opens. It is no act on the record: it is for one TPM, and the daemon keeps it.

use std::path::Path;

use attestation::pcr_policy::{Approval, approval_message};
use clap::Args;
use ledger::crypto::sha256;
use serde_json::json as object;

use super::{SIGNATURE, Signing, armour, parse_as, read_text, write};
use crate::ctl::exit::{Exit, Failure};
use crate::ctl::output::{Output, text};
use crate::ctl::prompt;
use crate::ctl::session::{Session, json};
use crate::dbus::client::Arguments;
use crate::operator_key;
use crate::sensors::settings::{hex, unhex};

/// Calls of the command, for the help.
pub(in crate::ctl) const CALLS: &str =
    "D-Bus: org.gatewayd.Gateway1.Attestation.PrepareBoot, AddBoot";

/// Label of the request in a file.
const REQUEST: &str = "GATEWAYD BOOT REQUEST";

/// Which boot.
#[derive(Args)]
pub(in crate::ctl) struct Seal {
    /// Value that a register will have, as 4=HEX (SHA-256); the others are as they are now. For an
    /// update that is not booted yet
    #[arg(long = "pcr", value_name = "REGISTER=HEX", value_parser = register)]
    registers: Vec<String>,
    /// Seal the key anew, so that all boots that were signed before open it no longer
    #[arg(long)]
    new_epoch: bool,
    #[command(flatten)]
    signing: Signing,
}

/// REGISTER=HEX, as the daemon takes it.
fn register(text: &str) -> Result<String, String> {
    let parsed = text.split_once('=').and_then(|(register, value)| {
        let register = register.parse::<u8>().ok().filter(|register| *register < 24)?;
        let value = unhex(value).filter(|value| value.len() == 32)?;
        Some(format!("{register}={}", hex(&value)))
    });
    parsed.ok_or_else(|| "a register is 0 to 23, its value 64 hexadecimal digits: 4=HEX".into())
}

/// Has a boot signed, or does one step of that.
pub(in crate::ctl) async fn seal(
    arguments: Seal,
    session: &Session,
    output: &mut Output,
) -> Result<(), Failure> {
    let Seal { registers, new_epoch, signing } = arguments;
    if let Some(file) = &signing.way.apply {
        let (boot, signature) = read(file)?;
        let Some(signature) = signature else {
            return Err(Failure::usage(format!("{} is not signed yet", file.display()))
                .advise("sign it where the operator key is: `gatewayctl operator sign FILE`"));
        };
        return add(boot.to_bytes(), signature, session, output).await;
    }
    let attestation = session.client.attestation().await?;
    let options = Arguments::default()
        .text("registers", &registers.join(","))
        .flag("new_epoch", new_epoch)
        .dict();
    let bytes = attestation.prepare_boot(options).await?;
    let boot = parse(&bytes)?;
    describe(&boot, output)?;
    if let Some(file) = &signing.way.request {
        write(file, &armour(REQUEST, &bytes)?)?;
        let name = file.display().to_string();
        output.value(&object!({ "file": name }))?;
        return Ok(output.line(&format!(
            "next: `gatewayctl operator sign {name} --operator-key KEY` where the key is, then \
             `gatewayctl identity seal --apply {name}` here"
        ))?);
    }
    let Some(key) = &signing.way.operator_key else {
        return Err(Failure::usage("one of --operator-key, --request and --apply is needed"));
    };
    prompt::confirm("Sign this boot?", signing.yes)?;
    let signature = sign_with(&boot, key, &signing.passphrase_file)?;
    add(bytes, signature, session, output).await
}

async fn add(
    boot: Vec<u8>,
    signature: Vec<u8>,
    session: &Session,
    output: &mut Output,
) -> Result<(), Failure> {
    let done = json(session.client.attestation().await?.add_boot(boot, signature).await)?;
    output.value(&done)?;
    Ok(output.line(&text(&done, "summary"))?)
}

/// Whether a file is a request of this kind.
pub(super) fn is_request(text: &str) -> bool {
    text.starts_with(&format!("-----BEGIN {REQUEST}-----"))
}

/// `operator sign` of such a file: offline.
pub(super) fn sign(
    file: &Path,
    key: &Path,
    passphrase_file: &Option<std::path::PathBuf>,
    yes: bool,
    output: &mut Output,
) -> Result<(), Failure> {
    let (boot, _) = read(file)?;
    describe(&boot, output)?;
    prompt::confirm("Sign this boot?", yes)?;
    let signature = sign_with(&boot, key, passphrase_file)?;
    let both = armour(REQUEST, &boot.to_bytes())? + &armour(SIGNATURE, &signature)?;
    write(file, &both)?;
    output.value(&object!({ "file": file.display().to_string(), "signed": true }))?;
    Ok(output.line(&format!("signed: {}; take it back and use --apply", file.display()))?)
}

fn sign_with(
    boot: &Approval,
    key: &Path,
    passphrase_file: &Option<std::path::PathBuf>,
) -> Result<Vec<u8>, Failure> {
    let key = operator_key::open(key, &prompt::passphrase(passphrase_file, false)?)?;
    let own = key.public_key().to_uncompressed().ok();
    if own != Some(boot.operator) {
        return Err(Failure::new(
            Exit::Refused,
            "this is not the operator key that the storage key of that gateway is sealed to",
        ));
    }
    let digest = sha256(&[&approval_message(&boot.policy, boot.epoch)]);
    Ok(key.sign_digest(&digest).as_bytes().to_vec())
}

fn describe(boot: &Approval, output: &mut Output) -> Result<(), Failure> {
    let registers: Vec<String> = boot.pcrs.iter().map(|pcr| pcr.to_string()).collect();
    output.line("Let the storage key of one gateway open in one boot:")?;
    Ok(output.list(&[
        ("Registers", registers.join(", ")),
        ("Policy digest", hex(&boot.policy)),
        ("Epoch", boot.epoch.to_string()),
    ])?)
}

fn parse(bytes: &[u8]) -> Result<Approval, Failure> {
    Approval::from_bytes(bytes).map_err(|error| {
        Failure::new(Exit::Failed, format!("this is no boot to be signed: {error}"))
    })
}

fn read(file: &Path) -> Result<(Approval, Option<Vec<u8>>), Failure> {
    let found = parse_as(&read_text(file)?, REQUEST);
    let (boot, signature) = found.ok_or_else(|| {
        Failure::usage(format!("{} is not a request file of `identity seal`", file.display()))
    })?;
    Ok((parse(&boot)?, signature))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_register_has_a_number_and_a_whole_value() {
        let value = "ab".repeat(32);
        assert_eq!(register(&format!("4={value}")), Ok(format!("4={value}")));
        for wrong in ["", "4", "24=00", "4=ab", &format!("x={value}")] {
            assert!(register(wrong).is_err(), "{wrong}");
        }
    }
}
