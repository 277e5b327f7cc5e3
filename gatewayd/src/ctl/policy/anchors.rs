//! `gatewayctl site policy anchor`: certificates of TPM vendors, read from files here and judged
//! by the operator alone.

use std::io::Read;
use std::path::{Path, PathBuf};

use attestation::endorsement::Certificate;
use clap::Subcommand;
use pkcs8::LineEnding;
use pkcs8::der::pem;
use serde_json::Value;

use crate::control::policy::{CERTIFICATE, blocks};
use crate::ctl::exit::{Exit, Failure};
use crate::ctl::operator::{self, Signing};
use crate::ctl::output::{Output, text};
use crate::ctl::session::{Session, json_list};
use crate::sensors::settings::hex;
use crate::vendors;

/// Longest file of certificates, bytes.
const MAX_FILE: u64 = 256 * 1024;

/// Most files of one folder that are looked at.
const MAX_FILES: usize = 1_000;

/// Endings of files that hold certificates.
const ENDINGS: [&str; 4] = ["pem", "crt", "cer", "der"];

/// What can be done with anchors.
#[derive(Subcommand)]
pub(in crate::ctl) enum Command {
    /// Trust the vendors of these certificates (an operator act)
    #[command(after_help = operator::CALLS)]
    Add {
        /// File with certificates (PEM or DER), or a folder of such files
        #[arg(required = true)]
        files: Vec<PathBuf>,
        #[command(flatten)]
        signing: Signing,
    },
    /// The anchors that the site trusts
    #[command(after_help = "D-Bus: org.gatewayd.Gateway1.Manager.ListPolicyDocuments")]
    List,
    /// Trust them no longer (an operator act)
    #[command(after_help = operator::CALLS)]
    Remove {
        /// SHA-256 of the certificate as `list` shows it, or its first eight characters or more
        #[arg(required = true)]
        anchors: Vec<String>,
        #[command(flatten)]
        signing: Signing,
    },
}

pub(super) async fn run(
    command: Command,
    session: &Session,
    output: &mut Output,
) -> Result<(), Failure> {
    match command {
        Command::Add { files, signing } => {
            let settings = match signing.applies() {
                true => vec![],
                false => vec![("add_anchors".to_owned(), bundle(&files, output)?)],
            };
            operator::perform("policy", &settings, &signing, session, output).await
        }
        Command::List => list(session, output).await,
        Command::Remove { anchors, signing } => {
            let settings = [("remove_anchors".to_owned(), anchors.join(","))];
            operator::perform("policy", &settings, &signing, session, output).await
        }
    }
}

async fn list(session: &Session, output: &mut Output) -> Result<(), Failure> {
    let manager = session.client.manager().await?;
    let mut anchors = json_list(manager.list_policy_documents().await)?;
    anchors.retain(|document| document["kind"] == "anchor");
    let row = |anchor: &Value| {
        let vendor = match text(anchor, "vendor") {
            unknown if unknown.is_empty() => "not a published fingerprint known here".into(),
            known => known,
        };
        vec![vendor, text(anchor, "subject"), text(anchor, "sha256")]
    };
    let rows: Vec<Vec<String>> = anchors.iter().map(row).collect();
    output.value(&Value::Array(anchors))?;
    Ok(output.table(
        &["VENDOR", "SUBJECT", "SHA-256"],
        &rows,
        "no TPM vendor is trusted: `gatewayctl site policy anchor add FILE`, or pin single TPMs",
    )?)
}

/// All certificates of the files as one bundle; each is told with what is known of it.
fn bundle(files: &[PathBuf], output: &mut Output) -> Result<String, Failure> {
    let mut bundle = String::new();
    let mut skipped = None;
    for (file, named) in files_of(files)? {
        match readable(&file) {
            Ok(certificates) => {
                for (der, lines) in certificates {
                    lines.iter().try_for_each(|line| output.line(line))?;
                    let block = pem::encode_string(CERTIFICATE, LineEnding::LF, &der)
                        .map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
                    bundle.push_str(&block);
                }
            }
            // What the operator has named must be one; a folder holds other files, too.
            Err(failure) if named => return Err(failure),
            Err(failure) => {
                output.line(&format!("skipped: {}", failure.message))?;
                skipped.get_or_insert(failure);
            }
        }
    }
    match skipped {
        Some(failure) if bundle.is_empty() => Err(failure),
        _ => Ok(bundle),
    }
}

/// A certificate in DER, and what is told of it.
type Told = (Vec<u8>, [String; 3]);

/// The certificates of a file that may be anchors.
fn readable(file: &Path) -> Result<Vec<Told>, Failure> {
    let one = |der: Vec<u8>| told(file, &der).map(|lines| (der, lines));
    certificates(file)?.into_iter().map(one).collect()
}

/// The files, and those in the folders, in order; with whether they were named themselves.
fn files_of(paths: &[PathBuf]) -> Result<Vec<(PathBuf, bool)>, Failure> {
    let mut files = Vec::new();
    for path in paths {
        if !path.is_dir() {
            files.push((path.clone(), true));
            continue;
        }
        let entries = std::fs::read_dir(path).map_err(|error| Failure::file(path, &error))?;
        let mut found: Vec<PathBuf> = entries
            .take(MAX_FILES)
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|file| is_certificate_file(file))
            .collect();
        if found.is_empty() {
            let what = format!("{}: no file ends in .pem, .crt, .cer or .der", path.display());
            return Err(Failure::new(Exit::NotFound, what));
        }
        found.sort();
        files.extend(found.into_iter().map(|file| (file, false)));
    }
    Ok(files)
}

