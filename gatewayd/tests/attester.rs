//! The attester against a real TPM command set: what it answers is what a verifier accepts.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../../attestation/tests/tpm/swtpm.rs"]
#[expect(dead_code, reason = "shared with the tests of the attestation crate")]
mod swtpm;

use std::path::Path;
use std::sync::Arc;

use attestation::activation::make_credential;
use attestation::pcr::PcrSelection;
use attestation::public::Public;
use attestation::tpm::Tpm;
use attestation::{ClaimKind, Endorsements, Evidence, Logs, Policy, Status};
use gatewayd::admission::attester::{Attester, AttesterError};
use gatewayd::admission::logs::MachineLogs;
use gatewayd::admission::messages::{
    Bound, Bytes, Challenge, Introduction, LogsWanted, Profile, qualifying_data,
};
use gatewayd::identity::identity_key;
use ledger::crypto::SigningKey;
use ledger::ids::{ChainId, Hash, Height};
use ledger::transaction::Label;
use swtpm::{Certificates, Swtpm};

const SECRET: [u8; 32] = [9; 32];
const NONCE: Hash = Hash([8; 32]);
const EXPORTER: [u8; 32] = [7; 32];
const CHAIN: ChainId = ChainId(Hash([6; 32]));

struct Machine {
    _swtpm: Swtpm,
    folder: tempfile::TempDir,
    tpm: Tpm,
    attester: Attester,
}

async fn machine(logs: MachineLogs) -> Machine {
    let swtpm = Swtpm::start(Certificates::P256);
    let folder = tempfile::tempdir().unwrap();
    let tpm = Tpm::spawn(&swtpm.tcti(), folder.path().join("tpm")).unwrap();
    let info = Arc::new(tpm.create_identity().unwrap());
    let vote = SigningKey::from_bytes(&[5; 32]).unwrap();
    let label = Label { full: true, coordinator: false };
    let attester = Attester::new(tpm.clone(), info, &vote, CHAIN, label, logs).await.unwrap();
    Machine { _swtpm: swtpm, folder, tpm, attester }
}

fn challenge(introduction: &Introduction, logs: LogsWanted) -> Challenge {
    let ek = Public::parse(&introduction.ek_public).unwrap();
    let ak = Public::parse(&introduction.ak_public).unwrap();
    let blob = make_credential(&ek, &ak.name(), &SECRET, &[3; 64]).unwrap();
    Challenge {
        nonce: NONCE,
        credential: Bytes::new(blob.to_bytes()).unwrap(),
        pcrs: 0xff,
        profile: Profile::TpmOnly,
        policy_hash: Hash([1; 32]),
        logs,
    }
}

fn none() -> MachineLogs {
    MachineLogs::at(Path::new("/nonexistent/events"), Path::new("/nonexistent/ima"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verifier_accepts_the_answer_in_this_session_only() {
    let machine = machine(none()).await;
    let introduction = machine.attester.introduce(Height(3)).unwrap();
    let challenge = challenge(&introduction, LogsWanted::default());
    let answer = machine.attester.answer(&challenge, &EXPORTER).await.unwrap();
    assert!(answer.logs.is_empty());
    let identity = identity_key(&machine.tpm.identity().unwrap()).unwrap();
    introduction.vote.verify(&CHAIN.0, &identity).unwrap();
    let evidence = Evidence::from_bytes(&answer.evidence.evidence).unwrap();
    let endorsements = Endorsements::from_bytes(&introduction.endorsements).unwrap();
    let mut policy = Policy::deny_all();
    policy.allow_software_tpm = true;
    policy.pcrs = PcrSelection::FIRMWARE;
    policy.pinned_eks = vec![machine.tpm.identity().unwrap().ek_digest];
    let appraised = |exporter: &[u8; 32]| {
        let qualifying_data = qualifying_data(&Bound {
            nonce: NONCE,
            exporter,
            identity: &identity,
            vote_key: &introduction.vote.vote_key,
            label: introduction.label,
            event_log: None,
        });
        let now = 1_790_000_000;
        let asked =
            attestation::Challenge { qualifying_data, credential: SECRET, now, judged: None };
        attestation::appraise(&evidence, &endorsements, &Logs::none(), &[], &policy, &asked)
            .unwrap()
    };
    let accepted = appraised(&EXPORTER);
    assert!(accepted.is_accepted(), "{:?}", accepted.claims());
    // The same evidence, relayed over another session.
    let relayed = appraised(&[1; 32]);
    let freshness = relayed.claim(ClaimKind::Freshness).unwrap();
    assert_eq!(freshness.status, Status::Contraindicated);
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_go_with_the_answer_and_a_missing_one_is_named() {
    let machine = machine(none()).await;
    let introduction = machine.attester.introduce(Height(3)).unwrap();
    let wanted = LogsWanted { event: true, ima_from: None };
    let asked = challenge(&introduction, wanted);
    let error = machine.attester.answer(&asked, &EXPORTER).await.unwrap_err();
    assert!(matches!(error, AttesterError::Logs(_)), "{error}");
    let events = machine.folder.path().join("events");
    std::fs::write(&events, vec![1; 700_000]).unwrap();
    let info = Arc::new(machine.tpm.identity().unwrap());
    let vote = SigningKey::from_bytes(&[5; 32]).unwrap();
    let (logs, label) = (MachineLogs::at(&events, &events), introduction.label);
    let attester =
        Attester::new(machine.tpm.clone(), info, &vote, CHAIN, label, logs).await.unwrap();
    let answer = attester.answer(&asked, &EXPORTER).await.unwrap();
    let parts: Vec<_> = answer.logs.parts(NONCE).collect();
    let sent: usize = parts.iter().map(|part| part.bytes.len()).sum();
    assert_eq!((parts.len(), sent), (3, 700_000));
    assert!(parts.iter().all(|part| !part.ima && part.nonce == NONCE));
    assert_eq!(answer.evidence.event_log, answer.logs.event_log_head(), "announced, and bound");
    assert_eq!(answer.evidence.ima, None, "what was not asked for is not shown");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_credential_for_another_tpm_is_not_answered() {
    let (machine, other) = (machine(none()).await, machine(none()).await);
    let introduction = other.attester.introduce(Height(3)).unwrap();
    let asked = challenge(&introduction, LogsWanted::default());
    let error = machine.attester.answer(&asked, &EXPORTER).await.unwrap_err();
    assert!(matches!(error, AttesterError::Tpm(_)), "{error}");
}
