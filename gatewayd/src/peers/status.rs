//! What is shown about connections: who is connected, and how often what was refused.

use std::net::SocketAddr;

use ledger::ids::NodeId;

/// Who opened a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// This gateway.
    Outgoing,
    /// The other one.
    Incoming,
}

/// A member that is connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerStatus {
    /// Who.
    pub node: NodeId,
    /// Where.
    pub address: SocketAddr,
    /// Who opened the connection.
    pub direction: Direction,
    /// Since when, ms of [`crate::clock::boot_ms`]: a wall clock may be set in between.
    pub since_ms: u64,
    /// When it was last heard, likewise.
    pub last_heard_ms: u64,
    /// Second live connections of its identity from another machine, since the start.
    pub duplicates: u64,
    /// Frames that were dropped because the queue to it was full.
    pub dropped: u64,
}

/// What happened since the start; all of it is also in the journal, with addresses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Connections that were taken in.
    pub accepted: u64,
    /// Connections that were opened.
    pub dialed: u64,
    /// Guests now.
    pub guests: u64,
    /// Closed unread: too many strangers at once.
    pub flooded: u64,
    /// The handshake failed: no gateway, a wrong key, not in time.
    pub handshakes_failed: u64,
    /// Bytes that are no frame, or a frame longer than its kind may be.
    pub malformed: u64,
    /// A guest used up its bytes or its time.
    pub over_quota: u64,
    /// Nothing was heard for too long, or nothing was taken.
    pub silent: u64,
    /// Connections of gateways whose standing no longer lets them in.
    pub expelled: u64,
    /// Second live connections of one identity.
    pub duplicates: u64,
    /// Frames of members that were dropped because this gateway was too slow to read them.
    pub overrun: u64,
    /// Frames to members that were dropped because their queues were full.
    pub dropped: u64,
}
