//! The verifier (RFC 9334): challenges who asks to be admitted or renewed, appraises the answer
//! under the site's policy, and says what is to be signed.
//!
//! ```text
//! Introduction ─parse─> Introduced ─check(facts)─> Challenge      (once, 60 s, this session)
//! Evidence ─take challenge─> appraise ─> Sign(statement) │ NeedsApproval │ Refused │ Failed
//! ```
//!
//! Pure: `step(now, input) -> effects`. It has no clock, randomness, socket, ledger or key: fresh
//! bytes and the ledger's word come in as arguments, and who owns the vote key signs.

mod appraisal;
mod challenges;
mod denial;
mod facts;
mod introduced;
mod pending;
#[cfg(test)]
pub(super) mod tests;
mod trust;

use std::collections::BTreeMap;
use std::time::Duration;

use attestation::activation::ENTROPY_LEN;
use attestation::result::ClaimKind;
use attestation::{AttestationResult, Judged};
use ledger::ids::{Hash, NodeId};
use ledger::transaction::{Purpose, Statement};
use zeroize::Zeroizing;

use super::handing::{self, Taking};
use super::messages::{
    Bytes, Challenge, ClaimWords, EvidenceRequest, LogPart, LogsWanted, Refused, Response, Wait,
};
use crate::control::AppraisalInfo;
use crate::peers::Session;
use challenges::{Answered, Challenges, Made, Open, logs_time_ms};
use pending::{Note, Pending};

pub use appraisal::{Verdict, check_seat, fitting, words};
pub use denial::Denial;
pub use facts::{Facts, Query, Seat, entry, is_stale, seat, valid_until_ms};
pub use introduced::Introduced;
pub use pending::Stand;
pub use trust::Trust;

/// Members of whom an appraisal is kept: no site has more.
const MAX_KEPT: usize = 128;

/// Attesters of whom it is kept how far their logs were judged: all members of a site, and some
/// newcomers that hold TPMs the site trusts. The oldest goes; it then sends its whole logs once.
const MAX_JUDGED: usize = 192;

/// What a session may send besides its logs while it hands them over: another introduction and
/// evidence, bytes.
const BESIDE_LOGS: usize = 64 * 1024;

/// A refusal goes onto the record once an hour for one attester: the ledger's own limit is for all
/// of them together.
const REFUSAL_EVERY_MS: u64 = 3_600_000;

/// Attesters of whom it is known when they were last refused.
const MAX_REFUSED: usize = 256;

/// Time of a step.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// Monotonic, ms: what expires by it.
    pub mono_ms: u64,
    /// Unix ms: what people are shown.
    pub wall_ms: u64,
}

/// Fresh random bytes of one challenge.
pub struct Fresh {
    /// Nonce.
    pub nonce: Hash,
    /// The secret inside the credential.
    pub secret: Zeroizing<[u8; 32]>,
    /// What the credential is made with.
    pub entropy: Zeroizing<[u8; ENTROPY_LEN]>,
}

/// What happens.
pub enum Input<'a> {
    /// Somebody introduced itself, to be admitted or renewed.
    Introduced {
        /// What for.
        purpose: Purpose,
        /// Who.
        introduced: Box<Introduced>,
        /// For the challenge.
        fresh: Fresh,
    },
    /// Somebody hands over a part of a log that it has announced.
    Log {
        /// The part.
        part: &'a LogPart,
        /// What the site trusts.
        trust: &'a Trust,
        /// For another challenge, when the logs do not suffice.
        fresh: Fresh,
    },
    /// Somebody answered a challenge.
    Evidence {
        /// The answer.
        answer: &'a EvidenceRequest,
        /// What the site trusts.
        trust: &'a Trust,
        /// For another challenge, when other logs are needed.
        fresh: Fresh,
    },
}

/// What is to be done about it.
#[derive(Debug)]
pub enum Effect {
    /// Answer so.
    Reply(Response),
    /// Let this session send so much more, for so long: it hands over logs.
    Allow {
        /// Bytes.
        bytes: usize,
        /// Time.
        time: Duration,
    },
    /// Sign this statement with the vote key, if it can still be signed, and answer with it.
    Endorse {
        /// What is signed.
        statement: Box<Statement>,
        /// The verdicts in words, for the answer.
        claims: Vec<ClaimWords>,
    },
    /// Record the refusal.
    Record {
        /// Who was refused.
        node: NodeId,
        /// Why.
        reason: String,
    },
    /// A member's re-attestation was contraindicated: the quorum has to know.
    Failed(Box<Statement>),
}

