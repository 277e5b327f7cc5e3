//! Acts of the operator: prepared by the daemon, signed here with the operator key, submitted by
//! the daemon. At once where the key is at hand, or in three steps over a USB stick or SSH:
//!
//! ```text
//! gateway  --request FILE ──> laptop  operator sign FILE ──> gateway  --apply FILE
//! ```

pub(super) mod boot;

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use ledger::codec::Decode;
use ledger::operator::Request;
use pkcs8::LineEnding;
use pkcs8::der::pem;
use serde_json::json as object;

use super::exit::{Exit, Failure};
use super::output::{Output, text};
use super::session::{Session, json};
use super::{prompt, time};
use crate::dbus::client::Arguments;
use crate::operator_key;

/// Calls that acts make, for the help.
pub(super) const CALLS: &str =
    "D-Bus: org.gatewayd.Gateway1.Manager.PrepareOperatorAct, SubmitOperatorAct";

/// What the operator can do.
#[derive(Subcommand)]
pub(super) enum Command {
    /// Sign a request file, offline: shows what it does and asks
    #[command(after_help = "Offline: makes no D-Bus call.")]
    Sign(SignArguments),
    /// Any act by its kind
    #[command(after_help = CALLS)]
    Act(ActArguments),
}

/// What is signed, with which key.
#[derive(Args)]
pub(super) struct SignArguments {
    /// File written by --request; the signature is added to it
    file: PathBuf,
    /// File of the operator key
    #[arg(long, value_name = "FILE")]
    operator_key: PathBuf,
    /// File with the key's passphrase, `-` for standard input; asked for when not given
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

/// An act by its kind.
#[derive(Args)]
pub(super) struct ActArguments {
    /// `policy`, `suspend`, `pardon`, `revoke` (with node=ID and reason=TEXT) or `recover`
    kind: String,
    /// Options of the act as KEY=VALUE
    #[arg(value_parser = setting)]
    settings: Vec<(String, String)>,
    #[command(flatten)]
    signing: Signing,
}

/// How an act gets its signature.
#[derive(Args)]
pub(super) struct Signing {
    #[command(flatten)]
    way: Way,
    /// File with the key's passphrase, `-` for standard input; asked for when not given
    #[arg(long, value_name = "FILE", requires = "operator_key")]
    passphrase_file: Option<PathBuf>,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

impl Signing {
    /// Whether a signed file is submitted: nothing has to be looked up any more.
    pub(super) fn applies(&self) -> bool {
        self.way.apply.is_some()
    }

    /// Whether only a request is written, to be signed elsewhere.
    pub(super) fn requests(&self) -> bool {
        self.way.request.is_some()
    }
}

/// One of the three.
#[derive(Args)]
#[group(required = true, multiple = false)]
struct Way {
    /// Sign here and now with the operator key in this file
    #[arg(long, value_name = "FILE")]
    operator_key: Option<PathBuf>,
    /// Step 1 of 3: write the request to this file
    #[arg(long, value_name = "FILE")]
    request: Option<PathBuf>,
    /// Step 3 of 3: submit this signed file
    #[arg(long, value_name = "FILE")]
    apply: Option<PathBuf>,
}

/// KEY=VALUE.
pub(super) fn setting(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.into(), value.into())),
        _ => Err("a setting is KEY=VALUE".into()),
    }
}

pub(super) async fn act(
    arguments: ActArguments,
    session: Session,
    output: &mut Output,
) -> Result<(), Failure> {
    let ActArguments { kind, settings, signing } = arguments;
    perform(&kind, &settings, &signing, &session, output).await
}

/// Does an act, or one step of it.
pub(super) async fn perform(
    kind: &str,
    settings: &[(String, String)],
    signing: &Signing,
    session: &Session,
    output: &mut Output,
) -> Result<(), Failure> {
    if let Some(file) = &signing.way.apply {
        return apply(file, session, output).await;
    }
    let options = settings
        .iter()
        .fold(Arguments::default(), |options, (key, value)| options.text(key, value))
        .dict();
    let manager = session.client.manager().await?;
    let act = manager.prepare_operator_act(kind.into(), options).await?;
    let request = read_request(&act)?;
    if let Some(file) = &signing.way.request {
        write(file, &armour(REQUEST, &act)?)?;
        output.value(&object!({ "file": file.display().to_string() }))?;
        describe(&request, output)?;
        return Ok(output.line(&format!(
            "next: `gatewayctl operator sign {0} --operator-key KEY` where the key is, then the \
             same command here with --apply {0}",
            file.display()
        ))?);
    }
    let Some(key) = &signing.way.operator_key else {
        return Err(Failure::usage("one of --operator-key, --request and --apply is needed"));
    };
    describe(&request, output)?;
    prompt::confirm("Sign and submit this?", signing.yes)?;
    let signature = sign_with(request, key, &signing.passphrase_file)?;
    submit(act, signature, session, output).await
}

