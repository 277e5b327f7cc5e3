//! Logs that come after the evidence: from whom they are taken, how many at once, for how long.

use ledger::policy::{Policy, Profile};
use ledger::transaction::Purpose;

use super::chip::Chip;
use super::session;
use super::site::{Site, assert_refused, challenge, outcome};
use crate::admission::messages::{MAX_LOG_PART, Response};
use crate::admission::verifier::challenges::{MAX_SENDERS, SILENT_MS};
use crate::admission::verifier::{Denial, Effect};
use crate::peers::Session;

/// A site that judges boots, and a chip with a log of two parts.
fn measured() -> (Site, Chip) {
    let mut site = Site::new(true);
    let policy = Policy { profile: Profile::Measured, ..site.state.policy().clone() };
    site.set_policy(policy);
    let mut chip = site.chip(2);
    chip.log = Some(vec![9; MAX_LOG_PART + 5]);
    (site, chip)
}

/// What is answered to a chip's evidence in this session.
fn shows(site: &mut Site, chip: &Chip, here: &Session) -> Vec<Effect> {
    let asked = challenge(site.introduce(chip, here, Purpose::Admit));
    assert!(asked.logs.event);
    let answer = chip.answer(&asked, &here.exporter);
    site.answer(here, &answer, chip)
}

fn is_taken(effects: &[Effect]) -> bool {
    matches!(effects, [Effect::Reply(Response::SendLogs), Effect::Allow { .. }])
}

#[test]
fn logs_are_taken_from_a_trusted_tpm_and_judged_when_all_are_here() {
    let (mut site, chip) = measured();
    let here = session(&chip, 1);
    let asked = challenge(site.introduce(&chip, &here, Purpose::Admit));
    let answer = chip.answer(&asked, &here.exporter);
    let effects = site.answer(&here, &answer, &chip);
    let [Effect::Reply(Response::SendLogs), Effect::Allow { bytes, time }] = &effects[..] else {
        panic!("{effects:?}");
    };
    assert!(*bytes > MAX_LOG_PART + 5 && *bytes < 2 * MAX_LOG_PART, "{bytes}");
    assert!(time.as_secs() > 30 && time.as_secs() < 40, "{time:?}");
    let parts: Vec<_> = chip.logs().parts(asked.nonce).collect();
    let heard = site.hand_over(&here, &parts[0], &chip);
    assert!(matches!(heard[..], [Effect::Reply(Response::Heard)]), "{heard:?}");
    let (words, for_ever, recorded) = outcome(&site.hand_over(&here, &parts[1], &chip));
    assert!(words.starts_with("boot: ") && for_ever && recorded, "{words}");
    let again = site.hand_over(&here, &parts[1], &chip);
    assert_refused("it is over", &again, &Denial::NoChallenge);
}

#[test]
fn nothing_is_taken_from_a_tpm_that_nobody_vouches_for() {
    let (mut site, mut chip) = measured();
    chip.ek_certificate = None;
    let here = session(&chip, 1);
    let effects = shows(&mut site, &chip, &here);
    let [Effect::Reply(Response::NeedsApproval(claims))] = &effects[..] else {
        panic!("{effects:?}");
    };
    let boot = claims.iter().find(|claim| claim.reason.as_str().starts_with("not judged"));
    assert!(boot.is_some_and(|boot| boot.status == 1), "{claims:?}");
    let part = chip.logs().parts(ledger::ids::Hash([1; 32])).next().unwrap();
    assert_refused("no more", &site.hand_over(&here, &part, &chip), &Denial::NoChallenge);
    // Nor from one that is trusted and does not prove that it is here.
    let (mut site, mut chip) = measured();
    chip.keeps_credential_shut = true;
    let (words, ..) = outcome(&shows(&mut site, &chip, &session(&chip, 1)));
    assert!(words.starts_with("attestation-key: "), "{words}");
}

#[test]
fn a_log_that_is_too_long_is_refused_by_name() {
    let (mut site, chip) = measured();
    let here = session(&chip, 1);
    let asked = challenge(site.introduce(&chip, &here, Purpose::Admit));
    let mut answer = chip.answer(&asked, &here.exporter);
    answer.event_log.as_mut().unwrap().len = 100 << 20;
    let denial = Denial::LogTooLong { what: "event log", len: 100 << 20, max: 1 << 20 };
    assert_refused("100 MiB", &site.answer(&here, &answer, &chip), &denial);
    let shown = site.verifier.pending(|_| false);
    assert!(shown[0].reason.contains("the event log has 104857600 bytes"), "{}", shown[0].reason);
}

#[test]
fn few_hand_over_logs_at_once_and_who_is_silent_has_ended() {
    let (mut site, chip) = measured();
    for exporter in 0..MAX_SENDERS as u8 {
        assert!(is_taken(&shows(&mut site, &chip, &session(&chip, exporter))), "{exporter}");
    }
    let effects = shows(&mut site, &chip, &session(&chip, 9));
    assert_refused("one more", &effects, &Denial::Busy);
    site.mono_ms += SILENT_MS + 1;
    assert!(is_taken(&shows(&mut site, &chip, &session(&chip, 9))));
    assert_eq!(site.verifier.challenges.count(), 1, "the others have ended");
}
