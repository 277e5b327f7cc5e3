//! What waits to be sent over one connection, in the order of its urgency. Full is answered for
//! each lane: see [`super::Lane`].

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::bridge::{MAX_RADIO, MAX_RADIO_BYTES, MAX_RADIO_FRAMES, MAX_SERIAL, MAX_SERIAL_BYTES};
use super::wire::{Goodbye, Head, Kind, MAX_BULK, MAX_PAYLOAD};
use super::{Bytes, Lane, MAX_CONSENSUS, SendError};

/// Frames of consensus that may wait; beyond it the oldest is dropped.
const MAX_CONSENSUS_FRAMES: usize = 1024;
/// Their bytes together.
const MAX_CONSENSUS_BYTES: usize = 4 * 1024 * 1024;
/// Bytes of bulk that may wait: four blocks of the largest size.
const MAX_BULK_BYTES: usize = 4 * MAX_BULK;
/// Messages of bulk that may wait.
const MAX_BULK_MESSAGES: usize = 4096;
/// Messages about serial ports that may wait.
const MAX_SERIAL_MESSAGES: usize = 16 * 1024;
/// Answers to pings and the like that may wait; who asks for more gets none.
const MAX_CONTROL: usize = 256;
/// Answers that may wait, in bytes, before new requests are answered with *busy*.
const MAX_CALL_BYTES: usize = 4 * 1024 * 1024;
/// Requests and answers that may wait; who takes no answers gets no more.
const MAX_CALLS: usize = 1024;

/// Bytes of bulk that the other end takes before its ledger has read any.
pub(super) const WINDOW: usize = MAX_BULK + 64 * 1024;
/// What a frame of bulk costs of the window besides its payload: it takes room, too.
pub(super) const FRAME_COST: usize = 64;

/// Bytes that are handed to TLS at once; a vote waits for no more than these.
const BURST: usize = 64 * 1024;

/// What waits to be sent over one connection.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    lanes: Mutex<Lanes>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct Lanes {
    control: Queue,
    consensus: Queue,
    calls: Queue,
    radio: Queue,
    serial: Queue,
    bulk: Queue,
    /// Bulk that the other end has taken less what it has read.
    unread: usize,
    /// What this end has read and not said yet.
    owed: u32,
    closed: Option<Option<Goodbye>>,
    dropped: u64,
}

#[derive(Debug, Default)]
struct Queue {
    messages: VecDeque<(Kind, Bytes)>,
    /// Bytes of the first message that are sent.
    sent: usize,
    begun: bool,
    bytes: usize,
}

impl Queue {
    fn push(&mut self, kind: Kind, bytes: Bytes) {
        self.bytes += bytes.len();
        self.messages.push_back((kind, bytes));
    }

    /// Drops the oldest message of which nothing has been sent.
    fn drop_oldest(&mut self) -> bool {
        let Some((_, bytes)) = self.messages.remove(usize::from(self.begun)) else { return false };
        self.bytes -= bytes.len();
        true
    }

    /// Writes one frame of at most `most` bytes of payload, and says how many it has.
    fn frame(&mut self, most: usize, into: &mut Vec<u8>) -> Option<usize> {
        let (kind, bytes) = self.messages.front()?;
        let rest = &bytes[self.sent..];
        let payload = &rest[..rest.len().min(most).min(MAX_PAYLOAD)];
        let last = payload.len() == rest.len();
        let length = u16::try_from(payload.len()).ok().filter(|length| last || *length > 0)?;
        into.extend_from_slice(&Head { kind: *kind, last, length }.write());
        into.extend_from_slice(payload);
        let length = payload.len();
        self.sent += length;
        self.begun = !last;
        if last {
            self.bytes -= bytes.len();
            self.sent = 0;
            self.messages.pop_front();
        }
        Some(length)
    }
}

/// Whether there will be more to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Perhaps later.
    Wait,
    /// No: the connection ends, after this was said.
    Closed(Option<Goodbye>),
}

impl Outbox {
    fn lock(&self) -> MutexGuard<'_, Lanes> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A frame of the ledger, or of a bridge.
    pub(super) fn push(&self, lane: Lane, bytes: Bytes) -> Result<(), SendError> {
        let mut lanes = self.lock();
        if lanes.closed.is_some() {
            return Err(SendError::NotConnected);
        }
        match lane {
            Lane::Consensus if bytes.len() > MAX_CONSENSUS => return Err(SendError::TooLong),
            Lane::Bulk if bytes.len() > MAX_BULK => return Err(SendError::TooLong),
            Lane::Radio if bytes.len() > MAX_RADIO => return Err(SendError::TooLong),
            Lane::Serial if bytes.len() > MAX_SERIAL => return Err(SendError::TooLong),
            Lane::Consensus => lanes.consensus(bytes),
            Lane::Radio => lanes.radio(bytes),
            Lane::Serial => {
                if lanes.serial.bytes + bytes.len() > MAX_SERIAL_BYTES
                    || lanes.serial.messages.len() >= MAX_SERIAL_MESSAGES
                {
                    lanes.dropped += 1;
                    return Err(SendError::Full);
                }
                lanes.serial.push(Kind::Serial, bytes);
            }
            Lane::Bulk => {
                let full = lanes.bulk.bytes + bytes.len() > MAX_BULK_BYTES
                    || lanes.bulk.messages.len() >= MAX_BULK_MESSAGES;
                if full {
                    lanes.dropped += 1;
                    return Err(SendError::Full);
                }
                lanes.bulk.push(Kind::Bulk, bytes);
            }
        }
        drop(lanes);
        self.wake.notify_one();
        Ok(())
    }

