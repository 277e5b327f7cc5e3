//! Who dials in. Addresses at which a member was reached go before strangers: these have few
//! places, few handshakes at once and a small share of the TPM's time, whatever they send.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use super::shared::{Settled, Shared, Tally};
use super::wire::Purpose;
use super::{ALPN, Direction};

/// Connections of members whose handshake is under way.
const MAX_KNOWN: usize = 64;
/// Connections of strangers whose handshake is under way; more are closed unread.
const MAX_STRANGERS: usize = 16;
/// Of these from one address (of IPv6: one network of 64 bits).
const MAX_OF_ADDRESS: usize = 4;
/// Handshakes of members, and of strangers, that the TPM signs at the same time.
const SIGNED_KNOWN: usize = 8;
const SIGNED_STRANGERS: usize = 2;
/// A stranger's place stays taken for so many times what its signature took.
const STRANGERS_PAUSE: u32 = 4;
/// The longest of such pauses.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Longest handshake after that; the other end's TPM may be slow, too.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Pause when the system gives no more sockets.
const NO_SOCKETS: Duration = Duration::from_millis(200);
/// An address that cannot be listened at is tried again after this long.
const LISTEN_AGAIN: Duration = Duration::from_secs(1);
/// What TCP may hold back: a vote waits behind no more than this.
const SEND_BUFFER: u32 = 128 * 1024;
/// Connections that the kernel keeps until they are accepted.
const BACKLOG: u32 = 64;

/// Places for handshakes.
#[derive(Debug)]
pub(super) struct Doors {
    known: Arc<Semaphore>,
    strangers: Arc<Semaphore>,
    signed_known: Arc<Semaphore>,
    signed_strangers: Arc<Semaphore>,
    addresses: Mutex<HashMap<IpAddr, usize>>,
}

impl Doors {
    fn new() -> Self {
        let places = |n| Arc::new(Semaphore::new(n));
        Self {
            known: places(MAX_KNOWN),
            strangers: places(MAX_STRANGERS),
            signed_known: places(SIGNED_KNOWN),
            signed_strangers: places(SIGNED_STRANGERS),
            addresses: Mutex::new(HashMap::new()),
        }
    }

    /// A place for a handshake; none when too many are under way.
    fn enter(self: &Arc<Self>, ip: IpAddr, known: bool) -> Option<Place> {
        let places = if known { &self.known } else { &self.strangers };
        let permit = Arc::clone(places).try_acquire_owned().ok()?;
        let network = network(ip);
        if !known {
            let mut addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
            let count = addresses.entry(network).or_default();
            if *count >= MAX_OF_ADDRESS {
                return None;
            }
            *count += 1;
        }
        Some(Place { doors: Arc::clone(self), network, known, _permit: permit })
    }
}

/// One handshake's place; given back when dropped.
struct Place {
    doors: Arc<Doors>,
    network: IpAddr,
    known: bool,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.known {
            return;
        }
        let mut addresses = self.doors.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = addresses.get_mut(&self.network) {
            *count -= 1;
            if *count == 0 {
                addresses.remove(&self.network);
            }
        }
    }
}

/// What one stranger has at once: an address, or a network of IPv6.
fn network(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V4(ip) => IpAddr::V4(ip),
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from(u128::from(ip) >> 64 << 64)),
    }
}

/// A listening socket; `[::]` means IPv4, too, and IPv4 alone where there is no IPv6.
pub(super) fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let bound = listener(address);
    match bound {
        Err(error)
            if address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED)
                && error.raw_os_error() == Some(libc::EAFNOSUPPORT) =>
        {
            listener((Ipv4Addr::UNSPECIFIED, address.port()).into())
        }
        other => other,
    }
}

