//! Approval, admission, renewal, replacement.

use super::*;
use crate::{
    fixture::signatures,
    genesis::{FounderAttestation, TpmName},
    transaction::{Admit, Author, ClaimVerdict, Label, Purpose, QuorumSignature},
};

fn admit(site: &mut Fixture, body: Admit) -> Result<Vec<Event>, Refused> {
    let transaction = site.by_founder(Body::Admit(body.into()));
    site.try_one(&transaction)
}

fn approve(site: &mut Fixture, keys: &GatewayKeys) {
    let approval = site.by_operator(Body::GatewayApproval(site.approval(keys)));
    site.commit(vec![approval]).unwrap();
}

/// A grown site of four voters, and a fifth gateway that the operator has approved.
fn with_approved() -> (Fixture, GatewayKeys) {
    let mut site = Fixture::grown(4);
    let keys = GatewayKeys::new(60);
    approve(&mut site, &keys);
    (site, keys)
}

#[test]
fn a_newcomer_becomes_a_member_that_does_not_vote() {
    let (mut site, keys) = with_approved();
    let mut body = site.admission(&keys);
    body.statement.claims[1].status = ClaimVerdict::WARNING;
    site.endorse(&mut body);
    let transaction = site.by_founder(Body::Admit(body.into()));
    let events = site.try_one(&transaction).unwrap();
    assert!(events[0].describe().contains("full node and coordinator"), "{events:?}");
    site.commit(vec![transaction]).unwrap();
    let gateway = site.state.gateway(&keys.node()).unwrap();
    let (height, time_ms) = (site.height(), site.tip.header.time_ms);
    let policy_hash = site.state.policy().attestation_hash();
    let attestation = Attestation::Attested { height, time_ms, policy_hash, warnings: 1 << 5 };
    assert_eq!(gateway.attestation, attestation);
    assert_eq!(gateway.standing, StandingRecord::active(height));
    assert!(gateway.online && gateway.full && gateway.ready.is_none());
    assert_eq!(site.state.voters().len(), 4);
    assert_eq!(site.state.endorsement(&keys.ek_digest()).unwrap().gateway, keys.node());
    assert!(site.state.approval(&keys.node()).unwrap().used);
    assert_eq!(site.state.tpm_model(&Hash([3; 32])), Some(1));
    // The same once more is a member already; its own transactions are taken.
    let again = site.admission(&keys);
    assert_eq!(applied(admit(&mut site, again)), ApplyError::Registered(keys.node()));
    let refusal = Body::Refusal(Refusal { node: NodeId([1; 20]), reason: Text::default() });
    let by_it = site.by(&keys, refusal);
    site.commit(vec![by_it]).unwrap();
}

/// Each statement is endorsed by all voters, and wrong in one way.
#[test]
fn statements_hold_for_their_ledger_era_policy_and_time_alone() {
    let (mut site, keys) = with_approved();
    type Change = fn(&mut crate::transaction::Statement);
    let changes: [(&str, Change); 6] = [
        ("another purpose", |s| s.purpose = Purpose::Attest),
        ("another ledger", |s| s.chain_id = ChainId(Hash([1; 32]))),
        ("another era", |s| s.era = Era(1)),
        ("another attestation policy", |s| s.policy_hash = Hash([1; 32])),
        ("lies ahead", |s| s.base_height.0 += 1),
        ("a claim does not hold", |s| s.claims[0].status = ClaimVerdict::CONTRAINDICATED),
    ];
    for (expected, change) in changes {
        let mut body = site.admission(&keys);
        change(&mut body.statement);
        site.endorse(&mut body);
        match applied(admit(&mut site, body)) {
            ApplyError::Statement(why) => assert!(why.contains(expected), "{why}"),
            other => panic!("{expected}: {other:?}"),
        }
    }
    // Good for 1,000 blocks from its base height, not for 1,001.
    let body = Body::Admit(site.admission(&keys).into());
    assert!(site.try_later(body.clone(), 999, 0).is_ok());
    let old = ApplyError::Statement("it is older than 1,000 blocks");
    assert_eq!(applied(site.try_later(body, 1_000, 0)), old);
}

