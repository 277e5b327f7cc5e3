//! The sensor's side of the protocol as a state machine (`PROTOCOL.md` section 5).
//!
//! ```text
//!            Nonce          CHALLENGE            ACK 0
//!   Closed ────────> Greeting ────────> Confirming ────────> Open
//!      ^                                    │ unanswered       │ unanswered, 5 times
//!      └────────────────────────────────────┴──────────────────┘
//! ```
//!
//! One reading is under way at a time; it is sent again until it is acknowledged, across new
//! sessions. A node that lost power starts at `Closed`: nothing has to survive in it.

use crate::frame::{
    CHALLENGE, Frame, Framer, HELLO, Kind, MAX_FRAME, MAX_PAYLOAD, MAX_WIRE, Sealed, SessionId,
    to_wire,
};
use crate::keys::{LastStored, NONCE, SessionKeys, SharedKey};

/// First wait for an answer; each further wait is twice the last, up to [`LONGEST_WAIT_MS`].
pub const FIRST_WAIT_MS: u64 = 500;

/// Longest wait between two transmissions, in milliseconds.
pub const LONGEST_WAIT_MS: u64 = 4_000;

/// Transmissions of one CONFIRM or reading before the session is given up.
pub const ATTEMPTS: u32 = 5;

/// What happened outside.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// 16 fresh random bytes: begins a handshake. Give one at power-up and when asked.
    Nonce([u8; NONCE]),
    /// Bytes from the serial line, in pieces of any size.
    Received(&'a [u8]),
    /// A measurement to send.
    Reading {
        /// The payload is a SenML CBOR pack; else bytes without a codec.
        senml: bool,
        /// At most [`MAX_PAYLOAD`] bytes.
        payload: &'a [u8],
    },
    /// The time of [`Step::wake_ms`] has come.
    Wake,
}

/// What the firmware should know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A handshake must begin: give [`Input::Nonce`].
    NeedNonce,
    /// A session is open.
    Joined,
    /// The reading under way is stored by the gateway; the next one may come.
    Acknowledged,
    /// The reading was not taken: one is under way already.
    Busy,
    /// The reading was not taken: it is longer than [`MAX_PAYLOAD`].
    TooLong,
}

/// What to do after a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step<'a> {
    /// Bytes to put on the line, delimiters included.
    pub transmit: Option<&'a [u8]>,
    /// News.
    pub event: Option<Event>,
    /// When to call with [`Input::Wake`], on the clock of `now_ms`.
    pub wake_ms: Option<u64>,
}

/// A shared-key sensor.
#[derive(Debug)]
pub struct Node {
    key: SharedKey,
    state: State,
    framer: Framer,
    pending: Option<Reading>,
    wire: [u8; MAX_WIRE],
    length: usize,
    attempts: u32,
    wake_ms: Option<u64>,
}

#[derive(Debug)]
enum State {
    /// No session and no handshake.
    Closed,
    /// HELLO was sent.
    Greeting { hello: [u8; HELLO] },
    /// CONFIRM was sent.
    Confirming { keys: SessionKeys },
    /// Readings may be sent; `counter` is the last one used.
    Open { keys: SessionKeys, counter: u64 },
}

#[derive(Debug)]
struct Reading {
    kind: Kind,
    payload: [u8; MAX_PAYLOAD],
    length: usize,
    /// The frame it was last sealed in.
    sent: Option<(SessionId, u64)>,
}

impl Node {
    /// A node that has just got power.
    #[must_use]
    pub const fn new(key: SharedKey) -> Self {
        Self {
            key,
            state: State::Closed,
            framer: Framer::new(),
            pending: None,
            wire: [0; MAX_WIRE],
            length: 0,
            attempts: 0,
            wake_ms: None,
        }
    }

