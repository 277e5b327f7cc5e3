//! What is used once, what expires, and what is bounded.

use ledger::ids::Hash;
use ledger::transaction::Purpose;

use super::chip::Chip;
use super::session;
use super::site::{Site, assert_refused, challenge, outcome};
use crate::admission::messages::{Bytes, LogPart};
use crate::admission::verifier::challenges::{CHALLENGE_MS, MAX_GUESTS, MAX_GUESTS_PER_ADDRESS};
use crate::admission::verifier::pending::MAX_PENDING;
use crate::admission::verifier::{Denial, Effect};

#[test]
fn a_challenge_is_answered_once_in_time_in_its_session() {
    let mut site = Site::new(true);
    let chip = site.chip(2);
    let (here, there) = (session(&chip, 1), session(&chip, 2));
    let asked = challenge(site.introduce(&chip, &here, Purpose::Admit));
    let answer = chip.answer(&asked, &here.exporter);
    let denied = &Denial::NoChallenge;
    assert_refused("elsewhere", &site.answer(&there, &answer, &chip), denied);
    site.answer(&here, &answer, &chip);
    assert_refused("replayed", &site.answer(&here, &answer, &chip), denied);

    let asked = challenge(site.introduce(&chip, &here, Purpose::Admit));
    let mut wrong = chip.answer(&asked, &here.exporter);
    wrong.nonce = Hash([0xee; 32]);
    assert_refused("wrong nonce", &site.answer(&here, &wrong, &chip), denied);
    let answer = chip.answer(&asked, &here.exporter);
    assert_refused("used up by it", &site.answer(&here, &answer, &chip), denied);

    let asked = challenge(site.introduce(&chip, &here, Purpose::Admit));
    let answer = chip.answer(&asked, &here.exporter);
    site.mono_ms += CHALLENGE_MS + 1;
    assert_refused("too late", &site.answer(&here, &answer, &chip), denied);

    let first = challenge(site.introduce(&chip, &here, Purpose::Admit));
    challenge(site.introduce(&chip, &here, Purpose::Admit));
    let answer = chip.answer(&first, &here.exporter);
    assert_refused("an older one", &site.answer(&here, &answer, &chip), denied);
    assert_eq!(site.verifier.challenges.count(), 0);
}

#[test]
fn guests_are_bounded_by_address_and_in_all_and_keep_no_member_away() {
    let mut site = Site::new(true);
    let chip = site.chip(2);
    let mut opened = 0;
    for exporter in 0..MAX_GUESTS_PER_ADDRESS as u8 {
        challenge(site.introduce(&chip, &session(&chip, exporter), Purpose::Admit));
        opened += 1;
    }
    let effects = site.introduce(&chip, &session(&chip, 200), Purpose::Admit);
    assert_refused("one address", &effects, &Denial::Busy);
    for exporter in opened..MAX_GUESTS as u8 {
        let mut elsewhere = session(&chip, exporter);
        elsewhere.remote = format!("192.0.2.{}:1", 100 + exporter).parse().unwrap();
        challenge(site.introduce(&chip, &elsewhere, Purpose::Admit));
    }
    let mut elsewhere = session(&chip, 201);
    elsewhere.remote = "198.51.100.1:1".parse().unwrap();
    let effects = site.introduce(&chip, &elsewhere, Purpose::Admit);
    assert_refused("in all", &effects, &Denial::Busy);
    let mut member = session(&chip, 202);
    member.member = true;
    challenge(site.introduce(&chip, &member, Purpose::Admit));
    site.mono_ms += CHALLENGE_MS + 1;
    challenge(site.introduce(&chip, &elsewhere, Purpose::Admit));
    assert_eq!(site.verifier.challenges.count(), 1, "the others have expired");
}

#[test]
fn refusals_go_onto_the_record_once_an_hour() {
    let mut site = Site::new(true);
    let mut chip = site.chip(2);
    chip.keeps_credential_shut = true;
    let recorded = |effects: &[Effect]| outcome(effects).2;
    assert!(recorded(&site.attest(&chip, Purpose::Admit)));
    assert!(!recorded(&site.attest(&chip, Purpose::Admit)));
    let mut other = site.chip(3);
    other.keeps_credential_shut = true;
    assert!(recorded(&site.attest(&other, Purpose::Admit)));
    site.mono_ms += 3_600_000;
    assert!(recorded(&site.attest(&chip, Purpose::Admit)));
}

#[test]
fn the_list_is_bounded_and_refused_newcomers_go_first() {
    let mut site = Site::new(true);
    let honest = site.chip(2);
    site.attest(&honest, Purpose::Admit);
    for seed in 0..MAX_PENDING as u8 {
        let mut chip = Chip::new(100 + seed);
        chip.keeps_credential_shut = seed % 2 == 0;
        site.attest(&chip, Purpose::Admit);
    }
    let shown = site.verifier.pending(|_| false);
    assert_eq!(shown.len(), MAX_PENDING);
    let id = super::node_of(&honest).to_gateway_string();
    assert!(shown.iter().any(|newcomer| newcomer.id == id), "strangers do not push it out");
    let before = shown.iter().filter(|newcomer| newcomer.state == "refused").count();
    assert_eq!(before, MAX_PENDING / 2 - 1, "the oldest refused one went");
    site.time_ms += 5_000;
    site.attest(&honest, Purpose::Admit);
    let shown = site.verifier.pending(|_| false);
    assert_eq!(shown.len(), MAX_PENDING, "who asks again is there once");
    assert_eq!(shown.last().unwrap().seen_ms - shown.last().unwrap().since_ms, 5_000);
}

#[test]
fn logs_that_were_not_asked_for_are_not_taken() {
    let mut site = Site::new(true);
    let chip = site.chip(2);
    let here = session(&chip, 1);
    let asked = challenge(site.introduce(&chip, &here, Purpose::Admit));
    assert!(!asked.logs.event && asked.logs.ima_from.is_none(), "the profile wants none");
    for (nonce, ima, denial) in [
        (asked.nonce, false, Denial::Log("event log")),
        (asked.nonce, true, Denial::Log("IMA log")),
        (Hash([0xee; 32]), true, Denial::NoChallenge),
    ] {
        let part = LogPart { nonce, ima, bytes: Bytes::new(vec![1; 100]).unwrap() };
        let (words, ..) = outcome(&site.hand_over(&here, &part, &chip));
        assert_eq!(words, denial.to_string());
    }
    let mut answer = chip.answer(&asked, &here.exporter);
    answer.ima = Some(7);
    let effects = site.answer(&here, &answer, &chip);
    assert_refused("announced", &effects, &Denial::Log("IMA log"));
}
