//! How a gateway comes in: approval, admission, replacement (design §5).

use alloc::{format, vec, vec::Vec};

use super::{
    super::{
        ApplyError, Attestation, Event, Gateway, Key, Record, Standing,
        execution::Execution,
        records::{Approval, Endorsement, StandingRecord},
    },
    attesting, keys, voters,
};
use crate::{
    crypto::PublicKey,
    genesis::{FounderAttestation, TpmName},
    ids::{Hash, NodeId},
    transaction::{Admit, Author, GatewayApproval, Label, Purpose, Reason, Replace, Statement},
};

pub(super) fn apply_approval(
    execution: &mut Execution<'_>,
    body: &GatewayApproval,
) -> Result<Vec<Event>, ApplyError> {
    let GatewayApproval { identity, ek_digest, label, policy_hash, pin } = *body;
    let node = body.node();
    if identity.validate().is_err() {
        return Err(ApplyError::Approval("the identity is no P-256 key"));
    }
    if policy_hash != execution.policy().attestation_hash() {
        return Err(ApplyError::Approval("the attestation policy has changed since"));
    }
    let member = execution.gateway(&node).is_some_and(|gateway| gateway.identity == identity);
    if pin && member && pin_member(execution, &node, ek_digest)? {
        return Ok(vec![Event::GatewayApproved { gateway: node, pin }]);
    }
    check_identity(execution, &node)?;
    let (height, time_ms) = (execution.context.height, execution.context.time_ms);
    let approval = Approval { ek_digest, label, policy_hash, pin, height, time_ms, used: false };
    execution.put(Key::Approval(node), Record::Approval(approval));
    Ok(vec![Event::GatewayApproved { gateway: node, pin }])
}

/// The operator vouches for the TPM of a gateway that is a member already: of a founder whose TPM
/// has no certificate, say, which nobody could attest otherwise. False: it is no member now.
fn pin_member(
    execution: &mut Execution<'_>,
    node: &NodeId,
    ek_digest: Hash,
) -> Result<bool, ApplyError> {
    let standing = execution.gateway(node).map(|gateway| gateway.standing.standing);
    match standing {
        None | Some(Standing::Candidate) => return Ok(false),
        Some(Standing::Revoked) => return Err(ApplyError::Revoked(*node)),
        Some(Standing::Active | Standing::Marked | Standing::Suspended) => {}
    }
    let known = execution.endorsement(&ek_digest).copied();
    let known = known.filter(|known| known.gateway == *node);
    let known = known.ok_or(ApplyError::Tpm("it is not this gateway's TPM"))?;
    let pinned = Endorsement { pinned: true, ..known };
    execution.put(Key::Endorsement(ek_digest), Record::Endorsement(pinned));
    Ok(true)
}

/// Nobody is here under this identity; who left or was replaced may come back.
fn check_identity(execution: &Execution<'_>, node: &NodeId) -> Result<(), ApplyError> {
    if execution.light_node(node).is_some() {
        return Err(ApplyError::Registered(*node));
    }
    match execution.gateway(node).map(|gateway| gateway.standing.standing) {
        None | Some(Standing::Candidate) => Ok(()),
        Some(Standing::Revoked) => Err(ApplyError::Revoked(*node)),
        Some(_) => Err(ApplyError::Registered(*node)),
    }
}

/// Uses the operator's approval up; tells whether the EK is pinned by it.
fn use_approval(execution: &mut Execution<'_>, statement: &Statement) -> Result<bool, ApplyError> {
    let node = statement.node();
    let approval = usable_approval(execution, &node, statement);
    match approval {
        Ok(approval) => {
            let used = Approval { used: true, ..approval };
            execution.put(Key::Approval(node), Record::Approval(used));
            Ok(approval.pin)
        }
        Err(why) if execution.policy().operator_approval => Err(ApplyError::Approval(why)),
        Err(_) => Ok(false),
    }
}

fn usable_approval(
    execution: &Execution<'_>,
    node: &NodeId,
    statement: &Statement,
) -> Result<Approval, &'static str> {
    let approval = *execution.approval(node).ok_or("the operator has not approved the gateway")?;
    let given = (approval.ek_digest, approval.label, approval.policy_hash);
    if approval.used {
        Err("the operator's approval was used before")
    } else if !approval.holds(execution.context.time_ms) {
        Err("the operator's approval is older than 30 days")
    } else if given != (statement.ek_digest, statement.label, statement.policy_hash) {
        Err("the operator approved another TPM, label or policy")
    } else {
        Ok(approval)
    }
}