    /// One input at a time on any monotonic clock, in milliseconds.
    pub fn step(&mut self, now_ms: u64, input: Input<'_>) -> Step<'_> {
        let (transmit, event) = match input {
            Input::Nonce(nonce) => self.greet(now_ms, &nonce),
            Input::Received(bytes) => self.receive(now_ms, bytes),
            Input::Reading { senml, payload } => self.take(now_ms, senml, payload),
            Input::Wake => self.wake(now_ms),
        };
        let transmit = transmit.then_some(&self.wire[..self.length]);
        Step { transmit, event, wake_ms: self.wake_ms }
    }

    /// Any state: a fresh nonce begins a handshake.
    fn greet(&mut self, now_ms: u64, nonce: &[u8; NONCE]) -> (bool, Option<Event>) {
        let hello = self.key.hello(nonce);
        self.length = to_wire(&hello, &mut self.wire);
        self.state = State::Greeting { hello };
        self.sent_first(now_ms);
        (true, None)
    }

    fn receive(&mut self, now_ms: u64, mut bytes: &[u8]) -> (bool, Option<Event>) {
        let mut done = (false, None);
        // The framer is lent out so that a frame's handler may change the rest of the node.
        let mut framer = core::mem::take(&mut self.framer);
        while let Some(frame) = framer.next(&mut bytes) {
            // Whatever is not a good frame for this state is ignored: the wire is noisy.
            let step = match frame.and_then(Frame::parse) {
                Ok(Frame::Challenge { device, bytes }) if device == self.key.device() => {
                    self.challenged(now_ms, bytes)
                }
                Ok(Frame::Sealed(sealed)) if sealed.device == self.key.device() => {
                    self.acknowledged(now_ms, &sealed)
                }
                _ => (false, None),
            };
            done = (done.0 | step.0, step.1.or(done.1));
        }
        self.framer = framer;
        done
    }

    /// Greeting: the CHALLENGE that answers our HELLO leads to Confirming.
    fn challenged(&mut self, now_ms: u64, challenge: &[u8; CHALLENGE]) -> (bool, Option<Event>) {
        let State::Greeting { hello } = &self.state else { return (false, None) };
        let Ok(last) = self.key.check_challenge(hello, challenge) else { return (false, None) };
        let keys = self.key.session(hello, challenge);
        let mut frame = [0; MAX_FRAME];
        let length = keys.seal(Kind::Confirm, 0, &[], &mut frame);
        self.length = to_wire(&frame[..length], &mut self.wire);
        self.state = State::Confirming { keys };
        self.sent_first(now_ms);
        (true, self.settle(last))
    }

    /// The reading under way was stored before its acknowledgement was lost.
    fn settle(&mut self, last: LastStored) -> Option<Event> {
        let (session, counter) = self.pending.as_ref()?.sent?;
        if session != last.session || counter > last.counter {
            return None;
        }
        self.pending = None;
        Some(Event::Acknowledged)
    }

    /// Confirming: ACK 0 opens the session. Open: the ACK of the reading's counter ends it.
    fn acknowledged(&mut self, now_ms: u64, sealed: &Sealed<'_>) -> (bool, Option<Event>) {
        let (keys, expected) = match &self.state {
            State::Confirming { keys } => (keys, 0),
            State::Open { keys, counter } if self.pending.is_some() => (keys, *counter),
            _ => return (false, None),
        };
        let ours = sealed.kind == Kind::Acknowledge
            && sealed.session == keys.id()
            && sealed.counter == expected;
        if !ours || keys.open(sealed, &mut [0; MAX_PAYLOAD]).is_err() {
            return (false, None);
        }
        self.wake_ms = None;
        if let State::Confirming { keys } = &self.state {
            self.state = State::Open { keys: keys.clone(), counter: 0 };
            return (self.send_pending(now_ms), Some(Event::Joined));
        }
        self.pending = None;
        (false, Some(Event::Acknowledged))
    }

    fn take(&mut self, now_ms: u64, senml: bool, payload: &[u8]) -> (bool, Option<Event>) {
        if self.pending.is_some() {
            return (false, Some(Event::Busy));
        }
        if payload.len() > MAX_PAYLOAD {
            return (false, Some(Event::TooLong));
        }
        let kind = if senml { Kind::Senml } else { Kind::Bytes };
        let mut reading =
            Reading { kind, payload: [0; MAX_PAYLOAD], length: payload.len(), sent: None };
        reading.payload[..payload.len()].copy_from_slice(payload);
        self.pending = Some(reading);
        let closed = matches!(self.state, State::Closed);
        (self.send_pending(now_ms), closed.then_some(Event::NeedNonce))
    }

    /// Open: seals the reading under the next counter. Retransmissions repeat these very bytes.
    fn send_pending(&mut self, now_ms: u64) -> bool {
        let (State::Open { keys, counter }, Some(reading)) = (&mut self.state, &mut self.pending)
        else {
            return false;
        };
        let Some(next) = counter.checked_add(1) else { return false };
        *counter = next;
        reading.sent = Some((keys.id(), next));
        let mut frame = [0; MAX_FRAME];
        let length = keys.seal(reading.kind, next, &reading.payload[..reading.length], &mut frame);
        self.length = to_wire(&frame[..length], &mut self.wire);
        self.sent_first(now_ms);
        true
    }

    fn sent_first(&mut self, now_ms: u64) {
        self.attempts = 1;
        self.wake_ms = Some(now_ms + FIRST_WAIT_MS);
    }

    fn wake(&mut self, now_ms: u64) -> (bool, Option<Event>) {
        let due = self.wake_ms.is_some_and(|wake_ms| wake_ms <= now_ms);
        if !due {
            return (false, matches!(self.state, State::Closed).then_some(Event::NeedNonce));
        }
        let greeting = matches!(self.state, State::Greeting { .. });
        if self.attempts >= ATTEMPTS && !greeting {
            // Nobody knows this session any more: a new one, with the same reading under way.
            self.state = State::Closed;
            self.wake_ms = None;
            return (false, Some(Event::NeedNonce));
        }
        let wait = (FIRST_WAIT_MS << self.attempts.min(8)).min(LONGEST_WAIT_MS);
        self.attempts = self.attempts.saturating_add(1);
        self.wake_ms = Some(now_ms + wait);
        (true, None)
    }
}

/// Entry for fuzzing: the bytes as what a node hears in each of its states.
///
/// # Panics
/// Only if the node is wrong: nothing here is authentic, so it never joins.
pub fn fuzz(bytes: &[u8]) {
    let mut node = Node::new(SharedKey::new(crate::frame::DeviceId([0x11; 8]), [7; 16]));
    for (now_ms, piece) in (0..).zip(bytes.chunks(50)) {
        let step = node.step(now_ms, Input::Received(piece));
        assert_eq!((step.transmit, step.event), (None, None));
        node.step(now_ms, Input::Nonce([piece[0]; NONCE]));
        node.step(now_ms, Input::Reading { senml: false, payload: piece });
        node.step(now_ms + LONGEST_WAIT_MS, Input::Wake);
    }
}

#[cfg(test)]
mod tests;
