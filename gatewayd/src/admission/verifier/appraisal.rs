//! From an answered challenge to the statement that verifiers sign in common. Pure; the verdicts
//! are `attestation`'s, the rules about identities and TPMs the ledger's.

use attestation::result::{ClaimKind, Status};
use attestation::{AttestationResult, Challenge, Evidence, ImaPart, Judged, Logs};
use ledger::codec::Text;
use ledger::ids::{Height, NodeId};
use ledger::state::{Attestation, Endorsement, Standing};
use ledger::transaction::{ClaimVerdict, Purpose, Statement};

use super::challenges::Open;
use super::facts::{Facts, Seat};
use super::{Denial, Introduced, Trust};
use crate::admission::handing;
use crate::admission::messages::{Bound, ClaimWords, EvidenceRequest, Words, qualifying_data};
use crate::peers::Session;

/// How far below the tip a base may be: endorsements hold for 1,000 blocks, and some are needed to
/// collect them and to commit.
pub(super) const MAX_BASE_AGE: u64 = 900;

/// What is known about an attester before it proves anything.
///
/// # Errors
/// [`Denial`]: the ledger's rules would refuse it whatever its evidence.
pub(super) fn check(
    facts: &Facts,
    introduced: &Introduced,
    purpose: Purpose,
) -> Result<(), Denial> {
    check_base(facts, introduced)?;
    introduced.vote.verify(&facts.chain_id.0, &introduced.identity).map_err(|_| Denial::VoteKey)?;
    match purpose {
        Purpose::Admit => check_newcomer(facts, introduced)?,
        Purpose::Attest | Purpose::Fail => check_member(facts, introduced)?,
    }
    // Of a TPM that nobody vouches for, the model is only what it says of itself.
    let kind = introduced.ek_kind.number();
    match facts.model_kind.filter(|_| !is_key_only(facts, introduced)) {
        Some(accepted) if accepted != kind => Err(Denial::SecondEkType),
        _ => Ok(()),
    }
}

/// The base lies above what was last decided about this gateway, and about the one whose place it
/// would take: so that an old appraisal is not used against a newer decision.
fn check_base(facts: &Facts, introduced: &Introduced) -> Result<(), Denial> {
    let base = introduced.base_height;
    if base > facts.tip {
        return Err(Denial::NotThereYet);
    }
    let decided = [&facts.gateway, &facts.sibling].into_iter().flatten().any(|known| {
        let attested = match known.attestation {
            Attestation::Attested { height, .. } => height,
            _ => Height::GENESIS,
        };
        base < known.standing.since.max(attested)
    });
    if decided || facts.tip.0 - base.0 > MAX_BASE_AGE { Err(Denial::OldBase) } else { Ok(()) }
}

fn check_newcomer(facts: &Facts, introduced: &Introduced) -> Result<(), Denial> {
    match facts.gateway.as_ref().map(|known| known.standing.standing) {
        // Who left or was replaced may come back.
        None | Some(Standing::Candidate) => {}
        Some(Standing::Active | Standing::Marked) => return Err(Denial::Member),
        Some(standing) => return Err(Denial::Standing(standing.word())),
    }
    if let Some(owner) = facts.vote_key_owner {
        return Err(Denial::VoteKeyTaken(owner));
    }
    let other = replaces(facts, introduced);
    if let (Some(node), Some(sibling)) = (other, &facts.sibling) {
        match sibling.standing.standing {
            Standing::Revoked => return Err(Denial::RevokedTpm(node)),
            Standing::Active | Standing::Marked if sibling.online => {
                return Err(Denial::SameTpm(node));
            }
            _ => {}
        }
    }
    let insecure = facts.policy.insecure_software_tpm_sites;
    if facts.unattested_voter && introduced.label.full && !insecure {
        return Err(Denial::UnattestedFounder);
    }
    Ok(())
}

fn check_member(facts: &Facts, introduced: &Introduced) -> Result<(), Denial> {
    let gateway = facts.gateway.as_ref().ok_or(Denial::NotAMember)?;
    let standing = gateway.standing.standing;
    if let Some(by) = gateway.replaced_by {
        return Err(Denial::Replaced(by));
    }
    if !standing.may_record() {
        return Err(Denial::Standing(standing.word()));
    }
    let same = |found: &Endorsement| {
        found.gateway == introduced.node && found.ak_name == introduced.ak_name
    };
    if !facts.endorsement.as_ref().is_some_and(same) {
        return Err(Denial::OtherTpm);
    }
    // A new one is of a gateway that has lost its old one, and rotates next.
    if let Some(owner) = facts.vote_key_owner.filter(|owner| *owner != introduced.node) {
        return Err(Denial::VoteKeyTaken(owner));
    }
    if gateway.label() == introduced.label { Ok(()) } else { Err(Denial::OtherLabel) }
}

/// Whether this gateway may sign about a gateway for that purpose.
///
/// # Errors
/// [`Denial::NoVote`], [`Denial::Stale`].
pub fn check_seat(seat: Seat, node: &NodeId, purpose: Purpose) -> Result<(), Denial> {
    match (seat, purpose) {
        (Seat::Votes, _) | (Seat::Stale, Purpose::Attest | Purpose::Fail) => Ok(()),
        // A site that was off for a season wakes up: stale members renew each other.
        (Seat::Stale, Purpose::Admit) => Err(Denial::Stale),
        (Seat::Second(sole), Purpose::Attest) if sole == *node => Ok(()),
        (Seat::Second(_) | Seat::None, _) => Err(Denial::NoVote),
    }
}

