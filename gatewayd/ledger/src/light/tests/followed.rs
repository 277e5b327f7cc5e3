//! Proofs that follow the voters of a site through its life: growth, rotated keys, eras.

use super::*;
use crate::{
    crypto::{SigningKey, sha256},
    fixture::GatewayKeys,
    policy::Policy,
    transaction::ClaimVerdict,
};

fn genesis_anchor(site: &Fixture) -> Anchor {
    Anchor::of(&State::genesis_header(&site.genesis))
}

fn rotate(site: &mut Fixture, voter: usize, number: u32) {
    let secret = sha256(&[b"rotation", &number.to_be_bytes()]).0;
    let vote = SigningKey::from_bytes(&secret).unwrap();
    let keys = site.voters[voter].clone();
    let chain = site.state.chain_id().0;
    let body = RotateKey::new(&chain, &keys.identity.public_key(), &vote);
    let transaction = site.by_identity_of(&keys, Body::RotateKey(body));
    site.commit(vec![transaction]).unwrap();
    site.voters[voter].vote = vote.clone();
    if keys.node() == site.gateway() {
        site.founder.vote = vote;
    }
}

#[test]
fn voters_that_grow_are_followed_from_one_to_four_to_seven() {
    let mut site = Fixture::grown(4);
    let more: Vec<_> = (0..3).map(|byte| GatewayKeys::new(50 + byte)).collect();
    for keys in &more {
        site.admit(keys);
    }
    site.activate(&more.iter().collect::<Vec<_>>());
    rotate(&mut site, 2, 0);
    site.commit(vec![]).unwrap();
    let proof = site.identity_proof(more[0].node(), &[]);
    assert_eq!(proof.target.sets.iter().map(ValidatorSet::count).collect::<Vec<_>>(), [1, 4, 7, 7]);
    let verdict = accepted(&proof, &genesis_anchor(&site));
    let text = verdict.statements.join("\n");
    assert!(text.contains("was attested by other gateways of the site"), "{text}");
    let steps = "3 certified changes of the voting gateways";
    assert!(verdict.checks.iter().any(|check| check.sentence.contains(steps)), "{verdict:#?}");
    // The sole voter of the beginning cannot certify what four must.
    let anchor = genesis_anchor(&site);
    let mut by_one = proof.clone();
    by_one.target.steps.remove(1);
    by_one.target.sets.remove(1);
    assert_eq!(failed(&by_one, &anchor), "anchor");
    let mut few = proof;
    let Signers::Votes(votes) = &few.target.steps[2].1 else { unreachable!() };
    let five = votes.signers().zip(votes.signatures.iter().copied());
    assert_eq!(votes.signatures.len(), 5);
    few.target.steps[2].1 = Signers::Votes(crate::certificate::Votes::collect(0, 7, five.take(4)));
    assert_eq!(failed(&few, &anchor), "anchor");
}

/// With one voter and with many: a step of many voters leads over several rotations.
#[test]
fn a_thousand_rotated_keys_make_one_file() {
    for (voters, most_steps) in [(1, 1_000), (4, 501), (7, 335), (16, 168)] {
        let mut site = Fixture::grown(voters);
        for number in 0..1_000 {
            rotate(&mut site, number as usize % usize::from(voters), number);
        }
        site.commit(vec![]).unwrap();
        let proof = site.identity_proof(site.gateway(), &[]);
        let steps = proof.target.steps.len();
        assert!(steps <= most_steps, "{voters} voters: {steps} steps");
        let bytes = proof.to_bytes();
        assert!(bytes.len() <= crate::proof::MAX_PROOF, "{voters} voters: {} bytes", bytes.len());
        let verdict = verify_bytes(&bytes, &genesis_anchor(&site), &Options::default());
        assert!(verdict.is_valid(), "{:?}", verdict.failure());
    }
}

