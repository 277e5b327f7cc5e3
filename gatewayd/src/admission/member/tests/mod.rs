//! The task on real ledger threads and stores: requests as the transport hands them in, from the
//! first question to the member, and gateways together until all of them vote.

mod alone;
mod renewing;
mod swtpm;
mod together;

use std::sync::Arc;

use attestation::template::EkKind;
use attestation::tpm::{IdentityInfo, Tpm, TpmError};
use attestation::{Endorsements, public::Public};
use ledger::codec::Text;
use ledger::crypto::SigningKey;
use ledger::genesis::{Founder, FounderAttestation, Genesis, TpmName};
use ledger::host::Host;
use ledger::ids::{ChainId, Era, Hash, NodeId};
use ledger::policy::Policy;
use ledger::store::{Founding, Store};
use ledger::transaction::{Author, Body, Draft, GatewayApproval, Label, VoteKeyProof};
use tokio::sync::{broadcast, mpsc};

use super::{Handle, Parts, channel, start};
use crate::admission::logs::MachineLogs;
use crate::admission::verifier::tests::chip::Chip;
use crate::identity::Folder;
use crate::identity::identity_key;
use crate::peers::{self, Incoming};
use crate::vault::Vault;
use crate::vote_keys::Keeper;
use crate::{clock, coordination, ingest, ledger_task};

fn operator() -> SigningKey {
    SigningKey::from_bytes(&[9; 32]).unwrap()
}

/// A site that lets software TPMs in, founded by the first chip.
fn genesis() -> Genesis {
    let founder = Chip::new(1);
    genesis_of(&info(&founder), |context| founder.vote_proof(context))
}

/// As [`genesis`], founded by whoever has this TPM and certifies its vote key.
fn genesis_of(info: &IdentityInfo, vote: impl FnOnce(ChainId) -> VoteKeyProof) -> Genesis {
    let salt = Hash([3; 32]);
    let proof = vote(ChainId(Genesis::context(&salt)));
    let policy = Policy {
        insecure_software_tpm_sites: true,
        activation_after_ms: 1_000,
        ..Policy::default()
    };
    Genesis {
        time_ms: clock::wall_ms(),
        site_name: Text::new("test").unwrap(),
        operator: operator().public_key(),
        founder: Founder {
            identity: identity_key(info).unwrap(),
            vote: proof.vote_key,
            vote_certificate: proof.certificate,
            vote_possession: proof.possession,
            ek_digest: Hash(info.ek_digest),
            ak_name: TpmName(info.ak_name.as_bytes().try_into().unwrap()),
            attestation: FounderAttestation::Unattested,
        },
        policy,
        salt,
    }
}

fn info(chip: &Chip) -> IdentityInfo {
    IdentityInfo {
        identity: *chip.identity.public_key().as_bytes(),
        identity_public: vec![],
        ak_public: chip.ak_public(),
        ak_name: Public::parse(&chip.ak_public()).unwrap().name(),
        ek_public: chip.ek_public(),
        ek_kind: EkKind::P256,
        ek_digest: chip.ek_digest().0,
        endorsements: Endorsements::default(),
        manufacturer: attestation::manufacturer::Manufacturer(chip.manufacturer),
        is_software: true,
    }
}

/// The identity key of a chip, in memory.
#[derive(Debug)]
struct SoftKey(SigningKey);

impl peers::Signer for SoftKey {
    fn sign(&self, digest: [u8; 32]) -> Result<[u8; 64], TpmError> {
        Ok(*self.0.sign_digest(&Hash(digest)).as_bytes())
    }
}

/// What a gateway is opened with.
struct Keys {
    info: IdentityInfo,
    vote: SigningKey,
    tpm: Tpm,
    signer: Arc<dyn peers::Signer>,
}

impl Keys {
    /// Of a chip; nobody listens where its TPM should be, so its task proves nothing itself.
    fn of(chip: &Chip) -> Self {
        let nowhere = std::env::temp_dir().join("no-tpm");
        Self {
            info: info(chip),
            vote: chip.vote.clone(),
            tpm: Tpm::spawn("swtpm:host=127.0.0.1,port=1", nowhere).unwrap(),
            signer: Arc::new(SoftKey(chip.identity.clone())),
        }
    }
}

/// One gateway of a site: ledger, transport and task.
struct Gateway {
    _dir: tempfile::TempDir,
    genesis: Genesis,
    ledger: ledger_task::Handle,
    admission: Handle,
    peers: peers::Handle,
    incoming: mpsc::Sender<Incoming>,
}

