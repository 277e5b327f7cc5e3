//! Challenges that wait for their evidence: one a session, answered once, for a minute, and
//! bounded for guests and members apart, so that strangers keep no member from its renewal.

use std::net::IpAddr;

use ledger::ids::Hash;
use ledger::transaction::Purpose;
use zeroize::Zeroizing;

use super::{Denial, Introduced};
use crate::admission::handing::Taking;
use crate::admission::messages::{EvidenceRequest, LogPart, LogsWanted};
use crate::peers::Session;

/// How long a challenge may be answered: a chip with an RSA key takes some ten seconds.
pub(super) const CHALLENGE_MS: u64 = 60_000;

/// Open challenges of guests.
pub(super) const MAX_GUESTS: usize = 32;

/// Open challenges of guests at one address: several gateways may be behind one.
pub(super) const MAX_GUESTS_PER_ADDRESS: usize = 8;

/// Open challenges of members: no site has more gateways.
pub(super) const MAX_MEMBERS: usize = 128;

/// Logs that guests hand over at the same time, in bytes as announced; members likewise.
pub(super) const MAX_LOGS: usize = 64 << 20;

/// Guests that hand over logs at the same time; members likewise.
pub(super) const MAX_SENDERS: usize = 4;

/// Slowest pace at which logs are taken, bytes a second: that of a cellular modem.
pub(super) const LOGS_PACE: u64 = 64 * 1024;

/// Whoever hands over logs and is silent for so long has ended it, ms.
pub(super) const SILENT_MS: u64 = 30_000;

/// A challenge that was made.
#[derive(Debug)]
pub(super) struct Open {
    /// Exporter of the session in which it was made: good in no other.
    exporter: [u8; 32],
    address: IpAddr,
    member: bool,
    /// When it expires, unless logs come.
    until_ms: u64,
    /// When it expires even then.
    end_ms: u64,
    /// What the evidence is for.
    pub purpose: Purpose,
    /// Who was challenged.
    pub introduced: Introduced,
    /// Nonce.
    pub nonce: Hash,
    /// The secret inside the credential.
    pub secret: Zeroizing<[u8; 32]>,
    /// Attestation policy at that time.
    pub policy_hash: Hash,
    /// Whole logs were asked for, because parts did not suffice: once.
    pub whole: bool,
    /// The logs that were asked for.
    pub wanted: LogsWanted,
    /// The answer, of a TPM that may be believed, while its logs come.
    answered: Option<Answered>,
}

/// An answer whose logs come.
#[derive(Debug)]
pub(super) struct Answered {
    /// The answer.
    pub answer: EvidenceRequest,
    /// Its logs.
    pub logs: Taking,
}

/// All open challenges.
#[derive(Debug, Default)]
pub(super) struct Challenges(Vec<Open>);

/// What a challenge is made of.
pub(super) struct Made {
    /// What the evidence is for.
    pub purpose: Purpose,
    /// Who is challenged.
    pub introduced: Introduced,
    /// Nonce.
    pub nonce: Hash,
    /// The secret inside the credential.
    pub secret: Zeroizing<[u8; 32]>,
    /// Attestation policy that applies.
    pub policy_hash: Hash,
    /// Whole logs are asked for.
    pub whole: bool,
    /// The logs that are asked for.
    pub wanted: LogsWanted,
}

impl Challenges {
    /// Opens a challenge; an older one of the same session is void.
    ///
    /// # Errors
    /// [`Denial::Busy`].
    pub(super) fn open(
        &mut self,
        now_ms: u64,
        session: &Session,
        made: Made,
    ) -> Result<(), Denial> {
        self.expire(now_ms);
        self.0.retain(|open| open.exporter != session.exporter);
        let address = session.remote.ip();
        let (limit, same) = if session.member {
            (MAX_MEMBERS, 0)
        } else {
            let here = |open: &&Open| !open.member && open.address == address;
            (MAX_GUESTS, self.0.iter().filter(here).count())
        };
        let kind = self.0.iter().filter(|open| open.member == session.member).count();
        if kind >= limit || same >= MAX_GUESTS_PER_ADDRESS {
            return Err(Denial::Busy);
        }
        let Made { purpose, introduced, nonce, secret, policy_hash, whole, wanted } = made;
        self.0.push(Open {
            exporter: session.exporter,
            address,
            member: session.member,
            until_ms: now_ms.saturating_add(CHALLENGE_MS),
            end_ms: now_ms.saturating_add(CHALLENGE_MS),
            purpose,
            introduced,
            nonce,
            secret,
            policy_hash,
            whole,
            wanted,
            answered: None,
        });
        Ok(())
    }

