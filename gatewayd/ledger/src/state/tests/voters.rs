//! Who votes and who is reachable: activation, offline statements, suspension by rule, leaving.

use super::*;
use crate::{
    fixture::signatures,
    transaction::{
        Activate, Author, ClaimVerdict, Equivocation, FailedAttestation, Online, Purpose,
        QuorumSignature, activate_digest, ready_digest,
    },
};

fn activate(site: &mut Fixture, body: Activate) -> Result<Vec<Event>, Refused> {
    let transaction = site.by_founder(Body::Activate(body));
    site.try_one(&transaction)
}

#[test]
fn voters_grow_from_one_to_four_to_seven() {
    let mut site = Fixture::hardware();
    let all: Vec<_> = (0..7).map(|byte| GatewayKeys::new(40 + byte)).collect();
    for keys in &all {
        site.admit(keys);
    }
    // Two that are ready are not enough; they are shown as ready.
    site.activate(&[&all[0], &all[1]]);
    assert_eq!(site.state.voters().len(), 1);
    assert_eq!(site.state.gateway(&all[0].node()).unwrap().ready, Some(site.height()));
    // Three over one tip are; of four those who have been members for longest.
    let four: Vec<_> = all[..4].iter().collect();
    let body = site.activation(&four);
    let events = activate(&mut site, body).unwrap();
    assert!(events.last().unwrap().describe().contains("as one of 4"), "{events:?}");
    site.activate(&four);
    assert_eq!(site.state.voters().len(), 4);
    assert!(!site.state.voters().contains(&all[3].node()));
    assert_eq!(site.state.tolerance(), 1);
    site.activate(&[&all[3], &all[4]]);
    assert_eq!(site.state.voters().len(), 4);
    site.activate(&[&all[3], &all[4], &all[5]]);
    assert_eq!(site.state.voters().len(), 7);
    assert_eq!(site.state.tolerance(), 2);
    site.commit(vec![]).unwrap();
    // The eighth waits for two more, unless the operator lets every member vote.
    site.activate(&[&all[6]]);
    assert_eq!(site.state.voters().len(), 7);
    let everybody = Policy { voters: crate::policy::VoterRule::All, ..Policy::default() };
    let act = site.by_operator(everybody.into());
    site.commit(vec![act]).unwrap();
    site.activate(&[&all[6]]);
    assert_eq!(site.state.voters().len(), 8);
}

#[test]
fn newcomers_sign_one_tip_at_most_twenty_blocks_old() {
    let mut site = Fixture::hardware();
    let all: Vec<_> = (0..3).map(|byte| GatewayKeys::new(40 + byte)).collect();
    for keys in &all {
        site.admit(keys);
    }
    let nodes: Vec<_> = all.iter().collect();
    let body = site.activation(&nodes);
    assert!(site.try_later(Body::Activate(body.clone()), 19, 0).is_ok());
    let old = ApplyError::Activation("the tip that was signed is older than 20 blocks");
    assert_eq!(applied(site.try_later(Body::Activate(body.clone()), 20, 0)), old);

    let signed = |site: &Fixture, height: Height, hash: Hash| {
        let (chain, era) = (site.state.chain_id(), site.state.era());
        let ready = signatures(&nodes, &ready_digest(&chain, era, height, &hash));
        let ids: Vec<_> = ready.iter().map(|each| each.voter).collect();
        let quorum = site.quorum(&activate_digest(&chain, era, height, &hash, &ids));
        Activate { height, hash, nodes: ready, quorum }
    };
    let ahead = signed(&site, site.height().next(), body.hash);
    let why = ApplyError::Activation("the tip that was signed lies ahead");
    assert_eq!(applied(activate(&mut site, ahead)), why);
    let other = signed(&site, site.height(), Hash([1; 32]));
    let why = ApplyError::Activation("another tip was signed");
    assert_eq!(applied(activate(&mut site, other)), why);

    // Not heard by the voters, or heard with others than those in the list.
    let mut no_quorum = body.clone();
    no_quorum.quorum = signatures(&[&all[0]], &Hash([1; 32]));
    assert!(matches!(activate(&mut site, no_quorum), Err(Refused::Verify(_))));
    let mut fewer = body.clone();
    fewer.nodes.pop();
    assert!(matches!(activate(&mut site, fewer), Err(Refused::Verify(_))));
    let mut forged = body;
    forged.nodes[0].signature = forged.nodes[1].signature;
    assert!(matches!(activate(&mut site, forged), Err(Refused::Verify(_))));
}

