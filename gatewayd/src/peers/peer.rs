//! One connection: a reader, a writer, and the requests that are open on it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use ledger::ids::NodeId;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::bridge::{BridgeEnd, BridgeInbox, Pace};
use super::calls::{Calls, OpenCall};
use super::outbox::{FRAME_COST, Next, Outbox, WINDOW};
use super::shared::Shared;
use super::wire::{
    Assembler, Goodbye, HEAD, Head, Hello, Kind, MAX_PAYLOAD, Message, Outcome, Purpose, Role,
    WireError, write_answer, write_request,
};
use super::{Allowance, Beat, Direction, Incoming, MAX_REQUEST, RequestError, Session};
use crate::clock;

/// Longest wait for a goodbye to leave.
const PARTING: Duration = Duration::from_secs(1);
/// Longest wait for the first frame.
const GREETING: Duration = Duration::from_secs(5);
/// Longest wait for a sign of life when another connection claims the place.
const PROBE: Duration = Duration::from_secs(3);
/// Requests of a member, and of a guest, that are worked on at the same time.
const MAX_SERVED: usize = 32;
const MAX_SERVED_GUEST: usize = 2;
/// Signs of life of one member that are taken in a second: four times what the shortest
/// `offline_after` asks for. More are lost, so that a loud member silences nobody.
const MAX_BEATS: u32 = 32;
/// Longest work on a request; the asker has given up by then.
const SERVED_WITHIN: Duration = Duration::from_secs(120);
/// Bounds of one connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// When nothing was heard for so long, the other end is asked whether it is there.
    pub(super) ping_every: Duration,
    /// When nothing was heard for so long, or a frame takes so long to arrive, or nothing is taken
    /// for so long, the connection is dead.
    pub(super) silent: Duration,
    /// Longest wait for the first bytes of a handshake: they cost the other end nothing.
    pub(super) first_bytes: Duration,
    /// What a guest may send in one connection, bytes with heads.
    pub(super) guest_bytes: usize,
    /// How long a guest may stay.
    pub(super) guest_time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            ping_every: Duration::from_secs(5),
            silent: Duration::from_secs(15),
            first_bytes: Duration::from_secs(5),
            guest_bytes: 64 * 1024,
            guest_time: Duration::from_secs(30),
        }
    }
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum Closed {
    /// The stream ended or broke.
    #[error("{0}")]
    Stream(#[from] io::Error),
    /// The other end said why.
    #[error("{}", .0.words())]
    Told(Goodbye),
    /// This end said why.
    #[error("closed here: {0:?}")]
    Here(Option<Goodbye>),
    /// What came is no message.
    #[error("{0}")]
    Wire(#[from] WireError),
    /// More than its credit, or an impossible credit.
    #[error("more than its credit")]
    Credit,
    /// Nothing was heard, or a frame came too slowly.
    #[error("nothing was heard, or a frame came too slowly")]
    Silent,
    /// Nothing was taken.
    #[error("the other end takes nothing")]
    Stalled,
    /// A guest's bytes are used up.
    #[error("a guest sent more than it may")]
    Bytes,
    /// A guest's time is used up.
    #[error("a guest stayed longer than it may")]
    Time,
}

impl Closed {
    /// What the other end is told.
    fn goodbye(&self) -> Option<Goodbye> {
        match self {
            Self::Wire(_) | Self::Credit => Some(Goodbye::Misbehaved),
            Self::Bytes | Self::Time => Some(Goodbye::Quota),
            _ => None,
        }
    }

    /// For a bridge, and for the member that serves it.
    fn bridge_end(&self) -> BridgeEnd {
        match self {
            Self::Told(Goodbye::NotLetIn) => BridgeEnd::NotLetIn,
            other => BridgeEnd::Other(other.words()),
        }
    }

    /// For who waits for an answer.
    fn words(&self) -> &'static str {
        match self {
            Self::Told(goodbye) => goodbye.words(),
            Self::Silent => "nothing was heard for too long",
            Self::Stalled => "the other end takes nothing",
            Self::Here(Some(Goodbye::NoMember)) => "the other end is no member any more",
            Self::Here(Some(Goodbye::NotLetIn)) => "the bridge was forgotten here",
            Self::Here(_) => "it was closed here",
            Self::Wire(_) | Self::Credit => "the other end sent what is not understood",
            Self::Stream(_) | Self::Bytes | Self::Time => "the connection broke",
        }
    }
}

/// A connection at work.
#[derive(Debug)]
pub(super) struct Peer {
    /// Who is at the other end.
    pub(super) session: Session,
    /// What it said of itself.
    pub(super) hello: Hello,
    /// Who opened the connection.
    pub(super) direction: Direction,
    /// What the other end is to this one.
    pub(super) role: Role,
    /// Boot time in ms at which it began.
    pub(super) since_ms: u64,
    /// What waits to be sent.
    pub(super) outbox: Outbox,
    /// What a bridge, or its member, has said and nobody has taken.
    pub(super) bridge: BridgeInbox,
    last_heard_ms: AtomicU64,
    heard: Notify,
    calls: Calls,
    serving: AtomicUsize,
    /// What this guest may beyond others.
    allowance: Allowance,
    /// Bulk that came and that the ledger has not taken, in bytes of credit.
    unread: AtomicUsize,
}

impl Peer {
    /// After handshake and greeting.
    pub(super) fn new(session: Session, hello: Hello, direction: Direction) -> Self {
        let role = match (hello.purpose, direction) {
            (Purpose::Link, _) => Role::Member,
            (Purpose::Requests, Direction::Incoming) => Role::Asker,
            (Purpose::Requests, Direction::Outgoing) => Role::Asked,
            (Purpose::Bridge, Direction::Incoming) => Role::Bridge,
            (Purpose::Bridge, Direction::Outgoing) => Role::Server,
        };
        let now = clock::boot_ms();
        Self {
            session,
            hello,
            direction,
            role,
            since_ms: now,
            outbox: Outbox::default(),
            bridge: BridgeInbox::default(),
            last_heard_ms: AtomicU64::new(now),
            heard: Notify::new(),
            calls: Calls::default(),
            serving: AtomicUsize::new(0),
            allowance: Allowance::default(),
            unread: AtomicUsize::new(0),
        }
    }

    /// Boot time in ms at which something was last heard.
    pub(super) fn last_heard_ms(&self) -> u64 {
        self.last_heard_ms.load(Ordering::Relaxed)
    }

    /// Whose call this connection was.
    pub(super) fn dialer(&self, own: NodeId) -> NodeId {
        match self.direction {
            Direction::Outgoing => own,
            Direction::Incoming => self.session.node,
        }
    }

    /// A sign of life after `PROBE` at most, or none.
    pub(super) async fn is_alive(&self) -> bool {
        let heard = self.heard.notified();
        self.outbox.control(Kind::Ping, &clock::boot_ms().to_be_bytes());
        !self.outbox.is_closed() && timeout(PROBE, heard).await.is_ok() && !self.outbox.is_closed()
    }

    /// Asks, and waits for the answer.
    pub(super) async fn request(
        &self,
        request: &[u8],
        limit: Duration,
    ) -> Result<Vec<u8>, RequestError> {
        if request.len() > MAX_REQUEST {
            return Err(RequestError::TooLong);
        }
        let (id, answer) = self.calls.open()?;
        // Whatever happens to this future, the number of open requests stays right.
        let _open = OpenCall { calls: &self.calls, id };
        self.outbox.call(Kind::Request, write_request(id, request));
        match timeout(limit, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(RequestError::Closed(self.calls.why())),
            Err(_) => Err(RequestError::Timeout(limit)),
        }
    }

    /// Carries frames until the connection ends; it has then ended for whoever waits on it.
    pub(super) async fn run(
        self: &Arc<Self>,
        reader: &mut (impl AsyncRead + Unpin),
        writer: &mut (impl AsyncWrite + Unpin),
        mut assembler: Assembler,
        shared: &Arc<Shared>,
    ) -> Closed {
        assembler.become_role(self.role);
        let guest = self.role == Role::Asker && !self.session.member;
        let (bytes, time) = match guest {
            true => (shared.limits.guest_bytes, shared.limits.guest_time),
            false => (usize::MAX, Duration::MAX),
        };
        let closed = tokio::select! {
            closed = self.read(reader, assembler, shared, bytes) => closed,
            closed = self.write(writer, &shared.limits) => closed,
            () = self.overstays(time) => Closed::Time,
        };
        self.outbox.close(closed.goodbye());
        self.calls.close(closed.words());
        self.bridge.end(closed.bridge_end());
        // Who waits for a sign of life need not wait for longer.
        self.heard.notify_waiters();
        closed
    }

    /// Ends when a guest has stayed for longer than it may by then.
    async fn overstays(&self, time: Duration) {
        let began = Instant::now();
        // Past the end of all times there is nothing to wait for: a member may stay.
        while let Some(end) = began.checked_add(time.saturating_add(self.allowance.time())) {
            if Instant::now() >= end {
                return;
            }
            tokio::time::sleep_until(end).await;
        }
        std::future::pending().await
    }

    /// Says the last word, and hears the other end out for a moment: closing a socket that holds
    /// unread bytes would take that word away again.
    pub(super) async fn part(
        &self,
        reader: &mut (impl AsyncRead + Unpin),
        writer: &mut (impl AsyncWrite + Unpin),
    ) {
        let mut last = Vec::new();
        self.outbox.fill(&mut last);
        let parting = async {
            send(writer, &last).await?;
            writer.shutdown().await?;
            tokio::io::copy(reader, &mut tokio::io::sink()).await
        };
        // Whether it was heard changes nothing: the connection is over.
        let _ = timeout(PARTING, parting).await;
    }

    async fn read(
        self: &Arc<Self>,
        reader: &mut (impl AsyncRead + Unpin),
        mut assembler: Assembler,
        shared: &Arc<Shared>,
        mut budget: usize,
    ) -> Closed {
        let mut payload = vec![0; MAX_PAYLOAD];
        let mut taken_in = TakenIn::default();
        let bridged = matches!(self.role, Role::Bridge | Role::Server);
        let mut pace = Pace::new();
        loop {
            let frame = timeout(shared.limits.silent, next_frame(reader, &assembler, &mut payload));
            let head = match frame.await {
                Ok(Ok(head)) => head,
                Ok(Err(closed)) => return closed,
                Err(_) => return Closed::Silent,
            };
            if self.outbox.is_closed() {
                return Closed::Here(None);
            }
            let length = usize::from(head.length);
            match budget.checked_sub(HEAD + length) {
                Some(left) => budget = left,
                None if self.allowance.take(HEAD + length) => {}
                None => return Closed::Bytes,
            }
            if bridged {
                pace.spend(length).await;
            }
            if head.kind == Kind::Bulk {
                taken_in.cost += length + FRAME_COST;
                let before = self.unread.fetch_add(length + FRAME_COST, Ordering::Relaxed);
                if before + length + FRAME_COST > WINDOW {
                    return Closed::Credit;
                }
            }
            self.last_heard_ms.store(clock::boot_ms(), Ordering::Relaxed);
            let taken = assembler.take(&head, &payload[..length]);
            let message = match taken {
                Ok(Some(message)) => message,
                Ok(None) => continue,
                Err(error) => return error.into(),
            };
            if let Err(closed) = self.heard(message, shared, &mut taken_in) {
                return closed;
            }
        }
    }

    fn heard(
        self: &Arc<Self>,
        message: Message,
        shared: &Arc<Shared>,
        taken_in: &mut TakenIn,
    ) -> Result<(), Closed> {
        let node = self.session.node;
        match message {
            Message::Ping(nonce) => self.outbox.control(Kind::Pong, &nonce.to_be_bytes()),
            Message::Pong(_) => self.heard.notify_waiters(),
            Message::Credit(bytes) => {
                if !self.outbox.credit(bytes) {
                    return Err(Closed::Credit);
                }
            }
            Message::Consensus(bytes) => shared.overrun(shared.events.consensus(node, bytes)),
            Message::Bulk(bytes) => {
                let credit =
                    Credit { peer: Arc::clone(self), bytes: std::mem::take(&mut taken_in.cost) };
                shared.events.bulk(node, bytes, Box::new(credit));
            }
            Message::Addresses(told) => shared.told(&told),
            Message::Request { id, bytes } => self.serve(id, bytes, shared),
            Message::Answer { id, outcome, bytes } => self.calls.answered(id, outcome, bytes),
            Message::Beat(bytes) if taken_in.beat(clock::boot_ms()) => {
                // A full queue loses it: another comes soon.
                let _ = shared.beats.try_send(Beat { from: node, bytes });
            }
            Message::Beat(_) => {}
            Message::Radio(bytes) => self.bridge.radio(bytes),
            Message::Serial(bytes) => {
                if !self.bridge.serial(bytes) {
                    return Err(Closed::Credit);
                }
            }
            Message::Goodbye(goodbye) => return Err(Closed::Told(goodbye)),
            // The assembler lets it come first and never again.
            Message::Hello(_) => return Err(WireError::Forbidden.into()),
        }
        Ok(())
    }

    /// Hands a request to whoever serves; too many at once are told so.
    fn serve(self: &Arc<Self>, id: u32, bytes: Vec<u8>, shared: &Shared) {
        let most = if self.session.member { MAX_SERVED } else { MAX_SERVED_GUEST };
        let full = self.serving.load(Ordering::Relaxed) >= most || self.outbox.is_busy();
        let busy = || self.outbox.call(Kind::Answer, write_answer(id, Outcome::Busy, &[]));
        if full {
            return busy();
        }
        let (reply, answer) = oneshot::channel();
        let (session, allowance) = (shared.session_now(&self.session), self.allowance.clone());
        let incoming = Incoming { session, bytes, reply, allowance };
        if shared.incoming.try_send(incoming).is_err() {
            return busy();
        }
        // One reader serves: nobody else counts up in between.
        self.serving.fetch_add(1, Ordering::Relaxed);
        let peer = Arc::clone(self);
        tokio::spawn(async move {
            let answer = timeout(SERVED_WITHIN, answer).await;
            let (outcome, bytes) = match answer {
                Ok(Ok(bytes)) if bytes.len() <= MAX_REQUEST => (Outcome::Answered, bytes),
                _ => (Outcome::Unanswered, vec![]),
            };
            peer.serving.fetch_sub(1, Ordering::Relaxed);
            peer.outbox.call(Kind::Answer, write_answer(id, outcome, &bytes));
        });
    }

    async fn write(&self, writer: &mut (impl AsyncWrite + Unpin), limits: &Limits) -> Closed {
        let mut buffer = Vec::new();
        let mut quiet = interval(limits.ping_every);
        quiet.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            buffer.clear();
            let next = self.outbox.fill(&mut buffer);
            if !buffer.is_empty() {
                match timeout(limits.silent, send(writer, &buffer)).await {
                    Ok(Ok(())) => continue,
                    Ok(Err(error)) => return error.into(),
                    Err(_) => return Closed::Stalled,
                }
            }
            if let Next::Closed(goodbye) = next {
                return Closed::Here(goodbye);
            }
            tokio::select! {
                () = self.outbox.changed() => {}
                _ = quiet.tick() => self.ping_if_quiet(limits.ping_every),
            }
        }
    }

    fn ping_if_quiet(&self, every: Duration) {
        let now = clock::boot_ms();
        let quiet = now.saturating_sub(self.last_heard_ms());
        if u128::from(quiet) + 100 >= every.as_millis() {
            self.outbox.control(Kind::Ping, &now.to_be_bytes());
        }
    }
}

