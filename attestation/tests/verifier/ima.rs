//! The profile `measured+ima`: the files that a machine opened, in parts, against reference values.

use std::fs;

use attestation::ima::{Entries, ImaReason};
use attestation::pcr::PcrSelection;
use attestation::propose::ProposeError;
use attestation::reference_values::{FileDigest, ReferenceFile, ReferenceValues};
use attestation::{ClaimKind, ImaPart, Logs, Profile, Reason, propose};

use crate::logs::{EventLog, ImaLog, sha256, sized};
use crate::measured::Trial;

const PCRS: [u8; 11] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10];

fn machine() -> EventLog {
    EventLog::small_machine("kernel 1")
}

fn running() -> ImaLog {
    let mut log = ImaLog::new(&machine());
    log.file("/usr/bin/bash", "bash 5.2");
    log.file("/usr/bin/gatewayd", "gatewayd 1");
    log
}

/// An entry of the first template: the path is hashed with zeros up to 256 bytes.
fn old_template(log: &mut ImaLog, digest: [u8; 20], path: &str) {
    let mut padded = path.as_bytes().to_vec();
    padded.resize(256, 0);
    let hash = sha256(&[digest.as_slice(), &padded].concat());
    log.entry("ima", &[1; 20], Some(hash), &[&digest, &sized(path.as_bytes())]);
}

/// A machine whose register 10 is that of `quoted`, and which sends `sent` from its beginning.
fn trial_of(quoted: &ImaLog, sent: &ImaLog, references: &[ReferenceValues]) -> Trial {
    let boot = machine();
    let mut values = boot.values(0..10);
    values.push(quoted.register);
    let pcrs = PcrSelection::new(&PCRS).unwrap();
    let mut trial = Trial::with_registers(Profile::MeasuredIma, pcrs, values);
    trial.logs = Logs { event_log: Some(boot.bytes), ima: Some(part(sent, 0)) };
    trial.references = references.to_vec();
    trial
}

fn part(log: &ImaLog, from: usize) -> ImaPart {
    ImaPart { from_offset: from as u64, bytes: log.bytes[from..].to_vec() }
}

fn learn(log: &ImaLog) -> Vec<ReferenceValues> {
    let trial = trial_of(log, log, &[]);
    propose(&trial.evidence, &trial.logs, Profile::MeasuredIma).unwrap()
}

fn trial(log: &ImaLog) -> Trial {
    trial_of(log, log, &learn(&running()))
}

fn refused(trial: &Trial) -> ImaReason {
    match trial.refused(ClaimKind::Ima) {
        Reason::Ima(reason) => reason,
        other => panic!("{other}"),
    }
}

/// Files of a real machine; the register is the one that the log's origin gives.
#[test]
fn entries_of_a_real_machine_lead_to_the_known_register() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/logs/ima-ng.entries");
    let bytes = fs::read(file).unwrap();
    let entries: Vec<_> = Entries::new(&bytes).collect::<Result<_, _>>().unwrap();
    let paths: Vec<_> = entries.iter().map(|entry| entry.path).collect();
    assert_eq!(paths, [b"boot_aggregate".as_slice(), b"/usr/bin/sudo", b"/usr/bin/traceroute"]);
    let register = entries.iter().fold([0; 32], |register, entry| entry.extend(&register));
    let hex: String = register.iter().map(|byte| format!("{byte:02X}")).collect();
    assert_eq!(hex, "5C9E6EDB1C8E04B26852299783ADCD93D5BBB81ED0391021AEFF6618C9F1E142");
    let text = entries[1].digest_text();
    assert!(text.starts_with("sha256:03eff5684f86bd3f14"), "{text}");
}

