//! `gatewayctl site policy reference` and `propose-from`: what may boot on a gateway.

use std::io::Read;
use std::path::{Path, PathBuf};

use attestation::ReferenceValues;
use clap::{Args, Subcommand};
use pkcs8::LineEnding;
use pkcs8::der::pem;
use serde_json::{Value, json as object};

use crate::control::policy::{REFERENCE_VALUES, blocks};
use crate::ctl::exit::{Exit, Failure};
use crate::ctl::operator::{self, Signing};
use crate::ctl::output::{Output, local_time, text};
use crate::ctl::session::{Session, json_list};
use crate::ctl::time;

/// Call of `propose-from`, for the help.
pub(super) const CALLS: &str = "D-Bus: org.gatewayd.Gateway1.Manager.ProposeReferenceValues";

/// Longest file of reference values, bytes.
const MAX_FILE: u64 = 4 * 1024 * 1024;

/// What can be done with reference values.
#[derive(Subcommand)]
pub(in crate::ctl) enum Command {
    /// Let what a file describes boot, beside what may boot now (an operator act)
    #[command(after_help = operator::CALLS)]
    Add {
        /// File written by `propose-from`
        file: PathBuf,
        /// Until when the old reference values hold beside the new ones: days as `30d`, hours as
        /// `48h`, or `for-ever`
        #[arg(long, default_value = "30d", value_parser = window)]
        until: Window,
        #[command(flatten)]
        signing: Signing,
    },
    /// The reference values of the site
    #[command(after_help = "D-Bus: org.gatewayd.Gateway1.Manager.ListPolicyDocuments")]
    List,
    /// Let them hold no longer (an operator act)
    #[command(after_help = operator::CALLS)]
    Remove {
        /// SHA-256 of the document as `list` shows it, or its first eight characters or more
        #[arg(required = true)]
        documents: Vec<String>,
        #[command(flatten)]
        signing: Signing,
    },
}

/// How long the old ones hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::ctl) enum Window {
    /// So many milliseconds from now.
    For(u64),
    /// Without end.
    ForEver,
}