/// What the reader of one connection counts.
#[derive(Debug, Default)]
struct TakenIn {
    /// Credit of the message of bulk that is being read.
    cost: usize,
    second_ms: u64,
    beats: u32,
}

impl TakenIn {
    /// Whether one more sign of life is taken now.
    fn beat(&mut self, now_ms: u64) -> bool {
        if now_ms.saturating_sub(self.second_ms) >= 1_000 {
            (self.second_ms, self.beats) = (now_ms, 0);
        }
        self.beats = self.beats.saturating_add(1);
        self.beats <= MAX_BEATS
    }
}

/// Says which process speaks and hears which one answers, in time. Who dialed speaks first and says
/// what for.
pub(super) async fn greet<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    direction: Direction,
    mut own: Hello,
) -> Result<(Hello, Assembler), Closed> {
    let greeting = async {
        if direction == Direction::Outgoing {
            send_hello(stream, &own).await?;
        }
        let (mut assembler, mut payload) = (Assembler::new(), vec![0; MAX_PAYLOAD]);
        let head = next_frame(stream, &assembler, &mut payload).await?;
        let hello = match assembler.take(&head, &payload[..usize::from(head.length)])? {
            Some(Message::Hello(hello)) => hello,
            Some(Message::Goodbye(goodbye)) => return Err(Closed::Told(goodbye)),
            _ => return Err(WireError::Forbidden.into()),
        };
        match direction {
            Direction::Outgoing if hello.purpose != own.purpose => {
                return Err(WireError::Malformed.into());
            }
            Direction::Outgoing => {}
            Direction::Incoming => {
                own.purpose = hello.purpose;
                send_hello(stream, &own).await?;
            }
        }
        Ok((hello, assembler))
    };
    timeout(GREETING, greeting).await.unwrap_or(Err(Closed::Silent))
}