    /// Who was challenged in a session.
    pub(super) fn introduced(&self, session: &Session) -> Option<&Introduced> {
        let found = self.0.iter().find(|open| open.exporter == session.exporter);
        found.map(|open| &open.introduced)
    }

    /// Takes the session's challenge, whatever the nonce of the answer: one answer, one challenge.
    ///
    /// # Errors
    /// [`Denial::NoChallenge`]: there is none, it expired, or the answer is to another one.
    pub(super) fn take(
        &mut self,
        now_ms: u64,
        session: &Session,
        nonce: &Hash,
    ) -> Result<Open, Denial> {
        self.expire(now_ms);
        let found = self.0.iter().position(|open| open.exporter == session.exporter);
        let open = found.map(|index| self.0.swap_remove(index)).ok_or(Denial::NoChallenge)?;
        if open.nonce != *nonce || open.introduced.identity != session.identity {
            return Err(Denial::NoChallenge);
        }
        Ok(open)
    }

    /// Goes on with a challenge whose answer may be believed: its logs come next.
    ///
    /// # Errors
    /// [`Denial::Busy`]: too many hand over logs already.
    pub(super) fn take_logs(
        &mut self,
        now_ms: u64,
        mut open: Open,
        answered: Answered,
    ) -> Result<(), Denial> {
        let kind = self.0.iter().filter(|other| other.member == open.member);
        let sending: Vec<usize> =
            kind.filter_map(|other| Some(other.answered.as_ref()?.logs.len())).collect();
        let announced = answered.logs.len();
        if sending.len() >= MAX_SENDERS || sending.iter().sum::<usize>() + announced > MAX_LOGS {
            return Err(Denial::Busy);
        }
        open.until_ms = now_ms.saturating_add(SILENT_MS);
        open.end_ms = now_ms.saturating_add(logs_time_ms(announced));
        open.answered = Some(answered);
        self.0.push(open);
        Ok(())
    }

    /// Takes the next part of a log. Gives the challenge when it was the last.
    ///
    /// # Errors
    /// [`Denial::NoChallenge`]; [`Denial::Log`]: another part than the next, and the challenge is
    /// void.
    pub(super) fn log(
        &mut self,
        now_ms: u64,
        session: &Session,
        part: &LogPart,
    ) -> Result<Option<(Open, Answered)>, Denial> {
        self.expire(now_ms);
        let found = self
            .0
            .iter()
            .position(|open| open.exporter == session.exporter && open.nonce == part.nonce);
        let index = found.ok_or(Denial::NoChallenge)?;
        let open = &mut self.0[index];
        let answered = open.answered.as_mut().ok_or(Denial::Log(part.what()))?;
        if let Err(denial) = answered.logs.take(part) {
            self.0.swap_remove(index);
            return Err(denial);
        }
        open.until_ms = now_ms.saturating_add(SILENT_MS);
        if answered.logs.missing().is_some() {
            return Ok(None);
        }
        let mut open = self.0.swap_remove(index);
        let answered = open.answered.take();
        Ok(answered.map(|answered| (open, answered)))
    }

    /// How many are open.
    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.0.len()
    }

    fn expire(&mut self, now_ms: u64) {
        self.0.retain(|open| now_ms <= open.until_ms.min(open.end_ms));
    }
}

/// How long logs of so many bytes may take, ms.
pub(super) fn logs_time_ms(announced: usize) -> u64 {
    SILENT_MS + announced as u64 * 1_000 / LOGS_PACE
}
