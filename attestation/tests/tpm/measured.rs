//! Logs and registers on a TPM: what a machine measured is quoted, appraised, and opens secrets
//! only while the operator says so.

use attestation::boot::BootReason;
use attestation::ima::ImaReason;
use attestation::pcr::PcrSelection;
use attestation::pcr_policy::{Approval, OperatorKey, approval_message, pcr_policy_digest};
use attestation::tpm::{IdentityInfo, Tpm, TpmError};
use attestation::{
    AttestationResult, Challenge, ClaimKind, Evidence, ImaPart, Judged, Logs, Policy, Profile,
    Reason, ReferenceValues, Status, appraise, propose,
};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};

use crate::keys::{challenge, credential_for, demo_policy};
use crate::logs::{EventLog, IPL, ImaLog, SEPARATOR};
use crate::swtpm::{Certificates, Swtpm};

const PCRS: [u8; 11] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10];

/// Extends what a log says, as firmware and kernel do.
fn measure(swtpm: &Swtpm, values: impl IntoIterator<Item = (u32, [u8; 32])>) {
    let words: Vec<String> = values
        .into_iter()
        .map(|(pcr, digest)| {
            let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("{pcr}:sha256={hex}")
        })
        .collect();
    for some in words.chunks(16) {
        let arguments: Vec<&str> =
            std::iter::once("tpm2_pcrextend").chain(some.iter().map(String::as_str)).collect();
        swtpm.tool(&arguments);
    }
}

struct Machine {
    swtpm: Swtpm,
    identity: IdentityInfo,
    boot: EventLog,
    files: ImaLog,
}

impl Machine {
    fn start() -> Self {
        let swtpm = Swtpm::start(Certificates::P256);
        let identity = swtpm.tpm().create_identity().unwrap();
        let boot = EventLog::small_machine("kernel 1");
        let mut files = ImaLog::new(&boot);
        files.file("/usr/bin/bash", "bash 5.2");
        files.file("/usr/bin/gatewayd", "gatewayd 1");
        let machine = Self { swtpm, identity, boot, files };
        machine.boot_it();
        machine
    }

    fn boot_it(&self) {
        measure(&self.swtpm, self.boot.extended.iter().copied());
        measure(&self.swtpm, self.files.extended.iter().map(|value| (10, *value)));
    }

    fn evidence(&self, tpm: &Tpm) -> Evidence {
        let challenge = challenge();
        let credential = credential_for(&self.identity, &challenge);
        tpm.attest(challenge.qualifying_data, PcrSelection::new(&PCRS).unwrap(), credential)
            .unwrap()
    }

    fn logs(&self) -> Logs {
        let ima = ImaPart { from_offset: 0, bytes: self.files.bytes.clone() };
        Logs { event_log: Some(self.boot.bytes.clone()), ima: Some(ima) }
    }

    fn appraise(
        &self,
        logs: &Logs,
        references: &[ReferenceValues],
        judged: Option<Judged>,
    ) -> AttestationResult {
        let profile = Profile::MeasuredIma;
        let policy = Policy { profile, pcrs: PcrSelection::new(&PCRS).unwrap(), ..demo_policy() };
        let challenge = Challenge { judged, ..challenge() };
        let evidence = self.evidence(&self.swtpm.tpm());
        let endorsements = &self.identity.endorsements;
        appraise(&evidence, endorsements, logs, references, &policy, &challenge).unwrap()
    }
}

fn reason(result: &AttestationResult, kind: ClaimKind) -> (Status, Reason) {
    let claim = result.claim(kind).unwrap();
    (claim.status, claim.reason.clone())
}