/// Which gateway, and where the proposal goes.
#[derive(Args)]
pub(in crate::ctl) struct Propose {
    /// A member that runs as it should: its ID (`gw1…`), or `self` for the one that this runs on
    gateway: String,
    /// What is judged: the boot, or the boot and all files that are opened
    #[arg(long, default_value = "measured", value_parser = ["measured", "measured+ima"])]
    profile: String,
    /// File for the proposal; `site policy reference add` takes it
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

fn window(text: &str) -> Result<Window, String> {
    /// One hour, ms.
    const HOUR_MS: u64 = 3_600_000;
    if text == "for-ever" {
        return Ok(Window::ForEver);
    }
    let hours = match (text.strip_suffix('d'), text.strip_suffix('h')) {
        (Some(days), _) => days.parse::<u32>().ok().map(|days| u64::from(days) * 24),
        (_, Some(hours)) => hours.parse::<u32>().ok().map(u64::from),
        _ => None,
    };
    let hours = hours.filter(|hours| *hours > 0);
    hours.map(|hours| Window::For(hours * HOUR_MS)).ok_or_else(|| "30d, 48h or for-ever".into())
}

pub(super) async fn run(
    command: Command,
    session: &Session,
    output: &mut Output,
) -> Result<(), Failure> {
    match command {
        Command::Add { file, until, signing } => {
            let settings = match signing.applies() {
                true => vec![],
                false => additions(&file, until, output)?,
            };
            operator::perform("policy", &settings, &signing, session, output).await
        }
        Command::List => list(session, output).await,
        Command::Remove { documents, signing } => {
            let settings = [("remove_reference_values".to_owned(), documents.join(","))];
            operator::perform("policy", &settings, &signing, session, output).await
        }
    }
}

fn additions(
    file: &Path,
    until: Window,
    output: &mut Output,
) -> Result<Vec<(String, String)>, Failure> {
    let mut bundle = String::new();
    std::fs::File::open(file)
        .and_then(|opened| opened.take(MAX_FILE).read_to_string(&mut bundle))
        .map_err(|error| Failure::file(file, &error))?;
    let documents = blocks(&bundle, REFERENCE_VALUES)
        .map_err(|error| Failure::usage(format!("{}: {error}", file.display())))?;
    for document in &documents {
        describe(document, output)?;
    }
    let mut settings = vec![("add_reference_values".to_owned(), bundle)];
    if let Window::For(time_ms) = until {
        let end = time::now_ms().saturating_add(time_ms);
        settings.push(("old_until_ms".to_owned(), end.to_string()));
    }
    Ok(settings)
}

async fn list(session: &Session, output: &mut Output) -> Result<(), Failure> {
    let manager = session.client.manager().await?;
    let mut documents = json_list(manager.list_policy_documents().await)?;
    documents.retain(|document| document["kind"] == "reference-values");
    let row = |document: &Value| {
        let until = match local_time(document, "until_ms") {
            without_end if without_end.is_empty() => "no end".into(),
            time => time,
        };
        vec![until, text(document, "bytes"), text(document, "sha256")]
    };
    let rows: Vec<Vec<String>> = documents.iter().map(row).collect();
    output.value(&Value::Array(documents))?;
    let none = "no reference values: a measured profile lets nothing in";
    Ok(output.table(&["UNTIL", "BYTES", "SHA-256"], &rows, none)?)
}

pub(super) async fn propose(
    arguments: Propose,
    session: &Session,
    output: &mut Output,
) -> Result<(), Failure> {
    let Propose { gateway, profile, out } = arguments;
    let manager = session.client.manager().await?;
    let documents = manager.propose_reference_values(gateway, profile).await?;
    let mut bundle = String::new();
    for document in &documents {
        describe(document, output)?;
        let block = pem::encode_string(REFERENCE_VALUES, LineEnding::LF, document)
            .map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
        bundle.push_str(&block);
    }
    let Some(file) = out else {
        output.value(&object!({ "documents": documents.len(), "bundle": bundle }))?;
        return Ok(bundle.lines().try_for_each(|line| output.line(line))?);
    };
    std::fs::write(&file, bundle).map_err(|error| Failure::file(&file, &error))?;
    let name = file.display().to_string();
    output.value(&object!({ "documents": documents.len(), "file": name }))?;
    Ok(output.line(&format!("next: gatewayctl site policy reference add {name}"))?)
}

/// What a document lets boot.
fn describe(document: &[u8], output: &mut Output) -> Result<(), Failure> {
    let values = ReferenceValues::from_bytes(document)
        .map_err(|error| Failure::usage(format!("these are no reference values: {error}")))?;
    for line in lines(&values) {
        output.line(&line)?;
    }
    Ok(())
}

fn lines(values: &ReferenceValues) -> Vec<String> {
    let mut lines = Vec::new();
    for (pcr, events) in &values.boot {
        lines.push(format!("PCR {pcr}: {} event(s)", events.len()));
        lines.extend(events.iter().map(|event| format!("  {}", event.text)));
    }
    if !values.files.is_empty() {
        lines.push(format!("{} file(s) that may be opened", values.files.len()));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use attestation::reference_values::ReferenceEvent;

    fn values() -> ReferenceValues {
        let event = ReferenceEvent {
            kind: 8,
            digest: [7; 32],
            covers_payload: false,
            text: "firmware 1.2".into(),
        };
        ReferenceValues { boot: [(0, vec![event]), (1, vec![])].into(), files: vec![] }
    }

    #[test]
    fn a_window_has_a_unit() {
        assert_eq!(window("30d"), Ok(Window::For(30 * 24 * 3_600_000)));
        assert_eq!(window("48h"), Ok(Window::For(48 * 3_600_000)));
        assert_eq!(window("for-ever"), Ok(Window::ForEver));
        for wrong in ["", "30", "0d", "d", "-1d", "1w", "99999999999d"] {
            assert!(window(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_proposal_in_a_file_becomes_the_act() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let file = folder.path().join("proposal");
        let block = pem::encode_string(REFERENCE_VALUES, LineEnding::LF, &values().to_bytes());
        std::fs::write(&file, block.expect("PEM")).expect("written");
        let mut output = Output::nowhere();
        let keys = |until| -> Vec<String> {
            let settings = additions(&file, until, &mut Output::nowhere()).expect("complete");
            settings.into_iter().map(|(key, _)| key).collect()
        };
        assert_eq!(keys(Window::For(1)), ["add_reference_values", "old_until_ms"]);
        assert_eq!(keys(Window::ForEver), ["add_reference_values"]);
        assert_eq!(lines(&values()), ["PCR 0: 1 event(s)", "  firmware 1.2", "PCR 1: 0 event(s)"]);
        std::fs::write(&file, "nothing").expect("written");
        let failure = additions(&file, Window::ForEver, &mut output).expect_err("none in it");
        assert_eq!(failure.exit, Exit::Usage);
    }
}
