//! Measurement logs on their way from an attester to a verifier: after the evidence, in parts,
//! each bounded, in order, and no more than was announced.
//!
//! ```text
//!  attester                                verifier
//!     Evidence{quote, lengths, digest} ──> the TPM is one that may be believed?
//!     <── SendLogs ───────────────────────  (else nothing is taken)
//!     Log{event log} Log{IMA} Log{IMA} ──> all of it is here: judged
//! ```
//!
//! Pure. So a stranger without a TPM that the site trusts can make nobody keep a long log.

use attestation::logs::{MAX_EVENT_LOG_LEN, MAX_IMA_LEN};
use ledger::crypto::sha256;
use ledger::ids::Hash;

use super::messages::{
    Bytes, EventLogHead, EvidenceRequest, LogPart, LogQuestion, LogsWanted, MAX_LOG_PART,
};
use super::verifier::Denial;
use crate::peers::Session;

/// Logs that an attester hands over after its evidence, or that a verifier has got.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Logs {
    /// The firmware's event log.
    pub event_log: Option<Vec<u8>>,
    /// The IMA list from the byte that was asked for.
    pub ima: Option<Vec<u8>>,
}

impl Logs {
    /// Bytes of both together.
    pub fn len(&self) -> usize {
        [&self.event_log, &self.ima].into_iter().flatten().map(Vec::len).sum()
    }

    /// Whether there is not one byte.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The event log as it is announced.
    pub fn event_log_head(&self) -> Option<EventLogHead> {
        let head = |log: &Vec<u8>| EventLogHead { len: log.len() as u64, digest: sha256(&[log]) };
        self.event_log.as_ref().map(head)
    }

    /// The parts, in the order in which they are handed over.
    pub fn parts(&self, nonce: Hash) -> impl Iterator<Item = LogPart> {
        let log = |ima, log: &Option<Vec<u8>>| {
            let cut = |bytes: &[u8]| {
                // A chunk is never longer than a part may be.
                let bytes = Bytes::new(bytes.to_vec()).unwrap_or_default();
                LogPart { nonce, ima, bytes }
            };
            let parts: Vec<_> =
                log.iter().flat_map(|log| log.chunks(MAX_LOG_PART)).map(cut).collect();
            parts
        };
        log(false, &self.event_log).into_iter().chain(log(true, &self.ima))
    }

    /// The part that begins at a byte of one of them.
    fn part(&self, question: &LogQuestion) -> Option<LogPart> {
        let log = if question.ima { &self.ima } else { &self.event_log };
        let rest = log.as_ref()?.get(usize::try_from(question.from).ok()?..)?;
        let bytes = Bytes::new(rest[..rest.len().min(MAX_LOG_PART)].to_vec()).ok()?;
        let LogQuestion { nonce, ima, .. } = *question;
        (!bytes.is_empty()).then_some(LogPart { nonce, ima, bytes })
    }
}

/// Logs that are being taken: what was announced, and what has come of it.
#[derive(Debug, Clone)]
pub struct Taking {
    nonce: Hash,
    event_log: Option<EventLogHead>,
    ima: Option<usize>,
    taken: Logs,
}

impl Taking {
    /// What evidence announces, if it was asked for and is no longer than is looked at.
    ///
    /// # Errors
    /// [`Denial::LogTooLong`], [`Denial::Log`]: not asked for.
    pub fn announced(answer: &EvidenceRequest, wanted: LogsWanted) -> Result<Self, Denial> {
        let EvidenceRequest { nonce, evidence: _, event_log, ima } = answer;
        if event_log.is_some() && !wanted.event {
            return Err(Denial::Log(EVENT_LOG));
        }
        if ima.is_some() && wanted.ima_from.is_none() {
            return Err(Denial::Log(IMA_LIST));
        }
        let fits = |len: u64, what, max| match usize::try_from(len) {
            Ok(len) if len <= max => Ok(len),
            _ => Err(Denial::LogTooLong { what, len, max }),
        };
        let length = event_log.map(|head| fits(head.len, EVENT_LOG, MAX_EVENT_LOG_LEN));
        length.transpose()?;
        let ima = ima.map(|len| fits(len, IMA_LIST, MAX_IMA_LEN)).transpose()?;
        let taken = Logs { event_log: event_log.map(|_| vec![]), ima: ima.map(|_| vec![]) };
        Ok(Self { nonce: *nonce, event_log: *event_log, ima, taken })
    }

    /// Bytes that were announced.
    pub fn len(&self) -> usize {
        self.event_log_len() + self.ima.unwrap_or(0)
    }

