//! Rules about the site as a whole: policy, documents, eras.

use alloc::{vec, vec::Vec};
use core::ops::RangeInclusive;

use super::{
    super::{
        ApplyError, Event, Key, Record, Standing,
        execution::Execution,
        records::{MAX_RECOVERIES, Recovery, Voters},
    },
    keys, membership, standing,
};
use crate::{
    ids::Height,
    policy::{NextVersion, Policy, SUPPORTED_VERSIONS},
    transaction::{
        Body, Document, DocumentKind, NodeAct, PolicyAct, Recover, Suspend, SuspendCause,
    },
};

/// Applies an act of the operator.
pub(super) fn apply_operator(
    execution: &mut Execution<'_>,
    body: &Body,
) -> Result<Vec<Event>, ApplyError> {
    match body {
        Body::Policy(act) => apply_policy(execution, act),
        Body::Suspend(Suspend { node, reason, cause: SuspendCause::Operator }) => {
            let act = NodeAct { node: *node, reason: reason.clone() };
            standing::apply_act(execution, &act, Standing::Suspended)
        }
        Body::Pardon(act) => standing::apply_act(execution, act, Standing::Active),
        Body::Revoke(act) => standing::apply_act(execution, act, Standing::Revoked),
        Body::Replace(body) => membership::apply_replace(execution, body),
        Body::GatewayApproval(body) => membership::apply_approval(execution, body),
        Body::OperatorRotation(body) => keys::rotate_operator(execution, body),
        Body::Recover(body) => recover(execution, body),
        Body::Suspend(_)
        | Body::Admit(_)
        | Body::Activate(_)
        | Body::Attest(_)
        | Body::Offline(_)
        | Body::Online(_)
        | Body::Leave(_)
        | Body::Batch(_)
        | Body::Session(_)
        | Body::Reserve(_)
        | Body::Register(_)
        | Body::Retire(_)
        | Body::Assign(_)
        | Body::Tally(_)
        | Body::Refusal(_)
        | Body::RotateKey(_) => Err(ApplyError::NoRights),
    }
}

fn apply_policy(execution: &mut Execution<'_>, act: &PolicyAct) -> Result<Vec<Event>, ApplyError> {
    let PolicyAct { policy, documents } = act;
    check_version(execution.policy(), policy, execution.context.height, SUPPORTED_VERSIONS)?;
    check_documents(execution, policy, documents)?;
    for document in documents {
        execution.put(Key::Document(document.hash()), Record::Document(document.clone()));
    }
    execution.put(Key::Policy, Record::Policy(policy.clone()));
    Ok(vec![Event::PolicyChanged])
}

/// The version that is in force stays in force; another begins at a later height, and only one
/// that this build knows. So a voter with an older build holds the act back until it has been
/// upgraded, and until the height every build follows the old rules bit for bit.
fn check_version(
    current: &Policy,
    new: &Policy,
    height: Height,
    supported: RangeInclusive<u32>,
) -> Result<(), ApplyError> {
    let in_force = current.version_at(height);
    if new.state_version != in_force {
        return Err(ApplyError::StateVersion(new.state_version));
    }
    let Some(NextVersion { state_version, height: from }) = new.next_version else {
        return Ok(());
    };
    if !supported.contains(&state_version) {
        return Err(ApplyError::StateVersion(state_version));
    }
    if state_version <= in_force || from <= height {
        return Err(ApplyError::Policy("the next version neither follows nor lies ahead"));
    }
    Ok(())
}

