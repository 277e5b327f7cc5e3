use ledger::certificate::Signers;
use ledger::codec::{Decode, Encode, Text};
use ledger::crypto::SigningKey;
use ledger::genesis::{Founder, FounderAttestation, TpmName};
use ledger::host::Host;
use ledger::ids::Height;
use ledger::node::{Input, Now};
use ledger::proof::Target;
use ledger::state::State;
use ledger::store::{Founding, Store};
use ledger::transaction::{vote_key_digest, vote_possession_digest};

use super::*;
use crate::admission::messages::Bytes;

const START_MS: u64 = 1_800_000_000_000;

fn key(byte: u8) -> SigningKey {
    SigningKey::from_bytes(&[byte; 32]).unwrap()
}

/// A real small site: one gateway, some heartbeat blocks.
pub(crate) struct Small {
    pub(crate) genesis: Genesis,
    pub(crate) host: Host,
    _folder: tempfile::TempDir,
}

impl Small {
    pub(crate) fn new(founder: u8) -> Self {
        let (identity, vote) = (key(founder), key(founder + 100));
        let (salt, folder) = (Hash([founder; 32]), tempfile::tempdir().unwrap());
        let context = Genesis::context(&salt);
        let keys = (identity.public_key(), vote.public_key());
        let genesis = Genesis {
            time_ms: START_MS,
            site_name: Text::new("cold store").unwrap(),
            operator: key(90).public_key(),
            founder: Founder {
                identity: keys.0,
                vote: keys.1,
                vote_certificate: identity
                    .sign_digest(&vote_key_digest(&context, &keys.0, &keys.1)),
                vote_possession: vote
                    .sign_digest(&vote_possession_digest(&context, &keys.0, &keys.1)),
                ek_digest: Hash([8; 32]),
                ak_name: TpmName([9; 34]),
                attestation: FounderAttestation::Unverified,
            },
            policy: Policy::default(),
            salt,
        };
        drop(Store::found(folder.path(), &Founding::new(genesis.clone())).unwrap());
        let node = NodeId::of_key(&keys.0);
        let mut host = Host::open(folder.path(), node, Some(vote)).unwrap();
        for minute in 0..4 {
            let mono_ms = minute * 61_000;
            let now = Now { mono_ms, wall_ms: START_MS + mono_ms, synchronised: true };
            let input = if minute == 0 { Input::Start } else { Input::Wake };
            host.step(now, input, &mut |_| {}).unwrap();
        }
        assert!(host.node().tip().height > Height(1), "heartbeats make blocks");
        Self { genesis, host, _folder: folder }
    }

    pub(crate) fn founder(&self) -> PublicKey {
        self.genesis.founder.identity
    }

    fn genesis_anchor(&self) -> Anchor {
        Anchor::of(&State::genesis_header(&self.genesis))
    }

    /// What a member answers that is asked with the site code of genesis.
    fn answer(&mut self, keys: &[Key], subject: NodeId) -> HeadAnswer {
        let tip = self.host.node().tip().height;
        let reader = self.host.store().reader().unwrap();
        let certificate = reader.certificate(tip).unwrap().unwrap();
        let state = self.host.node().state();
        let Signers::Votes(_) = &certificate.signers else { panic!("voters sign") };
        let proof = Proof {
            subject: Subject::Identity(subject),
            target: Target {
                header: self.host.node().tip().clone(),
                signers: certificate.signers,
                sets: vec![self.genesis.validator_set()],
                steps: vec![],
                anchors: vec![State::genesis_header(&self.genesis)],
            },
            states: keys.iter().map(|key| state.state_proof(key)).collect(),
        };
        HeadAnswer {
            genesis: Bytes::new(self.genesis.to_bytes()).unwrap(),
            proof: Bytes::new(proof.to_bytes()).unwrap(),
            members: vec![],
        }
    }

    pub(crate) fn good(&mut self) -> HeadAnswer {
        let node = NodeId::of_key(&self.founder());
        self.answer(&[Key::Gateway(node), Key::LightNode(node), Key::Policy], node)
    }
}