#[test]
fn a_measured_machine_is_appraised_in_whole_and_then_in_part() {
    let mut machine = Machine::start();
    let evidence = machine.evidence(&machine.swtpm.tpm());
    let references = propose(&evidence, &machine.logs(), Profile::MeasuredIma).unwrap();
    let result = machine.appraise(&machine.logs(), &references, None);
    assert!(result.is_accepted(), "{:?}", result.claims());
    let matches = Reason::Boot(BootReason::Matches { events: 15 });
    assert_eq!(reason(&result, ClaimKind::Boot), (Status::Affirming, matches));
    let matches = Reason::Ima(ImaReason::Matches { entries: 3 });
    assert_eq!(reason(&result, ClaimKind::Ima), (Status::Affirming, matches));
    assert_eq!(result.ek_kind(), Some(machine.identity.ek_kind));
    assert_eq!(result.tpm_model().model, "swtpm");

    // The next quote needs only what the log has grown by.
    let judged = result.judged().cloned().unwrap();
    let before = machine.files.clone();
    machine.files.file("/usr/bin/bash", "bash 5.2");
    measure(&machine.swtpm, [(10, *machine.files.extended.last().unwrap())]);
    let bytes = machine.files.bytes[before.bytes.len()..].to_vec();
    let ima = ImaPart { from_offset: judged.ima_offset(), bytes };
    let logs = Logs { event_log: None, ima: Some(ima) };
    let result = machine.appraise(&logs, &references, Some(judged));
    assert!(result.is_accepted(), "{:?}", result.claims());
    let judged = result.judged().cloned().unwrap();

    // A stranger's file is named.
    machine.files.file("/tmp/x", "miner");
    measure(&machine.swtpm, [(10, *machine.files.extended.last().unwrap())]);
    let result = machine.appraise(&machine.logs(), &references, Some(judged.clone()));
    let (status, why) = reason(&result, ClaimKind::Ima);
    assert_eq!(status, Status::Contraindicated);
    assert!(why.to_string().contains("/tmp/x"), "{why}");
    assert!(result.judged().is_none() && !result.is_accepted());

    // After a restart the whole logs are needed, and are enough.
    machine.swtpm.restart();
    machine.files = before;
    machine.boot_it();
    let result = machine.appraise(&Logs::none(), &references, Some(judged.clone()));
    assert!(result.wants_whole_logs() && !result.is_accepted());
    let result = machine.appraise(&machine.logs(), &references, Some(judged));
    assert!(result.is_accepted(), "{:?}", result.claims());
}

#[test]
fn an_event_that_was_measured_and_not_logged_is_seen() {
    let machine = Machine::start();
    let evidence = machine.evidence(&machine.swtpm.tpm());
    let references = propose(&evidence, &machine.logs(), Profile::MeasuredIma).unwrap();
    measure(&machine.swtpm, [(4, [9; 32])]);
    let result = machine.appraise(&machine.logs(), &references, None);
    let mismatch = Reason::Boot(BootReason::Mismatch { pcr: 4, events: 3 });
    assert_eq!(reason(&result, ClaimKind::Boot), (Status::Contraindicated, mismatch));
    let mut known = machine.boot.clone();
    known.event(4, IPL, [9; 32], b"logged after all");
    let logs = Logs { event_log: Some(known.bytes), ..machine.logs() };
    let result = machine.appraise(&logs, &references, None);
    let (_, why) = reason(&result, ClaimKind::Boot);
    assert!(why.to_string().contains("event 16 (PCR 4, IPL"), "{why}");
}

/// Another program's opinion of logs that are made here: the registers that `tpm2_eventlog` finds.
/// (Version 5.4 extends what must not be extended, `EV_NO_ACTION`, so there is no such event.)
#[test]
fn tpm2_tools_replay_logs_to_the_same_registers() {
    let folder = tempfile::tempdir().unwrap();
    let mut odd = EventLog::small_machine("kernel 1");
    odd.measure(5, 0x8000_0007, b"Exit Boot Services Invocation");
    odd.measure(16, SEPARATOR, &[0; 4]);
    for log in [EventLog::small_machine("kernel 1"), odd] {
        let file = folder.path().join("log");
        std::fs::write(&file, &log.bytes).unwrap();
        let output = std::process::Command::new("tpm2_eventlog").arg(&file).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        let parsed = attestation::event_log::EventLog::parse(&log.bytes).unwrap();
        let ours = parsed.replay().unwrap();
        assert_eq!(ours, log.registers);
        let (_, bank) = text.rsplit_once("sha256:\n").unwrap();
        let mut compared = 0;
        for line in bank.lines().filter(|line| line.contains(": 0x")) {
            let (pcr, value) = line.split_once(": 0x").unwrap();
            let found = ours[pcr.trim().parse::<usize>().unwrap()];
            let hex: String = found.iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(hex, value.trim(), "PCR {pcr}");
            compared += 1;
        }
        assert!(compared >= 10, "{text}");
    }
}