    /// A short frame of the transport's own.
    pub(super) fn control(&self, kind: Kind, payload: &[u8]) {
        let mut lanes = self.lock();
        if lanes.closed.is_none() && lanes.control.messages.len() < MAX_CONTROL {
            lanes.control.push(kind, payload.into());
        }
        drop(lanes);
        self.wake.notify_one();
    }

    /// A request or an answer.
    pub(super) fn call(&self, kind: Kind, payload: Vec<u8>) {
        let mut lanes = self.lock();
        if lanes.closed.is_none() && lanes.calls.messages.len() < MAX_CALLS {
            lanes.calls.push(kind, payload.into());
        }
        drop(lanes);
        self.wake.notify_one();
    }

    /// Whether the other end takes its answers too slowly for more.
    pub(super) fn is_busy(&self) -> bool {
        self.lock().calls.bytes > MAX_CALL_BYTES
    }

    /// This end's ledger has read so much: the other end is told.
    pub(super) fn grant(&self, bytes: u32) {
        let mut lanes = self.lock();
        lanes.owed = lanes.owed.saturating_add(bytes);
        drop(lanes);
        self.wake.notify_one();
    }

    /// The other end's ledger has read so much; false when that is more than was sent.
    pub(super) fn credit(&self, bytes: u32) -> bool {
        let mut lanes = self.lock();
        let Some(unread) = lanes.unread.checked_sub(bytes as usize) else { return false };
        lanes.unread = unread;
        drop(lanes);
        self.wake.notify_one();
        true
    }

    /// Ends the connection; what waits is not sent any more. The first reason stands.
    pub(super) fn close(&self, goodbye: Option<Goodbye>) {
        let mut lanes = self.lock();
        if lanes.closed.is_some() {
            return;
        }
        let (unread, dropped) = (lanes.unread, lanes.dropped);
        *lanes = Lanes { closed: Some(goodbye), unread, dropped, ..Lanes::default() };
        if let Some(goodbye) = goodbye {
            lanes.control.push(Kind::Goodbye, [goodbye as u8].into());
        }
        drop(lanes);
        self.wake.notify_one();
    }

    /// Whether it was closed here.
    pub(super) fn is_closed(&self) -> bool {
        self.lock().closed.is_some()
    }

    /// Frames that were dropped because the other end takes them too slowly.
    pub(super) fn dropped(&self) -> u64 {
        self.lock().dropped
    }

    /// Takes the next frames out, the most urgent first, at most [`BURST`] bytes and one frame.
    pub(super) fn fill(&self, into: &mut Vec<u8>) -> Next {
        let mut lanes = self.lock();
        while into.len() < BURST && lanes.frame(into) {}
        lanes.closed.map_or(Next::Wait, Next::Closed)
    }

    /// Returns when there may be something to send. May be dropped half-way.
    pub(super) async fn changed(&self) {
        self.wake.notified().await;
    }
}

impl Lanes {
    fn consensus(&mut self, bytes: Bytes) {
        self.consensus.push(Kind::Consensus, bytes);
        let over = |queue: &Queue| {
            queue.messages.len() > MAX_CONSENSUS_FRAMES || queue.bytes > MAX_CONSENSUS_BYTES
        };
        while over(&self.consensus) && self.consensus.drop_oldest() {
            self.dropped += 1;
        }
    }

    fn radio(&mut self, bytes: Bytes) {
        self.radio.push(Kind::Radio, bytes);
        let over = |queue: &Queue| {
            queue.messages.len() > MAX_RADIO_FRAMES || queue.bytes > MAX_RADIO_BYTES
        };
        while over(&self.radio) && self.radio.drop_oldest() {
            self.dropped += 1;
        }
    }