/// Appraises the answer to a challenge, with the logs that came with it.
///
/// # Errors
/// [`Denial`]: malformed, about other keys.
pub(super) fn appraise(
    open: &Open,
    session: &Session,
    answer: &EvidenceRequest,
    facts: &Facts,
    trust: &Trust,
    judged: Option<Judged>,
    logs: handing::Logs,
) -> Result<AttestationResult, Denial> {
    let introduced = &open.introduced;
    let policy = trust.policy(facts, introduced)?;
    let evidence = Evidence::from_bytes(&answer.evidence)
        .map_err(|error| Denial::Evidence(format!("malformed evidence: {error}")))?;
    let same = evidence.ek_public == introduced.ek.raw()
        && evidence.ak_public == introduced.ak.raw()
        && evidence.identity_public == introduced.identity_public
        && evidence.manufacturer == introduced.manufacturer;
    if !same {
        return Err(Denial::OtherKeys);
    }
    let qualifying_data = qualifying_data(&Bound {
        nonce: open.nonce,
        exporter: &session.exporter,
        identity: &introduced.identity,
        vote_key: &introduced.vote.vote_key,
        label: introduced.label,
        event_log: answer.event_log.map(|head| head.digest),
    });
    let from_offset = judged.as_ref().map_or(0, Judged::ima_offset);
    let ima = logs.ima.map(|bytes| ImaPart { from_offset, bytes });
    let logs = Logs { event_log: logs.event_log, ima };
    // Certificates are judged at the site's time, which all verifiers share.
    let now = facts.time_ms / 1_000;
    let challenge = Challenge { qualifying_data, credential: *open.secret, now, judged };
    let values = trust.values_at(facts.time_ms);
    attestation::appraise(&evidence, &introduced.endorsements, &logs, &values, &policy, &challenge)
        .map_err(|error| Denial::Evidence(error.to_string()))
}

/// Whether nobody need vouch for this attester: a coordinator where the site's policy takes its key
/// alone (design §5, `coordinator_attestation`).
pub(super) fn is_key_only(facts: &Facts, introduced: &Introduced) -> bool {
    !facts.policy.coordinator_attestation && !introduced.label.full
}

/// Verdicts before any log was read: those on the logs stand for nothing yet.
pub(super) fn verdicts_on_tpm(
    facts: &Facts,
    introduced: &Introduced,
    result: &AttestationResult,
) -> Vec<Verdict> {
    let mut all = verdicts(facts, introduced, result);
    for verdict in &mut all {
        if matches!(verdict.kind, ClaimKind::Boot | ClaimKind::Ima) && verdict.denies() {
            verdict.status = Status::Warning;
            verdict.reason = "not judged: no log is taken from a TPM that is not accepted".into();
        }
    }
    all
}

/// Verdicts as the site's policy takes them.
pub(super) fn verdicts(
    facts: &Facts,
    introduced: &Introduced,
    result: &AttestationResult,
) -> Vec<Verdict> {
    let key_only = is_key_only(facts, introduced);
    let spared = [ClaimKind::Endorsement, ClaimKind::Hardware, ClaimKind::Boot, ClaimKind::Ima];
    let verdict = |claim: &attestation::Claim| {
        let denied = claim.status == Status::Contraindicated;
        let spare = key_only && denied && spared.contains(&claim.kind);
        let status = if spare { Status::Warning } else { claim.status };
        Verdict { kind: claim.kind, status, reason: claim.reason.to_string() }
    };
    result.claims().iter().map(verdict).collect()
}

/// One verdict under the site's policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Which claim.
    pub kind: ClaimKind,
    /// The verdict.
    pub status: Status,
    /// Why.
    pub reason: String,
}

impl Verdict {
    /// Whether the claim does not hold.
    pub fn denies(&self) -> bool {
        self.status == Status::Contraindicated
    }

    /// As messages carry it.
    pub fn words(&self) -> ClaimWords {
        let (claim, status) = (self.kind as u8, self.status as u8);
        ClaimWords { claim, status, reason: words(&self.reason) }
    }
}

/// The statement that verifiers sign in common: from the same evidence under the same policy all
/// make the same bytes.
pub(super) fn statement(
    facts: &Facts,
    introduced: &Introduced,
    purpose: Purpose,
    verdicts: &[Verdict],
) -> Statement {
    let claim = |verdict: &Verdict| ClaimVerdict {
        claim: verdict.kind as u8,
        status: verdict.status as u8,
    };
    Statement {
        chain_id: facts.chain_id,
        era: facts.era,
        purpose,
        identity: introduced.identity,
        vote_key: introduced.vote.vote_key,
        ek_digest: introduced.ek_digest,
        ak_name: introduced.ak_name,
        ek_kind: introduced.ek_kind.number(),
        tpm_model: introduced.tpm_model,
        label: introduced.label,
        policy_hash: facts.policy_hash,
        claims: verdicts.iter().map(claim).collect(),
        base_height: introduced.base_height,
    }
}

/// The gateway of the same TPM whose place a newcomer would take.
pub(super) fn replaces(facts: &Facts, introduced: &Introduced) -> Option<NodeId> {
    facts.endorsement.map(|found| found.gateway).filter(|node| *node != introduced.node)
}

/// A sentence as messages carry it: cut where it is too long.
pub fn words(text: &str) -> Words {
    fitting(text)
}

/// A text cut to its bound.
pub fn fitting<const MAX: usize>(text: &str) -> Text<MAX> {
    // Texts of strangers reach terminals: what a ledger text may not hold becomes a blank.
    let plain = |c: char| if Text::<4>::new(c).is_ok() { c } else { ' ' };
    let plain: String = text.chars().map(plain).collect();
    let mut end = plain.len().min(MAX);
    while !plain.is_char_boundary(end) {
        end -= 1;
    }
    Text::new(&plain[..end]).unwrap_or_default()
}