#[test]
fn a_policy_change_voids_statements_and_approvals() {
    let (mut site, keys) = with_approved();
    let body = site.admission(&keys);
    let other_number = Policy { receipts: 1, ..Policy::default() };
    let act = site.by_operator(other_number.into());
    site.commit(vec![act]).unwrap();
    assert!(admit(&mut site, body.clone()).is_ok(), "not a field of attestation");
    let act = site.by_operator(Policy { pcrs: 0xf, ..Policy::default() }.into());
    site.commit(vec![act]).unwrap();
    assert!(matches!(applied(admit(&mut site, body)), ApplyError::Statement(_)));
    let appraised_anew = site.admission(&keys);
    let expected = ApplyError::Approval("the operator approved another TPM, label or policy");
    assert_eq!(applied(admit(&mut site, appraised_anew)), expected);
    let mut approval = site.approval(&keys);
    approval.policy_hash = Policy::default().attestation_hash();
    let late = site.by_operator(Body::GatewayApproval(approval));
    let expected = ApplyError::Approval("the attestation policy has changed since");
    assert_eq!(applied(site.try_one(&late)), expected);
}

#[test]
fn endorsements_are_those_of_more_than_two_thirds_of_the_voters() {
    let (mut site, keys) = with_approved();
    let good = site.admission(&keys);
    let with = |endorsements: Vec<QuorumSignature>| Admit { endorsements, ..good.clone() };
    assert!(admit(&mut site, with(good.endorsements[..3].to_vec())).is_ok());
    let few = admit(&mut site, with(good.endorsements[1..3].to_vec()));
    assert_eq!(applied(few), ApplyError::NoQuorum { found: 2, needed: 3 });

    // Doubled voters are no canonical form, and empty lists neither.
    let mut doubled = good.endorsements[..2].to_vec();
    doubled.insert(0, doubled[0]);
    for list in [doubled, vec![]] {
        let refused = admit(&mut site, with(list)).unwrap_err();
        assert!(matches!(refused, Refused::Verify(VerifyError::Body(_))), "{refused:?}");
    }

    let member = GatewayKeys::new(61);
    site.admit(&member);
    let body = site.admission(&keys);
    let digest = body.statement.digest();
    let mut voters: Vec<_> = site.voters[..2].to_vec();
    voters.push(member.clone());
    let endorsements = signatures(&voters.iter().collect::<Vec<_>>(), &digest);
    let refused = admit(&mut site, Admit { endorsements, ..body.clone() });
    assert_eq!(applied(refused), ApplyError::NotAVoter(member.node()));

    // A stranger's, the newcomer's own, and one over something else.
    let stranger = QuorumSignature::sign(keys.node(), &digest, &keys.vote);
    let refused = admit(&mut site, Admit { endorsements: vec![stranger], ..body.clone() });
    assert_eq!(refused, Err(Refused::Verify(VerifyError::NotAMember(keys.node()))));
    let mut forged = body.endorsements.clone();
    forged[0].signature = site.founder.vote.sign_digest(&Hash([1; 32]));
    let refused = admit(&mut site, Admit { endorsements: forged, ..body.clone() });
    assert!(matches!(refused, Err(Refused::Verify(VerifyError::Part(_)))), "{refused:?}");
    let mut other_label = body;
    other_label.statement.label.coordinator = false;
    let refused = admit(&mut site, other_label);
    assert!(matches!(refused, Err(Refused::Verify(VerifyError::Part(_)))), "{refused:?}");
}

/// An endorser rotates its key between its signature and the block.
#[test]
fn endorsements_under_a_key_that_was_replaced_are_void() {
    let (mut site, keys) = with_approved();
    let body = site.by_founder(Body::Admit(site.admission(&keys).into()));
    let verified = site.state.verify(body.clone()).unwrap();
    let chain = site.state.chain_id().0;
    let voter = site.voters[2].clone();
    let rotate = RotateKey::new(&chain, &voter.identity.public_key(), &key(150));
    let rotate = site.by_identity_of(&voter, Body::RotateKey(rotate));
    site.commit(vec![rotate]).unwrap();
    site.voters[2].vote = key(150);
    let mut execution = site.state.begin(site.tip.next_context(site.now_ms()));
    assert_eq!(execution.apply(&verified), Err(ApplyError::KeyChanged));
    assert!(matches!(site.try_one(&body), Err(Refused::Verify(VerifyError::Part(_)))));
}

