//! A site of one founder on a real ledger state, with its verifier.

use attestation::activation::ENTROPY_LEN;
use ledger::codec::Text;
use ledger::genesis::{Founder, FounderAttestation, Genesis, TpmName};
use ledger::ids::{Hash, Height};
use ledger::policy::Policy;
use ledger::state::{BlockContext, Event, State};
use ledger::transaction::{
    Author, Body, Document, DocumentKind, Draft, GatewayApproval, Label, PolicyAct, Purpose,
    QuorumSignature, Statement, Transaction, VoteKeyProof,
};
use zeroize::Zeroizing;

use super::authority::{self, Key};
use super::chip::Chip;
use crate::admission::messages::{Challenge, EvidenceRequest, LogPart, Response};
use crate::admission::verifier::{
    Denial, Effect, Facts, Fresh, Input, Introduced, Now, Query, Trust, Verifier,
};
use crate::peers::Session;
use ledger::crypto::{Signature, SigningKey};

pub(super) const NOW_MS: u64 = authority::NOW * 1_000;

pub(super) struct Site {
    pub(super) state: State,
    pub(super) height: u64,
    pub(super) time_ms: u64,
    pub(super) mono_ms: u64,
    pub(super) founder: Chip,
    pub(super) operator: SigningKey,
    pub(super) authority: Key,
    pub(super) verifier: Verifier,
    pub(super) trust: Trust,
    nonces: u64,
    fresh: u8,
}

impl Site {
    /// A site that trusts one authority, and software TPMs where the test says so.
    pub(super) fn new(insecure: bool) -> Self {
        let founder = Chip::new(1);
        let operator = SigningKey::from_bytes(&[9; 32]).unwrap();
        let policy = Policy { insecure_software_tpm_sites: insecure, ..Policy::default() };
        let salt = Hash([3; 32]);
        let context = Genesis::context(&salt);
        let proof: VoteKeyProof = founder.vote_proof(ledger::ids::ChainId(context));
        let genesis = Genesis {
            time_ms: NOW_MS - 1_000_000,
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
            policy: policy.clone(),
            salt,
        };
        genesis.verify().unwrap();
        let mut site = Self {
            state: State::from_genesis(&genesis),
            height: 0,
            time_ms: NOW_MS,
            mono_ms: 1_000_000,
            founder,
            operator,
            authority: Key::p256(),
            verifier: Verifier::default(),
            trust: Trust::default(),
            nonces: 0,
            fresh: 0,
        };
        site.set_policy(policy);
        site
    }

    /// Sets a policy, with the authority as its anchor.
    pub(super) fn set_policy(&mut self, policy: Policy) {
        let root =
            authority::Request::authority("CA", "CA", &self.authority, &self.authority).issue();
        let document = Document { kind: DocumentKind::Anchor, bytes: root };
        let policy = Policy { ek_anchors: vec![document.hash()], ..policy };
        let act = PolicyAct::new(policy, vec![document]);
        self.by_operator(Body::Policy(Box::new(act))).unwrap();
        self.trust = Trust::read(Trust::documents(&self.state));
    }

    /// Another chip, with a certificate of the site's authority.
    pub(super) fn chip(&self, seed: u8) -> Chip {
        let mut chip = Chip::new(seed);
        chip.ek_certificate = Some(self.certificate(&chip, &self.authority));
        chip
    }

    /// An EK certificate of an authority.
    pub(super) fn certificate(&self, chip: &Chip, authority: &Key) -> Vec<u8> {
        let key = ek_pair(chip);
        authority::Request::ek("CA", &key, authority).issue()
    }

    pub(super) fn commit(&mut self, transaction: Transaction) -> Result<Vec<Event>, String> {
        let verified = self.state.verify(transaction).map_err(|error| error.to_string())?;
        let (height, time_ms) = (Height(self.height + 1), self.time_ms);
        let mut block = self.state.begin(BlockContext { height, time_ms, parent_hash: Hash::ZERO });
        let events = block.apply(&verified).map_err(|error| error.to_string())?;
        let outcome = block.finish();
        self.state.commit(outcome);
        self.height += 1;
        Ok(events)
    }

    fn draft(&mut self, author: Author, expiry: u64, body: Body) -> Draft {
        self.nonces += 1;
        Draft {
            chain_id: self.state.chain_id(),
            era: self.state.era(),
            author,
            nonce: self.nonces,
            expiry,
            attachment: None,
            body,
        }
    }

    pub(super) fn by_operator(&mut self, body: Body) -> Result<Vec<Event>, String> {
        let draft = self.draft(Author::Operator, NOW_MS * 2, body);
        let key = self.operator.clone();
        self.commit(draft.sign(&key))
    }

    pub(super) fn by_founder(&mut self, body: Body) -> Result<Vec<Event>, String> {
        let author = Author::Node(super::node_of(&self.founder));
        let draft = self.draft(author, self.height + 100, body);
        let key = self.founder.vote.clone();
        self.commit(draft.sign(&key))
    }

    pub(super) fn approve(&mut self, chip: &Chip, pin: bool) {
        let approval = GatewayApproval {
            identity: chip.identity.public_key(),
            ek_digest: chip.ek_digest(),
            label: chip.label,
            policy_hash: self.state.policy().attestation_hash(),
            pin,
        };
        self.by_operator(Body::GatewayApproval(approval)).unwrap();
    }

    /// The founder's word on a statement.
    pub(super) fn sign(&self, statement: &Statement) -> QuorumSignature {
        let digest = statement.digest();
        QuorumSignature::sign(super::node_of(&self.founder), &digest, &self.founder.vote)
    }

