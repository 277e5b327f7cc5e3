//! The task on a real ledger thread and store: a newcomer's requests as the transport would hand
//! them in, from the first question to the member.

use std::sync::Arc;
use std::time::Duration;

use attestation::template::EkKind;
use attestation::tpm::{IdentityInfo, Tpm};
use attestation::{Endorsements, public::Public};
use ledger::codec::{Decode, Encode, Text};
use ledger::crypto::SigningKey;
use ledger::genesis::{Founder, FounderAttestation, Genesis, TpmName};
use ledger::host::Host;
use ledger::ids::{ChainId, Era, Hash, Height, NodeId};
use ledger::policy::Policy;
use ledger::proof::Anchor;
use ledger::state::State;
use ledger::store::{Founding, Store};
use ledger::transaction::{
    Admit, Author, Body, Draft, GatewayApproval, QuorumSignature, Statement,
};
use tokio::sync::{broadcast, mpsc, oneshot};

use super::{Handle, Parts, channel, start};
use crate::admission::head;
use crate::admission::logs::MachineLogs;
use crate::admission::messages::{Bytes, Challenge, Request, Response, Stage};
use crate::admission::verifier::tests::chip::Chip;
use crate::peers::{self, Incoming, Session};
use crate::{clock, ingest, ledger_task};

struct Founded {
    _dir: tempfile::TempDir,
    genesis: Genesis,
    operator: SigningKey,
    ledger: ledger_task::Handle,
    admission: Handle,
    incoming: mpsc::Sender<Incoming>,
}

fn genesis(founder: &Chip, operator: &SigningKey) -> Genesis {
    let salt = Hash([3; 32]);
    let proof = founder.vote_proof(ChainId(Genesis::context(&salt)));
    Genesis {
        time_ms: clock::wall_ms(),
        site_name: Text::new("test").unwrap(),
        operator: operator.public_key(),
        founder: Founder {
            identity: founder.identity.public_key(),
            vote: proof.vote_key,
            vote_certificate: proof.certificate,
            vote_possession: proof.possession,
            ek_digest: founder.ek_digest(),
            ak_name: TpmName(founder.ak_name()),
            attestation: FounderAttestation::Unattested,
        },
        policy: Policy { insecure_software_tpm_sites: true, ..Policy::default() },
        salt,
    }
}

fn info(founder: &Chip) -> IdentityInfo {
    let ak = Public::parse(&founder.ak_public()).unwrap();
    IdentityInfo {
        identity: *founder.identity.public_key().as_bytes(),
        identity_public: vec![],
        ak_public: founder.ak_public(),
        ak_name: ak.name(),
        ek_public: founder.ek_public(),
        ek_kind: EkKind::P256,
        ek_digest: founder.ek_digest().0,
        endorsements: Endorsements::default(),
        manufacturer: attestation::manufacturer::Manufacturer(0),
        is_software: true,
    }
}

/// A transport that reaches nobody: requests are handed in by the test.
fn no_peers(founder: &Chip) -> (peers::Handle, mpsc::Sender<Incoming>, mpsc::Receiver<Incoming>) {
    #[derive(Debug)]
    struct NoSigner;
    impl peers::Signer for NoSigner {
        fn sign(&self, _: [u8; 32]) -> Result<[u8; 64], attestation::tpm::TpmError> {
            Err(attestation::tpm::TpmError::ShutDown)
        }
    }
    let (incoming, requests) = mpsc::channel(4);
    let (events, _) = peers::inbox();
    let parts = peers::Parts {
        signer: Arc::new(NoSigner),
        identity: founder.identity.public_key(),
        listen: None,
        addresses: vec![],
        discovery: false,
        interface: None,
        events,
        incoming: incoming.clone(),
        data_dir: None,
    };
    (peers::start(parts).unwrap(), incoming, requests)
}

