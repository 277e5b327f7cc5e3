//! Newcomers: the way in, and every way to be sent away.

use attestation::pcr::PcrSelection;
use attestation::public::Attributes;
use ledger::crypto::SigningKey;
use ledger::ids::{ChainId, Hash, Height};
use ledger::policy::Policy;
use ledger::state::{Attestation, Standing};
use ledger::transaction::{Admit, Body, NodeAct, Purpose, Statement};

use super::authority::Key;
use super::chip::{BOUND, Chip};
use super::site::{
    COORDINATOR, Site, assert_refused, challenge, outcome, statement, wrong_signature,
};
use super::{node_of, session};
use crate::admission::endorsing::agrees;
use crate::admission::messages::{Bytes, Response};
use crate::admission::verifier::{Denial, Effect, Facts, Seat};

fn admit(site: &Site, chip: &Chip, statement: Statement) -> Admit {
    Admit {
        endorsements: vec![site.sign(&statement)],
        vote: chip.vote_proof(site.state.chain_id()),
        founder: None,
        statement,
    }
}

/// Admits a chip; the ledger's rules agree.
pub(super) fn member(site: &mut Site, seed: u8) -> Chip {
    let chip = site.chip(seed);
    site.approve(&chip, false);
    let statement = statement(site.attest(&chip, Purpose::Admit));
    let admit = admit(site, &chip, statement);
    site.by_founder(Body::Admit(Box::new(admit))).unwrap();
    chip
}

#[test]
fn a_newcomer_is_shown_approved_endorsed_and_admitted() {
    let mut site = Site::new(true);
    let chip = site.chip(2);
    let effects = site.attest(&chip, Purpose::Admit);
    assert!(matches!(&effects[..], [Effect::Reply(Response::NeedsApproval(claims))]
        if claims.len() == attestation::ClaimKind::ALL.len()));
    let shown = site.verifier.pending(|_| false);
    assert_eq!(shown.len(), 1);
    assert_eq!((shown[0].state, shown[0].needs_pin), ("needs-approval", false));
    assert_eq!(shown[0].id, node_of(&chip).to_gateway_string());
    assert_eq!(shown[0].from, "192.0.2.7:40000");
    assert!(shown[0].claims.iter().all(|claim| claim.status != "contraindicated"));

    site.approve(&chip, false);
    let signed = statement(site.attest(&chip, Purpose::Admit));
    assert_eq!(signed.base_height, Height(site.height));
    let admit = admit(&site, &chip, signed);
    let mut forged = admit.clone();
    forged.endorsements[0].signature = wrong_signature();
    assert!(site.by_founder(Body::Admit(Box::new(forged))).is_err());
    site.by_founder(Body::Admit(Box::new(admit.clone()))).unwrap();
    let gateway = site.state.gateway(&node_of(&chip)).unwrap();
    assert!(matches!(gateway.attestation, Attestation::Attested { .. }));
    let again = site.by_founder(Body::Admit(Box::new(admit)));
    assert!(again.is_err(), "endorsements are good once");
    assert!(site.verifier.pending(|node| *node == node_of(&chip)).is_empty());
    let effects = site.attest_refused(&chip);
    assert_refused("a member joins", &effects, &Denial::Member);
}

impl Site {
    /// An introduction for admission that is answered at once.
    fn attest_refused(&mut self, chip: &Chip) -> Vec<Effect> {
        self.introduce(chip, &session(chip, 1), Purpose::Admit)
    }
}

#[test]
fn without_the_operators_approval_where_the_policy_wants_none() {
    let mut site = Site::new(true);
    let policy = Policy { operator_approval: false, ..site.state.policy().clone() };
    site.set_policy(policy);
    let chip = site.chip(2);
    let signed = statement(site.attest(&chip, Purpose::Admit));
    let admit = admit(&site, &chip, signed);
    site.by_founder(Body::Admit(Box::new(admit))).unwrap();
}

#[test]
fn verifiers_of_one_site_make_the_same_statement() {
    let mut site = Site::new(true);
    let chip = site.chip(2);
    site.approve(&chip, false);
    let first = statement(site.attest(&chip, Purpose::Admit));
    let second = statement(site.attest(&chip, Purpose::Admit));
    assert_eq!(first, second, "another nonce, credential and session: the same statement");
}