#[test]
fn stale_and_unattested_voters_endorse_nothing() {
    let (mut site, keys) = with_approved();
    let body = Body::Admit(site.admission(&keys).into());
    let day = u64::from(site.state.policy().attestation_valid_s) * 1_000;
    assert!(site.try_later(body.clone(), 0, day - 60_000).is_ok());
    let refused = applied(site.try_later(body.clone(), 0, day + 60_000));
    assert!(matches!(refused, ApplyError::Endorser(_)), "{refused:?}");
    assert!(site.state.is_stale(&site.gateway(), site.now_ms() + day + 60_000));
    assert!(!site.state.is_stale(&site.gateway(), site.now_ms()));
    // A renewal among stale members is valid, and the site wakes up.
    let renewal = Body::Attest(site.renewal(&site.founder).into());
    assert!(site.try_later(renewal, 0, 300 * day).is_ok());

    let voter = site.voters[1].node();
    let mut gateway = site.state.gateway(&voter).unwrap().clone();
    gateway.attestation = Attestation::Unverified;
    site.put(Key::Gateway(voter), Record::Gateway(gateway));
    let body = site.admission(&keys);
    assert_eq!(applied(admit(&mut site, body)), ApplyError::Endorser(voter));
}

#[test]
fn the_operator_approves_one_tpm_label_and_policy_once_for_thirty_days() {
    let mut site = Fixture::grown(4);
    let keys = GatewayKeys::new(60);
    let refused = |site: &mut Fixture, body: Admit| match applied(admit(site, body)) {
        ApplyError::Approval(why) => why,
        other => panic!("{other:?}"),
    };
    let body = site.admission(&keys);
    assert!(refused(&mut site, body.clone()).contains("has not approved"));
    for change in 0..2 {
        let mut approval = site.approval(&keys);
        match change {
            0 => approval.ek_digest = Hash([1; 32]),
            _ => approval.label = Label { full: false, coordinator: true },
        }
        let other = site.by_operator(Body::GatewayApproval(approval));
        site.commit(vec![other]).unwrap();
        assert!(refused(&mut site, body.clone()).contains("another TPM"), "{change}");
    }
    approve(&mut site, &keys);
    let days = 86_400_000;
    // The voters would be stale by then; let an attestation be valid for a year.
    let patient = Policy { attestation_valid_s: 31_536_000, ..Policy::default() };
    let act = site.by_operator(patient.into());
    site.commit(vec![act]).unwrap();
    let body = Body::Admit(body.into());
    assert!(site.try_later(body.clone(), 0, 30 * days - 10_000).is_ok());
    let late = applied(site.try_later(body, 0, 30 * days));
    assert_eq!(late, ApplyError::Approval("the operator's approval is older than 30 days"));

    // Used up: who has left needs another.
    site.admit(&keys);
    let leave = site.by_identity_of(&keys, Fixture::leave(None));
    site.commit(vec![leave]).unwrap();
    let mut again = keys.clone();
    again.vote = key(151);
    let body = site.admission(&again);
    assert!(refused(&mut site, body).contains("used before"));
    let first = GatewayKeys::new(61);
    let act = Policy { operator_approval: false, ..site.state.policy().clone() };
    let act = site.by_operator(act.into());
    site.commit(vec![act]).unwrap();
    for newcomer in [again, first] {
        let body = site.admission(&newcomer);
        assert!(admit(&mut site, body).is_ok(), "no approval is asked for");
    }
}

#[test]
fn a_pinned_tpm_is_remembered_as_pinned() {
    let mut site = Fixture::grown(4);
    let keys = GatewayKeys::new(60);
    let approval = crate::transaction::GatewayApproval { pin: true, ..site.approval(&keys) };
    let approval = site.by_operator(Body::GatewayApproval(approval));
    site.commit(vec![approval]).unwrap();
    let body = site.admission(&keys);
    let transaction = site.by_founder(Body::Admit(body.into()));
    site.commit(vec![transaction]).unwrap();
    assert!(site.state.endorsement(&keys.ek_digest()).unwrap().pinned);
    let of_member = site.by_operator(Body::GatewayApproval(site.approval(&keys)));
    assert_eq!(applied(site.try_one(&of_member)), ApplyError::Registered(keys.node()));
}