/// A member's newest appraisal.
#[derive(Debug, Clone)]
struct Kept {
    info: AppraisalInfo,
    /// What failed, with the purpose *fail*, and when (monotonic).
    failed: Option<(Statement, u64)>,
}

/// The verifier's state; all of it bounded.
#[derive(Debug, Default)]
pub struct Verifier {
    challenges: Challenges,
    pending: Pending,
    kept: BTreeMap<NodeId, Kept>,
    /// How far logs were judged, and when (monotonic).
    judged: BTreeMap<NodeId, (Judged, u64)>,
    refused: BTreeMap<NodeId, u64>,
}

impl Verifier {
    /// One input.
    pub fn step(
        &mut self,
        now: Now,
        session: &Session,
        facts: &Facts,
        input: Input<'_>,
    ) -> Vec<Effect> {
        match input {
            Input::Introduced { purpose, introduced, fresh } => {
                self.challenge(now, session, facts, purpose, *introduced, fresh, false)
            }
            Input::Log { part, trust, fresh } => {
                match self.challenges.log(now.mono_ms, session, part) {
                    Ok(None) => vec![Effect::Reply(Response::Heard)],
                    Ok(Some((open, answered))) => {
                        self.judge(now, session, facts, trust, open, answered, fresh)
                    }
                    Err(denial) => vec![refuse(&denial, vec![])],
                }
            }
            Input::Evidence { answer, trust, fresh } => {
                let open = match self.challenges.take(now.mono_ms, session, &answer.nonce) {
                    Ok(open) => open,
                    Err(denial) => return vec![refuse(&denial, vec![])],
                };
                self.evidence(now, session, facts, answer, trust, open, fresh)
            }
        }
    }

    /// Who answers in this session: the facts for its evidence are about it.
    pub fn challenged(&self, session: &Session) -> Option<Query> {
        self.challenges.introduced(session).map(Query::of)
    }

    /// The newcomers that are known here and no members.
    pub fn pending(
        &mut self,
        is_member: impl Fn(&NodeId) -> bool,
    ) -> Vec<crate::control::AdmissionInfo> {
        self.pending.forget(is_member);
        self.pending.list()
    }

    /// Where a newcomer stands.
    pub fn stand(&self, node: &NodeId) -> Option<&Stand> {
        self.pending.stand(node)
    }

    /// The keys of a newcomer that asked here.
    pub fn newcomer(&self, node: &NodeId) -> Option<&Introduced> {
        self.pending.introduced(node)
    }

    /// The newest appraisal of a member made here.
    pub fn appraised(&self, node: &NodeId) -> Option<&AppraisalInfo> {
        self.kept.get(node).map(|kept| &kept.info)
    }

    /// Members whose newest appraisal here was contraindicated since `since_ms` (monotonic).
    pub fn failures(&self, since_ms: u64) -> impl Iterator<Item = &Statement> {
        let failed = self.kept.values().filter_map(|kept| kept.failed.as_ref());
        failed.filter(move |(_, at)| *at >= since_ms).map(|(statement, _)| statement)
    }

    /// A failure was acted upon, or the gateway has no rights any more.
    pub fn settled(&mut self, node: &NodeId) {
        if let Some(kept) = self.kept.get_mut(node) {
            kept.failed = None;
        }
    }

    /// An introduction that does not even parse.
    pub fn refuse_introduction(
        &mut self,
        now: Now,
        session: &Session,
        denial: &Denial,
    ) -> Vec<Effect> {
        self.deny(now, &session.node, denial, vec![])
    }

    #[expect(clippy::too_many_arguments, reason = "each is another's word on one challenge")]
    fn challenge(
        &mut self,
        now: Now,
        session: &Session,
        facts: &Facts,
        purpose: Purpose,
        introduced: Introduced,
        fresh: Fresh,
        whole: bool,
    ) -> Vec<Effect> {
        let checked = appraisal::check(facts, &introduced, purpose)
            .and_then(|()| check_seat(facts.seat, &introduced.node, purpose));
        if let Err(denial) = checked {
            if denial.is_recorded() && purpose == Purpose::Admit {
                let stand = Stand::Refused(denial.to_string());
                self.note(now, session, facts, &introduced, stand, vec![]);
            }
            return self.deny(now, &session.node, &denial, vec![]);
        }
        let logs = self.logs(facts, &introduced, whole);
        let node = introduced.node;
        let Fresh { nonce, secret, entropy } = fresh;
        let policy_hash = facts.policy_hash;
        let challenge = introduced.credential(&secret, &entropy).and_then(|blob| {
            let credential = Bytes::new(blob.to_bytes());
            let credential = credential.map_err(|_| Denial::Malformed("endorsement key"))?;
            let made =
                Made { purpose, introduced, nonce, secret, policy_hash, whole, wanted: logs };
            self.challenges.open(now.mono_ms, session, made)?;
            let (pcrs, profile) = (facts.policy.pcrs, facts.policy.profile);
            Ok(Challenge { nonce, credential, pcrs, profile, policy_hash, logs })
        });
        match challenge {
            Ok(challenge) => vec![Effect::Reply(Response::Challenge(Box::new(challenge)))],
            Err(denial) => self.deny(now, &node, &denial, vec![]),
        }
    }