    /// The ledger's word on a chip, to the verifier of the founder.
    pub(super) fn facts(&self, introduced: &Introduced) -> Facts {
        let own = super::node_of(&self.founder);
        let query = Query::of(introduced);
        Facts::of(&self.state, Height(self.height), self.time_ms, own, &query)
    }

    pub(super) fn now(&self) -> Now {
        Now { mono_ms: self.mono_ms, wall_ms: self.time_ms }
    }

    pub(super) fn fresh(&mut self) -> Fresh {
        self.fresh += 1;
        Fresh {
            nonce: Hash([self.fresh; 32]),
            secret: Zeroizing::new([self.fresh ^ 0x80; 32]),
            entropy: Zeroizing::new([self.fresh; ENTROPY_LEN]),
        }
    }

    /// A chip introduces itself.
    pub(super) fn introduce(
        &mut self,
        chip: &Chip,
        session: &Session,
        purpose: Purpose,
    ) -> Vec<Effect> {
        let base = Height(self.height);
        self.introduce_as(chip, session, purpose, base, |_| {})
    }

    /// As [`Site::introduce`], with another base and facts as a test changes them.
    pub(super) fn introduce_as(
        &mut self,
        chip: &Chip,
        session: &Session,
        purpose: Purpose,
        base: Height,
        change: impl FnOnce(&mut Facts),
    ) -> Vec<Effect> {
        let introduction = chip.introduction(self.state.chain_id(), base);
        let (now, fresh) = (self.now(), self.fresh());
        match Introduced::parse(&introduction, session) {
            Ok(introduced) => {
                let mut facts = self.facts(&introduced);
                change(&mut facts);
                let introduced = Box::new(introduced);
                let input = Input::Introduced { purpose, introduced, fresh };
                self.verifier.step(now, session, &facts, input)
            }
            Err(denial) => self.verifier.refuse_introduction(now, session, &denial),
        }
    }

    /// An answer to a challenge.
    pub(super) fn answer(
        &mut self,
        session: &Session,
        answer: &EvidenceRequest,
        chip: &Chip,
    ) -> Vec<Effect> {
        let introduction = chip.introduction(self.state.chain_id(), Height(self.height));
        let introduced = Introduced::parse(&introduction, &super::session(chip, 0)).unwrap();
        let facts = self.facts(&introduced);
        let (now, fresh) = (self.now(), self.fresh());
        let input = Input::Evidence { answer, trust: &self.trust, fresh };
        self.verifier.step(now, session, &facts, input)
    }

    /// A part of a log.
    pub(super) fn hand_over(
        &mut self,
        session: &Session,
        part: &LogPart,
        chip: &Chip,
    ) -> Vec<Effect> {
        let introduction = chip.introduction(self.state.chain_id(), Height(self.height));
        let introduced = Introduced::parse(&introduction, &super::session(chip, 0)).unwrap();
        let facts = self.facts(&introduced);
        let (now, fresh) = (self.now(), self.fresh());
        let input = Input::Log { part, trust: &self.trust, fresh };
        self.verifier.step(now, session, &facts, input)
    }

    /// The whole exchange.
    pub(super) fn attest(&mut self, chip: &Chip, purpose: Purpose) -> Vec<Effect> {
        let session = super::session(chip, 1);
        let challenge = challenge(self.introduce(chip, &session, purpose));
        let answer = chip.answer(&challenge, &session.exporter);
        self.answer(&session, &answer, chip)
    }
}

/// An EK as the authority's tests hold keys: they only issue for its public half.
fn ek_pair(chip: &Chip) -> Key {
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
    let public = chip.ek.public_key().to_uncompressed().unwrap();
    let pair = EcdsaKeyPair::from_private_key_and_public_key(
        &ECDSA_P256_SHA256_ASN1_SIGNING,
        &chip.ek.to_bytes(),
        &public,
    );
    Key::P256(pair.unwrap())
}

pub(super) fn challenge(effects: Vec<Effect>) -> Challenge {
    match effects.into_iter().next() {
        Some(Effect::Reply(Response::Challenge(challenge))) => *challenge,
        other => panic!("no challenge: {other:?}"),
    }
}

/// What was answered in words, whether it is for ever, and whether it goes onto the record.
pub(super) fn outcome(effects: &[Effect]) -> (String, bool, bool) {
    let recorded = effects.iter().any(|effect| matches!(effect, Effect::Record { .. }));
    match effects.first() {
        Some(Effect::Reply(Response::Refused(refused))) => {
            (refused.reason.as_str().into(), true, recorded)
        }
        Some(Effect::Reply(Response::Wait(wait))) => (wait.reason.as_str().into(), false, recorded),
        other => panic!("neither refused nor waiting: {other:?}"),
    }
}

pub(super) fn statement(effects: Vec<Effect>) -> Statement {
    match effects.into_iter().next() {
        Some(Effect::Endorse { statement, .. }) => *statement,
        other => panic!("not endorsed: {other:?}"),
    }
}

pub(super) fn assert_refused(what: &str, effects: &[Effect], denial: &Denial) {
    let (words, for_ever, recorded) = outcome(effects);
    assert_eq!(words, denial.to_string(), "{what}");
    assert_eq!(for_ever, denial.wait_s().is_none(), "{what}");
    assert_eq!(recorded, denial.is_recorded(), "{what}");
}

/// A label that asks for less.
pub(super) const COORDINATOR: Label = Label { full: false, coordinator: true };

/// A signature that is none of the statement's.
pub(super) fn wrong_signature() -> Signature {
    SigningKey::from_bytes(&[8; 32]).unwrap().sign_digest(&Hash([0; 32]))
}