/// Certificates of a quorum and no more: whoever is missing may be one whose key is old.
#[test]
fn rotations_are_left_out_as_far_as_old_keys_signed() {
    let mut site = Fixture::grown(7);
    let anchor = genesis_anchor(&site);
    for number in 0..30u32 {
        rotate(&mut site, (number as usize * 3) % 7, number);
        let (_, certificate) = site.chain.last_mut().unwrap();
        let Signers::Votes(votes) = &mut certificate.signers else { unreachable!() };
        let signed = votes.signers().zip(votes.signatures.iter().copied());
        let away = [number as usize % 7, (number as usize + 3) % 7];
        let few = signed.filter(|(index, _)| !away.contains(index));
        *votes = crate::certificate::Votes::collect(0, 7, few);
        site.last_commit = Some(certificate.clone());
    }
    site.commit(vec![]).unwrap();
    let proof = site.identity_proof(site.gateway(), &[]);
    assert!(proof.target.steps.len() < 30, "{} steps", proof.target.steps.len());
    accepted(&proof, &anchor);
    // A verifier that trusts a block between finds its voters at a stop, and nowhere else.
    let changes = |stops: &[Height]| {
        let all: Vec<_> = site.chain[..site.chain.len() - 1].iter().collect();
        let after = site.sets.iter().skip(1);
        let changes = all.into_iter().zip(after).map(|((block, certificate), next)| {
            let (header, signers) = (block.header.clone(), certificate.signers.clone());
            crate::proof::SetChange { header, signers, next: next.clone() }
        });
        let changed = |change: &crate::proof::SetChange| {
            change.header.next_validators_hash != change.header.validators_hash
        };
        let (sets, steps) = crate::proof::shortest_way(
            site.sets[0].clone(),
            changes.filter(changed).collect(),
            stops,
        );
        let between = site.chain.iter().map(|(block, _)| block.header.clone()).collect();
        Target { sets, steps, anchors: between, ..proof.target.clone() }
    };
    for (block, _) in &site.chain[8..site.chain.len() - 1] {
        let stop = [block.header.height];
        let mut stopped = proof.clone();
        stopped.target = changes(&stop);
        stopped.target.anchors = vec![block.header.clone()];
        accepted(&stopped, &Anchor::of(&block.header));
    }
}

/// A file that leaves out more than the old voters vouch for is refused.
#[test]
fn strangers_do_not_vouch_for_what_is_left_out() {
    let mut site = Fixture::grown(4);
    let anchor = genesis_anchor(&site);
    (0..4).for_each(|number| rotate(&mut site, number as usize, number));
    site.commit(vec![]).unwrap();
    let proof = site.identity_proof(site.gateway(), &[]);
    accepted(&proof, &anchor);
    for step in 1..proof.target.steps.len() {
        let mut skipped = proof.clone();
        skipped.target.steps.remove(step);
        assert_eq!(failed(&skipped, &anchor), "anchor", "without step {step}");
    }
    for set in 0..proof.target.sets.len() - 1 {
        let mut skipped = proof.clone();
        skipped.target.sets.remove(set);
        assert_eq!(failed(&skipped, &anchor), "anchor", "without set {set}");
    }
}

/// What a sensor said in the first days is proved after years: other voters, a thousand other
/// vote keys, another era.
#[test]
fn an_early_reading_is_proved_after_a_thousand_rotations_and_an_era() {
    let mut site = Fixture::grown(4);
    let node = site.join(2);
    let cut = site.cut(&[(node, 1, 0), (node, 1, 1)]);
    let batch = site.batch(&cut, vec![]);
    site.commit(vec![batch]).unwrap();
    let (salt, leaf) = cut.leaves[1].clone();
    let kept = LeafPath { salt, index: 1, path: cut.path(1).unwrap(), leaf };
    let height = site.height().0;
    (0..500).for_each(|number| rotate(&mut site, number as usize % 4, number));
    let more: Vec<_> = (0..3).map(|byte| GatewayKeys::new(50 + byte)).collect();
    more.iter().for_each(|keys| site.admit(keys));
    site.activate(&more.iter().collect::<Vec<_>>());
    (500..1_000).for_each(|number| rotate(&mut site, number as usize % 7, number));
    recover(&mut site, 3);
    rotate(&mut site, 1, 1_000);
    site.commit(vec![]).unwrap();
    let target = site.followed();
    let exported = Exported {
        node,
        kept,
        height,
        sets: target.sets.clone(),
        steps: target.steps.clone(),
        site,
    };
    let mut proof = exported.proof();
    proof.states.push(exported.site.state.state_proof(&Key::Site));
    let bytes = proof.to_bytes();
    assert!(bytes.len() <= crate::proof::MAX_PROOF, "{} bytes", bytes.len());
    let verdict = accepted(&proof, &exported.anchor(0));
    assert_eq!(verdict.reading, Some(exported.kept.leaf.clone()));
    let text = verdict.statements.join("\n");
    assert!(text.contains("RECOVERED BY THE OPERATOR at height"), "{text}");
}