    /// Which logs to ask for: what was judged already is not asked for again, and what nobody has
    /// to vouch for not at all.
    fn logs(&self, facts: &Facts, introduced: &Introduced, whole: bool) -> LogsWanted {
        let profile = attestation::Profile::from_number(facts.policy.profile as u8);
        let profile = profile.filter(|_| !appraisal::is_key_only(facts, introduced));
        let judged = self.judged(&introduced.node).filter(|_| !whole);
        let wants = |asks: fn(attestation::Profile) -> bool| profile.is_some_and(asks);
        let ima = wants(attestation::Profile::wants_ima);
        LogsWanted {
            event: judged.is_none() && wants(attestation::Profile::wants_event_log),
            ima_from: ima.then(|| judged.map_or(0, |judged| judged.ima_offset())),
        }
    }

    fn judged(&self, node: &NodeId) -> Option<Judged> {
        self.judged.get(node).map(|(judged, _)| judged.clone())
    }

    /// Keeps how far an attester's logs were judged; nothing, where that says nothing any more.
    fn keep_judged(&mut self, now: Now, node: NodeId, judged: Option<&Judged>) {
        self.judged.remove(&node);
        let Some(judged) = judged else { return };
        if self.judged.len() >= MAX_JUDGED {
            let oldest = self.judged.iter().min_by_key(|(_, (_, at))| *at);
            let oldest = oldest.map(|(node, _)| *node);
            oldest.and_then(|node| self.judged.remove(&node));
        }
        self.judged.insert(node, (judged.clone(), now.mono_ms));
    }

    #[expect(clippy::too_many_arguments, reason = "each is another's word on one answer")]
    fn evidence(
        &mut self,
        now: Now,
        session: &Session,
        facts: &Facts,
        answer: &EvidenceRequest,
        trust: &Trust,
        open: Open,
        fresh: Fresh,
    ) -> Vec<Effect> {
        let logs = match recheck(facts, &open).and_then(|()| Taking::announced(answer, open.wanted))
        {
            Ok(logs) => logs,
            Err(denial) => return self.turn_away(now, session, facts, &open, &denial),
        };
        let answered = Answered { answer: answer.clone(), logs };
        if answered.logs.is_empty() {
            return self.judge(now, session, facts, trust, open, answered, fresh);
        }
        // No log is taken before the TPM is one that may be believed.
        let judged = self.judged(&open.introduced.node).filter(|_| !open.whole);
        let none = handing::Logs::default();
        let result = appraisal::appraise(&open, session, answer, facts, trust, judged, none);
        let result = match result {
            Ok(result) => result,
            Err(denial) => return self.turn_away(now, session, facts, &open, &denial),
        };
        let verdicts = appraisal::verdicts_on_tpm(facts, &open.introduced, &result);
        if verdicts.iter().any(Verdict::denies) {
            return self.decide(now, session, facts, &open, &result, verdicts);
        }
        let announced = answered.logs.len();
        match self.challenges.take_logs(now.mono_ms, open, answered) {
            Ok(()) => vec![
                Effect::Reply(Response::SendLogs),
                Effect::Allow {
                    // Each frame has a head, each part an envelope.
                    bytes: announced + announced / 256 + BESIDE_LOGS,
                    time: Duration::from_millis(logs_time_ms(announced)),
                },
            ],
            Err(denial) => vec![refuse(&denial, vec![])],
        }
    }

