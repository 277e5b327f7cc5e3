//! What a quorum found out about a TPM: statements, renewal, and the founder (design §5).

use alloc::{vec, vec::Vec};

use super::{
    super::{ApplyError, Attestation, Event, Gateway, Key, Record, execution::Execution},
    voters,
};
use crate::{
    ids::{Hash, NodeId},
    transaction::{Attest, FounderResult, Purpose, QuorumSignature, Statement},
};

/// How long a statement holds, blocks from its base height.
const STATEMENT_BLOCKS: u64 = 1_000;

/// What every statement must show, whoever signed it.
pub(super) fn check_statement(
    execution: &Execution<'_>,
    statement: &Statement,
    purpose: Purpose,
) -> Result<(), ApplyError> {
    let site = execution.site();
    let age = execution.context.height.0.checked_sub(statement.base_height.0);
    let fails = statement.is_contraindicated();
    let rules = [
        (statement.purpose == purpose, "it was made for another purpose"),
        (statement.chain_id == site.chain_id, "it is about another ledger"),
        (statement.era == site.era, "it was made in another era"),
        (
            statement.policy_hash == execution.policy().attestation_hash(),
            "another attestation policy was applied than the current one",
        ),
        (age.is_some_and(|age| age > 0), "its base height lies ahead"),
        (age.is_none_or(|age| age <= STATEMENT_BLOCKS), "it is older than 1,000 blocks"),
        (!fails || purpose == Purpose::Fail, "a claim does not hold"),
        (fails || purpose != Purpose::Fail, "every claim holds"),
    ];
    match rules.iter().find(|(holds, _)| !holds) {
        Some((_, why)) => Err(ApplyError::Statement(why)),
        None => Ok(()),
    }
}

/// A statement about a member is younger than its last standing change and than the attestation
/// that it would replace: so it is good once.
pub(super) fn check_fresh(gateway: &Gateway, statement: &Statement) -> Result<(), ApplyError> {
    let attested = match gateway.attestation {
        Attestation::Attested { height, .. } => Some(height),
        Attestation::Unverified | Attestation::Unattested => None,
    };
    let known = attested.into_iter().chain([gateway.standing.since]).max();
    if known.is_some_and(|known| statement.base_height < known) {
        return Err(ApplyError::Statement("the gateway's standing has changed since"));
    }
    Ok(())
}

/// More than two thirds of the voters, each with an attestation that holds: who is stale, or was
/// never attested, endorses nothing. A sole voter has nobody else to ask.
pub(super) fn check_endorsers(
    execution: &Execution<'_>,
    endorsements: &[QuorumSignature],
) -> Result<(), ApplyError> {
    voters::check_quorum(execution, endorsements)?;
    let policy = execution.policy();
    let unattested = execution.voters().len() == 1 || policy.insecure_software_tpm_sites;
    for each in endorsements {
        let attestation = &super::member(execution, &each.voter)?.attestation;
        let stale = attestation.is_stale(policy.attestation_valid_s, execution.context.time_ms);
        if stale || !(unattested || attestation.is_attested()) {
            return Err(ApplyError::Endorser(each.voter));
        }
    }
    Ok(())
}

/// One accepted type of EK a TPM model: a second one of the same TPM would be a second identity.
///
/// A TPM that nobody vouches for may call itself any model: it neither fixes the type for the real
/// ones, nor is held to theirs.
pub(super) fn take_model(
    execution: &mut Execution<'_>,
    statement: &Statement,
) -> Result<(), ApplyError> {
    let Statement { tpm_model, ek_kind, .. } = *statement;
    if !statement.is_endorsed() {
        return Ok(());
    }
    check_model(execution, tpm_model, ek_kind)?;
    if execution.tpm_model(&tpm_model).is_none() {
        execution.put(Key::TpmModel(tpm_model), Record::TpmModel(ek_kind));
    }
    Ok(())
}

/// Whether this type of EK may come of a TPM model.
pub(super) fn check_model(
    execution: &Execution<'_>,
    model: Hash,
    kind: u8,
) -> Result<(), ApplyError> {
    match execution.tpm_model(&model) {
        Some(known) if known != kind => {
            Err(ApplyError::Tpm("another type of EK is accepted of this TPM model"))
        }
        _ => Ok(()),
    }
}

/// Renewal; valid among stale members, so that a site that was off for a season wakes up.
pub(super) fn apply_attest(
    execution: &mut Execution<'_>,
    body: &Attest,
) -> Result<Vec<Event>, ApplyError> {
    let Attest { statement, endorsements } = body;
    check_statement(execution, statement, Purpose::Attest)?;
    let node = statement.node();
    check_renewers(execution, &node, endorsements)?;
    set_attested(execution, statement)
}