    fn frame(&mut self, into: &mut Vec<u8>) -> bool {
        if self.owed > 0 && self.closed.is_none() {
            let owed = std::mem::take(&mut self.owed).to_be_bytes();
            self.control.push(Kind::Credit, owed.into());
        }
        let bridged = [&mut self.radio, &mut self.serial];
        let urgent = [&mut self.control, &mut self.consensus, &mut self.calls];
        let urgent = urgent.into_iter().chain(bridged);
        for queue in urgent {
            if queue.frame(MAX_PAYLOAD, into).is_some() {
                return true;
            }
        }
        let room = WINDOW.saturating_sub(self.unread);
        let Some(most) = room.checked_sub(FRAME_COST) else { return false };
        let Some(sent) = self.bulk.frame(most, into) else { return false };
        self.unread += sent + FRAME_COST;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Kinds and payload lengths of what would be sent now.
    fn sent(outbox: &Outbox) -> Vec<(Kind, usize)> {
        let mut bytes = Vec::new();
        let _ = outbox.fill(&mut bytes);
        let (mut rest, mut found) = (&bytes[..], Vec::new());
        while let Some((head, after)) = rest.split_first_chunk() {
            let head = Head::read(*head).unwrap();
            found.push((head.kind, usize::from(head.length)));
            rest = &after[usize::from(head.length)..];
        }
        found
    }

    #[test]
    fn a_vote_passes_a_block_that_is_being_sent() {
        let outbox = Outbox::default();
        outbox.push(Lane::Bulk, vec![0; 3 * BURST].into()).unwrap();
        assert!(sent(&outbox).iter().all(|(kind, _)| *kind == Kind::Bulk));
        outbox.push(Lane::Consensus, vec![0; 10].into()).unwrap();
        outbox.control(Kind::Pong, &[0; 8]);
        let next = sent(&outbox);
        assert_eq!(next[..2], [(Kind::Pong, 8), (Kind::Consensus, 10)]);
        assert_eq!(next[2].0, Kind::Bulk);
    }

    #[test]
    fn full_lanes_answer_as_written() {
        let outbox = Outbox::default();
        let send = |lane, length: usize| outbox.push(lane, vec![0; length].into());
        for _ in 0..MAX_CONSENSUS_FRAMES + 5 {
            send(Lane::Consensus, 1).unwrap();
        }
        assert_eq!(outbox.dropped(), 5, "the oldest went");
        assert_eq!(send(Lane::Consensus, MAX_CONSENSUS + 1), Err(SendError::TooLong));
        for _ in 0..4 {
            send(Lane::Bulk, MAX_BULK).unwrap();
        }
        assert_eq!(send(Lane::Bulk, 1), Err(SendError::Full));
        assert_eq!(send(Lane::Bulk, MAX_BULK + 1), Err(SendError::TooLong));
        outbox.close(Some(Goodbye::Stopping));
        assert_eq!(send(Lane::Bulk, 1), Err(SendError::NotConnected));
        assert_eq!(sent(&outbox), [(Kind::Goodbye, 1)]);
    }

    #[test]
    fn radio_passes_serial_ports_and_loses_its_oldest() {
        let outbox = Outbox::default();
        outbox.push(Lane::Serial, vec![0; 100].into()).unwrap();
        for _ in 0..MAX_RADIO_FRAMES + 2 {
            outbox.push(Lane::Radio, vec![0; 10].into()).unwrap();
        }
        assert_eq!(outbox.dropped(), 2);
        let order = sent(&outbox);
        assert_eq!((order[0], order.last()), ((Kind::Radio, 10), Some(&(Kind::Serial, 100))));
        assert_eq!(
            outbox.push(Lane::Radio, vec![0; MAX_RADIO + 1].into()),
            Err(SendError::TooLong)
        );
        let fill = || outbox.push(Lane::Serial, vec![0; MAX_SERIAL].into());
        while fill().is_ok() {}
        assert_eq!(fill(), Err(SendError::Full));
    }

    #[test]
    fn the_message_under_way_is_never_dropped() {
        let outbox = Outbox::default();
        outbox.push(Lane::Consensus, vec![1; MAX_CONSENSUS].into()).unwrap();
        let mut begun = Vec::new();
        outbox.fill(&mut begun);
        for _ in 0..2 * MAX_CONSENSUS_FRAMES {
            outbox.push(Lane::Consensus, vec![2; 1].into()).unwrap();
        }
        let mut rest = Vec::new();
        outbox.fill(&mut rest);
        outbox.fill(&mut rest);
        assert_eq!(rest[4], 1, "the first message goes on");
    }

    #[test]
    fn bulk_waits_for_credit_and_votes_do_not() {
        let outbox = Outbox::default();
        for _ in 0..3 {
            outbox.push(Lane::Bulk, vec![0; MAX_BULK].into()).unwrap();
        }
        let drain = || {
            let mut total = 0;
            loop {
                let cost: usize = sent(&outbox).iter().map(|(_, length)| length + FRAME_COST).sum();
                total += cost;
                if cost == 0 {
                    return total;
                }
            }
        };
        let first: usize = drain();
        assert!(first <= WINDOW && first > MAX_BULK, "{first}");
        outbox.push(Lane::Consensus, vec![0; 5].into()).unwrap();
        assert_eq!(sent(&outbox), [(Kind::Consensus, 5)]);
        assert!(outbox.credit(100_000));
        assert!(drain() <= 100_000 + WINDOW - first);
        assert!(!outbox.credit(u32::MAX), "more than was sent");
    }
}
