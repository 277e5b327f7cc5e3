//! Renewal with real TPM commands: the founder before its second gateway, a member before the
//! voter, and what becomes of one that fails.

use std::sync::Arc;
use std::time::Duration;

use ledger::codec::{Decode, Encode};
use ledger::crypto::SigningKey;
use ledger::ids::{Height, NodeId};
use ledger::policy::Policy;
use ledger::state::Standing;
use ledger::transaction::{Admit, Body, Label, QuorumSignature, Statement};

use super::swtpm::Swtpm;
use super::{Gateway, Keys, genesis_of, open};
use crate::admission::attester::{Attester, certify_vote_key};
use crate::admission::exchange::{self, Ask, Said};
use crate::admission::logs::MachineLogs;
use crate::admission::messages::{Bytes, Request, Response, Stage};
use crate::identity::identity_key;

/// Longest wait for what must happen.
const PATIENCE: Duration = Duration::from_secs(30);

const LABEL: Label = Label { full: true, coordinator: true };

/// Keys in a software TPM, and the vote key.
fn keys(swtpm: &Swtpm, vote: u8) -> Keys {
    let tpm = swtpm.tpm();
    let info = tpm.create_identity().unwrap();
    let vote = SigningKey::from_bytes(&[vote; 32]).unwrap();
    Keys { info, vote, signer: Arc::new(tpm.clone()), tpm }
}

impl Gateway {
    /// Renews as soon as there is somebody to renew it.
    async fn renew(&self) -> u64 {
        let why = std::cell::RefCell::new(String::new());
        let renewed = async {
            loop {
                match self.admission.renew().await {
                    Ok(done) => return done.height,
                    Err(error) => *why.borrow_mut() = error.to_string(),
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        };
        let done = tokio::time::timeout(PATIENCE, renewed).await;
        done.unwrap_or_else(|_| panic!("not renewed in time: {}", why.borrow()))
    }

    async fn until_member(&self, node: NodeId) {
        let (mut tip, there) =
            (self.ledger.tip(), move |state: &ledger::state::State| state.gateway(&node).is_some());
        let found = async {
            while !self.ledger.view(there).await.unwrap() {
                tip.changed().await.unwrap();
            }
        };
        tokio::time::timeout(PATIENCE, found).await.expect("it follows in time");
    }
}

/// A gateway joins as the newcomer's side does.
async fn join(site: &Gateway, newcomer: &Gateway, keys: &Keys) {
    site.approve(&keys.info, LABEL, 1).await;
    let chain_id = site.genesis.chain_id();
    let (tpm, info, logs) = (
        keys.tpm.clone(),
        Arc::new(keys.info.clone()),
        MachineLogs::at("/nonexistent".as_ref(), "/nonexistent".as_ref()),
    );
    let attester = Attester::new(tpm, info, &keys.vote, chain_id, LABEL, logs).await.unwrap();
    let connection = newcomer.peers.dial(&site.address()).await.unwrap();
    let base = Height(site.ledger.tip().borrow().height);
    let request = Request::Join(Box::new(attester.introduce(base).unwrap()));
    let said = exchange::attest(&connection, &request, &attester).await.unwrap();
    let Said::Endorsed(appraised) = said else { panic!("not endorsed: {said:?}") };
    let endorsement = QuorumSignature { voter: appraised.voter, signature: appraised.signature };
    let admit = Admit {
        statement: Statement::from_bytes(&appraised.statement).unwrap(),
        vote: *attester.vote(),
        endorsements: vec![endorsement],
        founder: None,
    };
    let request = Request::Admit(Bytes::new(admit.to_bytes()).unwrap());
    let (done, _) = connection.ask(&request).await.unwrap();
    assert!(matches!(&done, Response::Progress(it) if it.stage == Stage::Admitted), "{done:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn members_renew_each_other_and_who_fails_is_suspended() {
    let (first, second) = (Swtpm::start(), Swtpm::start());
    let (founder, newcomer) = (keys(&first, 11), keys(&second, 12));
    let identity = identity_key(&founder.info).unwrap();
    let genesis = genesis_of(&founder.info, |context| {
        certify_vote_key(&founder.tpm, context, &identity, &founder.vote).unwrap()
    });
    let other = NodeId::of_key(&identity_key(&newcomer.info).unwrap());
    let Keys { info, vote, tpm, signer } = &newcomer;
    let copy =
        Keys { info: info.clone(), vote: vote.clone(), tpm: tpm.clone(), signer: signer.clone() };
    let site = open(founder, &genesis, vec![]);
    let member = open(copy, &genesis, vec![site.address()]);
    join(&site, &member, &newcomer).await;
    member.until_member(other).await;

    // Nobody vouches for the founder's TPM: it stays what it is, and is not suspended for it.
    let own = NodeId::of_key(&identity);
    let unattested = async {
        loop {
            let refused = site.admission.renew().await.unwrap_err().to_string();
            if refused.contains("no EK certificate") {
                return;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    tokio::time::timeout(PATIENCE, unattested).await.expect("its second gateway appraises it");
    assert_eq!(site.admission.attestation_of(own).await.unwrap().state, "unattested");

    let before = site.admission.attestation_of(other).await.unwrap().height;
    let height = member.renew().await;
    let info = site.admission.attestation_of(other).await.unwrap();
    assert!(info.height > before && info.height == Some(height), "{info:?}");
    assert!(info.last.is_some_and(|last| last.accepted), "the voter appraised it itself");

    // The site lets no software TPM in any more: the next renewal shows one.
    let policy = Policy { insecure_software_tpm_sites: false, ..genesis.policy.clone() };
    site.by_operator(Body::Policy(Box::new(policy.into())), 2).await;
    let failed = member.admission.renew().await.unwrap_err().to_string();
    assert!(failed.contains("software TPM"), "{failed}");
    let mut tip = site.ledger.tip();
    let suspended = async {
        let standing = move |state: &ledger::state::State| {
            state.gateway(&other).map(|gateway| gateway.standing.standing)
        };
        while site.ledger.view(standing).await.unwrap() != Some(Standing::Suspended) {
            tip.changed().await.unwrap();
        }
    };
    tokio::time::timeout(PATIENCE, suspended).await.expect("the quorum suspends it");
}
