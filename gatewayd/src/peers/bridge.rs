//! The connection between a bridge and the member that it serves: frames of radio and of serial
//! ports, each kind in its own order.
//!
//! Full is answered thus: of radio the oldest datagram is dropped and counted, at either end. Of
//! serial ports nothing is dropped: both ends count how much may be under way, and who exceeds
//! that ends the connection. Neither end is read faster than [`BYTES_PER_S`].

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ledger::crypto::PublicKey;
use ledger::ids::NodeId;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use super::peer::Peer;
use super::wire::Goodbye;
use super::{Lane, SendError, Session};

/// Longest message about radio: the longest UDP datagram, and what is said about it.
pub const MAX_RADIO: usize = 66 * 1024;
/// Longest message about serial ports: a list of 64 of them.
pub const MAX_SERIAL: usize = 32 * 1024;

/// Datagrams of radio that wait at either end; beyond it the oldest is dropped.
pub(super) const MAX_RADIO_FRAMES: usize = 256;
/// Their bytes together.
pub(super) const MAX_RADIO_BYTES: usize = 512 * 1024;
/// Bytes of serial messages that wait at either end: more than all windows of all ports.
pub(super) const MAX_SERIAL_BYTES: usize = 2 * 1024 * 1024;
/// What a message costs beside its own bytes: it takes room, too.
const MESSAGE_COST: usize = 64;

/// How fast a bridge is read, and its member by it: ten times what the radio of one site brings.
const BYTES_PER_S: i64 = 1024 * 1024;
/// What may come at once.
const BURST: i64 = 256 * 1024;

/// A message of the other end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BridgeFrame {
    /// About radio.
    Radio(Vec<u8>),
    /// About serial ports.
    Serial(Vec<u8>),
}

/// Why a connection to a bridge, or to its member, has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BridgeEnd {
    /// The member's administrator has not let this bridge in, or lets it in no more.
    NotLetIn,
    /// Anything else, in words.
    Other(&'static str),
}

/// A bridge that asked to be let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaitingBridge {
    /// Its node ID.
    pub node: NodeId,
    /// Its identity key, which its handshake has proven.
    pub identity: PublicKey,
    /// Where it asked from.
    pub remote: SocketAddr,
    /// When it asked first and last, boot time in ms.
    pub since_ms: u64,
    /// Likewise.
    pub seen_ms: u64,
}

/// A connection between a bridge and its member; it ends when dropped.
#[derive(Debug)]
pub struct BridgeLink {
    peer: Arc<Peer>,
}

impl BridgeLink {
    pub(super) fn new(peer: Arc<Peer>) -> Self {
        Self { peer }
    }

    /// Who is at the other end.
    pub fn session(&self) -> &Session {
        &self.peer.session
    }

    /// Splits it, so that it can be sent to while something is waited for.
    pub fn sender(&self) -> BridgeSender {
        BridgeSender(Arc::clone(&self.peer))
    }

    /// The next message of the other end, or why there is none any more. Cancellation loses
    /// nothing.
    ///
    /// # Errors
    /// The connection has ended.
    pub async fn next(&self) -> Result<BridgeFrame, BridgeEnd> {
        self.peer.bridge.next().await
    }
}

impl Drop for BridgeLink {
    fn drop(&mut self) {
        self.peer.outbox.close(Some(Goodbye::Stopping));
    }
}

/// Sends over a [`BridgeLink`]; cheap to clone. It does not keep the connection open.
#[derive(Debug, Clone)]
pub struct BridgeSender(Arc<Peer>);

impl BridgeSender {
    /// Sends a datagram of radio. Never blocks: when too many wait, the oldest is dropped.
    ///
    /// # Errors
    /// The connection has ended, or the message is too long.
    pub fn radio(&self, bytes: Vec<u8>) -> Result<(), SendError> {
        self.0.outbox.push(Lane::Radio, bytes.into())
    }

    /// Sends a message about serial ports. Never blocks.
    ///
    /// # Errors
    /// [`SendError`].
    pub fn serial(&self, bytes: Vec<u8>) -> Result<(), SendError> {
        self.0.outbox.push(Lane::Serial, bytes.into())
    }

    /// Ends the connection: the other end has broken the rules.
    pub fn misbehaved(&self) {
        self.0.outbox.close(Some(Goodbye::Misbehaved));
    }

    /// Datagrams that were dropped at this end because too many waited, in either direction.
    pub fn dropped(&self) -> u64 {
        self.0.outbox.dropped() + self.0.bridge.dropped.load(Ordering::Relaxed)
    }

    /// Bytes of messages that have come.
    pub fn received_bytes(&self) -> u64 {
        self.0.bridge.bytes.load(Ordering::Relaxed)
    }
}

/// What has come over a connection of a bridge and waits to be taken.
#[derive(Debug, Default)]
pub(super) struct BridgeInbox {
    state: Mutex<Waiting>,
    wake: Notify,
    dropped: AtomicU64,
    bytes: AtomicU64,
}

#[derive(Debug, Default)]
struct Waiting {
    radio: VecDeque<Vec<u8>>,
    radio_bytes: usize,
    serial: VecDeque<Vec<u8>>,
    serial_bytes: usize,
    ended: Option<BridgeEnd>,
}

