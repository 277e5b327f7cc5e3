//! A site of one gateway; the test stands for the transport.

use std::time::Duration;

use ledger::codec::{Decode, Encode};
use ledger::ids::{Hash, Height, NodeId};
use ledger::proof::Anchor;
use ledger::state::State;
use ledger::transaction::{Admit, Author, QuorumSignature, Statement};
use tokio::sync::oneshot;

use super::{Gateway, Keys, genesis, info, open};
use crate::admission::head;
use crate::admission::messages::{Bytes, Challenge, Request, Response, Stage};
use crate::admission::verifier::tests::chip::Chip;
use crate::peers::{Allowance, Incoming, Session};

impl Gateway {
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
        self.incoming
            .send(Incoming { session, bytes, reply, allowance: Allowance::default() })
            .await
            .unwrap();
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
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newcomer_goes_from_the_site_code_to_a_place_on_the_record() {
    let site = open(Keys::of(&Chip::new(1)), &genesis(), vec![]);
    let chip = Chip::new(2);
    let progress = site.ask(&chip, &Request::Progress).await;
    assert!(matches!(progress, Response::Progress(it) if it.stage == Stage::Unknown));

    assert!(matches!(site.attest(&chip).await, Response::NeedsApproval(_)));
    let shown = site.admission.pending().await.unwrap();
    assert!(shown[0].needs_pin && shown[0].state == "needs-approval");
    let progress = site.ask(&chip, &Request::Progress).await;
    assert!(matches!(progress, Response::Progress(it) if it.stage == Stage::AwaitingApproval));
    site.approve(&info(&chip), chip.label, 1).await;
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
    let site = open(Keys::of(&Chip::new(1)), &genesis(), vec![]);
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
    let site = open(Keys::of(&Chip::new(1)), &genesis(), vec![]);
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