#[test]
fn only_those_become_ready_that_may_vote() {
    let mut site = Fixture::hardware();
    let keys = GatewayKeys::new(40);
    site.admit(&keys);
    let founder = site.founder.clone();
    let body = site.activation(&[&founder]);
    let why = |why| ApplyError::Activation(why);
    assert_eq!(applied(activate(&mut site, body)), why("it votes already"));
    let good = site.state.gateway(&keys.node()).unwrap().clone();
    type Change = fn(&mut Gateway);
    let changes: [(&str, Change); 4] = [
        ("it has not the label full", |g| g.full = false),
        ("its standing does not allow it", |g| g.standing.standing = Standing::Marked),
        ("it is offline", |g| g.online = false),
        ("its TPM was not attested", |g| g.attestation = Attestation::Unverified),
    ];
    for (expected, change) in changes {
        let mut changed = good.clone();
        change(&mut changed);
        site.put(Key::Gateway(keys.node()), Record::Gateway(changed));
        let body = site.activation(&[&keys]);
        assert_eq!(applied(activate(&mut site, body)), why(expected));
    }
    site.put(Key::Gateway(keys.node()), Record::Gateway(good));
    let body = Body::Activate(site.activation(&[&keys]));
    assert_eq!(applied(site.try_later(body, 0, 86_500_000)), why("it is stale"));
}

#[test]
fn an_offline_statement_is_void_after_the_return() {
    let mut site = Fixture::grown(4);
    let silent = site.voters[1].clone();
    let statement = site.offline(silent.node());
    let mut few = statement.clone();
    few.quorum.pop();
    let few = site.by_founder(Body::Offline(few));
    assert_eq!(applied(site.try_one(&few)), ApplyError::NoQuorum { found: 2, needed: 3 });

    let transaction = site.by_founder(Body::Offline(statement.clone()));
    site.commit(vec![transaction]).unwrap();
    assert!(!site.state.gateway(&silent.node()).unwrap().online);
    assert_eq!(site.state.tolerance(), 0, "one of four is silent");
    assert_eq!(site.state.voters().len(), 4, "who is unreachable keeps its vote");
    let again = site.by_founder(Body::Offline(statement.clone()));
    assert_eq!(applied(site.try_one(&again)), ApplyError::Offline("it is offline already"));

    for epoch in [0, 2, u32::MAX] {
        let wrong = site.by_identity_of(&silent, Body::Online(Online { liveness_epoch: epoch }));
        assert_eq!(applied(site.try_one(&wrong)), ApplyError::Liveness(epoch));
    }
    let by_vote_key = site.by(&silent, Body::Online(Online { liveness_epoch: 1 }));
    assert_eq!(site.try_one(&by_vote_key), Err(Refused::Verify(VerifyError::Signature)));
    let back = site.by_identity_of(&silent, Body::Online(Online { liveness_epoch: 1 }));
    site.commit(vec![back]).unwrap();
    let gateway = site.state.gateway(&silent.node()).unwrap();
    assert_eq!((gateway.online, gateway.liveness_epoch), (true, 1));
    let replayed = site.by_founder(Body::Offline(statement));
    assert_eq!(applied(site.try_one(&replayed)), ApplyError::Liveness(0));
}

#[test]
fn what_a_quorum_signed_in_another_era_is_void() {
    let mut site = Fixture::grown(4);
    let silent = site.voters[1].node();
    let era = site.state.era();
    let offline = Body::Offline(site.offline(silent));
    let mut record = site.state.site().clone();
    record.era = Era(era.0 + 1);
    site.put(Key::Site, Record::Site(record));
    // Named as of the old era it was signed in, it is of the old era; of the new one it is forged.
    let author = Author::Node(site.gateway());
    let mut old = site.draft(author, offline.clone());
    old.era = era;
    let old = old.sign(&site.founder.vote);
    assert_eq!(applied(site.try_one(&old)), ApplyError::Era(era));
    let new = site.by_founder(offline);
    assert!(matches!(site.try_one(&new), Err(Refused::Verify(VerifyError::Part(_)))));
}

