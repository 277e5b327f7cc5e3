//! Dialing out: to members that are not connected, again and again with growing waits, and to
//! whatever address a newcomer is given.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ledger::ids::NodeId;
use rustls::ClientConfig;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::address_book::{Address, save};
use super::listen::socket;
use super::peer::{Closed, Peer};
use super::shared::{Settled, Shared, Tally};
use super::tls::no_name;
use super::wire::{Goodbye, Purpose};
use super::{DialError, Direction, Session};
use crate::clock;
use crate::vault;

/// Dials under way at the same time.
const MAX_DIALS: usize = 8;
/// Longest wait for one address to answer.
const CONNECT: Duration = Duration::from_secs(5);
/// Addresses of one name that are tried.
const MAX_OF_NAME: usize = 4;
/// Longest handshake: both TPMs may be slow.
const HANDSHAKE: Duration = Duration::from_secs(15);
/// Longest dial in all.
const DIAL: Duration = Duration::from_secs(30);
/// A connection that stood for so long is worth an early dial when it is lost.
const LASTING: Duration = Duration::from_secs(10);
/// How often what was learned is looked at, to be saved.
const SAVE_EVERY_MS: u64 = 60_000;

/// Keeps members connected until the transport ends.
pub(super) async fn keep_connected(shared: Arc<Shared>) {
    let mut stop = shared.stop.subscribe();
    let places = Arc::new(Semaphore::new(MAX_DIALS));
    loop {
        let now = clock::boot_ms();
        let (due, next) = due(&shared, now, places.available_permits());
        for address in due {
            let Ok(place) = Arc::clone(&places).try_acquire_owned() else { break };
            let shared = Arc::clone(&shared);
            tokio::spawn(async move {
                let settled = call(&shared, &address).await;
                drop(place);
                shared.dial.notify_one();
                if let Some(settled) = settled {
                    let began = Instant::now();
                    shared.carry(settled).await;
                    if began.elapsed() >= LASTING {
                        shared.book().lasted(&address);
                    }
                }
            });
        }
        write_down(&shared).await;
        let wait = next.map(|next| Duration::from_millis(next.saturating_sub(now).max(50)));
        tokio::select! {
            // A closed channel means the same.
            _ = stop.wait_for(|stop| *stop) => return,
            () = shared.dial.notified() => {}
            () = sleep(wait.unwrap_or(Duration::from_millis(SAVE_EVERY_MS))) => {}
        }
    }
}

/// The addresses to dial now, and when the next one is due.
fn due(shared: &Shared, now: u64, most: usize) -> (Vec<Address>, Option<u64>) {
    let wanted: BTreeSet<NodeId> = {
        let registry = shared.registry();
        registry.members().filter(|node| registry.link(node).is_none()).copied().collect()
    };
    let (due, next) = shared.book().due(now, &wanted, most);
    // While all places are taken the end of a dial is waited for.
    (due, next.filter(|_| most > 0))
}

/// Dials one address for a member.
async fn call(shared: &Arc<Shared>, address: &Address) -> Option<Settled<TlsStream<TcpStream>>> {
    let (settled, node) = match timeout(DIAL, link(shared, address)).await {
        Ok(Ok(settled)) => {
            let node = settled.peer.session.node;
            (Some(settled), Some(node))
        }
        // It is there, and connected already: as good as a connection.
        Ok(Err(Missed::Closed(Closed::Here(Some(Goodbye::Second)), node))) => (None, Some(node)),
        Ok(Err(Missed::Closed(Closed::Told(Goodbye::Second), node))) => (None, Some(node)),
        Ok(Err(Missed::Closed(closed, _))) => {
            tracing::debug!(address = address.as_str(), reason = %closed, "not connected");
            shared.tally.closed(&closed);
            (None, None)
        }
        Ok(Err(Missed::Dial(error))) => {
            tracing::debug!(%error, "not connected");
            (None, None)
        }
        Err(_) => {
            tracing::debug!(address = address.as_str(), "not connected in time");
            (None, None)
        }
    };
    let member = node.is_some_and(|node| shared.registry().members().any(|each| *each == node));
    // Without randomness all gateways wait equally long: slower, not wrong.
    let jitter = u16::from_be_bytes(vault::random().unwrap_or_default());
    shared.book().dialed(address, node, member, clock::boot_ms(), jitter);
    settled
}

