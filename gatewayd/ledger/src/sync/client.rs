//! The side that wants a ledger: asks one member after the other until one has sent a snapshot
//! that follows from the trusted header.
//!
//! `step(now, input) -> effects`, as everywhere: the shell sends what it is told to, feeds what
//! comes back, and wakes the client at [`Client::next_wake`]. A member that answers wrongly, too
//! late or with something older than what is known is named and left out for a while; it is
//! never left out for ever, for it may be the only one that can be reached.

use std::collections::BTreeMap;

use super::snapshot::{Arriving, Entry, Snapshot, SnapshotError, VerifiedSnapshot, Walk};
use super::wire::{Answer, Manifest, Request};
use crate::codec::{Decode, Encode};
use crate::consensus::message::Message;
use crate::header::Header;
use crate::ids::{Height, NodeId};
use crate::state::map::MapProof;
use crate::store::SetStep;

/// What can happen to a client.
#[derive(Clone, Debug)]
pub enum Input {
    /// A member can be asked from now on.
    PeerUp(NodeId),
    /// A member cannot be reached any more, or refused the question.
    PeerDown(NodeId),
    /// Bytes of a member: an encoded [`Message::Snapshot`]; anything else is ignored.
    Answer {
        /// The member.
        from: NodeId,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// The time of [`Client::next_wake`] has come.
    Wake,
}

/// What the shell must do.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Send to a member: an encoded [`Message::SnapshotRequest`].
    Request {
        /// The member.
        to: NodeId,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// A member was of no use; the next one is asked.
    Failed {
        /// The member.
        peer: NodeId,
        /// Why.
        error: ClientError,
    },
    /// The snapshot is whole and verified: found the store from it.
    Done(Box<VerifiedSnapshot>),
}

/// Why a member was of no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// What it sent is wrong or old.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// It did not answer in time.
    #[error("no answer")]
    Silent,
    /// It does not serve a snapshot that is new enough.
    #[error("it has no snapshot to offer")]
    Nothing,
    /// The connection ended.
    #[error("the connection ended")]
    Lost,
}

/// Asks for a snapshot; see the module.
pub struct Client {
    trusted: Header,
    sources: BTreeMap<NodeId, Source>,
    transfer: Option<Transfer>,
    now_ms: u64,
    effects: Vec<Effect>,
}

#[derive(Debug, Default)]
struct Source {
    failures: u32,
    /// Not asked before this.
    after_ms: u64,
}

/// What one member has sent so far.
struct Transfer {
    from: NodeId,
    /// The question that is open.
    request: Request,
    deadline_ms: u64,
    manifest: Option<Box<Manifest>>,
    /// Through the changes of the voters that came.
    walk: Option<Walk>,
    steps: Vec<SetStep>,
    step_bytes: usize,
    arriving: Arriving,
    entries: Vec<Entry>,
}

/// How far a client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The member that sends.
    pub from: Option<NodeId>,
    /// Height of its snapshot.
    pub height: Option<Height>,
    /// State entries that came.
    pub entries: u64,
    /// State entries that it says there are.
    pub of: u64,
}

/// A member has so long for one answer.
const ANSWER_MS: u64 = 10_000;
/// A member that failed is left out for this long, doubled with each time.
const FIRST_PAUSE_MS: u64 = 1_000;
const MAX_PAUSE_MS: u64 = 60_000;
/// Bytes of all changes of the voters: some ten thousand. Those below the trusted header are not
/// known to lead to it before the last one has come.
const MAX_STEP_BYTES: usize = 32 * 1024 * 1024;

impl Client {
    /// A client that believes what follows from `trusted`: a header that the light client has
    /// verified against the site code, or one of the own ledger that is set aside.
    pub fn new(trusted: Header) -> Self {
        Self { trusted, sources: BTreeMap::new(), transfer: None, now_ms: 0, effects: Vec::new() }
    }