/// An operator's key and what it signs, without a TPM.
struct Operator(EcdsaKeyPair);

impl Operator {
    fn new() -> Self {
        Self(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap())
    }

    fn public(&self) -> OperatorKey {
        self.0.public_key().as_ref().try_into().unwrap()
    }

    fn approve(&self, pcrs: PcrSelection, values: &[[u8; 32]], epoch: u64) -> Approval {
        let policy = pcr_policy_digest(pcrs, values);
        let message = approval_message(&policy, epoch);
        let signature = self.0.sign(&SystemRandom::new(), &message).unwrap();
        let signature = signature.as_ref().try_into().unwrap();
        let approval = Approval { pcrs, policy, epoch, operator: self.public(), signature };
        assert!(approval.verifies());
        approval
    }
}

#[test]
fn a_secret_opens_only_for_a_boot_that_the_operator_signed() {
    let mut swtpm = Swtpm::start(Certificates::None);
    let operator = Operator::new();
    let pcrs = PcrSelection::new(&[4, 7]).unwrap();
    let (first, second) =
        (EventLog::small_machine("kernel 1"), EventLog::small_machine("kernel 2"));
    measure(&swtpm, first.extended.clone());
    let tpm = swtpm.tpm();
    assert_eq!(tpm.registers(pcrs).unwrap(), first.values([4, 7]));
    let blob = tpm.seal_authorized(b"storage key", &operator.public(), 1).unwrap();
    assert!(blob.windows(11).all(|window| window != b"storage key"));
    let now = operator.approve(pcrs, &first.values([4, 7]), 1);
    let update = operator.approve(pcrs, &second.values([4, 7]), 1);
    let opened = tpm.unseal_authorized(&blob, std::slice::from_ref(&now)).unwrap();
    assert_eq!(opened.as_slice(), b"storage key");
    // Signed before the update, opened after it: the blob is the same.
    let both = [update.clone(), now.clone()];
    assert_eq!(tpm.unseal_authorized(&blob, &both).unwrap().as_slice(), b"storage key");
    let only_update = [update];
    let other = tpm.unseal_authorized(&blob, &only_update);
    assert!(matches!(other, Err(TpmError::BootNotApproved { approvals: 1 })), "{other:?}");
    drop(tpm);
    for (log, opens) in [(&second, true), (&EventLog::small_machine("kernel 3"), false)] {
        swtpm.restart();
        measure(&swtpm, log.extended.clone());
        let tpm = swtpm.tpm();
        match tpm.unseal_authorized(&blob, &both) {
            Ok(secret) => assert!(opens && secret.as_slice() == b"storage key"),
            Err(error) => {
                assert!(!opens, "{error}");
                assert!(error.to_string().contains("not approved"), "{error}");
            }
        }
        // Attestation and the other seal go on working beside it.
        let plain = tpm.seal(b"x").unwrap();
        assert_eq!(tpm.unseal(&plain).unwrap().as_slice(), b"x");
    }
}