#[test]
fn files_are_accepted_by_path_and_digest() {
    let log = running();
    let result = trial(&log).assert_accepted();
    let claim = result.claim(ClaimKind::Ima).unwrap();
    assert_eq!(claim.reason, Reason::Ima(ImaReason::Matches { entries: 3 }));
    assert_eq!(result.judged().unwrap().ima_offset(), log.bytes.len() as u64);
    // The same file once more, as kernels log it after a change of its inode.
    let mut again = running();
    again.file("/usr/bin/bash", "bash 5.2");
    trial(&again).assert_accepted();
    // A digest without a path is good under any.
    let mut moved = running();
    moved.file("/opt/bash", "bash 5.2");
    let mut anywhere = trial(&moved);
    let digest = FileDigest::Sha256(sha256(b"bash 5.2"));
    let file = ReferenceFile { path: Vec::new(), digest };
    assert!(matches!(refused(&anywhere), ImaReason::UnknownFile { .. }));
    anywhere.references.push(ReferenceValues { files: vec![file], ..ReferenceValues::default() });
    anywhere.assert_accepted();
}

#[test]
fn the_very_file_is_named() {
    let mut stranger = running();
    stranger.file("/tmp/x", "miner");
    let mut changed = running();
    changed.file("/usr/bin/bash", "bash with a door");
    let mut other = running();
    other.template("ima-buf", "sha256", &sha256(b"init=/bin/sh"), "kexec-cmdline", &[0; 12]);
    let mut weak = running();
    old_template(&mut weak, [5; 20], "/usr/bin/bash");
    let mut written = running();
    written.violation("/usr/bin/gatewayd");
    for (log, words) in [
        (&stranger, ["/tmp/x (entry 3, sha256:", "is not among"]),
        (&changed, ["/usr/bin/bash (entry 3)", "is another file than expected: sha256:"]),
        (&other, ["kexec-cmdline (entry 3", "is not among"]),
        (&weak, ["/usr/bin/bash (entry 3)", "expected: sha1:0505"]),
        (&written, ["/usr/bin/gatewayd (entry 3)", "nobody knows what was read"]),
    ] {
        let reason = refused(&trial(log)).to_string();
        for word in words {
            assert!(reason.contains(word), "{reason:?} lacks {word:?}");
        }
        assert!(!trial(log).appraise().wants_whole_logs());
    }
    // What the operator has seen and taken for the rule is accepted.
    for log in [&stranger, &changed, &other] {
        trial_of(log, log, &learn(log)).assert_accepted();
    }
    let again = trial_of(&weak, &weak, &[]);
    let error = propose(&again.evidence, &again.logs, Profile::MeasuredIma).unwrap_err();
    assert!(matches!(&error, ProposeError::WeakDigest { path, .. } if path == "/usr/bin/bash"));
}

/// What stands in an entry of a violation is covered by nothing, so nothing can allow it: neither
/// the file that it names, nor reference values that would take the kernel's zeros for a digest.
#[test]
fn a_violation_satisfies_no_reference_value() {
    let mut written = running();
    written.violation("/usr/bin/bash");
    let taken = trial_of(&written, &written, &[]);
    let error = propose(&taken.evidence, &taken.logs, Profile::MeasuredIma).unwrap_err();
    assert!(matches!(&error, ProposeError::Violation { path } if path == "/usr/bin/bash"));
    let file = |path: &str, digest| ReferenceFile { path: path.into(), digest };
    let mut lenient = learn(&running());
    lenient[0].files.insert(0, file("", FileDigest::Sha256([0; 32])));
    let bash = lenient[0].files.partition_point(|file| file.path < b"/usr/bin/bash".to_vec());
    lenient[0].files.insert(bash, file("/usr/bin/bash", FileDigest::Sha256([0; 32])));
    assert!(ReferenceValues::from_bytes(&lenient[0].to_bytes()).is_err(), "no such document");
    let reason = refused(&trial_of(&written, &written, &lenient));
    assert!(matches!(&reason, ImaReason::Violation { entry: 3, .. }), "{reason}");
    // Neither is a file of which the kernel could not find the digest.
    let mut unread = running();
    unread.template("ima-ng", "sha256", &[0; 32], "/usr/bin/bash", &[]);
    let reason = refused(&trial_of(&unread, &unread, &lenient));
    assert!(matches!(&reason, ImaReason::UnknownFile { entry: 3, .. }), "{reason}");
}