fn listener(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = socket(address)?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// A socket that holds little back.
pub(super) fn socket(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv6() { TcpSocket::new_v6()? } else { TcpSocket::new_v4()? };
    socket.set_send_buffer_size(SEND_BUFFER)?;
    socket.set_nodelay(true)?;
    Ok(socket)
}

/// Listens until the transport ends; an address that is not there yet is tried again.
pub(super) async fn listen(
    shared: Arc<Shared>,
    address: SocketAddr,
    bound: io::Result<TcpListener>,
) {
    let mut stop = shared.stop.subscribe();
    let listening = async {
        let listener = listener_in_time(&shared, address, bound).await;
        accept(&shared, listener).await;
    };
    tokio::select! {
        // A closed channel means the same.
        _ = stop.wait_for(|stop| *stop) => {}
        () = listening => {}
    }
}

async fn listener_in_time(
    shared: &Shared,
    address: SocketAddr,
    mut bound: io::Result<TcpListener>,
) -> TcpListener {
    loop {
        let why = match bound {
            Ok(listener) => {
                shared.say_listening(None);
                return listener;
            }
            Err(error) => format!("peers.listen {address}: {error}"),
        };
        shared.say_listening(Some(why));
        sleep(LISTEN_AGAIN).await;
        bound = bind(address);
    }
}

async fn accept(shared: &Arc<Shared>, listener: TcpListener) {
    let doors = Arc::new(Doors::new());
    loop {
        let (stream, remote) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "no connection can be taken in");
                sleep(NO_SOCKETS).await;
                continue;
            }
        };
        let known =
            shared.book().knows(remote.ip()) || shared.registry().knows_bridge_at(remote.ip());
        match doors.enter(remote.ip(), known) {
            Some(place) => {
                let (shared, mut stop) = (Arc::clone(shared), shared.stop.subscribe());
                tokio::spawn(async move {
                    let settled = tokio::select! {
                        _ = stop.wait_for(|stop| *stop) => None,
                        settled = take_in(&shared, stream, remote, place) => settled,
                    };
                    if let Some(settled) = settled {
                        shared.carry(settled).await;
                    }
                });
            }
            None => {
                tracing::debug!(%remote, "closed unread: too many handshakes at once");
                Tally::count(&shared.tally.flooded);
            }
        }
    }
}

/// Shakes hands, greets, and finds a place; none: it is refused, and counted.
async fn take_in(
    shared: &Arc<Shared>,
    stream: TcpStream,
    remote: SocketAddr,
    place: Place,
) -> Option<Settled<TlsStream<TcpStream>>> {
    let shaken = match handshake(shared, stream, place).await {
        Ok(stream) => {
            let session = shared.session(stream.get_ref().1, remote);
            session.map(|session| (stream, session)).map_err(io::Error::other)
        }
        Err(error) => Err(error),
    };
    let (stream, session) = match shaken {
        Ok(shaken) => shaken,
        Err(error) => {
            tracing::info!(%remote, %error, "refused: the handshake failed");
            Tally::count(&shared.tally.handshakes_failed);
            return None;
        }
    };
    Tally::count(&shared.tally.accepted);
    // What it is for is the dialer's to say.
    let settled = shared.settle(stream, session, Direction::Incoming, Purpose::Requests).await;
    let refused = |closed| {
        tracing::info!(%remote, reason = %closed, "connection not taken");
        shared.tally.closed(&closed);
    };
    settled.map_err(refused).ok()
}

async fn handshake(
    shared: &Arc<Shared>,
    stream: TcpStream,
    place: Place,
) -> io::Result<TlsStream<TcpStream>> {
    let first = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), stream);
    let start =
        timeout(shared.limits.first_bytes, first).await.map_err(|_| io::ErrorKind::TimedOut)??;
    let hello = start.client_hello();
    let speaks = hello.alpn().is_some_and(|mut protocols| protocols.any(|each| each == ALPN));
    if !speaks {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "another protocol than gatewayd/1"));
    }
    let doors = &place.doors;
    let signed = if place.known { &doors.signed_known } else { &doors.signed_strangers };
    let turn = timeout(HANDSHAKE, Arc::clone(signed).acquire_owned());
    let turn = turn.await.map_err(|_| io::ErrorKind::TimedOut)?.map_err(io::Error::other)?;
    let config = Arc::clone(&shared.tls.server);
    let done = timeout(HANDSHAKE, start.into_stream(config)).await;
    if !place.known {
        let pause = shared.tls.signing_time().saturating_mul(STRANGERS_PAUSE).min(LONGEST_PAUSE);
        tokio::spawn(async move {
            sleep(pause).await;
            drop(turn);
        });
    }
    done.map_err(|_| io::ErrorKind::TimedOut)?
}