    /// Judges an answer whose logs are all here.
    #[expect(clippy::too_many_arguments, reason = "each is another's word on one answer")]
    fn judge(
        &mut self,
        now: Now,
        session: &Session,
        facts: &Facts,
        trust: &Trust,
        open: Open,
        answered: Answered,
        fresh: Fresh,
    ) -> Vec<Effect> {
        let node = open.introduced.node;
        let judged = self.judged(&node).filter(|_| !open.whole);
        let Answered { answer, logs } = answered;
        let result = recheck(facts, &open).and_then(|()| {
            let logs = logs.finish()?;
            told(&node, open.wanted, &logs);
            appraisal::appraise(&open, session, &answer, facts, trust, judged, logs)
        });
        match result {
            Ok(result)
                if result.wants_whole_logs() && !open.whole && self.may_want(facts, &open) =>
            {
                self.judged.remove(&node);
                let (purpose, introduced) = (open.purpose, open.introduced);
                self.challenge(now, session, facts, purpose, introduced, fresh, true)
            }
            Ok(result) => {
                let verdicts = appraisal::verdicts(facts, &open.introduced, &result);
                self.decide(now, session, facts, &open, &result, verdicts)
            }
            Err(denial) => self.turn_away(now, session, facts, &open, &denial),
        }
    }

    /// Whether whole logs can be asked of this attester.
    fn may_want(&self, facts: &Facts, open: &Open) -> bool {
        self.logs(facts, &open.introduced, true) != LogsWanted::default()
    }

    /// Sends an attester away whose answer cannot even be judged.
    fn turn_away(
        &mut self,
        now: Now,
        session: &Session,
        facts: &Facts,
        open: &Open,
        denial: &Denial,
    ) -> Vec<Effect> {
        if denial.is_recorded() && open.purpose == Purpose::Admit {
            let stand = Stand::Refused(denial.to_string());
            self.note(now, session, facts, &open.introduced, stand, vec![]);
        }
        self.deny(now, &open.introduced.node, denial, vec![])
    }

    fn decide(
        &mut self,
        now: Now,
        session: &Session,
        facts: &Facts,
        open: &Open,
        result: &AttestationResult,
        verdicts: Vec<Verdict>,
    ) -> Vec<Effect> {
        self.keep_judged(now, open.introduced.node, result.judged());
        if open.purpose == Purpose::Admit {
            self.decide_newcomer(now, session, facts, &open.introduced, verdicts)
        } else {
            self.decide_member(now, facts, &open.introduced, result, &verdicts)
        }
    }

    fn decide_newcomer(
        &mut self,
        now: Now,
        session: &Session,
        facts: &Facts,
        introduced: &Introduced,
        verdicts: Vec<Verdict>,
    ) -> Vec<Effect> {
        let claims: Vec<_> = verdicts.iter().map(Verdict::words).collect();
        let denied: Vec<_> = verdicts.iter().filter(|verdict| verdict.denies()).collect();
        let approved = !facts.policy.operator_approval || facts.approved(introduced);
        // The operator may vouch for a TPM whose maker does not, or is not trusted: by an approval
        // that pins its EK. Nothing else that fails can be approved away.
        let pin = denied.len() == 1 && denied[0].kind == ClaimKind::Endorsement;
        // Said is what nobody can approve away, if there is such.
        let worst = denied.iter().find(|verdict| verdict.kind != ClaimKind::Endorsement);
        match worst.or(denied.first()) {
            Some(first) if !(pin && facts.policy.operator_approval) => {
                let reason = first.reason.clone();
                let denial = Denial::Contraindicated { claim: first.kind.as_str(), reason };
                let stand = Stand::Refused(denial.to_string());
                self.note(now, session, facts, introduced, stand, verdicts);
                self.deny(now, &introduced.node, &denial, claims)
            }
            None if approved => {
                let statement = appraisal::statement(facts, introduced, Purpose::Admit, &verdicts);
                self.note(now, session, facts, introduced, Stand::Endorsed, verdicts);
                vec![Effect::Endorse { statement: Box::new(statement), claims }]
            }
            _ => {
                let stand = Stand::NeedsApproval { pin };
                self.note(now, session, facts, introduced, stand, verdicts);
                vec![Effect::Reply(Response::NeedsApproval(claims))]
            }
        }
    }