#[test]
fn every_template_of_the_kernel_is_replayed() {
    let mut log = running();
    old_template(&mut log, [7; 20], "/usr/bin/old");
    log.template("ima-sig", "sha512", &[7; 64], "/usr/bin/signed", &[3, 0, 0, 0, 1, 2, 3]);
    log.template("ima-ngv2", "ima:sha256", &[8; 32], "/usr/bin/new", &[]);
    log.template("ima-ngv2", "verity:sha256", &[8; 32], "/usr/bin/verity", &[]);
    log.violation("/run/x");
    log.template("evm-sig", "sha256", &[8; 32], "/usr/bin/owned", &[2; 40]);
    log.template("d-ng|n-ng", "sha256", &[8; 32], "/usr/bin/formatted", &[]);
    let entries: Vec<_> = Entries::new(&log.bytes).collect::<Result<_, _>>().unwrap();
    let register = entries.iter().fold([0; 32], |register, entry| entry.extend(&register));
    assert_eq!(register, log.register);
    let algorithms: Vec<_> = entries[3..8].iter().map(|entry| entry.algorithm).collect();
    assert_eq!(algorithms, ["sha1", "sha512", "sha256", "verity:sha256", "sha256"]);
    assert_eq!(entries[6].file_digest(), None, "a digest of something else than the whole file");
    assert!(entries[7].violation);
}

/// The log is read after the quote, so it may know more.
#[test]
fn a_log_may_be_ahead_of_the_quote() {
    let quoted = running();
    let mut sent = running();
    sent.file("/tmp/x", "opened after the quote");
    let result = trial_of(&quoted, &sent, &learn(&quoted)).assert_accepted();
    let judged = result.judged().unwrap();
    assert_eq!(judged.ima_offset(), quoted.bytes.len() as u64);
    // With the next part it is judged.
    let mut next = trial_of(&sent, &sent, &learn(&quoted));
    next.judged = Some(judged.clone());
    next.logs = Logs { event_log: None, ima: Some(part(&sent, quoted.bytes.len())) };
    let reason = refused(&next);
    assert!(matches!(&reason, ImaReason::UnknownFile { path, .. } if path == "/tmp/x"), "{reason}");
    // Half an entry behind the quote is no harm either.
    let mut cut = sent.clone();
    cut.bytes.truncate(sent.bytes.len() - 3);
    trial_of(&quoted, &cut, &learn(&quoted)).assert_accepted();
}

#[test]
fn only_what_the_log_has_grown_by_is_sent() {
    let first = running();
    let mut second = running();
    second.file("/usr/bin/bash", "bash 5.2");
    let judged = trial(&first).assert_accepted().judged().cloned();
    let mut next = trial(&second);
    next.judged.clone_from(&judged);
    next.logs = Logs { event_log: None, ima: Some(part(&second, first.bytes.len())) };
    let result = next.assert_accepted();
    let claim = result.claim(ClaimKind::Ima).unwrap();
    assert_eq!(claim.reason, Reason::Ima(ImaReason::Matches { entries: 1 }));
    assert_eq!(result.judged().unwrap().ima_offset(), second.bytes.len() as u64);
    // Nothing new.
    let mut idle = trial(&first);
    idle.judged.clone_from(&judged);
    idle.logs = Logs { event_log: None, ima: Some(part(&first, first.bytes.len())) };
    let result = idle.assert_accepted();
    assert_eq!(
        result.claim(ClaimKind::Ima).unwrap().reason,
        Reason::Ima(ImaReason::Matches { entries: 0 })
    );
    // The whole log is as good.
    let whole = Trial { judged, ..trial(&second) };
    whole.assert_accepted();

    let mut elsewhere = next.clone();
    elsewhere.logs.ima = Some(part(&second, first.bytes.len() - 7));
    let mut shrunk = next.clone();
    let end = ImaPart { from_offset: first.bytes.len() as u64, bytes: Vec::new() };
    shrunk.logs.ima = Some(end);
    let mut damaged = next.clone();
    damaged.logs.ima.as_mut().unwrap().bytes[40] ^= 1;
    let mut unasked = next.clone();
    unasked.judged = None;
    let restarted = next.restarted();
    for (what, trial) in [
        ("another offset", &elsewhere),
        ("shrunk", &shrunk),
        ("does not go on", &damaged),
        ("not asked for", &unasked),
        ("another boot", &restarted),
    ] {
        assert_eq!(refused(trial), ImaReason::WholeLogNeeded, "{what}");
        assert!(trial.appraise().wants_whole_logs(), "{what}");
    }
}