    /// How far it is.
    pub fn progress(&self) -> Progress {
        let none = Progress { from: None, height: None, entries: 0, of: 0 };
        self.transfer.as_ref().map_or(none, |transfer| Progress {
            from: Some(transfer.from),
            height: transfer.manifest.as_ref().map(|manifest| manifest.header.height),
            entries: transfer.entries.len() as u64,
            of: transfer.manifest.as_ref().map_or(0, |manifest| manifest.entries),
        })
    }

    /// Monotonic time at which the shell feeds [`Input::Wake`], if nothing comes before.
    pub fn next_wake(&self) -> Option<u64> {
        match &self.transfer {
            Some(transfer) => Some(transfer.deadline_ms),
            None => self.sources.values().map(|source| source.after_ms).min(),
        }
    }

    /// Takes one input at monotonic time `now_ms`.
    pub fn step(&mut self, now_ms: u64, input: Input) -> Vec<Effect> {
        self.now_ms = now_ms;
        match input {
            Input::PeerUp(peer) => {
                self.sources.entry(peer).or_default();
            }
            Input::PeerDown(peer) => {
                if self.transfer.as_ref().is_some_and(|transfer| transfer.from == peer) {
                    self.fail(ClientError::Lost);
                }
                self.sources.remove(&peer);
            }
            Input::Answer { from, bytes } => self.answer(from, &bytes),
            Input::Wake => {
                if self.transfer.as_ref().is_some_and(|transfer| transfer.deadline_ms <= now_ms) {
                    self.fail(ClientError::Silent);
                }
            }
        }
        self.begin();
        std::mem::take(&mut self.effects)
    }

    /// Asks the member that has failed least, when nobody is being asked.
    fn begin(&mut self) {
        if self.transfer.is_some() {
            return;
        }
        let ready = self.sources.iter().filter(|(_, source)| source.after_ms <= self.now_ms);
        let best = ready.min_by_key(|(_, source)| source.failures).map(|(peer, _)| *peer);
        if let Some(from) = best {
            let transfer = Transfer {
                from,
                request: Request::Newest { at_least: self.trusted.height },
                deadline_ms: 0,
                manifest: None,
                walk: None,
                steps: Vec::new(),
                step_bytes: 0,
                arriving: Arriving::default(),
                entries: Vec::new(),
            };
            self.ask(transfer);
        }
    }

    fn ask(&mut self, mut transfer: Transfer) {
        transfer.deadline_ms = self.now_ms.saturating_add(ANSWER_MS);
        let bytes = Message::SnapshotRequest(transfer.request.clone()).to_bytes();
        self.effects.push(Effect::Request { to: transfer.from, bytes });
        self.transfer = Some(transfer);
    }

    /// The member that is being asked is of no use now.
    fn fail(&mut self, error: ClientError) {
        if let Some(Transfer { from, .. }) = self.transfer.take() {
            self.leave_out(from, error);
        }
    }

    fn leave_out(&mut self, peer: NodeId, error: ClientError) {
        let source = self.sources.entry(peer).or_default();
        let pause = FIRST_PAUSE_MS << source.failures.min(6);
        source.failures = source.failures.saturating_add(1);
        source.after_ms = self.now_ms.saturating_add(pause.min(MAX_PAUSE_MS));
        self.effects.push(Effect::Failed { peer, error });
    }

    fn answer(&mut self, from: NodeId, bytes: &[u8]) {
        let Some(mut transfer) = self.transfer.take_if(|transfer| transfer.from == from) else {
            return;
        };
        let answer = match Message::from_bytes(bytes) {
            Ok(Message::Snapshot(answer)) => Ok(answer),
            // Other traffic of a member.
            Ok(_) => {
                self.transfer = Some(transfer);
                return;
            }
            Err(error) => Err(SnapshotError::Decode(error)),
        };
        let taken = answer
            .map_err(ClientError::from)
            .and_then(|answer| transfer.take(answer, bytes.len(), &self.trusted));
        match taken {
            Ok(Taken::Ignored) => self.transfer = Some(transfer),
            Ok(Taken::Next(request)) => self.ask(Transfer { request, ..transfer }),
            Ok(Taken::Whole) => match transfer.finish() {
                Ok(snapshot) => self.effects.push(Effect::Done(Box::new(snapshot))),
                Err(error) => self.leave_out(from, error.into()),
            },
            Err(error) => self.leave_out(from, error),
        }
    }
}