#[test]
fn a_member_of_the_site_is_known_by_the_site_code() {
    let mut site = Small::new(1);
    let answer = site.good();
    let known = check(&answer, &site.genesis_anchor(), &site.founder(), None).unwrap();
    assert_eq!(known.chain_id, site.genesis.chain_id());
    assert_eq!(known.node, NodeId::of_key(&site.founder()));
    assert_eq!(known.header, *site.host.node().tip());
    assert_eq!(known.voters, site.genesis.validator_set());
    assert_eq!((&known.policy, known.pinned_ek), (&site.genesis.policy, None));
    let genesis = State::genesis_header(&site.genesis);
    assert_eq!(known.anchor_header, Some(genesis));
    // The newest header itself as site code.
    let tip = Anchor::of(site.host.node().tip());
    let known = check(&answer, &tip, &site.founder(), None).unwrap();
    assert_eq!(known.anchor_header, None);
}

#[test]
fn a_forged_code_another_site_and_a_stale_record_are_named() {
    let (mut site, mut other) = (Small::new(1), Small::new(2));
    let good = site.good();
    let refused = |answer: &HeadAnswer, anchor: &Anchor, peer: &PublicKey| {
        check(answer, anchor, peer, None).unwrap_err()
    };
    let mut forged = site.genesis_anchor();
    forged.hash.0[0] ^= 1;
    let error = refused(&good, &forged, &site.founder());
    assert!(matches!(error, HeadError::SiteCode { check: "anchor", .. }), "{error}");
    let newer = Anchor { height: Height(1_000), ..site.genesis_anchor() };
    let error = refused(&good, &newer, &site.founder());
    assert!(error.to_string().contains("newer"), "{error}");
    // A spoofed address: a member of another site answers, honestly.
    let error = refused(&other.good(), &site.genesis_anchor(), &other.founder());
    assert!(matches!(error, HeadError::SiteCode { check: "anchor", .. }), "{error}");
    // It shows our genesis with its own chain, or our chain with its own genesis.
    let mut mixed = other.good();
    mixed.genesis = good.genesis.clone();
    let error = refused(&mixed, &site.genesis_anchor(), &other.founder());
    assert_eq!(error, HeadError::OtherGenesis);
    // A code that is too old to be trusted when the clock is known.
    let late = START_MS + 40 * 24 * 3_600_000;
    let error = check(&good, &site.genesis_anchor(), &site.founder(), Some(late)).unwrap_err();
    assert!(matches!(error, HeadError::SiteCode { check: "anchor-age", .. }), "{error}");
}

#[test]
fn only_the_member_itself_may_show_its_membership() {
    let mut site = Small::new(1);
    let anchor = site.genesis_anchor();
    let (good, impostor) = (site.good(), key(50).public_key());
    let founder = NodeId::of_key(&site.founder());
    assert_eq!(
        check(&good, &anchor, &impostor, None).unwrap_err(),
        HeadError::OtherGateway(founder),
        "a true proof, relayed by somebody else"
    );
    let stranger = NodeId::of_key(&impostor);
    let keys = [Key::Gateway(stranger), Key::LightNode(stranger), Key::Policy];
    let absent = site.answer(&keys, stranger);
    assert_eq!(check(&absent, &anchor, &impostor, None).unwrap_err(), HeadError::NotAMember);
    let keys = [Key::Gateway(founder), Key::LightNode(founder)];
    let bare = site.answer(&keys, founder);
    assert_eq!(check(&bare, &anchor, &site.founder(), None).unwrap_err(), HeadError::NoPolicy);
}

#[test]
fn every_flipped_byte_of_a_proof_is_noticed() {
    let mut site = Small::new(1);
    let (anchor, good) = (site.genesis_anchor(), site.good());
    let proof = Proof::from_bytes(&good.proof).unwrap().to_bytes();
    for at in (0..proof.len()).step_by(7) {
        let mut flipped = proof.clone();
        flipped[at] ^= 0x10;
        let answer = HeadAnswer { proof: Bytes::new(flipped).unwrap(), ..good.clone() };
        assert!(check(&answer, &anchor, &site.founder(), None).is_err(), "byte {at}");
    }
}