#[test]
fn a_log_that_does_not_lead_to_the_register_is_refused() {
    let log = running();
    let good = trial(&log);
    let with = |bytes: Vec<u8>| {
        let mut trial = good.clone();
        trial.logs.ima = Some(ImaPart { from_offset: 0, bytes });
        refused(&trial)
    };
    let second = log.bytes.len() - 4 - 20 - 10 - 4 - 64;
    let cut = with(log.bytes[..second].to_vec());
    assert!(matches!(cut, ImaReason::Log { .. } | ImaReason::Mismatch { .. }), "{cut}");
    assert_eq!(with(Vec::new()), ImaReason::Mismatch { entries: 0 });
    let mut changed = log.bytes.clone();
    *changed.last_mut().unwrap() = 1;
    assert!(matches!(with(changed), ImaReason::Log { entry: 2, .. }));
    let mut path = log.bytes.clone();
    *path.iter_mut().rev().nth(1).unwrap() ^= 1;
    assert_eq!(with(path), ImaReason::Mismatch { entries: 3 });
    let mut template = log.bytes.clone();
    template[28] = b'x';
    assert!(matches!(with(template), ImaReason::Log { entry: 0, .. }));
    assert_eq!(with(vec![0; 100 << 20]), ImaReason::TooLong { len: 100 << 20 });
    // An entry that claims to be a violation is replayed as one.
    let mut violation = log.bytes.clone();
    violation[4..24].fill(0);
    assert_eq!(with(violation), ImaReason::Mismatch { entries: 3 });
    let none = Trial { logs: Logs { ima: None, ..good.logs.clone() }, ..good.clone() };
    assert_eq!(refused(&none), ImaReason::WholeLogNeeded);
    let unknown = Trial { references: vec![good.references[0].clone()], ..good.clone() };
    let mut unknown = unknown;
    unknown.references[0].files.clear();
    assert_eq!(refused(&unknown), ImaReason::NoReferenceValues);
}

#[test]
fn the_kernels_first_entry_belongs_to_the_boot() {
    let mut other = ImaLog::new(&EventLog::small_machine("kernel 2"));
    other.file("/usr/bin/bash", "bash 5.2");
    assert_eq!(refused(&trial(&other)), ImaReason::BootAggregate);
    // A file that calls itself so later on is a file.
    let mut later = running();
    later.template("ima-ng", "sha256", &[1; 32], "boot_aggregate", &[]);
    assert!(matches!(refused(&trial(&later)), ImaReason::UnknownFile { entry: 3, .. }));
}

#[test]
fn a_kernel_that_does_not_measure_is_not_trusted() {
    let mut silent = running();
    silent.register = [0; 32];
    assert_eq!(refused(&trial(&silent)), ImaReason::NothingMeasured);
    let boot = machine();
    let pcrs = PcrSelection::new(&[0, 4]).unwrap();
    let mut trial = Trial::with_registers(Profile::MeasuredIma, pcrs, boot.values([0, 4]));
    trial.references = learn(&running());
    trial.logs = Logs { event_log: Some(boot.bytes), ima: Some(part(&running(), 0)) };
    assert_eq!(refused(&trial), ImaReason::RegisterNotQuoted);
}

#[test]
fn long_lists_of_files_are_cut_into_documents() {
    let mut log = running();
    for number in 0..3000 {
        let path = format!("/usr/lib/x86_64-linux-gnu/lib{number}.so.{}", number % 7);
        log.file(&path, &path);
    }
    let documents = learn(&log);
    assert!(documents.len() > 2, "{}", documents.len());
    let files: usize = documents.iter().map(|document| document.files.len()).sum();
    assert_eq!(files, 3002);
    let parsed: Vec<ReferenceValues> = documents
        .iter()
        .map(|document| ReferenceValues::from_bytes(&document.to_bytes()).unwrap())
        .collect();
    assert_eq!(parsed, documents);
    trial_of(&log, &log, &parsed).assert_accepted();
    let fewer = &parsed[..parsed.len() - 1];
    assert!(matches!(refused(&trial_of(&log, &log, fewer)), ImaReason::UnknownFile { .. }));
}