#[test]
fn nobody_elses_word_opens_it() {
    let swtpm = Swtpm::start(Certificates::None);
    let (operator, stranger) = (Operator::new(), Operator::new());
    let pcrs = PcrSelection::new(&[7]).unwrap();
    let tpm = swtpm.tpm();
    let values = tpm.registers(pcrs).unwrap();
    let blob = tpm.seal_authorized(b"storage key", &operator.public(), 2).unwrap();
    let good = operator.approve(pcrs, &values, 2);
    assert!(tpm.unseal_authorized(&blob, std::slice::from_ref(&good)).is_ok());
    let mut forged = stranger.approve(pcrs, &values, 2);
    forged.operator = operator.public();
    let mut changed = good.clone();
    changed.signature[9] ^= 1;
    for (what, approvals) in [
        ("nobody's", vec![]),
        ("a stranger's", vec![stranger.approve(pcrs, &values, 2)]),
        ("a stranger's in the operator's name", vec![forged]),
        ("changed", vec![changed]),
        ("of an earlier epoch", vec![operator.approve(pcrs, &values, 1)]),
    ] {
        let refused = tpm.unseal_authorized(&blob, &approvals);
        assert!(matches!(refused, Err(TpmError::NoApproval { epoch: 2 })), "{what}: {refused:?}");
    }
    // The next key: what is sealed stays open to the old one until it is sealed anew.
    let next = Operator::new();
    let resealed = tpm.seal_authorized(b"storage key", &next.public(), 2).unwrap();
    let both = [good.clone(), next.approve(pcrs, &values, 2)];
    assert!(tpm.unseal_authorized(&blob, &both).is_ok());
    assert!(tpm.unseal_authorized(&resealed, &both).is_ok());
    assert!(tpm.unseal_authorized(&resealed, std::slice::from_ref(&good)).is_err());
    // Damage, and a blob of the other kind.
    let mut damaged = blob.clone();
    damaged[60] ^= 1;
    for blob in [damaged, tpm.seal(b"x").unwrap()] {
        let refused = tpm.unseal_authorized(&blob, std::slice::from_ref(&good));
        assert!(matches!(refused, Err(TpmError::Damaged { .. })), "{refused:?}");
    }
    let other = Swtpm::start_fresh();
    let refused = other.tpm().unseal_authorized(&blob, &[good]);
    assert!(matches!(refused, Err(TpmError::AnotherTpm)), "{refused:?}");
    assert!(matches!(
        tpm.seal_authorized(&[0; 129], &next.public(), 1),
        Err(TpmError::SecretTooLong { .. })
    ));
    let no_point = tpm.seal_authorized(b"x", &[4; 65], 1);
    assert!(no_point.is_err(), "what never opens is not sealed");
}

/// The policy is in the object: without this program's checks the TPM refuses as well.
#[test]
fn the_tpm_itself_holds_the_policy() {
    let swtpm = Swtpm::start(Certificates::None);
    let operator = Operator::new();
    let tpm = swtpm.tpm();
    let blobs = [
        (tpm.seal(b"storage key").unwrap(), true),
        (tpm.seal_authorized(b"storage key", &operator.public(), 1).unwrap(), false),
    ];
    drop(tpm);
    for (blob, opens) in blobs {
        // Magic, then sized: name of the parent, public part, private part.
        let rest = &blob[8..];
        let sized = |bytes: &[u8]| 2 + usize::from(u16::from_be_bytes([bytes[0], bytes[1]]));
        let (_name, rest) = rest.split_at(sized(rest));
        let (public, rest) = rest.split_at(sized(rest));
        swtpm.write("public", public);
        swtpm.write("private", &rest[..sized(rest)]);
        // The storage root key's template asks for a unique field of zeros: two structures of a
        // size and 128 bytes, as the tool takes them.
        let half = [[32, 0].as_slice(), &[0; 128]].concat();
        swtpm.write("unique", &[half.clone(), half].concat());
        let attributes = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|restricted|\
                          decrypt";
        swtpm.tool(&[
            "tpm2_createprimary",
            "-C",
            "o",
            "-g",
            "sha256",
            "-G",
            "ecc256:aes128cfb",
            "-a",
            attributes,
            "-u",
            "unique",
            "-c",
            "srk.ctx",
        ]);
        swtpm.tool(&["tpm2_flushcontext", "-t"]);
        swtpm.tool(&[
            "tpm2_load",
            "-C",
            "srk.ctx",
            "-u",
            "public",
            "-r",
            "private",
            "-c",
            "object.ctx",
        ]);
        // The tools leave what they loaded in the TPM, which has three slots.
        swtpm.tool(&["tpm2_flushcontext", "-t"]);
        let unsealed = swtpm.try_tool(&["tpm2_unseal", "-c", "object.ctx"]);
        swtpm.tool(&["tpm2_flushcontext", "-t"]);
        match unsealed {
            Ok(secret) => assert!(opens && secret == "storage key"),
            Err(errors) => {
                assert!(!opens, "{errors}");
                assert!(errors.contains("0x12F"), "the TPM asks for a policy: {errors}");
            }
        }
    }
}