/// `operator sign`: no daemon, no network.
pub(super) fn sign(arguments: &SignArguments, output: &mut Output) -> Result<(), Failure> {
    let SignArguments { file, operator_key, passphrase_file, yes } = arguments;
    if boot::is_request(&read_text(file)?) {
        return boot::sign(file, operator_key, passphrase_file, *yes, output);
    }
    let (act, _) = read_file(file)?;
    let request = read_request(&act)?;
    describe(&request, output)?;
    prompt::confirm("Sign this?", *yes)?;
    let signature = sign_with(request, operator_key, passphrase_file)?;
    let both = armour(REQUEST, &act)? + &armour(SIGNATURE, &signature)?;
    write(file, &both)?;
    output.value(&object!({ "file": file.display().to_string(), "signed": true }))?;
    Ok(output.line(&format!("signed: {}; take it back and use --apply", file.display()))?)
}

async fn apply(file: &Path, session: &Session, output: &mut Output) -> Result<(), Failure> {
    let (act, signature) = read_file(file)?;
    let Some(signature) = signature else {
        return Err(Failure::usage(format!("{} is not signed yet", file.display()))
            .advise("sign it where the operator key is: `gatewayctl operator sign FILE`"));
    };
    submit(act, signature, session, output).await
}

async fn submit(
    act: Vec<u8>,
    signature: Vec<u8>,
    session: &Session,
    output: &mut Output,
) -> Result<(), Failure> {
    let done = json(session.client.manager().await?.submit_operator_act(act, signature).await)?;
    output.value(&done)?;
    Ok(output.line(&format!("{} (height {})", text(&done, "summary"), done["height"]))?)
}

fn sign_with(
    request: Request,
    key: &Path,
    passphrase_file: &Option<PathBuf>,
) -> Result<Vec<u8>, Failure> {
    let key = operator_key::open(key, &prompt::passphrase(passphrase_file, false)?)?;
    Ok(request.sign(&key).transaction().signature().as_bytes().to_vec())
}

/// What the act does, in sentences.
fn describe(request: &Request, output: &mut Output) -> Result<(), Failure> {
    for sentence in request.describe() {
        output.line(&sentence)?;
    }
    Ok(output.line(&format!("That is {} here", time::local(request.draft().expiry)))?)
}

fn read_request(act: &[u8]) -> Result<Request, Failure> {
    Request::from_bytes(act).map_err(|error| {
        Failure::new(Exit::Failed, format!("this is no operator act of this version: {error}"))
    })
}

/// Label of the act in a request file.
const REQUEST: &str = "GATEWAYD OPERATOR REQUEST";

/// Label of the signature that is added.
const SIGNATURE: &str = "GATEWAYD OPERATOR SIGNATURE";

/// Longest request file, bytes: the largest act in base64, its signature and the labels.
const MAX_FILE: u64 = 2 * ledger::operator::MAX_ACT as u64;

fn armour(label: &'static str, bytes: &[u8]) -> Result<String, Failure> {
    pem::encode_string(label, LineEnding::LF, bytes)
        .map_err(|error| Failure::new(Exit::Failed, error.to_string()))
}

fn write(file: &Path, text: &str) -> Result<(), Failure> {
    std::fs::write(file, text).map_err(|error| Failure::file(file, &error))
}

/// The act and, when it is there, the signature of a request file.
fn read_file(file: &Path) -> Result<(Vec<u8>, Option<Vec<u8>>), Failure> {
    parse(&read_text(file)?).ok_or_else(|| {
        Failure::usage(format!("{} is not a request file of --request", file.display()))
    })
}

fn read_text(file: &Path) -> Result<String, Failure> {
    use std::io::Read;
    let mut text = String::new();
    std::fs::File::open(file)
        .and_then(|opened| opened.take(MAX_FILE).read_to_string(&mut text))
        .map_err(|error| Failure::file(file, &error))?;
    Ok(text)
}

fn parse(text: &str) -> Option<(Vec<u8>, Option<Vec<u8>>)> {
    parse_as(text, REQUEST)
}

/// What is to be signed, under its label, and the signature when it is there.
fn parse_as(text: &str, label: &str) -> Option<(Vec<u8>, Option<Vec<u8>>)> {
    let begin = format!("-----BEGIN {SIGNATURE}-----");
    let (request, signature) = match text.find(&begin) {
        Some(at) => text.split_at(at),
        None => (text, ""),
    };
    let block = |text: &str, label: &str| {
        let (found, bytes) = pem::decode_vec(text.trim().as_bytes()).ok()?;
        (found == label).then_some(bytes)
    };
    let signature = match signature {
        "" => None,
        signature => Some(block(signature, SIGNATURE)?),
    };
    Some((block(request, label)?, signature))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_files_come_back_with_and_without_signature() {
        let act = vec![7; 200];
        let unsigned = armour(REQUEST, &act).expect("armour");
        assert_eq!(parse(&unsigned), Some((act.clone(), None)));
        let signed = unsigned + &armour(SIGNATURE, &[9; 64]).expect("armour");
        assert_eq!(parse(&signed), Some((act, Some(vec![9; 64]))));
    }

    #[test]
    fn other_files_are_no_request_files() {
        let other = armour("CERTIFICATE", &[1]).expect("armour");
        let twice = armour(SIGNATURE, &[1]).expect("armour");
        for text in ["", "garbage", "-----BEGIN GATEWAYD OPERATOR REQUEST-----\n", &other, &twice] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn settings_are_key_and_value() {
        assert_eq!(setting("reason=a=b"), Ok(("reason".into(), "a=b".into())));
        assert!(setting("=x").is_err() && setting("voters").is_err());
    }
}