async fn found() -> Founded {
    let dir = tempfile::tempdir().unwrap();
    let (founder, operator) = (Chip::new(1), SigningKey::from_bytes(&[9; 32]).unwrap());
    let genesis = genesis(&founder, &operator);
    let gateway = NodeId::of_key(&founder.identity.public_key());
    drop(Store::found(dir.path(), &Founding::new(genesis.clone())).unwrap());
    let host = Host::open(dir.path(), gateway, Some(founder.vote.clone())).unwrap();
    let (events, _) = broadcast::channel(16);
    let (ledger, inbox) = ledger_task::channel();
    let context = ingest::leaf::Context { chain_id: genesis.chain_id(), gateway };
    let limits = ingest::Limits { batch_interval_ms: None, budget_bytes: 1 << 30 };
    let buffer = dir.path().join("buffer.db");
    let opened = ingest::open(&buffer, context, limits, events.clone()).unwrap();
    let (stopped, _) = mpsc::channel(1);
    let parts = ledger_task::Parts {
        host,
        gateway,
        vote_key: Some(founder.vote.clone()),
        next_vote_key: None,
        take_next_vote_key: Box::new(|| Ok(())),
        batches: opened.batches,
        ingest: opened.handle,
        links: None,
        events: events.clone(),
        stopped,
    };
    ledger_task::start(inbox, parts).unwrap();
    let (peers, incoming, requests) = no_peers(&founder);
    let (admission, asks) = channel();
    let parts = Parts {
        genesis: Arc::new(genesis.clone()),
        gateway,
        identity: Arc::new(info(&founder)),
        // Nobody listens there: this gateway proves nothing itself.
        tpm: Tpm::spawn("swtpm:host=127.0.0.1,port=1", dir.path().join("tpm")).unwrap(),
        vote_key: Some(founder.vote.clone()),
        logs: MachineLogs::default(),
        ledger: ledger.clone(),
        peers,
        incoming: requests,
        data_dir: dir.path().to_owned(),
        events,
    };
    start(asks, parts);
    Founded { _dir: dir, genesis, operator, ledger, admission, incoming }
}

impl Founded {
    async fn ask(&self, chip: &Chip, request: &Request) -> Response {
        let identity = chip.identity.public_key();
        let session = Session {
            node: NodeId::of_key(&identity),
            identity,
            exporter: [6; 32],
            member: false,
            remote: "192.0.2.7:40000".parse().unwrap(),
        };
        let (reply, answer) = oneshot::channel();
        let bytes = request.to_bytes();
        self.incoming.send(Incoming { session, bytes, reply }).await.unwrap();
        let answer = tokio::time::timeout(Duration::from_secs(30), answer).await.unwrap();
        Response::from_bytes(&answer.unwrap()).unwrap()
    }

    /// From the introduction to the verdict.
    async fn attest(&self, chip: &Chip) -> Response {
        let base = Height(self.ledger.tip().borrow().height);
        let introduction = chip.introduction(self.genesis.chain_id(), base);
        let asked = self.ask(chip, &Request::Join(Box::new(introduction))).await;
        let Response::Challenge(challenge) = asked else { return asked };
        let challenge: Challenge = *challenge;
        let answer = chip.answer(&challenge, &[6; 32]);
        self.ask(chip, &Request::Evidence(Box::new(answer))).await
    }