/// The operator begins a new era with the first so many voters.
fn recover(site: &mut Fixture, survivors: usize) {
    let mut nodes: Vec<_> = site.voters[..survivors].iter().map(GatewayKeys::node).collect();
    nodes.sort_unstable();
    let survivors = nodes.into_iter().map(|node| Survivor { node, new_vote_key: None });
    let plan = Recovery {
        state: &site.state,
        tip: &site.tip,
        last_commit: site.last_commit.as_ref(),
        time_ms: site.now_ms(),
        proposer: site.gateway(),
        survivors: survivors.collect(),
        nonce: 10,
        expiry_ms: site.now_ms() + 60_000,
    };
    let (draft, header) = plan.draft().unwrap();
    let transaction = draft.sign(&site.operator);
    let (header, certificate) = certify_recovery(header, transaction.clone());
    let last_commit = site.last_commit.clone();
    let block = Block { header, transactions: vec![transaction], last_commit };
    let outcome = crate::chain::execute(&site.state, &site.tip, &site.tip_set, &block).unwrap();
    site.take(block, certificate, outcome);
}

/// Four voters, of whom two are lost for ever; the other two go on in a new era.
#[test]
fn an_era_of_several_voters_is_followed_and_said() {
    let mut site = Fixture::grown(4);
    recover(&mut site, 2);
    let recovered_at = site.height();
    rotate(&mut site, 1, 7);
    site.commit(vec![]).unwrap();
    let proof = site.identity_proof(site.gateway(), &[Key::Site]);
    assert_eq!(proof.target.sets.iter().map(ValidatorSet::count).collect::<Vec<_>>(), [1, 4, 2, 2]);
    let text = accepted(&proof, &genesis_anchor(&site)).statements.join("\n");
    let expected = alloc::format!("RECOVERED BY THE OPERATOR at height {recovered_at}: era 1");
    assert!(text.contains(&expected), "{text}");
}

/// Whoever relies on a gateway reads how its TPM was attested, when, and what was left unproven.
#[test]
fn attestations_are_shown_with_their_age_and_what_they_leave_open() {
    let mut site = Fixture::grown(4);
    let keys = GatewayKeys::new(60);
    let act = Policy { operator_approval: false, ..Policy::default() };
    let act = site.by_operator(act.into());
    site.commit(vec![act]).unwrap();
    let mut admit = site.admission(&keys);
    admit.statement.claims = vec![
        ClaimVerdict { claim: 1, status: ClaimVerdict::WARNING },
        ClaimVerdict { claim: 5, status: ClaimVerdict::WARNING },
        ClaimVerdict { claim: 6, status: ClaimVerdict::WARNING },
    ];
    site.endorse(&mut admit);
    let admit = site.by_founder(Body::Admit(admit.into()));
    site.commit(vec![admit]).unwrap();
    let three_hours = site.now_ms() + 3 * 3_600_000;
    site.commit_at(three_hours, vec![]).unwrap();
    let anchor = genesis_anchor(&site);
    let proof = site.identity_proof(keys.node(), &[]);
    let text = accepted(&proof, &anchor).statements.join("\n");
    for part in
        ["IS A CHIP AND NOT A PROGRAM", "machine booted", "files were opened", "3 hours before"]
    {
        assert!(text.contains(part), "{part} is missing in:\n{text}");
    }
    let next_week = site.now_ms() + 7 * 86_400_000;
    site.commit_at(next_week, vec![]).unwrap();
    let proof = site.identity_proof(keys.node(), &[Key::Policy]);
    let text = accepted(&proof, &anchor).statements.join("\n");
    assert!(text.contains("which was STALE: 171 hours old, and valid for 24"), "{text}");
}

/// Sets travel as changes; whatever a damaged change still says is no second form of one proof.
#[test]
fn changes_of_sets_have_one_form() {
    let mut site = Fixture::grown(4);
    rotate(&mut site, 3, 1);
    site.commit(vec![]).unwrap();
    let anchor = genesis_anchor(&site);
    let bytes = site.identity_proof(site.gateway(), &[]).to_bytes();
    assert!(verify_bytes(&bytes, &anchor, &Options::default()).is_valid());
    for index in 0..bytes.len() {
        let mut flipped = bytes.clone();
        flipped[index] ^= 1 << (index % 8);
        let verdict = verify_bytes(&flipped, &anchor, &Options::default());
        assert!(!verdict.is_valid(), "byte {index} of {}", bytes.len());
    }
}