fn two_votes(keys: &GatewayKeys, votes: Equivocation) -> Body {
    let cause = SuspendCause::Equivocation(votes.into());
    Body::Suspend(Suspend { node: keys.node(), reason: reason(), cause })
}

#[test]
fn rules_take_out_at_most_a_third_until_the_operator_decides() {
    let mut site = Fixture::grown(4);
    let all = site.voters.clone();
    let first = site.by_founder(Body::Suspend(site.failed(&all[1])));
    site.commit(vec![first]).unwrap();
    let suspended = site.state.gateway(&all[1].node()).unwrap().standing.clone();
    assert_eq!((suspended.standing, suspended.reason), (Standing::Suspended, reason()));
    assert_eq!(site.state.voters().len(), 3);
    assert_eq!(site.state.voters_record().removed, [all[1].node()]);
    let second = site.by_founder(Body::Suspend(site.failed(&all[2])));
    assert_eq!(applied(site.try_one(&second)), ApplyError::RemovalLimit(1));
    let third = two_votes(&all[3], site.equivocation(&all[3], site.height()));
    let third = site.by_founder(third);
    assert_eq!(applied(site.try_one(&third)), ApplyError::RemovalLimit(1));

    // Each answer of the operator settles it.
    for body in [suspension(all[1].node()), Body::Revoke(act(all[1].node()))] {
        let answer = site.by_operator(body);
        let mut after = site.clone();
        after.commit(vec![answer]).unwrap();
        assert!(after.state.voters_record().removed.is_empty());
        assert_eq!(after.state.voters().len(), 3);
    }
    let pardon = site.by_operator(Body::Pardon(act(all[1].node())));
    site.commit(vec![pardon]).unwrap();
    assert!(site.state.voters_record().removed.is_empty());
    assert_eq!(site.state.voters().len(), 3, "the vote comes back by an activation alone");
    site.activate(&[&all[1]]);
    assert_eq!(site.state.voters().len(), 4);
    // With three voters and nobody to decide on, no rule takes one out.
    let gone = site.by_operator(suspension(all[1].node()));
    site.commit(vec![gone]).unwrap();
    let refused = site.by_founder(Body::Suspend(site.failed(&all[2])));
    assert_eq!(applied(site.try_one(&refused)), ApplyError::RemovalLimit(0));
}

#[test]
fn a_member_without_a_vote_is_suspended_without_a_limit() {
    let mut site = Fixture::hardware();
    let (one, two) = (GatewayKeys::new(40), GatewayKeys::new(41));
    site.admit(&one);
    site.admit(&two);
    for keys in [one, two] {
        let suspend = site.by_founder(Body::Suspend(site.failed(&keys)));
        site.commit(vec![suspend]).unwrap();
    }
    let founder = site.founder.clone();
    let sole = site.by_founder(Body::Suspend(site.failed(&founder)));
    assert_eq!(applied(site.try_one(&sole)), ApplyError::RemovalLimit(0), "never the last");
}