    /// Whether nothing was announced.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn event_log_len(&self) -> usize {
        self.event_log.map_or(0, |head| usize::try_from(head.len).unwrap_or(usize::MAX))
    }

    /// The part that comes next; none when all is here.
    pub fn missing(&self) -> Option<LogQuestion> {
        let logs = [
            (false, self.event_log_len(), &self.taken.event_log),
            (true, self.ima.unwrap_or(0), &self.taken.ima),
        ];
        logs.into_iter().find_map(|(ima, announced, taken)| {
            let from = taken.as_ref().map_or(0, Vec::len);
            let question = LogQuestion { nonce: self.nonce, ima, from: from as u64 };
            (from < announced).then_some(question)
        })
    }

    /// Takes the part that comes next.
    ///
    /// # Errors
    /// [`Denial::Log`]: it is another one, or not as long as it must be.
    pub fn take(&mut self, part: &LogPart) -> Result<(), Denial> {
        let what = if part.ima { IMA_LIST } else { EVENT_LOG };
        let next = self.missing().filter(|next| next.ima == part.ima && next.nonce == part.nonce);
        let next = next.ok_or(Denial::Log(what))?;
        let announced = if part.ima { self.ima.unwrap_or(0) } else { self.event_log_len() };
        let rest = announced.saturating_sub(usize::try_from(next.from).unwrap_or(usize::MAX));
        if part.bytes.len() != rest.min(MAX_LOG_PART) {
            return Err(Denial::Log(what));
        }
        let taken = if part.ima { &mut self.taken.ima } else { &mut self.taken.event_log };
        taken.get_or_insert_default().extend_from_slice(&part.bytes);
        Ok(())
    }

    /// The logs, when all of them are here.
    ///
    /// # Errors
    /// [`Denial::Log`]: something is missing; [`Denial::LogDigest`].
    pub fn finish(self) -> Result<Logs, Denial> {
        if let Some(missing) = self.missing() {
            return Err(Denial::Log(if missing.ima { IMA_LIST } else { EVENT_LOG }));
        }
        let digest = self.taken.event_log.as_ref().map(|log| sha256(&[log]));
        match self.event_log.map(|head| head.digest) == digest {
            true => Ok(self.taken),
            false => Err(Denial::LogDigest),
        }
    }
}

const EVENT_LOG: &str = "event log";
const IMA_LIST: &str = "IMA log";

/// Sessions for which logs are kept until they were fetched.
const MAX_KEPT: usize = 4;

/// How long they are kept, ms.
const KEPT_MS: u64 = 120_000;

/// Logs of this gateway that whoever challenged it may fetch, in the session of the challenge. The
/// oldest goes when there are too many.
#[derive(Debug, Default)]
pub struct HandedOut(Vec<Kept>);

#[derive(Debug)]
struct Kept {
    exporter: [u8; 32],
    nonce: Hash,
    at_ms: u64,
    logs: Logs,
}

impl HandedOut {
    /// Keeps the logs of an answer.
    pub fn keep(&mut self, now_ms: u64, session: &Session, nonce: Hash, logs: Logs) {
        let exporter = session.exporter;
        self.0.retain(|kept| kept.exporter != exporter && !kept.is_old(now_ms));
        if logs.is_empty() {
            return;
        }
        if self.0.len() >= MAX_KEPT {
            self.0.remove(0);
        }
        self.0.push(Kept { exporter, nonce, at_ms: now_ms, logs });
    }

    /// A part of them.
    ///
    /// # Errors
    /// [`Denial::NoChallenge`]: none are kept for this session, or not that part.
    pub fn part(
        &mut self,
        now_ms: u64,
        session: &Session,
        question: &LogQuestion,
    ) -> Result<LogPart, Denial> {
        self.0.retain(|kept| !kept.is_old(now_ms));
        let of = |kept: &&Kept| kept.exporter == session.exporter && kept.nonce == question.nonce;
        let kept = self.0.iter().find(of).ok_or(Denial::NoChallenge)?;
        kept.logs.part(question).ok_or(Denial::NoChallenge)
    }
}

impl Kept {
    fn is_old(&self, now_ms: u64) -> bool {
        now_ms.saturating_sub(self.at_ms) > KEPT_MS
    }
}

#[cfg(test)]
mod tests {
    use ledger::crypto::SigningKey;
    use ledger::ids::NodeId;

    use super::*;

    const NONCE: Hash = Hash([5; 32]);
    const BOTH: LogsWanted = LogsWanted { event: true, ima_from: Some(0) };

    fn logs(event_log: usize, ima: usize) -> Logs {
        let log = |len: usize| (0..len).map(|n| (n % 251) as u8).collect();
        Logs { event_log: Some(log(event_log)), ima: Some(log(ima)) }
    }

    fn announcement(logs: &Logs) -> EvidenceRequest {
        let (event_log, ima) = (logs.event_log_head(), logs.ima.as_ref());
        let ima = ima.map(|ima| ima.len() as u64);
        EvidenceRequest { nonce: NONCE, evidence: Bytes::default(), event_log, ima }
    }