impl BridgeInbox {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A message about radio: the oldest goes when there are too many.
    pub(super) fn radio(&self, bytes: Vec<u8>) {
        self.count(&bytes);
        let mut waiting = self.lock();
        waiting.radio_bytes += bytes.len();
        waiting.radio.push_back(bytes);
        while waiting.radio.len() > MAX_RADIO_FRAMES || waiting.radio_bytes > MAX_RADIO_BYTES {
            let Some(oldest) = waiting.radio.pop_front() else { break };
            waiting.radio_bytes -= oldest.len();
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        drop(waiting);
        self.wake.notify_one();
    }

    /// A message about serial ports; false when more wait than any rule allows.
    pub(super) fn serial(&self, bytes: Vec<u8>) -> bool {
        self.count(&bytes);
        let mut waiting = self.lock();
        let after = waiting.serial_bytes + bytes.len() + MESSAGE_COST;
        if after > MAX_SERIAL_BYTES {
            return false;
        }
        waiting.serial_bytes = after;
        waiting.serial.push_back(bytes);
        drop(waiting);
        self.wake.notify_one();
        true
    }

    fn count(&self, bytes: &[u8]) {
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        self.bytes.fetch_add(length, Ordering::Relaxed);
    }

    /// The connection has ended; what waits is forgotten.
    pub(super) fn end(&self, why: BridgeEnd) {
        let mut waiting = self.lock();
        if waiting.ended.is_none() {
            *waiting = Waiting { ended: Some(why), ..Waiting::default() };
        }
        drop(waiting);
        self.wake.notify_one();
    }

    async fn next(&self) -> Result<BridgeFrame, BridgeEnd> {
        loop {
            if let Some(next) = self.take() {
                return next;
            }
            self.wake.notified().await;
        }
    }

    /// Radio first: its receive windows do not wait.
    fn take(&self) -> Option<Result<BridgeFrame, BridgeEnd>> {
        let mut waiting = self.lock();
        if let Some(bytes) = waiting.radio.pop_front() {
            waiting.radio_bytes -= bytes.len();
            return Some(Ok(BridgeFrame::Radio(bytes)));
        }
        if let Some(bytes) = waiting.serial.pop_front() {
            waiting.serial_bytes -= bytes.len() + MESSAGE_COST;
            return Some(Ok(BridgeFrame::Serial(bytes)));
        }
        waiting.ended.map(Err)
    }
}

/// Reads no faster than it should: a flood costs its sender time and nobody else.
#[derive(Debug)]
pub(super) struct Pace {
    /// Bytes that may come now; below zero they have come already.
    left: i64,
    since: Instant,
}

impl Pace {
    pub(super) fn new() -> Self {
        Self { left: BURST, since: Instant::now() }
    }

    /// Waits until so many bytes may have come.
    pub(super) async fn spend(&mut self, bytes: usize) {
        let wait = self.owe(Instant::now(), bytes + MESSAGE_COST);
        if !wait.is_zero() {
            sleep(wait).await;
        }
    }

    fn owe(&mut self, now: Instant, bytes: usize) -> Duration {
        let micros = now.saturating_duration_since(self.since).as_micros();
        let micros = i64::try_from(micros).unwrap_or(i64::MAX);
        let earned = micros.saturating_mul(BYTES_PER_S) / 1_000_000;
        self.since = now;
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        self.left = self.left.saturating_add(earned).min(BURST).saturating_sub(bytes);
        let owed = u64::try_from(self.left.saturating_neg()).unwrap_or(0);
        Duration::from_micros(owed.saturating_mul(1_000_000) / BYTES_PER_S.unsigned_abs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn radio_loses_its_oldest_and_serial_ports_lose_nothing() {
        let inbox = BridgeInbox::default();
        for number in 0..MAX_RADIO_FRAMES + 3 {
            inbox.radio(vec![u8::try_from(number % 256).unwrap(); 8]);
        }
        assert_eq!(inbox.dropped.load(Ordering::Relaxed), 3);
        assert!(inbox.serial(vec![9]));
        assert_eq!(inbox.next().await, Ok(BridgeFrame::Radio(vec![3; 8])));
        for _ in 1..MAX_RADIO_FRAMES {
            assert!(matches!(inbox.next().await, Ok(BridgeFrame::Radio(_))));
        }
        assert_eq!(inbox.next().await, Ok(BridgeFrame::Serial(vec![9])));
        let mut taken = 0;
        while inbox.serial(vec![0; MAX_SERIAL]) {
            taken += MAX_SERIAL;
        }
        assert!(taken <= MAX_SERIAL_BYTES);
        inbox.end(BridgeEnd::NotLetIn);
        inbox.end(BridgeEnd::Other("later"));
        assert_eq!(inbox.next().await, Err(BridgeEnd::NotLetIn), "the first reason stands");
    }

    #[test]
    fn a_flood_is_read_at_its_pace() {
        let mut pace = Pace::new();
        let began = pace.since;
        let mut now = began;
        for _ in 0..1_000 {
            now += pace.owe(now, 10 * 1024);
        }
        let took = (now - began).as_millis();
        assert!((9_400..9_800).contains(&took), "10,000 KiB less the burst took {took} ms");
        now += Duration::from_secs(60);
        assert_eq!(pace.owe(now, 256 * 1024), Duration::ZERO);
        assert_eq!(pace.owe(now, 1024 * 1024), Duration::from_secs(1));
    }
}