#[test]
fn a_failed_attestation_names_a_claim_and_its_gateway() {
    let mut site = Fixture::grown(4);
    let (a, b) = (site.voters[1].clone(), site.voters[2].clone());
    let by = |site: &mut Fixture, body: Suspend| {
        let transaction = site.by_founder(Body::Suspend(body));
        applied(site.try_one(&transaction))
    };
    let of_other = Suspend { node: b.node(), ..site.failed(&a) };
    let expected = ApplyError::Statement("it is about another gateway");
    assert_eq!(by(&mut site, of_other), expected);
    let mut affirming = site.statement(Purpose::Fail, &a);
    affirming.claims[1].status = ClaimVerdict::WARNING;
    let endorsements = site.quorum(&affirming.digest());
    let cause = FailedAttestation { statement: affirming, endorsements };
    let cause = SuspendCause::FailedAttestation(cause.into());
    let body = Suspend { node: a.node(), reason: reason(), cause };
    assert_eq!(by(&mut site, body), ApplyError::Statement("every claim holds"));
    // A failure that is older than a renewal is no failure.
    let old = site.failed(&a);
    let renewal = site.by_founder(Body::Attest(site.renewal(&a).into()));
    site.commit(vec![renewal]).unwrap();
    let void = ApplyError::Statement("the gateway's standing has changed since");
    assert_eq!(by(&mut site, old), void);
    // The operator's word needs the operator's key, and a rule's needs a gateway's.
    let as_member = site.by_founder(suspension(a.node()));
    assert!(matches!(site.try_one(&as_member), Err(Refused::Verify(VerifyError::Author { .. }))));
    let as_operator = site.by_operator(Body::Suspend(site.failed(&a)));
    let refused = site.try_one(&as_operator);
    assert!(matches!(refused, Err(Refused::Verify(VerifyError::Author { .. }))), "{refused:?}");
}

#[test]
fn two_votes_for_one_place_are_evidence_and_nothing_else_is() {
    let mut site = Fixture::grown(4);
    let (liar, other) = (site.voters[1].clone(), site.voters[2].clone());
    let good = site.equivocation(&liar, site.height());
    let since = site.state.gateway(&liar.node()).unwrap().standing.since;
    let evidence = |why| Refused::Apply(ApplyError::Evidence(why));
    let again = site.vote(&liar, site.height(), Some(Hash([1; 32])));
    let nil = site.vote(&liar, site.height(), None);
    let later = site.vote(&liar, site.height().next(), Some(Hash([2; 32])));
    let contradict = evidence("the votes do not contradict each other");
    let cases = [
        (contradict.clone(), Equivocation { second: again, ..good }),
        (contradict, Equivocation { second: later, ..good }),
        (evidence("the votes are another gateway's"), site.equivocation(&other, site.height())),
        (
            evidence("the votes are older than its last standing change"),
            site.equivocation(&liar, since),
        ),
    ];
    for (expected, votes) in cases {
        let transaction = site.by_founder(two_votes(&liar, votes));
        assert_eq!(site.try_one(&transaction), Err(expected));
    }
    let stranger = GatewayKeys { identity: liar.identity.clone(), vote: key(99) };
    let transaction =
        site.by_founder(two_votes(&liar, site.equivocation(&stranger, site.height())));
    assert_eq!(site.try_one(&transaction), Err(evidence("the key is not this gateway's")));
    let mut forged = good;
    forged.second.signature = good.first.signature;
    let transaction = site.by_founder(two_votes(&liar, forged));
    assert!(matches!(site.try_one(&transaction), Err(Refused::Verify(VerifyError::Part(_)))));
    let for_nothing = Equivocation { second: nil, ..good };
    let transaction = site.by_founder(two_votes(&liar, for_nothing));
    assert!(site.try_one(&transaction).is_ok(), "for a block and for none is two votes");

    // A new vote key is no way out.
    let chain = site.state.chain_id().0;
    let rotate = RotateKey::new(&chain, &liar.identity.public_key(), &key(150));
    let rotate = site.by_identity_of(&liar, Body::RotateKey(rotate));
    site.commit(vec![rotate]).unwrap();
    site.voters[1].vote = key(150);
    let transaction = site.by_founder(two_votes(&liar, good));
    site.commit(vec![transaction]).unwrap();
    // After a pardon the same votes are settled.
    let pardon = site.by_operator(Body::Pardon(act(liar.node())));
    site.commit(vec![pardon]).unwrap();
    let transaction = site.by_founder(two_votes(&liar, good));
    let expected = evidence("the votes are older than its last standing change");
    assert_eq!(site.try_one(&transaction), Err(expected));
}