pub(super) fn apply_admit(
    execution: &mut Execution<'_>,
    body: &Admit,
) -> Result<Vec<Event>, ApplyError> {
    let Admit { statement, vote: _, endorsements, founder } = body;
    let node = statement.node();
    attesting::check_statement(execution, statement, Purpose::Admit)?;
    attesting::check_endorsers(execution, endorsements)?;
    check_identity(execution, &node)?;
    keys::check_newcomer(execution, &statement.identity, &statement.vote_key)?;
    if let Some(known) = execution.gateway(&node) {
        attesting::check_fresh(known, statement)?;
    }
    let mut events = attesting::apply_founder(execution, statement, founder.as_ref())?;
    let pinned = use_approval(execution, statement)?;
    attesting::take_model(execution, statement)?;
    let place = place_of_tpm(execution, statement)?;
    let (replaces, standing) = match place {
        None => (None, StandingRecord::active(execution.context.height)),
        Some(old) => {
            events.extend(voters::remove_voter(execution, &old)?);
            (Some(old), retire(execution, &old, node)?)
        }
    };
    let newcomer = Newcomer {
        identity: statement.identity,
        vote_key: statement.vote_key,
        ek_digest: statement.ek_digest,
        ak_name: statement.ak_name,
        label: statement.label,
        attestation: attesting::attested(execution, statement),
        standing,
        pinned,
    };
    settle(execution, &newcomer, replaces);
    let label = statement.label;
    events.push(Event::Admitted { gateway: node, label, replaces });
    Ok(events)
}

/// One TPM, one gateway: whose place the TPM is, when a gateway with it was here before.
///
/// Its old identity must be gone: two live ones of one TPM are what admission is there to stop.
fn place_of_tpm(
    execution: &Execution<'_>,
    statement: &Statement,
) -> Result<Option<NodeId>, ApplyError> {
    let Some(Endorsement { gateway: old, .. }) = execution.endorsement(&statement.ek_digest) else {
        return Ok(None);
    };
    if *old == statement.node() {
        return Ok(None);
    }
    let known = super::member(execution, old)?;
    match known.standing.standing {
        Standing::Revoked => Err(ApplyError::Tpm("the gateway with this TPM is revoked")),
        Standing::Active | Standing::Marked if known.online => {
            Err(ApplyError::Tpm("the gateway with this TPM is online"))
        }
        _ => {
            attesting::check_fresh(known, statement)?;
            Ok(Some(*old))
        }
    }
}

/// What comes in, by a quorum or by the operator.
struct Newcomer {
    identity: PublicKey,
    vote_key: PublicKey,
    ek_digest: Hash,
    ak_name: TpmName,
    label: Label,
    attestation: Attestation,
    standing: StandingRecord,
    pinned: bool,
}

/// Writes the entries of a new member; it follows and serves, and does not vote yet.
fn settle(execution: &mut Execution<'_>, newcomer: &Newcomer, replaces: Option<NodeId>) {
    let node = NodeId::of_key(&newcomer.identity);
    let before = replaces.as_ref().or(Some(&node)).and_then(|node| execution.gateway(node));
    // Above every epoch that was: statements about an earlier life are void.
    let liveness_epoch = before.map_or(0, |known| known.liveness_epoch.saturating_add(1));
    let gateway = Gateway {
        identity: newcomer.identity,
        vote_key: newcomer.vote_key,
        full: newcomer.label.full,
        coordinator: newcomer.label.coordinator,
        standing: newcomer.standing.clone(),
        attestation: newcomer.attestation,
        member_since: execution.context.height,
        online: true,
        liveness_epoch,
        ready: None,
        replaced_by: None,
    };
    let endorsement =
        Endorsement { gateway: node, ak_name: newcomer.ak_name, pinned: newcomer.pinned };
    execution.put(Key::Gateway(node), Record::Gateway(gateway));
    execution.put(Key::VoteKey(newcomer.vote_key), Record::VoteKey(node));
    execution.put(Key::Endorsement(newcomer.ek_digest), Record::Endorsement(endorsement));
}

