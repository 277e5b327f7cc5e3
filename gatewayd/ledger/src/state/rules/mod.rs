//! One rule for each kind of transaction. Signatures, nonce, era and expiry are checked before.

mod attesting;
mod governance;
mod keys;
mod light_nodes;
mod liveness;
mod membership;
mod readings;
mod standing;
mod voters;

use alloc::vec::Vec;

use super::{ApplyError, Event, execution::Execution, records::Gateway};
use crate::{
    ids::{Era, NodeId},
    transaction::{Author, Authorship, Body, Transaction},
};

/// Applies the body of a transaction to the staged layer.
pub(super) fn apply(
    execution: &mut Execution<'_>,
    transaction: &Transaction,
) -> Result<Vec<Event>, ApplyError> {
    let draft = transaction.draft();
    let author = match draft.author {
        Author::Operator => return governance::apply_operator(execution, &draft.body),
        Author::Node(node) => node,
    };
    check_author(execution, &author, draft.body.authorship())?;
    match &draft.body {
        Body::Batch(head) => {
            let attachment =
                transaction.attachment().ok_or(ApplyError::Batch("attachment missing"))?;
            readings::apply_batch(execution, author, head, attachment)
        }
        Body::Session(body) => light_nodes::apply_session(execution, author, body),
        Body::Reserve(body) => light_nodes::apply_reserve(execution, author, body),
        Body::Register(body) => light_nodes::apply_register(execution, body),
        Body::Retire(body) => light_nodes::apply_retire(execution, body),
        Body::Assign(body) => light_nodes::apply_assign(execution, author, body),
        Body::Tally(body) => readings::apply_tally(execution, author, body),
        Body::Refusal(body) => readings::apply_refusal(execution, author, body),
        Body::RotateKey(body) => keys::apply_rotate_key(execution, author, body),
        Body::Admit(body) => membership::apply_admit(execution, body),
        Body::Attest(body) => attesting::apply_attest(execution, body),
        Body::Activate(body) => voters::apply_activate(execution, draft.era, body),
        Body::Offline(body) => liveness::apply_offline(execution, draft.era, body),
        Body::Online(body) => liveness::apply_online(execution, author, body),
        Body::Suspend(body) => standing::apply_suspend(execution, body),
        Body::Leave(body) => standing::apply_leave(execution, author, body),
        Body::Replace(_)
        | Body::GatewayApproval(_)
        | Body::Policy(_)
        | Body::Pardon(_)
        | Body::Revoke(_)
        | Body::Recover(_)
        | Body::OperatorRotation(_) => Err(ApplyError::NoRights),
    }
}

/// What a quorum signed in an earlier era is void: its voters may be others.
fn check_era(execution: &Execution<'_>, era: Era) -> Result<(), ApplyError> {
    if era == execution.site().era { Ok(()) } else { Err(ApplyError::Era(era)) }
}

/// The half of the authorship table that depends on the state: standing and label.
fn check_author(
    execution: &Execution<'_>,
    author: &NodeId,
    authorship: Authorship,
) -> Result<(), ApplyError> {
    let gateway = execution.gateway(author).ok_or(ApplyError::NotAMember)?;
    if !gateway.standing.standing.may_record() {
        return Err(ApplyError::NoRights);
    }
    match authorship {
        Authorship::Coordinator if !gateway.coordinator => Err(ApplyError::NotACoordinator),
        Authorship::Holder if !gateway.full => Err(ApplyError::NoRights),
        _ => Ok(()),
    }
}

fn member<'e>(execution: &'e Execution<'_>, node: &NodeId) -> Result<&'e Gateway, ApplyError> {
    execution.gateway(node).ok_or(ApplyError::UnknownNode(*node))
}