#[test]
fn a_member_leaves_and_the_last_voter_hands_its_vote_over() {
    let mut site = Fixture::grown(4);
    let leaver = site.voters[1].clone();
    let named = Fixture::leave(Some(site.voters[2].node()));
    let named = site.by_identity_of(&leaver, named);
    let why = ApplyError::Standing("only a sole voter names a successor");
    assert_eq!(applied(site.try_one(&named)), why);
    let leave = site.by_identity_of(&leaver, Fixture::leave(None));
    site.commit(vec![leave]).unwrap();
    assert_eq!(site.state.voters().len(), 3);
    let gone = site.state.gateway(&leaver.node()).unwrap();
    assert_eq!((gone.standing.standing, gone.online), (Standing::Candidate, false));
    let pardon = site.by_operator(Body::Pardon(act(leaver.node())));
    let why = ApplyError::Standing("nothing to pardon");
    assert_eq!(applied(site.try_one(&pardon)), why);
    let suspend = site.by_operator(suspension(leaver.node()));
    let why = ApplyError::Standing("it has no rights to lose");
    assert_eq!(applied(site.try_one(&suspend)), why);

    let next = site.voters[2].clone();
    let leave = site.by_identity_of(&next, Fixture::leave(None));
    site.commit(vec![leave]).unwrap();
    let third = site.voters[3].clone();
    let leave = site.by_identity_of(&third, Fixture::leave(None));
    let why = ApplyError::Standing("one voter alone would be left: the operator decides");
    assert_eq!(applied(site.try_one(&leave)), why);
}

#[test]
fn a_sole_voter_leaves_by_handing_its_vote_to_a_ready_member() {
    let mut site = Fixture::hardware();
    let other = GatewayKeys::new(40);
    site.admit(&other);
    let alone = site.by_identity(Fixture::leave(None));
    let why = ApplyError::Standing("the last voter keeps its rights");
    assert_eq!(applied(site.try_one(&alone)), why);
    let early = site.by_identity(Fixture::leave(Some(other.node())));
    let why = ApplyError::Activation("it has not shown within 20 blocks that it is ready");
    assert_eq!(applied(site.try_one(&early)), why);
    site.activate(&[&other]);
    let leave = site.by_identity(Fixture::leave(Some(other.node())));
    site.commit(vec![leave]).unwrap();
    assert_eq!(site.state.voters(), [other.node()]);
    site.founder = other;
    site.commit(vec![]).unwrap();
}

#[test]
fn who_leaves_marked_is_suspended() {
    let mut site = Fixture::grown(4);
    let leaver = site.voters[1].clone();
    let mut gateway = site.state.gateway(&leaver.node()).unwrap().clone();
    gateway.standing.standing = Standing::Marked;
    site.put(Key::Gateway(leaver.node()), Record::Gateway(gateway));
    let leave = site.by_identity_of(&leaver, Fixture::leave(None));
    site.commit(vec![leave]).unwrap();
    let gone = site.state.gateway(&leaver.node()).unwrap();
    assert_eq!(gone.standing.standing, Standing::Suspended);
}

#[test]
fn a_voter_rotates_its_key_and_the_old_one_votes_no_more() {
    let mut site = Fixture::grown(4);
    let chain = site.state.chain_id().0;
    let voter = site.voters[1].clone();
    let rotate = RotateKey::new(&chain, &voter.identity.public_key(), &key(150));
    let rotate = site.by_identity_of(&voter, Body::RotateKey(rotate));
    site.commit(vec![rotate]).unwrap();
    let set = site.state.validator_set();
    assert_eq!(set.vote_key(&voter.node()), Some(&key(150).public_key()));
    let block = site.block(site.now_ms(), vec![]).unwrap();
    let with_old = site.certify(&block);
    assert!(with_old.verify(&block.header, &set).is_err());
    site.voters[1].vote = key(150);
    site.commit(vec![]).unwrap();
    let back = RotateKey::new(&chain, &voter.identity.public_key(), &voter.vote);
    let back = site.by_identity_of(&voter, Body::RotateKey(back));
    assert_eq!(applied(site.try_one(&back)), ApplyError::KeyInUse);
}

#[test]
fn a_quorum_signature_is_the_voters_over_the_digest() {
    let keys = GatewayKeys::new(40);
    let signature = QuorumSignature::sign(keys.node(), &Hash([1; 32]), &keys.vote);
    assert!(signature.verify(&Hash([1; 32]), &keys.vote.public_key()).is_ok());
    assert!(signature.verify(&Hash([2; 32]), &keys.vote.public_key()).is_err());
}