/// Every document that the policy names is on the ledger or comes along, and no other comes.
fn check_documents(
    execution: &Execution<'_>,
    policy: &Policy,
    documents: &[Document],
) -> Result<(), ApplyError> {
    let unnamed = |document: &Document| !policy.documents().any(|hash| *hash == document.hash());
    if documents.iter().any(unnamed) {
        return Err(ApplyError::Policy("a document comes along that it does not name"));
    }
    let anchors = policy.ek_anchors.iter().map(|hash| (hash, DocumentKind::Anchor));
    let windows = policy.reference_values.iter();
    let values = windows.map(|each| (&each.document, DocumentKind::ReferenceValues));
    for (hash, kind) in anchors.chain(values) {
        let brought = documents.iter().find(|document| document.hash() == *hash);
        match (execution.document(hash), brought) {
            (None, None) => {
                return Err(ApplyError::Policy("a document that it names is not on the ledger"));
            }
            (known, brought) if known.into_iter().chain(brought).any(|each| each.kind != kind) => {
                return Err(ApplyError::Policy("a document is of another kind"));
            }
            _ => {}
        }
    }
    Ok(())
}

/// `Recover`: the survivors alone vote from the next block on. That the operator signed the
/// rest of the block is checked with its certificate.
fn recover(execution: &mut Execution<'_>, body: &Recover) -> Result<Vec<Event>, ApplyError> {
    let mut site = execution.site().clone();
    if site.era.0.checked_add(1) != Some(body.era.0) {
        return Err(ApplyError::Recovery("it does not begin the next era"));
    }
    if body.parent != execution.context.parent_hash || body.height != execution.context.height {
        return Err(ApplyError::Recovery("it names another parent"));
    }
    let mut events = vec![Event::Recovered { era: body.era, height: body.height }];
    for survivor in &body.survivors {
        let gateway = super::member(execution, &survivor.node)?;
        if !gateway.standing.standing.may_record() || !gateway.full {
            return Err(ApplyError::Recovery("a survivor has not the rights of a voter"));
        }
        if let Some(proof) = &survivor.new_vote_key {
            keys::set_vote_key(execution, survivor.node, proof.vote_key)?;
            events.push(Event::KeyRotated { gateway: survivor.node });
        }
    }
    let nodes = body.survivors.iter().map(|survivor| survivor.node).collect();
    execution.put(Key::Voters, Record::Voters(Voters::new(nodes)));
    site.era = body.era;
    if site.recoveries.len() >= MAX_RECOVERIES {
        site.recoveries.remove(0);
    }
    site.recoveries.push(Recovery { era: body.era, height: body.height });
    execution.put(Key::Site, Record::Site(site));
    Ok(events)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(state_version: u32, height: u64) -> Option<NextVersion> {
        Some(NextVersion { state_version, height: Height(height) })
    }

    #[test]
    fn a_version_begins_at_its_height_and_only_one_that_the_build_knows() {
        let one = Policy::default();
        let with = |next_version| Policy { next_version, ..one.clone() };
        let check = |current: &Policy, new: &Policy, height, supported| {
            check_version(current, new, Height(height), supported)
        };
        let two = with(next(2, 100));
        // An older build holds it back, a newer one lets it through.
        assert_eq!(check(&one, &two, 50, 1..=1), Err(ApplyError::StateVersion(2)));
        assert_eq!(check(&one, &two, 50, 1..=2), Ok(()));
        assert_eq!(check(&one, &two, 99, 1..=2), Ok(()));
        let late = "the next version neither follows nor lies ahead";
        assert_eq!(check(&one, &two, 100, 1..=2), Err(ApplyError::Policy(late)));
        assert_eq!(check(&one, &with(next(1, 100)), 50, 1..=2), Err(ApplyError::Policy(late)));
        // Until its height the old rules hold, from there on the new ones.
        assert_eq!((two.version_at(Height(99)), two.version_at(Height(100))), (1, 2));
        assert_eq!(check(&two, &one, 99, 1..=2), Ok(()), "called off in time");
        assert_eq!(check(&two, &one, 100, 1..=2), Err(ApplyError::StateVersion(1)));
        let running = Policy { state_version: 2, ..one.clone() };
        assert_eq!(check(&two, &running, 99, 1..=2), Err(ApplyError::StateVersion(2)));
        assert_eq!(check(&two, &running, 100, 1..=2), Ok(()));
    }
}