    #[test]
    fn logs_come_in_parts_and_are_whole_again() {
        for (event_log, ima) in [(1, 1), (MAX_LOG_PART, 0), (0, 3 * MAX_LOG_PART + 7), (9, 900_000)]
        {
            let sent = logs(event_log, ima);
            let mut taking = Taking::announced(&announcement(&sent), BOTH).unwrap();
            assert_eq!(taking.len(), event_log + ima);
            for part in sent.parts(NONCE) {
                let asked = taking.missing().unwrap();
                assert_eq!(sent.part(&asked).as_ref(), Some(&part), "pushed or asked for");
                taking.take(&part).unwrap();
            }
            assert_eq!(taking.missing(), None);
            assert_eq!(taking.finish(), Ok(sent));
        }
    }

    #[test]
    fn what_is_too_long_or_was_not_asked_for_is_refused_by_name() {
        let said = |answer: &EvidenceRequest, wanted| {
            Taking::announced(answer, wanted).map(|_| ()).unwrap_err().to_string()
        };
        let mut answer = announcement(&logs(10, 10));
        let event = LogsWanted { event: true, ima_from: None };
        assert_eq!(said(&answer, event), Denial::Log(IMA_LIST).to_string());
        let ima = LogsWanted { event: false, ima_from: Some(9) };
        assert_eq!(said(&answer, ima), Denial::Log(EVENT_LOG).to_string());
        for len in [MAX_IMA_LEN as u64 + 1, 100 << 20, u64::MAX] {
            answer.ima = Some(len);
            let words = format!("the IMA log has {len} bytes; 16777216 is the most");
            assert!(said(&answer, BOTH).starts_with(&words), "{}", said(&answer, BOTH));
        }
        answer = announcement(&logs(10, 10));
        answer.event_log = Some(EventLogHead { len: 100 << 20, digest: NONCE });
        assert!(said(&answer, BOTH).starts_with("the event log has 104857600 bytes; 1048576 is"));
    }

    #[test]
    fn parts_out_of_turn_or_of_another_length_are_refused() {
        let sent = logs(5, 2 * MAX_LOG_PART);
        let parts: Vec<_> = sent.parts(NONCE).collect();
        let taking = Taking::announced(&announcement(&sent), BOTH).unwrap();
        let part = |len: usize, ima| LogPart {
            nonce: NONCE,
            ima,
            bytes: Bytes::new(vec![1; len]).unwrap(),
        };
        for (what, wrong) in [
            ("the second log first", parts[1].clone()),
            ("nothing", part(0, false)),
            ("less than a part", part(4, false)),
            ("more than announced", part(6, false)),
            ("of another challenge", LogPart { nonce: Hash([6; 32]), ..parts[0].clone() }),
        ] {
            assert!(taking.clone().take(&wrong).is_err(), "{what}");
        }
        let mut other = taking.clone();
        assert_eq!(other.clone().finish(), Err(Denial::Log(EVENT_LOG)), "nothing is here");
        other.take(&part(5, false)).unwrap();
        assert!(other.clone().take(&part(7, true)).is_err(), "a part is full, but for the last");
        parts[1..].iter().for_each(|part| other.take(part).unwrap());
        assert!(other.clone().take(&parts[2]).is_err(), "all of it is here");
        assert_eq!(other.finish(), Err(Denial::LogDigest), "another event log");
    }

    #[test]
    fn logs_are_fetched_in_the_session_of_the_challenge() {
        let identity = SigningKey::from_bytes(&[5; 32]).unwrap().public_key();
        let session = |exporter| Session {
            node: NodeId::of_key(&identity),
            identity,
            exporter: [exporter; 32],
            member: true,
            remote: "192.0.2.1:7447".parse().unwrap(),
        };
        let (mut out, first) =
            (HandedOut::default(), LogQuestion { nonce: NONCE, ima: false, from: 0 });
        out.keep(0, &session(1), NONCE, logs(3, 3));
        assert_eq!(&*out.part(1, &session(1), &first).unwrap().bytes, &[0, 1, 2]);
        for (session, question) in [
            (session(2), first),
            (session(1), LogQuestion { nonce: Hash([6; 32]), ..first }),
            (session(1), LogQuestion { from: 3, ..first }),
            (session(1), LogQuestion { from: u64::MAX, ..first }),
        ] {
            assert_eq!(out.part(1, &session, &question), Err(Denial::NoChallenge));
        }
        for more in 2..=MAX_KEPT as u8 + 1 {
            out.keep(2, &session(more), NONCE, logs(3, 3));
        }
        assert_eq!(out.part(3, &session(1), &first), Err(Denial::NoChallenge), "the oldest went");
        assert!(out.part(3, &session(2), &first).is_ok());
        assert!(out.part(3 + KEPT_MS, &session(2), &first).is_err(), "too late");
    }
}