#[test]
fn an_approval_is_for_one_label_tpm_and_policy() {
    let mut site = Site::new(true);
    let mut chip = site.chip(2);
    site.approve(&chip, false);
    chip.label = COORDINATOR;
    let waits = |effects: Vec<Effect>| {
        assert!(matches!(effects[..], [Effect::Reply(Response::NeedsApproval(_))]));
    };
    waits(site.attest(&chip, Purpose::Admit));
    chip.label = Chip::new(2).label;
    let policy = Policy { pcrs: 0x7f, ..site.state.policy().clone() };
    site.set_policy(policy);
    waits(site.attest(&chip, Purpose::Admit));
    site.approve(&chip, false);
    statement(site.attest(&chip, Purpose::Admit));
    // Its certificate has ended by then; the operator's pin stands for it as long as it holds.
    site.approve(&chip, true);
    site.time_ms += 30 * 86_400_000;
    statement(site.attest(&chip, Purpose::Admit));
    site.time_ms += 1;
    waits(site.attest(&chip, Purpose::Admit));
}

#[test]
fn an_ek_that_nobody_vouches_for_is_pinned_or_refused() {
    let mut site = Site::new(true);
    let (other, bare) = (Key::p256(), Chip::new(2));
    let mut foreign = Chip::new(3);
    foreign.ek_certificate = Some(site.certificate(&foreign, &other));
    let mut swapped = Chip::new(4);
    swapped.ek_certificate = Some(site.certificate(&Chip::new(5), &site.authority));
    for (what, chip) in [("none", &bare), ("unknown CA", &foreign), ("another's", &swapped)] {
        let effects = site.attest(chip, Purpose::Admit);
        assert!(matches!(effects[..], [Effect::Reply(Response::NeedsApproval(_))]), "{what}");
        site.approve(chip, false);
        let effects = site.attest(chip, Purpose::Admit);
        let unpinned = matches!(effects[..], [Effect::Reply(Response::NeedsApproval(_))]);
        assert!(unpinned, "{what}: approved without a pin");
    }
    assert!(site.verifier.pending(|_| false).iter().all(|newcomer| newcomer.needs_pin));
    site.approve(&bare, true);
    let signed = statement(site.attest(&bare, Purpose::Admit));
    let admit = admit(&site, &bare, signed);
    site.by_founder(Body::Admit(Box::new(admit))).unwrap();
    let policy = Policy { operator_approval: false, ..site.state.policy().clone() };
    site.set_policy(policy);
    let (words, for_ever, recorded) = outcome(&site.attest(&foreign, Purpose::Admit));
    assert!(words.starts_with("endorsement: "), "{words}");
    assert!(for_ever && recorded, "nobody pins where nobody approves");
}