    async fn approve(&self, chip: &Chip, nonce: u64) {
        let approval = GatewayApproval {
            identity: chip.identity.public_key(),
            ek_digest: chip.ek_digest(),
            label: chip.label,
            policy_hash: self.genesis.policy.attestation_hash(),
            pin: true,
        };
        let draft = Draft {
            chain_id: self.genesis.chain_id(),
            era: Era(0),
            author: Author::Operator,
            nonce,
            expiry: clock::wall_ms() + 600_000,
            attachment: None,
            body: Body::GatewayApproval(approval),
        };
        self.ledger.submit(draft.sign(&self.operator)).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newcomer_goes_from_the_site_code_to_a_place_on_the_record() {
    let site = found().await;
    let chip = Chip::new(2);
    let progress = site.ask(&chip, &Request::Progress).await;
    assert!(matches!(progress, Response::Progress(it) if it.stage == Stage::Unknown));

    assert!(matches!(site.attest(&chip).await, Response::NeedsApproval(_)));
    let shown = site.admission.pending().await.unwrap();
    assert!(shown[0].needs_pin && shown[0].state == "needs-approval");
    let progress = site.ask(&chip, &Request::Progress).await;
    assert!(matches!(progress, Response::Progress(it) if it.stage == Stage::AwaitingApproval));
    site.approve(&chip, 1).await;
    let progress = site.ask(&chip, &Request::Progress).await;
    assert!(matches!(progress, Response::Progress(it) if it.stage == Stage::Approved));

    let anchor = Anchor::of(&State::genesis_header(&site.genesis));
    let Response::Head(answer) = site.ask(&chip, &Request::Head(anchor)).await else { panic!() };
    let founder = &site.genesis.founder.identity;
    let known = head::check(&answer, &anchor, founder, None).unwrap();
    assert_eq!(known.chain_id, site.genesis.chain_id());
    let other = Anchor { hash: Hash([1; 32]), ..anchor };
    let refused = site.ask(&chip, &Request::Head(other)).await;
    assert!(matches!(refused, Response::Refused(_)), "the code of another site");

    let Response::Appraised(appraised) = site.attest(&chip).await else { panic!("endorsed") };
    let signed = QuorumSignature { voter: appraised.voter, signature: appraised.signature };
    let admit = Admit {
        statement: Statement::from_bytes(&appraised.statement).unwrap(),
        vote: chip.vote_proof(site.genesis.chain_id()),
        endorsements: vec![signed],
        founder: None,
    };
    let request = Request::Admit(Bytes::new(admit.to_bytes()).unwrap());
    let thief = site.ask(&Chip::new(3), &request).await;
    assert!(matches!(thief, Response::Refused(_)), "endorsements are their owner's");
    let Response::Progress(admitted) = site.ask(&chip, &request).await else { panic!("admitted") };
    assert_eq!(admitted.stage, Stage::Admitted);
    let again = site.ask(&chip, &request).await;
    assert!(matches!(again, Response::Refused(_)), "endorsements are good once");

    let node = NodeId::of_key(&chip.identity.public_key());
    let info = site.admission.attestation_of(node).await.unwrap();
    assert_eq!((info.state, info.height), ("attested", Some(admitted.height.0)));
    assert_eq!(info.current_policy, Some(true));
    assert!(info.warnings.contains(&"boot"), "{:?}", info.warnings);
    assert!(site.admission.pending().await.unwrap().is_empty());
    let unknown = site.admission.attestation_of(NodeId([7; 20])).await;
    assert!(unknown.is_err());
    let renewed = site.admission.renew().await.unwrap_err().to_string();
    assert!(renewed.contains("cannot prove itself") || renewed.contains("TPM"), "{renewed}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_is_on_the_record_with_its_reason() {
    let site = found().await;
    let mut forger = Chip::new(4);
    forger.keeps_credential_shut = true;
    let Response::Refused(refused) = site.attest(&forger).await else { panic!("refused") };
    let what = "attestation-key: the TPM did not open the verifier's credential";
    assert_eq!(refused.reason.as_str(), what);
    let founder = Author::Node(site.genesis.founder.node());
    let mut tip = site.ledger.tip();
    let recorded = async {
        while site
            .ledger
            .view(move |state| state.activity(&founder).map_or(0, |activity| activity.refusals))
            .await
            .unwrap()
            == 0
        {
            tip.changed().await.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(30), recorded).await.unwrap();
    let shown = site.admission.pending().await.unwrap();
    assert_eq!((shown[0].state, shown[0].reason.as_str()), ("refused", what));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_are_shown_an_unattested_founder_and_asked_for_no_signature() {
    let site = found().await;
    let chip = Chip::new(2);
    let Response::Refused(_) = site.ask(&chip, &Request::Introduce).await else {
        panic!("this founder's TPM does not answer")
    };
    let hash = Hash([1; 32]);
    let signature = chip.vote.sign_digest(&hash);
    let ready = crate::admission::messages::Ready { height: Height(1), hash, signature };
    let heard = site.ask(&chip, &Request::Ready(ready)).await;
    assert!(matches!(heard, Response::Refused(_)), "only members are ready");
    let nodes = vec![NodeId::of_key(&chip.identity.public_key())];
    let asked = crate::admission::messages::Endorse::Activate { height: Height(1), hash, nodes };
    let signed = site.ask(&chip, &Request::Endorse(asked)).await;
    assert!(matches!(signed, Response::Refused(_)), "only members are signed for");
    let none = site.ask(&chip, &Request::Document(hash)).await;
    assert!(matches!(none, Response::Refused(_)));
}
