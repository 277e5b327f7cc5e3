//! The packet forwarders of a bridge: which there are, and what each is called towards the member.
//! Pure; the datagrams are looked into no further than their head.

use std::net::SocketAddr;

use drivers::lora::gwmp::{self, Datagram};
use drivers::lora::ids::ForwarderEui;

use super::frame::Radio;
use crate::admission::messages::Bytes;

/// Sockets of forwarders, which have two each, one for uplinks and one for downlinks; beyond it the
/// one that was silent for longest gives its place.
const MAX_SOCKETS: usize = 32;

/// Which forwarders are listened to.
#[derive(Debug, Clone, Default)]
pub struct Allowed {
    /// These…
    pub euis: Vec<ForwarderEui>,
    /// …and, when none is named, any on a loopback address.
    pub any_on_loopback: bool,
}

/// What is known of forwarders.
#[derive(Debug)]
pub struct Forwarders {
    allowed: Allowed,
    known: Vec<Socket>,
    next: u32,
}

/// A socket of a forwarder: what the member calls a forwarder is one.
#[derive(Debug)]
struct Socket {
    number: u32,
    address: SocketAddr,
    eui: ForwarderEui,
    heard_ms: u64,
    /// Its last PULL_DATA, which opens the way back.
    pull: Option<Vec<u8>>,
}

impl Forwarders {
    /// None yet. `first` is random, so that what is meant for a forwarder of an earlier process
    /// reaches nobody.
    pub fn new(allowed: Allowed, first: u32) -> Self {
        Self { allowed, known: Vec::new(), next: first }
    }

    /// A datagram has come: what the member is told, if it is one of a forwarder that may speak.
    pub fn up(&mut self, now_ms: u64, from: SocketAddr, datagram: &[u8]) -> Option<Radio> {
        let parsed = gwmp::parse(datagram).ok()?;
        let (Datagram::PushData { eui, .. }
        | Datagram::PullData { eui, .. }
        | Datagram::TxAck { eui, .. }) = parsed;
        let Allowed { euis, any_on_loopback } = &self.allowed;
        let may = euis.contains(&eui) || (*any_on_loopback && from.ip().is_loopback());
        if !may {
            return None;
        }
        let known = self.hear(now_ms, from, eui);
        if matches!(parsed, Datagram::PullData { .. }) {
            known.pull = Some(datagram.to_vec());
        }
        let forwarder = known.number;
        Some(Radio { forwarder, datagram: Bytes::new(datagram.to_vec()).ok()? })
    }

    /// Where an answer of the member goes; none when that forwarder is not known (any more).
    pub fn way(&self, forwarder: u32) -> Option<SocketAddr> {
        self.known.iter().find(|one| one.number == forwarder).map(|one| one.address)
    }

    /// What opens the ways back at a member that knows none of them: forwarders repeat it every
    /// ten seconds, and a downlink would wait as long.
    pub fn ways_back(&self) -> Vec<Radio> {
        let pull = |one: &Socket| {
            let datagram = Bytes::new(one.pull.clone()?).ok()?;
            Some(Radio { forwarder: one.number, datagram })
        };
        self.known.iter().filter_map(pull).collect()
    }

    /// How many forwarders there are.
    pub fn count(&self) -> usize {
        let mut euis: Vec<_> = self.known.iter().map(|one| one.eui).collect();
        euis.sort_unstable();
        euis.dedup();
        euis.len()
    }

    fn hear(&mut self, now_ms: u64, address: SocketAddr, eui: ForwarderEui) -> &mut Socket {
        let found = self.known.iter().position(|one| one.address == address);
        let at = found.unwrap_or_else(|| {
            if self.known.len() >= MAX_SOCKETS {
                let oldest = self.known.iter().enumerate().min_by_key(|(_, one)| one.heard_ms);
                let oldest = oldest.map_or(0, |(at, _)| at);
                self.known.remove(oldest);
            }
            let number = self.next;
            self.next = self.next.wrapping_add(1);
            self.known.push(Socket { number, address, eui, heard_ms: now_ms, pull: None });
            self.known.len() - 1
        });
        let known = &mut self.known[at];
        (known.heard_ms, known.eui) = (now_ms, eui);
        known
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EUI: [u8; 8] = [0xAA, 1, 2, 3, 4, 5, 6, 7];

    fn datagram(kind: u8) -> Vec<u8> {
        [&[2, 9, 9, kind], &EUI[..], b"{}"].concat()
    }

    fn at(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    fn any() -> Allowed {
        Allowed { euis: vec![], any_on_loopback: true }
    }

    #[test]
    fn a_forwarder_is_called_the_same_and_answered_where_it_is() {
        let mut forwarders = Forwarders::new(any(), u32::MAX);
        let first = forwarders.up(1, at(1), &datagram(0)).unwrap();
        assert_eq!((first.forwarder, &first.datagram[..]), (u32::MAX, &datagram(0)[..]));
        assert_eq!(forwarders.up(2, at(2), &datagram(2)).unwrap().forwarder, 0);
        assert_eq!(forwarders.up(3, at(1), &datagram(5)).unwrap().forwarder, u32::MAX);
        assert_eq!((forwarders.way(0), forwarders.way(u32::MAX)), (Some(at(2)), Some(at(1))));
        assert_eq!(forwarders.way(7), None);
        let ways = forwarders.ways_back();
        assert_eq!((ways.len(), ways[0].forwarder), (1, 0), "one has asked for the way back");
    }

    #[test]
    fn garbage_and_strangers_go_nowhere() {
        let mut forwarders = Forwarders::new(any(), 0);
        for bytes in [&b""[..], b"\x02\x00\x00", &[0xFF; 12], &[2, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0]]
        {
            assert_eq!(forwarders.up(1, at(1), bytes), None);
        }
        let far = SocketAddr::from(([192, 0, 2, 1], 1));
        assert_eq!(forwarders.up(1, far, &datagram(0)), None);
        let named = Allowed { euis: vec![ForwarderEui(EUI)], any_on_loopback: false };
        let mut forwarders = Forwarders::new(named, 0);
        assert!(forwarders.up(1, far, &datagram(0)).is_some());
        for port in 0..100 {
            forwarders.up(u64::from(port), at(port), &datagram(0)).unwrap();
        }
        assert_eq!((forwarders.known.len(), forwarders.way(0)), (MAX_SOCKETS, None));
        assert_eq!(forwarders.count(), 1, "all with one EUI");
    }
}
