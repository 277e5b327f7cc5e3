//! Members: renewal, staleness, failure.

use attestation::pcr::PcrSelection;
use ledger::crypto::SigningKey;
use ledger::ids::Height;
use ledger::policy::Policy;
use ledger::state::Attestation;
use ledger::transaction::{Attest, Body, Purpose};

use super::chip::Chip;
use super::newcomers::member;
use super::site::{COORDINATOR, Site, assert_refused, challenge, outcome, statement};
use super::{node_of, session};
use crate::admission::verifier::{Denial, Effect, Facts, Seat, seat};

#[test]
fn a_member_renews_and_the_record_takes_it() {
    let mut site = Site::new(true);
    let chip = member(&mut site, 2);
    site.time_ms += 500_000;
    let signed = statement(site.attest(&chip, Purpose::Attest));
    let attest = Attest { endorsements: vec![site.sign(&signed)], statement: signed };
    site.by_founder(Body::Attest(Box::new(attest.clone()))).unwrap();
    let attestation = site.state.gateway(&node_of(&chip)).unwrap().attestation;
    let now = site.time_ms;
    assert!(matches!(attestation, Attestation::Attested { time_ms, .. } if time_ms == now));
    assert!(site.by_founder(Body::Attest(Box::new(attest))).is_err(), "good once");
    let appraised = site.verifier.appraised(&node_of(&chip)).unwrap();
    assert!(appraised.accepted);
}

#[test]
fn an_attestation_goes_stale_and_stale_voters_renew_each_other() {
    let mut site = Site::new(true);
    let chip = member(&mut site, 2);
    let node = node_of(&chip);
    let founder = node_of(&site.founder);
    assert_eq!(seat(&site.state, &node, site.time_ms), Seat::Second(founder));
    assert_eq!(seat(&site.state, &founder, site.time_ms), Seat::Votes, "a sole voter is excused");
    let policy = Policy { attestation_valid_s: 60, ..site.state.policy().clone() };
    site.set_policy(policy);
    let late = site.time_ms + 61_000;
    assert!(crate::admission::verifier::is_stale(&site.state, &node, late));
    assert!(!crate::admission::verifier::is_stale(&site.state, &node, late - 1_001));
    let stale = |facts: &mut Facts| facts.seat = Seat::Stale;
    let (here, base) = (session(&chip, 1), Height(site.height));
    challenge(site.introduce_as(&chip, &here, Purpose::Attest, base, stale));
    let newcomer = site.chip(3);
    let there = session(&newcomer, 2);
    let effects = site.introduce_as(&newcomer, &there, Purpose::Admit, base, stale);
    assert_refused("a stale voter", &effects, &Denial::Stale);
}

#[test]
fn a_member_without_a_vote_renews_the_sole_voter_and_nobody_else() {
    let mut site = Site::new(true);
    let (chip, other) = (member(&mut site, 2), member(&mut site, 3));
    let sole = node_of(&other);
    for (seat, denied) in
        [(Seat::Second(sole), false), (Seat::Second(node_of(&chip)), true), (Seat::None, true)]
    {
        let change = |facts: &mut Facts| facts.seat = seat;
        let (here, base) = (session(&other, 1), Height(site.height));
        let effects = site.introduce_as(&other, &here, Purpose::Attest, base, change);
        if denied {
            assert_refused("no vote", &effects, &Denial::NoVote);
        } else {
            challenge(effects);
        }
    }
}

#[test]
fn a_failed_renewal_is_told_to_the_quorum() {
    let mut site = Site::new(true);
    let mut chip = member(&mut site, 2);
    chip.keeps_credential_shut = true;
    let effects = site.attest(&chip, Purpose::Attest);
    let failed = effects.iter().find_map(|effect| match effect {
        Effect::Failed(statement) => Some(statement),
        _ => None,
    });
    let failed = failed.expect("the quorum has to know");
    assert_eq!(failed.purpose, Purpose::Fail);
    assert!(failed.is_contraindicated());
    let (words, for_ever, recorded) = outcome(&effects);
    assert!(words.starts_with("attestation-key: ") && for_ever && recorded, "{words}");
    assert_eq!(site.verifier.failures(0).count(), 1);
    assert_eq!(site.verifier.failures(site.mono_ms + 1).count(), 0, "not held for ever");
    chip.keeps_credential_shut = false;
    statement(site.attest(&chip, Purpose::Attest));
    assert_eq!(site.verifier.failures(0).count(), 0, "a good renewal ends it");
}

#[test]
fn an_answer_to_another_challenge_suspends_nobody() {
    let mut site = Site::new(true);
    let mut chip = member(&mut site, 2);
    chip.quotes = Some(PcrSelection::new(&[0]).unwrap());
    let effects = site.attest(&chip, Purpose::Attest);
    let (words, ..) = outcome(&effects);
    assert!(words.starts_with("freshness: "), "{words}");
    assert!(!effects.iter().any(|effect| matches!(effect, Effect::Failed(_))));
    assert_eq!(site.verifier.failures(0).count(), 0);
}

#[test]
fn renewals_are_for_members_with_the_keys_and_label_on_the_record() {
    let mut site = Site::new(true);
    let mut chip = member(&mut site, 2);
    let stranger = site.chip(3);
    fn renew(site: &mut Site, chip: &Chip) -> String {
        outcome(&site.introduce(chip, &session(chip, 1), Purpose::Attest)).0
    }
    assert_eq!(renew(&mut site, &stranger), Denial::NotAMember.to_string());
    let ak = std::mem::replace(&mut chip.ak, SigningKey::from_bytes(&[77; 32]).unwrap());
    assert_eq!(renew(&mut site, &chip), Denial::OtherTpm.to_string());
    chip.ak = ak;
    let label = std::mem::replace(&mut chip.label, COORDINATOR);
    assert_eq!(renew(&mut site, &chip), Denial::OtherLabel.to_string());
    chip.label = label;
    let old = site.height;
    let signed = statement(site.attest(&chip, Purpose::Attest));
    let attest = Attest { endorsements: vec![site.sign(&signed)], statement: signed };
    site.by_founder(Body::Attest(Box::new(attest))).unwrap();
    let here = session(&chip, 1);
    let effects = site.introduce_as(&chip, &here, Purpose::Attest, Height(old - 1), |_| {});
    assert_refused("a base before the last attestation", &effects, &Denial::OldBase);
}