async fn send_hello(stream: &mut (impl AsyncWrite + Unpin), hello: &Hello) -> io::Result<()> {
    let hello = hello.write();
    let length = u16::try_from(hello.len()).unwrap_or(0);
    let head = Head { kind: Kind::Hello, last: true, length };
    send(stream, &[&head.write()[..], &hello].concat()).await
}

/// Says why there will be nothing, in place of a greeting.
pub(super) async fn turn_away(stream: &mut (impl AsyncWrite + Unpin), goodbye: Goodbye) {
    let head = Head { kind: Kind::Goodbye, last: true, length: 1 };
    let [a, b, c, d] = head.write();
    let said = async {
        send(stream, &[a, b, c, d, goodbye as u8]).await?;
        stream.shutdown().await
    };
    // Who does not want to hear it need not.
    let _ = timeout(PARTING, said).await;
}

/// Reads one frame; its head is checked before its payload is waited for.
async fn next_frame(
    reader: &mut (impl AsyncRead + Unpin),
    assembler: &Assembler,
    payload: &mut [u8],
) -> Result<Head, Closed> {
    let mut head = [0; HEAD];
    reader.read_exact(&mut head).await?;
    let head = Head::read(head)?;
    assembler.check(&head)?;
    reader.read_exact(&mut payload[..usize::from(head.length)]).await?;
    Ok(head)
}

async fn send(writer: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> io::Result<()> {
    writer.write_all(bytes).await?;
    writer.flush().await
}

/// Returned to the sender when the ledger has taken what came.
struct Credit {
    peer: Arc<Peer>,
    bytes: usize,
}

impl Drop for Credit {
    fn drop(&mut self) {
        self.peer.unread.fetch_sub(self.bytes, Ordering::Relaxed);
        let bytes = u32::try_from(self.bytes).unwrap_or(u32::MAX);
        self.peer.outbox.grant(bytes);
    }
}