/// A voter may be one of those who vouch for it, or four voters could not renew with three; but
/// never the only one. A sole voter is renewed by another attested full member.
fn check_renewers(
    execution: &Execution<'_>,
    node: &NodeId,
    endorsements: &[QuorumSignature],
) -> Result<(), ApplyError> {
    if execution.voters() != core::slice::from_ref(node) {
        voters::check_quorum(execution, endorsements)?;
        let others = endorsements.iter().filter(|each| each.voter != *node).count();
        return voters::check_count(others, 1);
    }
    for each in endorsements {
        let gateway = super::member(execution, &each.voter)?;
        let fit = gateway.full
            && gateway.standing.standing.may_record()
            && gateway.attestation.is_attested()
            && each.voter != *node;
        if !fit {
            return Err(ApplyError::Endorser(each.voter));
        }
    }
    voters::check_count(endorsements.len(), 1)
}

/// Records an attestation of a member, whose keys, TPM and label must be those on the ledger.
fn set_attested(
    execution: &mut Execution<'_>,
    statement: &Statement,
) -> Result<Vec<Event>, ApplyError> {
    let node = statement.node();
    let mut gateway = super::member(execution, &node)?.clone();
    if !gateway.standing.standing.may_record() {
        return Err(ApplyError::NoRights);
    }
    check_fresh(&gateway, statement)?;
    check_same(execution, &gateway, statement)?;
    take_model(execution, statement)?;
    gateway.attestation = attested(execution, statement);
    execution.put(Key::Gateway(node), Record::Gateway(gateway));
    Ok(vec![Event::Attested { gateway: node }])
}

/// The vote key may be new, of a gateway that has lost the old one and rotates next.
fn check_same(
    execution: &Execution<'_>,
    gateway: &Gateway,
    statement: &Statement,
) -> Result<(), ApplyError> {
    let node = statement.node();
    if execution.vote_key_owner(&statement.vote_key).is_some_and(|owner| owner != node) {
        return Err(ApplyError::KeyInUse);
    }
    if statement.label != gateway.label() {
        return Err(ApplyError::Statement("it is about another label"));
    }
    match execution.endorsement(&statement.ek_digest) {
        Some(known) if known.gateway == node && known.ak_name == statement.ak_name => Ok(()),
        _ => Err(ApplyError::Tpm("it is not this gateway's TPM")),
    }
}

/// The result of an appraisal in this block.
pub(super) fn attested(execution: &Execution<'_>, statement: &Statement) -> Attestation {
    Attestation::Attested {
        height: execution.context.height,
        time_ms: execution.context.time_ms,
        policy_hash: statement.policy_hash,
        warnings: statement.warnings(),
    }
}

/// The second gateway attests a founder that nobody has verified, and brings the result.
///
/// Until then, and while a voter has only a software TPM, the newcomer cannot be sure of anything
/// that the site says: no full node comes in.
pub(super) fn apply_founder(
    execution: &mut Execution<'_>,
    newcomer: &Statement,
    result: Option<&FounderResult>,
) -> Result<Vec<Event>, ApplyError> {
    let insecure = execution.policy().insecure_software_tpm_sites;
    let unattested = |node: &NodeId| {
        let gateway = execution.gateway(node);
        gateway.is_some_and(|gateway| gateway.attestation == Attestation::Unattested)
    };
    if newcomer.label.full && !insecure && execution.voters().iter().any(unattested) {
        return Err(ApplyError::Founder("it is unattested: no other full node comes in"));
    }
    let [founder] = execution.voters() else {
        return match result {
            None => Ok(vec![]),
            Some(_) => Err(ApplyError::Founder("a quorum attests it, not a newcomer")),
        };
    };
    let founder = *founder;
    let attestation = super::member(execution, &founder)?.attestation;
    match (attestation, result) {
        (Attestation::Unverified, None) => {
            Err(ApplyError::Founder("nobody has verified it, and the newcomer has not either"))
        }
        (Attestation::Attested { .. }, Some(_)) => {
            Err(ApplyError::Founder("it is attested already"))
        }
        // Its TPM is a program, and so no newcomer, whatever its own label, can attest it.
        (Attestation::Unattested, Some(_)) if !insecure => {
            Err(ApplyError::Founder("it is unattested until it has a hardware TPM"))
        }
        (_, None) => Ok(vec![]),
        (_, Some(FounderResult { statement, signature: _ })) => {
            check_statement(execution, statement, Purpose::Attest)?;
            if statement.node() != founder {
                return Err(ApplyError::Founder("the result is about another gateway"));
            }
            set_attested(execution, statement)
        }
    }
}