fn is_certificate_file(file: &Path) -> bool {
    let ending = file.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
    file.is_file() && ENDINGS.iter().any(|known| ending.eq_ignore_ascii_case(known))
}

/// The certificates (DER) of a file, in PEM or DER.
fn certificates(file: &Path) -> Result<Vec<Vec<u8>>, Failure> {
    let mut bytes = Vec::new();
    std::fs::File::open(file)
        .and_then(|opened| opened.take(MAX_FILE).read_to_end(&mut bytes))
        .map_err(|error| Failure::file(file, &error))?;
    let marker = b"-----BEGIN ";
    if !bytes.windows(marker.len()).any(|window| window == marker) {
        return Ok(vec![bytes]);
    }
    blocks(&String::from_utf8_lossy(&bytes), CERTIFICATE)
        .map_err(|error| Failure::usage(format!("{}: {error}", file.display())))
}

/// Whose certificate it is, and whether its fingerprint is a published one.
fn told(file: &Path, der: &[u8]) -> Result<[String; 3], Failure> {
    let certificate = Certificate::parse(der)
        .map_err(|error| Failure::usage(format!("{}: {error}", file.display())))?;
    if !certificate.is_authority() {
        let (file, subject) = (file.display(), certificate.subject());
        let what = format!("{file}: {subject} is no certificate of an authority");
        return Err(Failure::usage(what));
    }
    let sha256 = hex(certificate.sha256());
    let known = match vendors::recognise(&sha256) {
        Some(root) => format!("recognised, {}: {}", root.vendor, root.name),
        None => "NOT a published fingerprint known here: compare it with the vendor's".into(),
    };
    let subject = format!("{}: {}", file.display(), certificate.subject());
    Ok([subject, format!("  SHA-256 {sha256}"), format!("  {known}")])
}

#[cfg(test)]
mod tests {
    use super::*;

    const VENDORS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../attestation/testdata/vendors/");

    #[test]
    fn certificates_come_from_pem_and_der_and_folders() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let der = std::fs::read(format!("{VENDORS}st-rsa-root.der")).expect("testdata");
        let pem = pem::encode_string(CERTIFICATE, LineEnding::LF, &der).expect("PEM");
        let file = |name: &str, bytes: &[u8]| {
            let path = folder.path().join(name);
            std::fs::write(&path, bytes).expect("written");
            path
        };
        let text = format!("subject=STM\n{pem}more\n{pem}");
        let twice = file("a.pem", text.as_bytes());
        let binary = file("b.CRT", &der);
        file("notes.txt", b"no certificate");
        assert_eq!(certificates(&twice).expect("two"), [der.clone(), der.clone()]);
        assert_eq!(certificates(&binary).expect("one"), std::slice::from_ref(&der));
        let found = files_of(&[folder.path().to_owned()]).expect("two files");
        assert_eq!(found, [(twice.clone(), false), (binary, false)]);
        let [_, _, words] = told(&twice, &der).expect("a certificate");
        assert!(words.contains("recognised, STMicroelectronics: STM TPM EK Root CA"), "{words}");
        let unknown = std::fs::read(format!("{VENDORS}intel-intermediate.der")).expect("testdata");
        let [_, _, words] = told(&twice, &unknown).expect("a certificate");
        assert!(words.contains("NOT a published"), "{words}");
    }

    /// A vendor's folder: roots beside keys, lists and certificates of TPMs.
    #[test]
    fn what_is_no_authority_in_a_folder_is_skipped() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let file = |name: &str, bytes: &[u8]| {
            let path = folder.path().join(name);
            std::fs::write(&path, bytes).expect("written");
            path
        };
        let here = [folder.path().to_owned()];
        let key = file("a.pem", b"-----BEGIN PRIVATE KEY-----\nMA==\n-----END PRIVATE KEY-----\n");
        let leaf = std::fs::read(format!("{VENDORS}st-ecc-ek.der")).expect("testdata");
        let leaf = file("b.der", &leaf);
        let none = bundle(&here, &mut Output::nowhere()).expect_err("no certificate in it");
        assert!(none.message.contains("a.pem"), "{}", none.message);
        let root = std::fs::read(format!("{VENDORS}st-rsa-root.der")).expect("testdata");
        file("c.cer", &root);
        let found = bundle(&here, &mut Output::nowhere()).expect("one");
        assert_eq!(blocks(&found, CERTIFICATE).expect("PEM"), [root]);
        for named in [key, leaf] {
            let refused = bundle(&[named], &mut Output::nowhere()).expect_err("named itself");
            assert_eq!(refused.exit, Exit::Usage, "{}", refused.message);
        }
    }

    #[test]
    fn what_is_no_certificate_is_named() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let empty = files_of(&[folder.path().to_owned()]).expect_err("nothing in it");
        assert_eq!(empty.exit, Exit::NotFound);
        let file = folder.path().join("x.pem");
        for bytes in [&b"-----BEGIN CERTIFICATE-----\nMIH\n"[..], b"-----BEGIN PRIVATE KEY-----"] {
            std::fs::write(&file, bytes).expect("written");
            assert_eq!(certificates(&file).expect_err("no certificate").exit, Exit::Usage);
        }
        let failure = told(&file, b"\x30\x00").expect_err("no certificate");
        assert!(failure.message.contains("x.pem"), "{}", failure.message);
        assert_eq!(certificates(&folder.path().join("no")).expect_err("no").exit, Exit::NotFound);
    }
}