/// What an answer was good for.
enum Taken {
    /// Late, doubled or not asked for.
    Ignored,
    /// Good; ask this next.
    Next(Request),
    /// Good, and the last one.
    Whole,
}

impl Transfer {
    fn take(
        &mut self,
        answer: Answer,
        bytes: usize,
        trusted: &Header,
    ) -> Result<Taken, ClientError> {
        match (self.request.clone(), answer) {
            (Request::Newest { .. }, Answer::Manifest(manifest)) => {
                manifest.check(trusted)?;
                self.walk = Some(Walk::new(&manifest, trusted)?);
                let (height, after) = (manifest.header.height, manifest.base);
                self.manifest = Some(manifest);
                Ok(Taken::Next(Request::Steps { height, after }))
            }
            (
                Request::Steps { height, after },
                Answer::Steps { height: of, after: behind, steps, more },
            ) if (height, after) == (of, behind) => {
                self.step_bytes = self.step_bytes.saturating_add(bytes);
                self.take_steps(height, steps, more, trusted)
            }
            (
                Request::Entries { height, after },
                Answer::Entries { height: of, after: behind, entries, more },
            ) if (height, &after) == (of, &behind) => {
                self.take_entries(height, entries, more.as_ref())
            }
            (_, Answer::Gone { .. }) => Err(ClientError::Nothing),
            _ => Ok(Taken::Ignored),
        }
    }

    fn take_steps(
        &mut self,
        height: Height,
        steps: Vec<SetStep>,
        more: bool,
        trusted: &Header,
    ) -> Result<Taken, ClientError> {
        let manifest = self.manifest.as_ref().ok_or(ClientError::Nothing)?;
        let walk = self.walk.as_mut().ok_or(ClientError::Nothing)?;
        steps.iter().try_for_each(|step| walk.take(step, trusted))?;
        self.steps.extend(steps);
        if self.step_bytes > MAX_STEP_BYTES {
            return Err(SnapshotError::TooLarge.into());
        }
        if more {
            // An answer that promises more and brings nothing would go on for ever.
            let last = self.steps.last().map(|step| step.header.height);
            let asked = match self.request {
                Request::Steps { after, .. } => after,
                _ => Height::GENESIS,
            };
            let after = last.filter(|last| *last > asked).ok_or(SnapshotError::Order)?;
            return Ok(Taken::Next(Request::Steps { height, after }));
        }
        if let Some(walk) = self.walk.take() {
            walk.finish(manifest, trusted)?;
        }
        Ok(Taken::Next(Request::Entries { height, after: Vec::new() }))
    }

    fn take_entries(
        &mut self,
        height: Height,
        entries: Vec<Entry>,
        more: Option<&MapProof>,
    ) -> Result<Taken, ClientError> {
        let manifest = self.manifest.as_ref().ok_or(ClientError::Nothing)?;
        self.arriving.take(&entries, more, &manifest.header.state_root)?;
        self.entries.extend(entries);
        let last = self.entries.last().map(|(key, _)| key.clone());
        Ok(match last.filter(|_| more.is_some()) {
            Some(after) => Taken::Next(Request::Entries { height, after }),
            None => Taken::Whole,
        })
    }

    /// The state's root decides about all that came.
    fn finish(self) -> Result<VerifiedSnapshot, SnapshotError> {
        let Self { manifest, steps, entries, .. } = self;
        let manifest = *manifest.ok_or(SnapshotError::History)?;
        Snapshot { manifest, steps, entries }.verify_entries()
    }
}