#[test]
fn the_vote_key_is_the_newcomers_own_and_new() {
    let (mut site, keys) = with_approved();
    let chain = site.state.chain_id().0;
    let part = |refused: Result<Vec<Event>, Refused>| {
        matches!(refused, Err(Refused::Verify(VerifyError::Part(_))))
    };
    // Somebody else's key, with the certificate of the newcomer but without possession.
    let somebody = site.voters[2].vote.clone();
    let mut body = site.admission(&keys);
    body.statement.vote_key = somebody.public_key();
    body.vote.vote_key = somebody.public_key();
    site.endorse(&mut body);
    assert!(part(admit(&mut site, body)));
    // Another key in the statement than the one that is proved.
    let mut body = site.admission(&keys);
    body.vote = GatewayKeys { identity: keys.identity.clone(), vote: key(152) }.vote_proof(&chain);
    assert!(part(admit(&mut site, body)));
    // Keys that have a role already, each with right signatures.
    let roles = [somebody, site.operator.clone(), site.voters[1].identity.clone()];
    for vote in roles {
        let taken = GatewayKeys { identity: keys.identity.clone(), vote };
        let body = site.admission(&taken);
        assert_eq!(applied(admit(&mut site, body)), ApplyError::KeyInUse);
    }
}

#[test]
fn an_identity_that_is_here_or_was_revoked_does_not_come_in() {
    let (mut site, keys) = with_approved();
    let member = site.voters[1].clone();
    let with_new_vote = GatewayKeys { identity: member.identity, vote: key(152) };
    let body = site.admission(&with_new_vote);
    let node = with_new_vote.node();
    assert_eq!(applied(admit(&mut site, body)), ApplyError::Registered(node));
    let revoke = site.by_operator(Body::Revoke(act(node)));
    site.commit(vec![revoke]).unwrap();
    let body = site.admission(&with_new_vote);
    assert_eq!(applied(admit(&mut site, body)), ApplyError::Revoked(node));
    let approval = site.by_operator(Body::GatewayApproval(site.approval(&with_new_vote)));
    assert_eq!(applied(site.try_one(&approval)), ApplyError::Revoked(node));
    // Revoked is the TPM too, under whatever identity.
    let mut body = site.admission(&keys);
    body.statement.ek_digest = with_new_vote.ek_digest();
    site.endorse(&mut body);
    let mut approval = site.approval(&keys);
    approval.ek_digest = with_new_vote.ek_digest();
    let approval = site.by_operator(Body::GatewayApproval(approval));
    site.commit(vec![approval]).unwrap();
    let expected = ApplyError::Tpm("the gateway with this TPM is revoked");
    assert_eq!(applied(admit(&mut site, body)), expected);
}

/// A member's TPM under a new identity.
fn replacement(site: &mut Fixture, old: &GatewayKeys, new: &GatewayKeys) -> Admit {
    let mut approval = site.approval(new);
    approval.ek_digest = old.ek_digest();
    let approval = site.by_operator(Body::GatewayApproval(approval));
    site.commit(vec![approval]).unwrap();
    let mut body = site.admission(new);
    body.statement.ek_digest = old.ek_digest();
    site.endorse(&mut body);
    body
}

#[test]
fn one_tpm_is_one_gateway_and_the_old_one_goes() {
    let mut site = Fixture::grown(4);
    let (old, new) = (site.voters[1].clone(), GatewayKeys::new(60));
    let body = replacement(&mut site, &old, &new);
    let online = ApplyError::Tpm("the gateway with this TPM is online");
    assert_eq!(applied(admit(&mut site, body)), online);
    let offline = site.by_founder(Body::Offline(site.offline(old.node())));
    site.commit(vec![offline]).unwrap();
    let mut body = replacement(&mut site, &old, &new);
    let transaction = site.by_founder(Body::Admit(body.clone().into()));
    site.commit(vec![transaction]).unwrap();
    let gone = site.state.gateway(&old.node()).unwrap();
    assert_eq!(gone.standing.standing, Standing::Candidate);
    assert!(gone.standing.reason.as_str().contains(&new.node().to_gateway_string()));
    assert_eq!((gone.online, gone.replaced_by), (false, Some(new.node())));
    let here = site.state.gateway(&new.node()).unwrap();
    assert_eq!(here.liveness_epoch, gone.liveness_epoch + 1);
    assert_eq!(site.state.voters().len(), 3, "removal shrinks by one");
    assert_eq!(site.state.endorsement(&old.ek_digest()).unwrap().gateway, new.node());
    // It authors nothing any more, and does not come back with what was signed before.
    let refusal = Body::Refusal(Refusal { node: NodeId([1; 20]), reason: Text::default() });
    let by_old = site.by(&old, refusal);
    assert_eq!(applied(site.try_one(&by_old)), ApplyError::NoRights);
    body.statement = site.statement(Purpose::Admit, &old);
    body.statement.base_height.0 -= 1;
    body.vote = old.vote_proof(&site.state.chain_id().0);
    site.endorse(&mut body);
    assert_eq!(applied(admit(&mut site, body)), ApplyError::KeyInUse);
}

