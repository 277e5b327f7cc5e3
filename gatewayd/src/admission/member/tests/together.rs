//! Gateways together over the real transport: admitted one by one, until all of them vote.

use std::time::Duration;

use ledger::codec::{Decode, Encode};
use ledger::genesis::Genesis;
use ledger::ids::Height;
use ledger::transaction::{Admit, QuorumSignature, Statement};

use super::{Gateway, Keys, genesis, info, open};
use crate::admission::messages::{Bytes, Request, Response, Stage};
use crate::admission::verifier::tests::chip::Chip;
use crate::peers::Connection;

/// Longest wait for what must happen.
const PATIENCE: Duration = Duration::from_secs(60);

/// A gateway with its chip.
struct Member {
    gateway: Gateway,
    chip: Chip,
}

impl std::ops::Deref for Member {
    type Target = Gateway;

    fn deref(&self) -> &Gateway {
        &self.gateway
    }
}

impl Member {
    fn open(seed: u8, genesis: &Genesis, others: &[Self]) -> Self {
        let (chip, addresses) = (Chip::new(seed), others.iter().map(|it| it.address()).collect());
        Self { gateway: open(Keys::of(&chip), genesis, addresses), chip }
    }

    /// Asks another gateway as a guest.
    async fn guest(&self, other: &Self) -> Connection {
        self.peers.dial(&other.address()).await.unwrap()
    }

    /// Shows this gateway's chip to one verifier.
    async fn show(&self, verifier: &Self, base: Height) -> Response {
        let connection = self.guest(verifier).await;
        let introduction = self.chip.introduction(self.genesis.chain_id(), base);
        let asked = ask(&connection, &Request::Join(Box::new(introduction))).await;
        let Response::Challenge(challenge) = asked else { return asked };
        let answer = self.chip.answer(&challenge, &connection.session().exporter);
        ask(&connection, &Request::Evidence(Box::new(answer))).await
    }

    /// Collects the endorsements of these verifiers, and hands them to the first.
    async fn join(&self, verifiers: &[&Self]) -> Response {
        let base = Height(verifiers[0].ledger.tip().borrow().height);
        let (mut statements, mut endorsements) = (Vec::new(), Vec::new());
        for verifier in verifiers {
            let said = self.show(verifier, base).await;
            let Response::Appraised(said) = said else { panic!("not endorsed: {said:?}") };
            statements.push(Statement::from_bytes(&said.statement).unwrap());
            endorsements.push(QuorumSignature { voter: said.voter, signature: said.signature });
        }
        statements.dedup();
        assert_eq!(statements.len(), 1, "all verifiers sign the same");
        endorsements.sort_by_key(|signed| signed.voter);
        let vote = self.chip.vote_proof(self.genesis.chain_id());
        let admit = Admit { statement: statements.remove(0), vote, endorsements, founder: None };
        let request = Request::Admit(Bytes::new(admit.to_bytes()).unwrap());
        ask(&self.guest(verifiers[0]).await, &request).await
    }

    async fn until_voters(&self, voters: u32) {
        let mut tip = self.ledger.tip();
        let reached = tip.wait_for(|tip| tip.voters == voters);
        let waited = tokio::time::timeout(PATIENCE, reached).await.map(|tip| tip.map(|_| ()));
        waited.unwrap_or_else(|_| panic!("not {voters} voters in time")).unwrap();
    }
}

async fn ask(connection: &Connection, request: &Request) -> Response {
    let bytes = connection.request(request.to_bytes(), PATIENCE).await.unwrap();
    Response::from_bytes(&bytes).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn gateways_are_admitted_one_by_one_and_vote_together_from_four_on() {
    let genesis = genesis();
    let mut site = vec![Member::open(1, &genesis, &[])];
    for seed in 2..=4_u8 {
        let newcomer = Member::open(seed, &genesis, &site);
        site[0].approve(&info(&newcomer.chip), newcomer.chip.label, (seed - 1).into()).await;
        let Response::Progress(done) = newcomer.join(&[&site[0]]).await else { panic!("no") };
        assert_eq!(done.stage, Stage::Admitted, "{}", done.detail.as_str());
        site.push(newcomer);
        if seed < 4 {
            assert_eq!(site[0].ledger.tip().borrow().voters, 1, "two and three are no step");
        }
    }
    for gateway in &site {
        gateway.until_voters(4).await;
    }

    // The fifth needs three of four; two are not enough.
    let fifth = Member::open(5, &genesis, &site);
    site[1].approve(&info(&fifth.chip), fifth.chip.label, 4).await;
    for gateway in &site {
        let mut tip = gateway.ledger.tip();
        let height = site[1].ledger.tip().borrow().height;
        let there = tokio::time::timeout(PATIENCE, tip.wait_for(|tip| tip.height >= height));
        there.await.unwrap().unwrap();
    }
    let few = fifth.join(&[&site[1], &site[2]]).await;
    assert!(matches!(few, Response::Refused(_)), "{few:?}");
    let enough = fifth.join(&[&site[1], &site[2], &site[3]]).await;
    assert!(matches!(&enough, Response::Progress(it) if it.stage == Stage::Admitted), "{enough:?}");
}
