//! Challenges that wait for their evidence: one a session, answered once, for a minute, and
//! bounded for guests and members apart, so that strangers keep no member from its renewal.

use std::net::IpAddr;

use attestation::logs::{MAX_EVENT_LOG_LEN, MAX_IMA_LEN};
use ledger::ids::Hash;
use ledger::transaction::Purpose;
use zeroize::Zeroizing;

use super::{Denial, Introduced};
use crate::admission::messages::{LogPart, LogsWanted};
use crate::peers::Session;

/// How long a challenge may be answered: a chip with an RSA key takes some ten seconds.
pub(super) const CHALLENGE_MS: u64 = 60_000;

/// Open challenges of guests.
pub(super) const MAX_GUESTS: usize = 32;

/// Open challenges of guests at one address: several gateways may be behind one.
pub(super) const MAX_GUESTS_PER_ADDRESS: usize = 8;

/// Open challenges of members: no site has more gateways.
pub(super) const MAX_MEMBERS: usize = 128;

/// Logs of all open challenges of guests together, in bytes; of members likewise.
pub(super) const MAX_LOGS: usize = 64 << 20;

/// A challenge that was made.
#[derive(Debug)]
pub(super) struct Open {
    /// Exporter of the session in which it was made: good in no other.
    exporter: [u8; 32],
    address: IpAddr,
    member: bool,
    opened_ms: u64,
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
    wanted: LogsWanted,
    /// What of the event log came before the evidence.
    pub event_log: Vec<u8>,
    /// What of the IMA list came before the evidence.
    pub ima: Vec<u8>,
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
            opened_ms: now_ms,
            purpose,
            introduced,
            nonce,
            secret,
            policy_hash,
            whole,
            wanted,
            event_log: Vec::new(),
            ima: Vec::new(),
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

    /// Takes a part of a log that comes before the evidence; the next follows it.
    ///
    /// # Errors
    /// [`Denial::NoChallenge`]; [`Denial::Log`]: not asked for, or too long.
    pub(super) fn log(
        &mut self,
        now_ms: u64,
        session: &Session,
        part: &LogPart,
    ) -> Result<(), Denial> {
        self.expire(now_ms);
        let kept = |open: &Open| open.event_log.len() + open.ima.len();
        let kind = self.0.iter().filter(|open| open.member == session.member);
        let all: usize = kind.map(kept).sum();
        let fits = |open: &&mut Open| open.exporter == session.exporter && open.nonce == part.nonce;
        let open = self.0.iter_mut().find(fits).ok_or(Denial::NoChallenge)?;
        let (asked, log, limit) = if part.ima {
            (open.wanted.ima_from.is_some(), &mut open.ima, MAX_IMA_LEN)
        } else {
            (open.wanted.event, &mut open.event_log, MAX_EVENT_LOG_LEN)
        };
        let len = log.len() + part.bytes.len();
        if !asked || part.bytes.is_empty() || len > limit || all + part.bytes.len() > MAX_LOGS {
            return Err(Denial::Log(if part.ima { "IMA log" } else { "event log" }));
        }
        log.extend_from_slice(&part.bytes);
        Ok(())
    }

    /// How many are open.
    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.0.len()
    }

    fn expire(&mut self, now_ms: u64) {
        self.0.retain(|open| now_ms.saturating_sub(open.opened_ms) <= CHALLENGE_MS);
    }
}
