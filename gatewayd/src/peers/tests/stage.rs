//! Gateways for tests: a transport each, with a key in memory.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use attestation::tpm::TpmError;
use ledger::crypto::{PublicKey, SigningKey};
use ledger::ids::{Hash, NodeId};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::peers::handle::start_with;
use crate::peers::peer::Limits;
use crate::peers::tls::{MemberKeys, Tls, no_name};
use crate::peers::{
    Beat, BridgeLink, Counters, Handle, Inbox, Incoming, Member, Parts, PeerEvent, Signer, inbox,
};

/// Longest wait for what must happen.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// A key in memory, which counts its signatures.
#[derive(Debug)]
pub(super) struct SoftKey {
    key: SigningKey,
    pub(super) signed: AtomicU64,
}

impl SoftKey {
    pub(super) fn new(n: u8) -> Arc<Self> {
        let key = SigningKey::from_bytes(&[n; 32]).unwrap();
        Arc::new(Self { key, signed: AtomicU64::new(0) })
    }

    pub(super) fn public(&self) -> PublicKey {
        self.key.public_key()
    }
}

impl Signer for SoftKey {
    fn sign(&self, digest: [u8; 32]) -> Result<[u8; 64], TpmError> {
        self.signed.fetch_add(1, Ordering::Relaxed);
        Ok(*self.key.sign_digest(&Hash(digest)).as_bytes())
    }
}

pub(super) fn member(n: u8) -> Member {
    let identity = SoftKey::new(n).public();
    Member { node: NodeId::of_key(&identity), identity }
}

pub(super) fn members(numbers: &[u8]) -> Vec<Member> {
    numbers.iter().map(|n| member(*n)).collect()
}

/// Bounds that tests can wait for.
pub(super) fn quick() -> Limits {
    Limits {
        ping_every: Duration::from_millis(300),
        silent: Duration::from_millis(1_500),
        first_bytes: Duration::from_millis(500),
        guest_bytes: 64 * 1024,
        guest_time: Duration::from_secs(4),
    }
}

/// One gateway.
pub(super) struct Gateway {
    pub(super) handle: Handle,
    pub(super) events: Inbox,
    pub(super) incoming: mpsc::Receiver<Incoming>,
    pub(super) beats: mpsc::Receiver<Beat>,
    pub(super) bridges: mpsc::Receiver<BridgeLink>,
    pub(super) node: NodeId,
    pub(super) key: Arc<SoftKey>,
}

pub(super) struct Plan {
    pub(super) number: u8,
    pub(super) listen: bool,
    pub(super) addresses: Vec<String>,
    pub(super) data_dir: Option<std::path::PathBuf>,
    pub(super) limits: Limits,
}

impl Plan {
    pub(super) fn of(number: u8) -> Self {
        Self { number, listen: true, addresses: vec![], data_dir: None, limits: quick() }
    }

    pub(super) fn start(self) -> Gateway {
        let key = SoftKey::new(self.number);
        let ((events_in, events), (incoming_in, incoming)) = (inbox(), mpsc::channel(16));
        let (beats_in, beats) = mpsc::channel(128);
        let (bridges_in, bridges) = mpsc::channel(4);
        let parts = Parts {
            signer: Arc::clone(&key) as _,
            identity: key.public(),
            listen: self.listen.then(|| SocketAddr::from(([127, 0, 0, 1], 0))),
            addresses: self.addresses,
            discovery: false,
            interface: None,
            events: events_in,
            incoming: incoming_in,
            beats: beats_in,
            bridges: Some(bridges_in),
            data_dir: self.data_dir,
        };
        let handle = start_with(parts, self.limits).unwrap();
        let node = NodeId::of_key(&key.public());
        Gateway { handle, events, incoming, beats, bridges, node, key }
    }
}

impl Gateway {
    pub(super) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.handle.port())
    }

    pub(super) fn socket(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.handle.port()))
    }

    /// The next event that is not of the kind that the test does not care for.
    pub(super) async fn event(&mut self) -> PeerEvent {
        timeout(PATIENCE, self.events.recv()).await.expect("in time").expect("not ended")
    }

    /// Waits until so many members are connected.
    pub(super) async fn connected(&self, count: usize) {
        let mut peers = self.handle.peers();
        let reached = peers.wait_for(|peers| peers.len() == count);
        timeout(PATIENCE, reached).await.expect("in time").expect("not ended");
    }

    /// Waits until the counters say so.
    pub(super) async fn counted(&self, what: impl Fn(&Counters) -> bool) {
        let counting = async {
            while !what(&self.handle.counters()) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let waited = timeout(PATIENCE, counting).await;
        waited.unwrap_or_else(|_| panic!("{:?}", self.handle.counters()));
    }

    /// Answers the next request with who asked.
    pub(super) async fn answer(&mut self, answer: &[u8]) -> Incoming {
        let incoming = timeout(PATIENCE, self.incoming.recv()).await.expect("in time").unwrap();
        let Incoming { session, bytes, reply, allowance } = incoming;
        reply.send(answer.to_vec()).unwrap();
        let (nobody, _) = tokio::sync::oneshot::channel();
        Incoming { session, bytes, reply: nobody, allowance }
    }
}

/// Two members that are connected, the first having dialed.
pub(super) async fn pair() -> (Gateway, Gateway) {
    let second = Plan::of(2).start();
    second.handle.set_members(&members(&[1, 2]));
    let first = Plan { addresses: vec![second.address()], ..Plan::of(1) }.start();
    first.handle.set_members(&members(&[1, 2]));
    first.connected(1).await;
    second.connected(1).await;
    (first, second)
}

/// A TCP connection from an address of loopback that no member has.
pub(super) async fn stranger(to: SocketAddr, last: u8) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    let from = IpAddr::V4(Ipv4Addr::new(127, 0, 0, last));
    socket.bind(SocketAddr::new(from, 0)).unwrap();
    socket.connect(to).await.unwrap()
}

/// A TLS connection with a good key by somebody who then says what it likes.
pub(super) async fn tls(number: u8, stream: TcpStream) -> TlsStream<TcpStream> {
    let key = SoftKey::new(number);
    let tls = Tls::new(&key.public(), key.clone(), MemberKeys::default()).unwrap();
    TlsConnector::from(tls.to_anybody).connect(no_name(), stream).await.unwrap()
}