#[test]
fn a_new_identity_is_no_way_out_of_a_suspension() {
    let mut site = Fixture::grown(4);
    let (old, new) = (site.voters[1].clone(), GatewayKeys::new(60));
    let node = site.join(2);
    let suspend = site.by_operator(suspension(old.node()));
    site.commit(vec![suspend]).unwrap();
    // Statements from before the suspension are void.
    let mut early = replacement(&mut site, &old, &new);
    early.statement.base_height = Height(site.height().0 - 2);
    site.endorse(&mut early);
    let void = ApplyError::Statement("the gateway's standing has changed since");
    assert_eq!(applied(admit(&mut site, early)), void);
    let body = replacement(&mut site, &old, &new);
    let body = site.by_founder(Body::Admit(body.into()));
    site.commit(vec![body]).unwrap();
    let here = site.state.gateway(&new.node()).unwrap();
    assert_eq!(here.standing.standing, Standing::Suspended);
    let refusal = Body::Refusal(Refusal { node, reason: Text::default() });
    let by_new = site.by(&new, refusal);
    assert_eq!(applied(site.try_one(&by_new)), ApplyError::NoRights);
}

#[test]
fn one_type_of_ek_is_accepted_of_a_tpm_model() {
    let (mut site, keys) = with_approved();
    let mut body = site.admission(&keys);
    body.statement.ek_kind = 2;
    site.endorse(&mut body);
    let expected = ApplyError::Tpm("another type of EK is accepted of this TPM model");
    assert_eq!(applied(admit(&mut site, body.clone())), expected);
    body.statement.tpm_model = Hash([4; 32]);
    site.endorse(&mut body);
    assert!(admit(&mut site, body).is_ok(), "of another model it is the first");
}

/// Else a TPM that merely calls itself a model would shut out, or let in, the real ones.
#[test]
fn a_tpm_that_nobody_vouches_for_fixes_no_type_of_ek() {
    let (mut site, keys) = with_approved();
    let mut body = site.admission(&keys);
    (body.statement.ek_kind, body.statement.tpm_model) = (2, Hash([4; 32]));
    body.statement.claims[0].status = ClaimVerdict::WARNING;
    site.endorse(&mut body);
    let body = site.by_founder(Body::Admit(body.into()));
    site.commit(vec![body]).unwrap();
    assert_eq!(site.state.tpm_model(&Hash([4; 32])), None);
    // Nor is it held to the type of a model that it only says it is.
    let other = GatewayKeys::new(61);
    approve(&mut site, &other);
    let mut body = site.admission(&other);
    body.statement.ek_kind = 2;
    body.statement.claims[0].status = ClaimVerdict::WARNING;
    site.endorse(&mut body);
    assert!(admit(&mut site, body).is_ok());
    assert_eq!(site.state.tpm_model(&Hash([3; 32])), Some(1));
}

