//! The thread that owns the buffer: appends, cuts, hands batches on.

use std::collections::{HashMap, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{broadcast, mpsc, oneshot};

use super::cut::{CutRule, MAX_READINGS};
use super::{Command, Group, Heard, Highest, Limits, Outcome, leaf};
use crate::clock;
use crate::control::Event;
use crate::store::{BatchState, Buffer, BufferReader, Entry, NodeBytes, StoreError, StoredBatch};

/// Batches that may be on their way to the ledger at once; later ones wait on disk.
pub(super) const IN_FLIGHT: usize = 16;

/// Readings made durable in one transaction at most.
const GROUP_READINGS: usize = MAX_READINGS;

/// After a failed cut or a batch that was not taken, wait this long.
const RETRY: Duration = Duration::from_secs(1);

/// How often used space is looked at, in appends.
const BUDGET_EVERY: u32 = 64;

pub(super) struct Owner {
    buffer: Buffer,
    context: leaf::Context,
    rule: CutRule,
    limits: Limits,
    outbox: mpsc::Sender<StoredBatch>,
    events: broadcast::Sender<Event>,
    /// Durable readings that are in no batch yet, in order of arrival.
    open: Vec<Entry>,
    /// When the oldest of `open` came, boot time in ms.
    oldest_ms: u64,
    newest_group: i64,
    sequence: u64,
    /// Sequences of cut batches that were not handed on yet.
    backlog: VecDeque<u64>,
    in_flight: usize,
    retry_at: Option<tokio::time::Instant>,
    newest: HashMap<NodeBytes, Entry>,
    names: HashMap<NodeBytes, String>,
    counts: [u64; 3],
    used_bytes: u64,
    refusing: Option<String>,
    appends: u32,
}

impl Owner {
    pub(super) fn new(
        buffer: Buffer,
        path: Arc<Path>,
        context: leaf::Context,
        rule: CutRule,
        limits: Limits,
        outbox: mpsc::Sender<StoredBatch>,
        events: broadcast::Sender<Event>,
    ) -> Result<Self, StoreError> {
        let (open, newest_group) = buffer.pending()?;
        let backlog = buffer.open_batches()?.iter().map(|batch| batch.sequence).collect();
        let counts = BufferReader::open(&path)?.counts()?;
        let sequence = buffer.last_sequence()?;
        let mut newest = HashMap::new();
        for entry in &open {
            newest.insert(entry.node, entry.clone());
        }
        let used_bytes = buffer.used_bytes()?;
        let names = buffer.sensors()?.into_iter().map(|row| (row.node, row.name)).collect();
        Ok(Self {
            buffer,
            context,
            rule,
            limits,
            outbox,
            events,
            open,
            oldest_ms: clock::boot_ms(),
            newest_group,
            sequence,
            backlog,
            in_flight: 0,
            retry_at: None,
            newest,
            names,
            counts,
            used_bytes,
            refusing: None,
            appends: 0,
        })
    }

    /// Highest durable counters that are not committed.
    pub(super) fn highest(&self) -> Result<Highest, StoreError> {
        let mut highest = Highest::new();
        let batches = self.buffer.open_batches()?;
        let cut = batches.iter().flat_map(|batch| &batch.readings);
        for entry in cut.chain(&self.open) {
            let top = highest.entry(entry.node).or_insert((entry.epoch, entry.counter));
            *top = (*top).max((entry.epoch, entry.counter));
        }
        Ok(highest)
    }

    pub(super) async fn run(mut self, mut inbox: mpsc::Receiver<Command>) {
        loop {
            // What was to be waited for is over; left in place it would wake this loop for ever.
            let now = tokio::time::Instant::now();
            self.retry_at = self.retry_at.filter(|at| *at > now);
            self.hand_on();
            let wake = self.wake();
            let command = tokio::select! {
                biased;
                command = inbox.recv() => match command {
                    Some(command) => Some(command),
                    None => break,
                },
                () = sleep_until(wake) => None,
            };
            if let Some(command) = command {
                self.handle(command, &mut inbox);
            }
            self.cut_when_due();
        }
        // What is open is durable and is cut after the next start.
    }

    fn wake(&self) -> Option<tokio::time::Instant> {
        if self.retry_at.is_some() {
            return self.retry_at;
        }
        if self.open.is_empty() {
            return None;
        }
        let now = clock::boot_ms();
        let due = self.rule.due(now, self.oldest_ms, self.open.len());
        Some(tokio::time::Instant::now() + Duration::from_millis(due.saturating_sub(now)))
    }

    /// Handles a command; appends that wait behind an append share its transaction.
    fn handle(&mut self, command: Command, inbox: &mut mpsc::Receiver<Command>) {
        let mut next = Some(command);
        while let Some(command) = next.take() {
            match command {
                Command::Append(group, reply) => next = self.append(group, reply, inbox),
                other => self.handle_one(other),
            }
        }
    }

    fn append(
        &mut self,
        mut group: Group,
        reply: oneshot::Sender<Result<(), StoreError>>,
        inbox: &mut mpsc::Receiver<Command>,
    ) -> Option<Command> {
        let mut replies = vec![reply];
        let mut other = None;
        while group.readings.len() < GROUP_READINGS {
            match inbox.try_recv() {
                Ok(Command::Append(more, reply)) => {
                    group.readings.extend(more.readings);
                    group.sessions.extend(more.sessions);
                    replies.push(reply);
                }
                Ok(command) => {
                    other = Some(command);
                    break;
                }
                Err(_) => break,
            }
        }
        let done = self.keep(group);
        for reply in replies {
            // A caller that has gone away does not acknowledge; its readings are kept all the same.
            let _ = reply.send(match &done {
                Ok(()) => Ok(()),
                Err(StoreError::DiskFull) => Err(StoreError::DiskFull),
                Err(error) => Err(StoreError::Io(error.to_string())),
            });
        }
        other
    }

    fn keep(&mut self, group: Group) -> Result<(), StoreError> {
        self.mind_budget()?;
        let kept = self.buffer.append(&group.readings, &group.sessions);
        self.refusing = kept.as_ref().err().map(ToString::to_string);
        let id = kept?;
        if group.readings.is_empty() {
            return Ok(());
        }
        self.newest_group = id;
        if self.open.is_empty() {
            self.oldest_ms = clock::boot_ms();
        }
        let watched = self.events.receiver_count() > 0;
        for entry in &group.readings {
            if watched {
                let mut reading = leaf::describe(entry, None);
                reading.sensor_name = self.names.get(&entry.node).cloned().unwrap_or_default();
                // No receiver left is no error.
                let _ = self.events.send(Event::Reading(reading));
            }
            self.newest.insert(entry.node, entry.clone());
        }
        self.open.extend(group.readings);
        Ok(())
    }

    /// Over budget: the oldest committed payloads go; when there are none, appends are refused.
    fn mind_budget(&mut self) -> Result<(), StoreError> {
        self.appends = self.appends.wrapping_add(1);
        if !self.appends.is_multiple_of(BUDGET_EVERY) && self.refusing.is_none() {
            return Ok(());
        }
        self.used_bytes = self.buffer.used_bytes()?;
        if self.used_bytes <= self.limits.budget_bytes {
            return Ok(());
        }
        // An eighth at once, so that it is not done for each append.
        self.buffer.drop_oldest(self.limits.budget_bytes / 8)?;
        self.used_bytes = self.buffer.used_bytes()?;
        if self.used_bytes <= self.limits.budget_bytes {
            return Ok(());
        }
        self.refusing = Some("the disk budget is used up by readings that wait".into());
        Err(StoreError::DiskFull)
    }

    fn handle_one(&mut self, command: Command) {
        // Replies to callers that have gone away are dropped: nobody is left to be told.
        match command {
            Command::Append(..) => unreachable!("appends are taken by `append`"),
            Command::Hurry { until_ms } => self.rule.hurry_until(until_ms),
            Command::Flush(reply) => {
                while !self.open.is_empty() && self.cut() {}
                let _ = reply.send(());
            }
            Command::Submitted { sequence, outcome } => self.submitted(sequence, outcome),
            Command::Heard(reply) => {
                let _ = reply.send(self.heard());
            }
            Command::PutSensor(row, reply) => {
                self.names.insert(row.node, row.name.clone());
                let _ = reply.send(self.buffer.put_sensor(&row));
            }
            Command::Rename(node, name, reply) => {
                let renamed = self.buffer.rename_sensor(&node, &name);
                self.names.insert(node, name);
                let _ = reply.send(renamed);
            }
            Command::Remove(node, reply) => {
                self.names.remove(&node);
                let _ = reply.send(self.buffer.remove_sensor(&node));
            }
            Command::SetFact(name, value, reply) => {
                let _ = reply.send(self.buffer.set_fact(name, &value));
            }
        }
    }

    fn heard(&self) -> Heard {
        let mut counts = self.counts;
        counts[0] += self.open.len() as u64;
        Heard {
            newest: self.newest.clone(),
            counts,
            used_bytes: self.used_bytes,
            refusing: self.refusing.clone(),
        }
    }

    fn cut_when_due(&mut self) {
        loop {
            let now = clock::boot_ms();
            let waiting = self.retry_at.is_some_and(|at| at > tokio::time::Instant::now());
            let due = self.rule.due(now, self.oldest_ms, self.open.len());
            if self.open.is_empty() || waiting || due > now || !self.cut() {
                return;
            }
        }
    }

    /// Cuts one batch; false when the disk did not take it (the readings stay pending).
    fn cut(&mut self) -> bool {
        self.retry_at = None;
        match self.try_cut() {
            Ok(sequence) => {
                self.refusing = None;
                self.backlog.push_back(sequence);
                self.hand_on();
                true
            }
            Err(error) => {
                let why = Some(error.to_string());
                if self.refusing != why {
                    tracing::error!(%error, "cannot cut a batch; its readings wait, durable");
                }
                self.refusing = why;
                self.retry_at = Some(tokio::time::Instant::now() + RETRY);
                false
            }
        }
    }

    fn try_cut(&mut self) -> Result<u64, StoreError> {
        let taken = self.open.len().min(MAX_READINGS);
        let mut readings = self.open[..taken].to_vec();
        readings.sort_by_key(|entry| (entry.node, entry.epoch, entry.counter));
        // A session never delivers a counter twice; should one, the first is kept.
        readings.dedup_by_key(|entry| (entry.node, entry.epoch, entry.counter));
        let sequence = self.sequence + 1;
        let secret =
            crate::vault::random().map_err(|_| StoreError::Io("no random bytes".into()))?;
        let root = self.context.root(&secret, &readings)?;
        let state = BatchState::Open;
        let count = readings.len() as u64;
        let batch = StoredBatch { sequence, root, secret, readings, state, committed: None };
        self.newest_group = self.buffer.cut(&batch, self.newest_group, &self.open[taken..])?;
        self.open.drain(..taken);
        self.oldest_ms = clock::boot_ms();
        self.sequence = sequence;
        self.counts[0] += count;
        Ok(sequence)
    }

    /// Hands cut batches on, in order, as many as may be on their way.
    fn hand_on(&mut self) {
        while self.in_flight < IN_FLIGHT && self.retry_at.is_none() {
            let Some(&sequence) = self.backlog.front() else { return };
            let batch = match self.buffer.batch(sequence) {
                Ok(Some(batch)) => batch,
                Ok(None) => {
                    self.backlog.pop_front();
                    continue;
                }
                Err(error) => {
                    tracing::error!(%error, sequence, "cannot read a cut batch");
                    self.retry_at = Some(tokio::time::Instant::now() + RETRY);
                    return;
                }
            };
            if self.outbox.try_send(batch).is_err() {
                return;
            }
            self.backlog.pop_front();
            self.in_flight += 1;
        }
    }

    fn submitted(&mut self, sequence: u64, outcome: Outcome) {
        self.in_flight = self.in_flight.saturating_sub(1);
        let done = match outcome {
            Outcome::Committed { height, sequence: committed_as, readings } => {
                self.counts[0] = self.counts[0].saturating_sub(readings);
                self.counts[1] += readings;
                self.buffer.mark_committed(sequence, (height, committed_as))
            }
            Outcome::Without { readings, reason } => self.split(sequence, &readings, &reason),
            Outcome::Later => {
                // In its place: readings of one sensor are handed on in their order.
                let place = self.backlog.partition_point(|other| *other < sequence);
                self.backlog.insert(place, sequence);
                self.retry_at = Some(tokio::time::Instant::now() + RETRY);
                Ok(())
            }
        };
        if let Err(error) = done {
            // The batch is open on disk: after a restart its place in the ledger is looked up.
            tracing::error!(%error, sequence, "cannot note how the record answered a batch");
        }
    }

    /// Takes readings out of a batch that the record would refuse for them.
    fn split(
        &mut self,
        sequence: u64,
        refused: &[(NodeBytes, u32, u64)],
        reason: &str,
    ) -> Result<(), StoreError> {
        let Some(batch) = self.buffer.batch(sequence)? else { return Ok(()) };
        let is_refused =
            |entry: &Entry| refused.contains(&(entry.node, entry.epoch, entry.counter));
        let (left, taken): (Vec<_>, Vec<_>) = batch.readings.into_iter().partition(is_refused);
        let count = left.len() as u64;
        tracing::error!(count, reason, "readings that the record does not take; kept unrecorded");
        let message = format!("{count} readings stay unrecorded: {reason}");
        // Nobody listening is no error.
        let _ = self.events.send(Event::Alert { kind: "unrecorded", message });
        let part = |sequence, readings: Vec<Entry>, state| {
            let root = self.context.root(&batch.secret, &readings)?;
            let (secret, committed) = (batch.secret, None);
            let batch = StoredBatch { sequence, root, secret, readings, state, committed };
            Ok::<StoredBatch, StoreError>(batch)
        };
        let taken = part(sequence, taken, BatchState::Open)?;
        let left = part(self.sequence + 1, left, BatchState::Unrecorded)?;
        self.buffer.split(&taken, &left)?;
        self.sequence += 1;
        self.counts[0] = self.counts[0].saturating_sub(count);
        self.counts[2] += count;
        if !taken.readings.is_empty() {
            self.backlog.push_front(sequence);
        }
        Ok(())
    }
}

async fn sleep_until(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