/// Ends the old identity's membership. Its budgets go to the new one, and its standing, which is
/// given back: a new identity is no way out of a mark or a suspension.
fn retire(
    execution: &mut Execution<'_>,
    old: &NodeId,
    new: NodeId,
) -> Result<StandingRecord, ApplyError> {
    let since = execution.context.height;
    let mut gateway = super::member(execution, old)?.clone();
    let inherited = match gateway.standing.standing {
        Standing::Marked | Standing::Suspended => {
            StandingRecord { since, ..gateway.standing.clone() }
        }
        _ => StandingRecord::active(since),
    };
    let reason = Reason::new(format!("replaced by {}", new.to_gateway_string()));
    gateway.standing =
        StandingRecord { standing: Standing::Candidate, since, reason: reason.unwrap_or_default() };
    gateway.online = false;
    gateway.ready = None;
    gateway.replaced_by = Some(new);
    execution.put(Key::Gateway(*old), Record::Gateway(gateway));
    move_budgets(execution, old, &new);
    Ok(inherited)
}

fn move_budgets(execution: &mut Execution<'_>, old: &NodeId, new: &NodeId) {
    let mut from = execution.activity(&Author::Node(*old));
    let mut to = execution.activity(&Author::Node(*new));
    to.tally_hour = to.tally_hour.max(from.tally_hour);
    to.hour = from.hour;
    to.registrations = from.registrations;
    to.refusals = from.refusals;
    to.sponsored = to.sponsored.saturating_add(from.sponsored);
    from.sponsored = 0;
    execution.put(Key::Activity(Author::Node(*old)), Record::Activity(from));
    execution.put(Key::Activity(Author::Node(*new)), Record::Activity(to));
}

/// The operator's word: the vote moves along, and a quorum attests the new TPM afterwards.
pub(super) fn apply_replace(
    execution: &mut Execution<'_>,
    body: &Replace,
) -> Result<Vec<Event>, ApplyError> {
    let node = NodeId::of_key(&body.identity);
    let old = super::member(execution, &body.old)?;
    match old.standing.standing {
        Standing::Revoked => return Err(ApplyError::Revoked(body.old)),
        Standing::Candidate => return Err(ApplyError::Standing("it has no place to give")),
        Standing::Active | Standing::Marked | Standing::Suspended => {}
    }
    check_replacement_attestation(execution, old, body)?;
    if execution.gateway(&node).is_some() || execution.light_node(&node).is_some() {
        return Err(ApplyError::Registered(node));
    }
    keys::check_newcomer(execution, &body.identity, &body.vote.vote_key)?;
    if execution.endorsement(&body.ek_digest).is_some_and(|known| known.gateway != body.old) {
        return Err(ApplyError::Tpm("it is another gateway's TPM"));
    }
    // Nobody has appraised it yet: the attestation that follows may fix the type.
    attesting::check_model(execution, body.tpm_model, body.ek_kind)?;
    let standing = retire(execution, &body.old, node)?;
    let newcomer = Newcomer {
        identity: body.identity,
        vote_key: body.vote.vote_key,
        ek_digest: body.ek_digest,
        ak_name: body.ak_name,
        label: body.label,
        attestation: match body.attestation {
            FounderAttestation::Unverified => Attestation::Unverified,
            FounderAttestation::Unattested => Attestation::Unattested,
        },
        standing,
        pinned: false,
    };
    settle(execution, &newcomer, Some(body.old));
    let reason = body.reason.clone();
    let mut events = vec![Event::Replaced { old: body.old, new: node, reason }];
    events.extend(voters::hand_over(execution, &body.old, node));
    Ok(events)
}

/// A gateway with a hardware TPM is not replaced by one with a software TPM, unless the site
/// lets those in.
fn check_replacement_attestation(
    execution: &Execution<'_>,
    old: &Gateway,
    body: &Replace,
) -> Result<(), ApplyError> {
    let worse = body.attestation == FounderAttestation::Unattested
        && old.attestation != Attestation::Unattested;
    if worse && !execution.policy().insecure_software_tpm_sites {
        return Err(ApplyError::Tpm("a software TPM cannot take the place of a hardware TPM"));
    }
    let votes = execution.voters().contains(&body.old);
    if votes && !body.label.full {
        return Err(ApplyError::Standing("a voter has the label full"));
    }
    Ok(())
}