#[test]
fn the_second_gateway_attests_the_founder() {
    let mut site = Fixture::hardware();
    let keys = GatewayKeys::new(60);
    approve(&mut site, &keys);
    let good = site.admission(&keys);
    let founder = |why| ApplyError::Founder(why);
    let missing = Admit { founder: None, ..good.clone() };
    let why = "nobody has verified it, and the newcomer has not either";
    assert_eq!(applied(admit(&mut site, missing)), founder(why));

    // Forged: signed by another, about another, from another purpose, or of a failure.
    let mut forged = good.clone();
    forged.founder = Some(site.founder_result(&key(99)));
    let refused = admit(&mut site, forged);
    assert!(matches!(refused, Err(Refused::Verify(VerifyError::Part(_)))), "{refused:?}");
    type Change = fn(&mut crate::transaction::Statement);
    let changes: [(ApplyError, Change); 6] = [
        (founder("the result is about another gateway"), |s| s.identity = key(98).public_key()),
        (ApplyError::Statement("it was made for another purpose"), |s| {
            s.purpose = Purpose::Admit;
        }),
        (ApplyError::Statement("a claim does not hold"), |s| s.claims[1].status = 2),
        (ApplyError::Tpm("it is not this gateway's TPM"), |s| s.ek_digest = Hash([1; 32])),
        (ApplyError::Tpm("it is not this gateway's TPM"), |s| s.ak_name = TpmName([1; 34])),
        (ApplyError::Statement("it is about another label"), |s| s.label.full = false),
    ];
    for (expected, change) in changes {
        let mut body = good.clone();
        let result = body.founder.as_mut().unwrap();
        change(&mut result.statement);
        result.signature = keys.vote.sign_digest(&result.statement.digest());
        assert_eq!(applied(admit(&mut site, body)), expected);
    }
    let transaction = site.by_founder(Body::Admit(good.into()));
    site.commit(vec![transaction]).unwrap();
    let attestation = site.state.gateway(&site.gateway()).unwrap().attestation;
    assert!(attestation.is_attested());
    // From now on nobody else brings one.
    let third = GatewayKeys::new(61);
    approve(&mut site, &third);
    let mut body = site.admission(&third);
    assert!(body.founder.is_none());
    body.founder = Some(site.founder_result(&third.vote));
    assert_eq!(applied(admit(&mut site, body)), founder("it is attested already"));
}

#[test]
fn an_unattested_founder_lets_no_full_node_in_unless_the_site_is_for_show() {
    let mut site = Fixture::new();
    let keys = GatewayKeys::new(60);
    approve(&mut site, &keys);
    let body = site.admission(&keys);
    let expected = ApplyError::Founder("it is unattested: no other full node comes in");
    assert_eq!(applied(admit(&mut site, body)), expected);
    // Nor does a newcomer that is no full node make an attested one of the founder.
    let mut body = site.admission(&keys);
    assert!(body.founder.is_some());
    body.statement.label = Label { full: false, coordinator: true };
    site.endorse(&mut body);
    let expected = ApplyError::Founder("it is unattested until it has a hardware TPM");
    assert_eq!(applied(admit(&mut site, body)), expected);
    let act = Policy { insecure_software_tpm_sites: true, ..Policy::default() };
    let act = site.by_operator(act.into());
    site.commit(vec![act]).unwrap();
    approve(&mut site, &keys);
    let mut body = site.admission(&keys);
    assert!(admit(&mut site, body.clone()).is_ok());
    body.founder = None;
    assert!(admit(&mut site, body).is_ok(), "nothing more can be asked of it");
}

#[test]
fn an_attestation_is_renewed_once_by_each_statement() {
    let mut site = Fixture::grown(4);
    let member = site.voters[1].clone();
    let renewal = site.renewal(&member);
    let body = Body::Attest(renewal.clone().into());
    let transaction = site.by_founder(body.clone());
    site.commit(vec![transaction]).unwrap();
    let gateway = site.state.gateway(&member.node()).unwrap();
    let attested = matches!(gateway.attestation, Attestation::Attested { height, .. }
        if height == site.height());
    assert!(attested, "{:?}", gateway.attestation);
    let replayed = site.by_founder(body);
    let void = ApplyError::Statement("the gateway's standing has changed since");
    assert_eq!(applied(site.try_one(&replayed)), void);

    let mut own = site.renewal(&member);
    own.endorsements.retain(|each| each.voter != site.voters[3].node());
    let with_own = site.by_founder(Body::Attest(own.clone().into()));
    assert!(site.try_one(&with_own).is_ok(), "three of four, itself among them");
    own.endorsements.pop();
    let few = site.by_founder(Body::Attest(own.into()));
    assert_eq!(applied(site.try_one(&few)), ApplyError::NoQuorum { found: 2, needed: 3 });

    let mut of_other = site.renewal(&member);
    of_other.statement.vote_key = site.voters[2].vote.public_key();
    of_other.endorsements = site.quorum(&of_other.statement.digest());
    let of_other = site.by_founder(Body::Attest(of_other.into()));
    assert_eq!(applied(site.try_one(&of_other)), ApplyError::KeyInUse);
    // A gateway that lost its vote key is attested with the one that it rotates to.
    let mut lost = site.renewal(&member);
    lost.statement.vote_key = key(153).public_key();
    lost.endorsements = site.quorum(&lost.statement.digest());
    let lost = site.by_founder(Body::Attest(lost.into()));
    assert!(site.try_one(&lost).is_ok());
}