/// Opens a gateway that knows the first record and the addresses of others.
fn open(keys: Keys, genesis: &Genesis, addresses: Vec<String>) -> Gateway {
    let Keys { info, vote, tpm, signer } = keys;
    let dir = tempfile::tempdir().unwrap();
    let identity = identity_key(&info).unwrap();
    let gateway = NodeId::of_key(&identity);
    drop(Store::found(dir.path(), &Founding::new(genesis.clone())).unwrap());
    let host = Host::open(dir.path(), gateway, Some(vote.clone())).unwrap();
    let (events, _) = broadcast::channel(16);
    let (ledger, inbox) = ledger_task::channel();
    let context = ingest::leaf::Context { chain_id: genesis.chain_id(), gateway };
    let limits = ingest::Limits { batch_interval_ms: None, budget_bytes: 1 << 30 };
    let buffer = dir.path().join("buffer.db");
    let opened = ingest::open(&buffer, context, limits, events.clone()).unwrap();
    let (incoming, requests) = mpsc::channel(16);
    let (frames, frames_out) = peers::inbox();
    let (beats_in, beats) = mpsc::channel(128);
    let peers = peers::start(peers::Parts {
        signer,
        identity,
        listen: Some(([127, 0, 0, 1], 0).into()),
        addresses,
        discovery: false,
        interface: None,
        events: frames,
        incoming: incoming.clone(),
        beats: beats_in,
        bridges: None,
        data_dir: None,
    })
    .unwrap();
    let parts = ledger_task::Parts {
        data_dir: dir.path().to_owned(),
        host,
        gateway,
        vote_key: Some(vote.clone()),
        next_vote_key: None,
        silent_from: None,
        keeper: Keeper::new(Folder::at(dir.path()).unwrap(), Arc::new(Vault::locked())),
        batches: opened.batches,
        ingest: opened.handle,
        links: Some(ledger_task::Links { peers: peers.clone(), inbox: frames_out }),
        events: events.clone(),
        stopped: mpsc::channel(1).0,
    };
    ledger_task::start(inbox, parts).unwrap();
    let liveness = coordination::start(coordination::Parts {
        gateway,
        tpm: tpm.clone(),
        ledger: ledger.clone(),
        peers: peers.clone(),
        beats,
        data_dir: dir.path().to_owned(),
        events: events.clone(),
    });
    let (admission, asks) = channel();
    let parts = Parts {
        genesis: Arc::new(genesis.clone()),
        gateway,
        identity: Arc::new(info),
        tpm,
        vote_key: Some(vote),
        logs: MachineLogs::at("/nonexistent".as_ref(), "/nonexistent".as_ref()),
        ledger: ledger.clone(),
        peers: peers.clone(),
        liveness,
        incoming: requests,
        data_dir: dir.path().to_owned(),
        events,
    };
    start(asks, parts);
    Gateway { _dir: dir, genesis: genesis.clone(), ledger, admission, peers, incoming }
}

impl Gateway {
    /// The operator lets a gateway in, and vouches for its TPM.
    async fn approve(&self, info: &IdentityInfo, label: Label, nonce: u64) {
        let approval = GatewayApproval {
            identity: identity_key(info).unwrap(),
            ek_digest: Hash(info.ek_digest),
            label,
            policy_hash: self.genesis.policy.attestation_hash(),
            pin: true,
        };
        self.by_operator(Body::GatewayApproval(approval), nonce).await;
    }

    async fn by_operator(&self, body: Body, nonce: u64) {
        let draft = Draft {
            chain_id: self.genesis.chain_id(),
            era: Era(0),
            author: Author::Operator,
            nonce,
            expiry: clock::wall_ms() + 600_000,
            attachment: None,
            body,
        };
        self.ledger.submit(draft.sign(&operator())).await.unwrap();
    }

    fn address(&self) -> String {
        format!("127.0.0.1:{}", self.peers.port())
    }
}

/// However many jobs guests want done, members find their places; and the other way round.
#[test]
fn guests_have_a_share_of_their_own() {
    let session = |member| peers::Session {
        node: NodeId([1; 20]),
        identity: operator().public_key(),
        exporter: [0; 32],
        member,
        remote: ([192, 0, 2, 1], 7447).into(),
    };
    let jobs = super::Jobs::default();
    let guests: Vec<_> = std::iter::from_fn(|| jobs.place(&session(false))).collect();
    assert_eq!(guests.len(), super::JOBS_OF_GUESTS);
    let members: Vec<_> = std::iter::from_fn(|| jobs.place(&session(true))).collect();
    assert_eq!(members.len(), super::JOBS, "guests took none of theirs");
    drop(guests);
    assert!(jobs.place(&session(false)).is_some() && jobs.place(&session(true)).is_none());
}