/// What is wrong, how the chip is made, and what is said of it.
type Case = (&'static str, fn(&mut Chip), Denial);

fn contraindicated(claim: &'static str, reason: &str) -> Denial {
    Denial::Contraindicated { claim, reason: reason.into() }
}

#[test]
fn bad_evidence_is_refused_by_name_and_recorded() {
    let nonce = "the quote was made for another challenge";
    let cases: [Case; 5] = [
        (
            "fewer registers",
            |chip| chip.quotes = Some(PcrSelection::new(&[0, 7]).unwrap()),
            contraindicated("freshness", "other registers were quoted than the policy asks for"),
        ),
        (
            "attested by the identity key",
            |chip| chip.identity_attests = true,
            contraindicated("residency", "the attestation key did not sign the certification"),
        ),
        (
            "the TPM of somebody else",
            |chip| chip.keeps_credential_shut = true,
            contraindicated("attestation-key", "the TPM did not open the verifier's credential"),
        ),
        (
            "a software TPM",
            |chip| chip.manufacturer = u32::from_be_bytes(*b"IBM\0"),
            contraindicated("hardware", "a software TPM (IBM): it proves nothing about a machine"),
        ),
        ("another channel", |_| {}, contraindicated("freshness", nonce)),
    ];
    for (what, change, denial) in cases {
        // A founder that is attested lets no software TPM in.
        let mut site = Site::new(false);
        let mut chip = site.chip(2);
        chip.label = COORDINATOR;
        change(&mut chip);
        site.approve(&chip, false);
        let here = session(&chip, 1);
        let asked = challenge(site.introduce(&chip, &here, Purpose::Admit));
        let exporter = if what == "another channel" { [2; 32] } else { here.exporter };
        let answer = chip.answer(&asked, &exporter);
        let effects = site.answer(&here, &answer, &chip);
        assert_refused(what, &effects, &denial);
        let shown = site.verifier.pending(|_| false);
        assert_eq!((shown[0].state, &shown[0].reason), ("refused", &denial.to_string()), "{what}");
        let effects = site.answer(&here, &answer, &chip);
        assert_refused("the same again", &effects, &Denial::NoChallenge);
    }
}

#[test]
fn evidence_about_other_keys_or_none_at_all() {
    let mut site = Site::new(true);
    let (chip, other) = (site.chip(2), site.chip(3));
    let here = session(&chip, 1);
    let asked = challenge(site.introduce(&chip, &here, Purpose::Admit));
    let mut mixed = chip.evidence(&asked, &here.exporter);
    mixed.ak_public = other.ak_public();
    let mut answer = chip.answer(&asked, &here.exporter);
    answer.evidence = Bytes::new(mixed.to_bytes()).unwrap();
    assert_refused("another AK", &site.answer(&here, &answer, &chip), &Denial::OtherKeys);
    let asked = challenge(site.introduce(&chip, &here, Purpose::Admit));
    let mut answer = chip.answer(&asked, &here.exporter);
    answer.evidence = Bytes::new(answer.evidence[..100].to_vec()).unwrap();
    let (words, ..) = outcome(&site.answer(&here, &answer, &chip));
    assert!(words.starts_with("malformed evidence: "), "{words}");
}

#[test]
fn keys_that_cannot_be_what_they_claim_get_no_challenge() {
    let cases: [Case; 2] = [
        (
            "an unrestricted AK",
            |chip| chip.ak_attributes = BOUND,
            Denial::AttestationKey(
                "the attestation key is not restricted and bound to its TPM".into(),
            ),
        ),
        (
            "an AK that decrypts",
            |chip| chip.ak_attributes |= Attributes::DECRYPT,
            Denial::AttestationKey(
                "the attestation key is not restricted and bound to its TPM".into(),
            ),
        ),
    ];
    for (what, change, denial) in cases {
        let mut site = Site::new(true);
        let mut chip = site.chip(2);
        change(&mut chip);
        assert_refused(what, &site.attest_refused(&chip), &denial);
    }
    let mut site = Site::new(true);
    let (chip, thief) = (site.chip(2), site.chip(3));
    let effects = site.introduce(&chip, &session(&thief, 1), Purpose::Admit);
    assert_refused("keys of another session", &effects, &Denial::AnotherIdentity);
}

#[test]
fn vote_keys_of_others_and_of_other_sites_are_refused() {
    let mut site = Site::new(true);
    let chip = site.chip(2);
    let here = session(&chip, 1);
    let mut introduction = chip.introduction(ChainId(Hash([4; 32])), Height(site.height));
    let effects = site.introduce_raw(&introduction, &here);
    assert_refused("a join for another site", &effects, &Denial::VoteKey);
    introduction.vote = Chip::new(7).vote_proof(site.state.chain_id());
    let effects = site.introduce_raw(&introduction, &here);
    let (words, ..) = outcome(&effects);
    assert_eq!(words, Denial::VoteKey.to_string(), "a vote key that another identity certified");
    let mut taken = site.chip(3);
    taken.vote = SigningKey::from_bytes(&site.founder.vote.to_bytes()).unwrap();
    let owner = node_of(&site.founder);
    let effects = site.attest_refused(&taken);
    assert_refused("the founder's vote key", &effects, &Denial::VoteKeyTaken(owner));
}

impl Site {
    fn introduce_raw(
        &mut self,
        introduction: &crate::admission::messages::Introduction,
        here: &crate::peers::Session,
    ) -> Vec<Effect> {
        use crate::admission::verifier::{Input, Introduced};
        let introduced = Box::new(Introduced::parse(introduction, here).unwrap());
        let (facts, now, fresh) = (self.facts(&introduced), self.now(), self.fresh());
        let input = Input::Introduced { purpose: Purpose::Admit, introduced, fresh };
        self.verifier.step(now, here, &facts, input)
    }
}

#[test]
fn one_tpm_one_gateway() {
    let mut site = Site::new(true);
    let first = member(&mut site, 2);
    let mut second = site.chip(2);
    second.identity = SigningKey::from_bytes(&[42; 32]).unwrap();
    second.vote = SigningKey::from_bytes(&[43; 32]).unwrap();
    let old = node_of(&first);
    let effects = site.attest_refused(&second);
    assert_refused("the same TPM twice", &effects, &Denial::SameTpm(old));
    let base = Height(site.height);
    let gone = |facts: &mut Facts| facts.sibling.as_mut().unwrap().online = false;
    let effects = site.introduce_as(&second, &session(&second, 1), Purpose::Admit, base, gone);
    challenge(effects);
    let reason = ledger::codec::Text::new("stolen").unwrap();
    site.by_operator(Body::Revoke(NodeAct { node: old, reason })).unwrap();
    // Once an hour an attester goes onto the record: this one did.
    let (words, for_ever, _) = outcome(&site.attest_refused(&second));
    assert_eq!((words, for_ever), (Denial::RevokedTpm(old).to_string(), true));
    let effects = site.attest_refused(&first);
    assert_refused("revoked", &effects, &Denial::Standing(Standing::Revoked.word()));
}

#[test]
fn a_second_type_of_ek_of_one_model_is_refused() {
    let mut site = Site::new(true);
    let chip = site.chip(2);
    let base = Height(site.height);
    let rsa = |facts: &mut Facts| facts.model_kind = Some(1);
    let effects = site.introduce_as(&chip, &session(&chip, 1), Purpose::Admit, base, rsa);
    assert_refused("P-256 after RSA", &effects, &Denial::SecondEkType);
    let same = |facts: &mut Facts| facts.model_kind = Some(2);
    challenge(site.introduce_as(&chip, &session(&chip, 1), Purpose::Admit, base, same));
}

#[test]
fn bases_are_known_and_not_too_old() {
    let mut site = Site::new(true);
    let chip = site.chip(2);
    let tall = |facts: &mut Facts| facts.tip = Height(2_000);
    for (what, base, denial) in [
        ("ahead", Height(2_001), Some(Denial::NotThereYet)),
        ("too old", Height(1_099), Some(Denial::OldBase)),
        ("old enough", Height(1_100), None),
    ] {
        let effects = site.introduce_as(&chip, &session(&chip, 1), Purpose::Admit, base, tall);
        match denial {
            Some(denial) => assert_refused(what, &effects, &denial),
            None => drop(challenge(effects)),
        }
    }
}

#[test]
fn who_may_not_endorse_says_so_and_makes_no_challenge() {
    let mut site = Site::new(true);
    let chip = site.chip(2);
    let base = Height(site.height);
    for (seat, denial) in [(Seat::None, Denial::NoVote), (Seat::Stale, Denial::Stale)] {
        let change = |facts: &mut Facts| facts.seat = seat;
        let effects = site.introduce_as(&chip, &session(&chip, 1), Purpose::Admit, base, change);
        assert_refused("no seat", &effects, &denial);
    }
    assert!(site.verifier.pending(|_| false).is_empty(), "it is not the newcomer's fault");
}

#[test]
fn beside_an_unattested_founder_no_full_node_comes_in() {
    let mut site = Site::new(false);
    let mut chip = site.chip(2);
    let effects = site.attest_refused(&chip);
    assert_refused("full", &effects, &Denial::UnattestedFounder);
    chip.label = COORDINATOR;
    challenge(site.attest_refused(&chip));
}

#[test]
fn a_policy_that_changes_in_between_is_asked_about_again() {
    let mut site = Site::new(true);
    let chip = site.chip(2);
    let here = session(&chip, 1);
    let asked = challenge(site.introduce(&chip, &here, Purpose::Admit));
    let policy = Policy { pcrs: 0x7f, ..site.state.policy().clone() };
    site.set_policy(policy);
    let answer = chip.answer(&asked, &here.exporter);
    let effects = site.answer(&here, &answer, &chip);
    assert_refused("old policy", &effects, &Denial::PolicyChanged);
}

#[test]
fn voters_agree_about_a_failure_but_for_the_base() {
    let mut site = Site::new(true);
    let chip = site.chip(2);
    site.approve(&chip, false);
    let own = statement(site.attest(&chip, Purpose::Admit));
    let own = Statement { purpose: Purpose::Fail, ..own };
    let later = Statement { base_height: Height(99), ..own.clone() };
    assert!(agrees(&own, &later));
    let admit = Statement { purpose: Purpose::Admit, ..own.clone() };
    assert!(!agrees(&admit, &admit), "only failures are countersigned");
    let other = Statement { ek_digest: Hash([1; 32]), ..later };
    assert!(!agrees(&own, &other));
}