#[test]
fn a_sole_voter_is_renewed_by_other_members_and_not_by_itself() {
    let mut site = Fixture::hardware();
    let other = GatewayKeys::new(60);
    site.admit(&other);
    let own = site.by_founder(Body::Attest(site.renewal(&site.founder).into()));
    assert_eq!(applied(site.try_one(&own)), ApplyError::Endorser(site.gateway()));
    let mut renewal = site.renewal(&site.founder);
    renewal.endorsements = signatures(&[&other], &renewal.statement.digest());
    let renewal = site.by_founder(Body::Attest(renewal.into()));
    site.commit(vec![renewal]).unwrap();
}

#[test]
fn the_operator_moves_a_place_to_another_tpm_with_its_vote() {
    let mut site = Fixture::grown(4);
    let (old, new) = (site.voters[1].clone(), GatewayKeys::new(60));
    let good = site.replacement(old.node(), &new);
    let mut not_held = good.clone();
    not_held.vote.possession = good.vote.certificate;
    let refused = site.by_operator(Body::Replace(not_held.into()));
    assert!(matches!(site.try_one(&refused), Err(Refused::Verify(VerifyError::Part(_)))));
    type Change = fn(&mut crate::transaction::Replace);
    let changes: [(ApplyError, Change); 4] = [
        (ApplyError::Tpm("another type of EK is accepted of this TPM model"), |r| r.ek_kind = 2),
        (ApplyError::UnknownNode(NodeId([1; 20])), |r| r.old = NodeId([1; 20])),
        (ApplyError::Tpm("a software TPM cannot take the place of a hardware TPM"), |r| {
            r.attestation = FounderAttestation::Unattested
        }),
        (ApplyError::Standing("a voter has the label full"), |r| r.label.full = false),
    ];
    for (expected, change) in changes {
        let mut body = good.clone();
        change(&mut body);
        let refused = site.by_operator(Body::Replace(body.into()));
        assert_eq!(applied(site.try_one(&refused)), expected);
    }
    let mut others = good.clone();
    others.ek_digest = site.voters[2].ek_digest();
    let others = site.by_operator(Body::Replace(others.into()));
    let expected = ApplyError::Tpm("it is another gateway's TPM");
    assert_eq!(applied(site.try_one(&others)), expected);

    let replace = site.by_operator(Body::Replace(good.clone().into()));
    site.commit(vec![replace]).unwrap();
    assert!(site.state.voters().contains(&new.node()));
    assert_eq!(site.state.voters().len(), 4);
    let here = site.state.gateway(&new.node()).unwrap();
    assert_eq!(here.attestation, Attestation::Unverified);
    site.voters[1] = new.clone();
    site.commit(vec![]).unwrap();
    let again = site.by_operator(Body::Replace(good.into()));
    assert_eq!(applied(site.try_one(&again)), ApplyError::Standing("it has no place to give"));
    // A quorum attests it afterwards.
    let renewal = site.by_founder(Body::Attest(site.renewal(&new).into()));
    site.commit(vec![renewal]).unwrap();
}

/// The upgrade of a founder from a software TPM: the history stays, and full nodes may come.
#[test]
fn an_unattested_founder_moves_to_hardware() {
    let mut site = Fixture::new();
    let node = site.join(2);
    let new = GatewayKeys::new(60);
    let replace = site.by_operator(Body::Replace(site.replacement(site.gateway(), &new).into()));
    site.voters.push(new.clone());
    let sponsored = |site: &Fixture, node: NodeId| {
        site.state.activity(&Author::Node(node)).map_or(0, |activity| activity.sponsored)
    };
    let old = site.gateway();
    assert_eq!(sponsored(&site, old), 1);
    site.commit(vec![replace]).unwrap();
    assert_eq!((sponsored(&site, old), sponsored(&site, new.node())), (0, 1));
    assert_eq!(site.state.voters(), [new.node()]);
    site.founder = new;
    // The successor retires what the old one had sponsored.
    let ticket = site.window_ticket(TicketPurpose::Retire, &node);
    let retire = site.by_founder(Body::Retire(Retire { node, reason: reason(), ticket }));
    site.commit(vec![retire]).unwrap();
    assert_eq!(sponsored(&site, site.gateway()), 0);
}