enum Missed {
    Dial(DialError),
    Closed(Closed, NodeId),
}

async fn link(
    shared: &Arc<Shared>,
    address: &Address,
) -> Result<Settled<TlsStream<TcpStream>>, Missed> {
    let config = Arc::clone(&shared.tls.to_members);
    let (stream, session) = connect(shared, address, config).await.map_err(Missed::Dial)?;
    let node = session.node;
    let settled = shared.settle(stream, session, Direction::Outgoing, Purpose::Link).await;
    settled.map_err(|closed| Missed::Closed(closed, node))
}

/// Dials an address for requests, or as a bridge; whoever answers there is let in.
pub(super) async fn dial(
    shared: &Arc<Shared>,
    address: &str,
    purpose: Purpose,
) -> Result<Arc<Peer>, DialError> {
    if *shared.stop.borrow() {
        return Err(DialError::Stopped);
    }
    let address = Address::parse(address)?;
    let config = Arc::clone(&shared.tls.to_anybody);
    let asked = async {
        let (stream, session) = connect(shared, &address, config).await?;
        let settled = shared.settle(stream, session, Direction::Outgoing, purpose).await;
        settled.map_err(|closed| match closed {
            Closed::Here(Some(Goodbye::Stopping)) => DialError::Stopped,
            Closed::Here(_) => DialError::Itself(address.as_str().into()),
            other => refused(&address, io::Error::other(other.to_string())),
        })
    };
    let settled = timeout(DIAL, asked).await.unwrap_or_else(|_| Err(late(&address, DIAL)))?;
    let peer = Arc::clone(&settled.peer);
    let shared = Arc::clone(shared);
    tokio::spawn(async move { shared.carry(settled).await });
    Ok(peer)
}

/// Reaches an address and shakes hands.
async fn connect(
    shared: &Shared,
    address: &Address,
    config: Arc<ClientConfig>,
) -> Result<(TlsStream<TcpStream>, Session), DialError> {
    Tally::count(&shared.tally.dialed);
    let stream = reach(address).await?;
    let remote = stream.peer_addr().map_err(|error| unreachable(address, error))?;
    let shaken = TlsConnector::from(config).connect(no_name(), stream);
    let failed = |error| {
        Tally::count(&shared.tally.handshakes_failed);
        refused(address, error)
    };
    let stream = match timeout(HANDSHAKE, shaken).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err(failed(error)),
        Err(_) => return Err(failed(io::ErrorKind::TimedOut.into())),
    };
    let session = shared.session(stream.get_ref().1, remote);
    let session = session.map_err(|error| failed(io::Error::other(error)))?;
    Ok((stream, session))
}

async fn reach(address: &Address) -> Result<TcpStream, DialError> {
    let found = tokio::net::lookup_host(address.as_str());
    let found = timeout(CONNECT, found).await.map_err(|_| late(address, CONNECT))?;
    let found = found.map_err(|error| unreachable(address, error))?;
    let mut last = io::ErrorKind::NotFound.into();
    for each in found.take(MAX_OF_NAME) {
        match timeout(CONNECT, open(each)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => last = error,
            Err(_) => last = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(unreachable(address, last))
}

async fn open(address: SocketAddr) -> io::Result<TcpStream> {
    socket(address)?.connect(address).await
}

fn unreachable(address: &Address, error: io::Error) -> DialError {
    DialError::Unreachable { address: address.as_str().into(), error }
}

fn refused(address: &Address, error: io::Error) -> DialError {
    DialError::Handshake { address: address.as_str().into(), error }
}

fn late(address: &Address, after: Duration) -> DialError {
    DialError::Timeout { address: address.as_str().into(), after }
}

/// Saves what was learned.
async fn write_down(shared: &Shared) {
    let Some((file, text)) = shared.book().unsaved() else { return };
    let path = file.display().to_string();
    let saved = tokio::task::spawn_blocking(move || save(&file, &text)).await;
    if let Ok(Err(error)) = saved {
        // The addresses are known all the same until the next start.
        tracing::warn!(path, %error, "the addresses of other gateways are not saved");
    }
}