    fn decide_member(
        &mut self,
        now: Now,
        facts: &Facts,
        introduced: &Introduced,
        result: &AttestationResult,
        verdicts: &[Verdict],
    ) -> Vec<Effect> {
        let claims: Vec<_> = verdicts.iter().map(Verdict::words).collect();
        let denied = verdicts.iter().find(|verdict| verdict.denies());
        // An answer to another challenge or from another channel says nothing about the member's
        // machine: it is refused, and nobody is suspended for it.
        let fresh = !verdicts.iter().any(|it| it.kind == ClaimKind::Freshness && it.denies());
        let purpose = if denied.is_none() { Purpose::Attest } else { Purpose::Fail };
        let statement = appraisal::statement(facts, introduced, purpose, verdicts);
        // Who was never attested has nothing to lose: a founder whose TPM nobody vouches for.
        let attested = facts.gateway.as_ref().is_some_and(|known| {
            matches!(known.attestation, ledger::state::Attestation::Attested { .. })
        });
        let failed = denied.is_some() && fresh && attested;
        let failed = failed.then(|| (statement.clone(), now.mono_ms));
        let info = AppraisalInfo {
            time_ms: now.wall_ms,
            accepted: denied.is_none(),
            claims: verdicts.iter().map(Verdict::info).collect(),
            reset_count: result.clock().reset_count,
        };
        let kept = Kept { info, failed: failed.clone() };
        self.keep(introduced.node, kept);
        let statement = Box::new(statement);
        let Some(first) = denied else { return vec![Effect::Endorse { statement, claims }] };
        let denial =
            Denial::Contraindicated { claim: first.kind.as_str(), reason: first.reason.clone() };
        let mut effects = self.deny(now, &introduced.node, &denial, claims);
        if failed.is_some() {
            effects.push(Effect::Failed(statement));
        }
        effects
    }

    fn keep(&mut self, node: NodeId, kept: Kept) {
        if self.kept.len() >= MAX_KEPT && !self.kept.contains_key(&node) {
            let oldest = self.kept.iter().min_by_key(|(_, kept)| kept.info.time_ms);
            let oldest = oldest.map(|(node, _)| *node);
            oldest.and_then(|node| self.kept.remove(&node));
        }
        self.kept.insert(node, kept);
    }

    fn note(
        &mut self,
        now: Now,
        session: &Session,
        facts: &Facts,
        introduced: &Introduced,
        stand: Stand,
        verdicts: Vec<Verdict>,
    ) {
        let replaces = appraisal::replaces(facts, introduced);
        let (policy_hash, from) = (facts.policy_hash, session.remote);
        let note = Note { stand, verdicts, policy_hash, replaces, from };
        self.pending.note(now, introduced, note);
    }

    /// The answer to a denial, and its place on the record: at most once an hour an attester.
    fn deny(
        &mut self,
        now: Now,
        node: &NodeId,
        denial: &Denial,
        claims: Vec<ClaimWords>,
    ) -> Vec<Effect> {
        let mut effects = vec![refuse(denial, claims)];
        if denial.is_recorded() && self.first_in_hour(now.mono_ms, node) {
            effects.push(Effect::Record { node: *node, reason: denial.to_string() });
        }
        effects
    }

    fn first_in_hour(&mut self, now_ms: u64, node: &NodeId) -> bool {
        self.refused.retain(|_, at| now_ms.saturating_sub(*at) < REFUSAL_EVERY_MS);
        if self.refused.contains_key(node) || self.refused.len() >= MAX_REFUSED {
            return false;
        }
        self.refused.insert(*node, now_ms);
        true
    }
}

/// The ledger may have moved on since the challenge: everything is checked again.
fn recheck(facts: &Facts, open: &Open) -> Result<(), Denial> {
    appraisal::check(facts, &open.introduced, open.purpose)?;
    check_seat(facts.seat, &open.introduced.node, open.purpose)?;
    if open.policy_hash == facts.policy_hash { Ok(()) } else { Err(Denial::PolicyChanged) }
}

/// Says for the journal what of its logs an attester has handed over.
fn told(node: &NodeId, wanted: LogsWanted, logs: &handing::Logs) {
    if wanted == LogsWanted::default() {
        return;
    }
    let len = |log: &Option<Vec<u8>>| log.as_ref().map_or(0, Vec::len);
    let (gateway, event_log, ima) =
        (node.to_gateway_string(), len(&logs.event_log), len(&logs.ima));
    let ima_from = wanted.ima_from.unwrap_or(0);
    tracing::info!(gateway, event_log, ima, ima_from, "bytes of measurement logs were judged");
}

/// The answer to a denial.
fn refuse(denial: &Denial, claims: Vec<ClaimWords>) -> Effect {
    let reason = words(&denial.to_string());
    Effect::Reply(match denial.wait_s() {
        Some(after_s) => Response::Wait(Wait { reason, after_s }),
        None => Response::Refused(Refused { reason, claims }),
    })
}
