//! Where other gateways may be: hints from the configuration, from members, from mDNS, and what a
//! handshake has proven. Whoever answers must still prove a member's key; a wrong address costs a
//! dial and waits longer each time.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use ledger::ids::{NodeId, NodeKind};

use super::{AddressError, DEFAULT_PORT};

/// Addresses that are kept for one member; the least proven goes first.
const MAX_OF_MEMBER: usize = 4;
/// Addresses of mDNS that are kept: anybody in the network can make them up.
const MAX_FOUND: usize = 64;
/// All addresses.
const MAX_ENTRIES: usize = 1024;
/// Longest file that is read, bytes.
const MAX_FILE: u64 = 256 * 1024;
/// Name of the file in the data folder.
const FILE: &str = "peers";
/// First wait after a dial that failed, and the longest.
const FIRST_WAIT_MS: u64 = 500;
const LONGEST_WAIT_MS: u64 = 30_000;
/// The longest wait for what mDNS said and no member ever answered at.
const LONGEST_WAIT_FOUND_MS: u64 = 300_000;

/// `HOST:PORT`, with a port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Address(String);

impl Address {
    /// Reads `HOST:PORT`, `[ADDRESS]:PORT`, `HOST` or an address of either family.
    pub(super) fn parse(text: &str) -> Result<Self, AddressError> {
        /// Longest host name (RFC 1035) with a port.
        const LONGEST: usize = 253 + 6;
        let wrong = || AddressError(text.chars().take(LONGEST).collect());
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Ok(Self::of(address));
        }
        if let Ok(ip) = text.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
            return Ok(Self::of(SocketAddr::new(ip, DEFAULT_PORT)));
        }
        let (host, port) = match text.split_once(':') {
            Some((host, port)) => (host, port.parse().map_err(|_| wrong())?),
            None => (text, DEFAULT_PORT),
        };
        let label = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
        let is_name = !host.is_empty() && host.len() <= 253 && host.chars().all(label);
        if is_name && port != 0 { Ok(Self(format!("{host}:{port}"))) } else { Err(wrong()) }
    }

    /// Of a socket.
    pub(super) fn of(address: SocketAddr) -> Self {
        Self(SocketAddr::new(address.ip().to_canonical(), address.port()).to_string())
    }

    /// As it is written.
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

/// Where an address comes from, the most trusted last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Source {
    Found,
    Told,
    Configured,
}

#[derive(Debug)]
struct Entry {
    source: Source,
    /// Who is said to be there, or was.
    node: Option<NodeId>,
    /// It has proven to be there.
    proven: bool,
    failures: u32,
    next_ms: u64,
    dialing: bool,
}

/// Where other gateways may be.
#[derive(Debug, Default)]
pub(super) struct AddressBook {
    entries: BTreeMap<Address, Entry>,
    file: Option<PathBuf>,
    /// What is in the file.
    saved: String,
}

impl AddressBook {
    /// With what was learned before, when there is a data folder.
    pub(super) fn open(data_dir: Option<&Path>) -> Result<Self, (PathBuf, io::Error)> {
        let mut book = Self { file: data_dir.map(|dir| dir.join(FILE)), ..Self::default() };
        let Some(path) = book.file.clone() else { return Ok(book) };
        let mut text = Vec::new();
        match File::open(&path).and_then(|file| file.take(MAX_FILE).read_to_end(&mut text)) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(book),
            Err(error) => return Err((path, error)),
        }
        book.saved = String::from_utf8_lossy(&text).into_owned();
        for line in book.saved.clone().lines() {
            match read_line(line) {
                Some((node, address)) => {
                    book.insert(address, Source::Told, Some(node), true);
                }
                // Hints alone are lost; the configuration and the members have others.
                None => tracing::warn!(path = %path.display(), "a line that is no address"),
            }
        }
        Ok(book)
    }

    /// An address of the configuration or of the operator.
    pub(super) fn configure(&mut self, address: Address) {
        match self.entries.get_mut(&address) {
            Some(entry) => {
                entry.source = Source::Configured;
                entry.next_ms = 0;
            }
            None => {
                self.insert(address, Source::Configured, None, false);
            }
        }
    }

    /// A member says where another one is, or where itself listens. True when that is news.
    pub(super) fn told(&mut self, node: NodeId, address: SocketAddr) -> bool {
        if !is_dialable(address) {
            return false;
        }
        let address = Address::of(address);
        if let Some(entry) = self.entries.get_mut(&address) {
            // What a handshake has proven is not changed by words.
            if !entry.proven && entry.node != Some(node) {
                entry.node = Some(node);
            }
            return false;
        }
        self.insert(address, Source::Told, Some(node), false)
    }

    /// mDNS says that there is a gateway. True when that is news.
    pub(super) fn found(&mut self, address: SocketAddr) -> bool {
        let count = self.entries.values().filter(|entry| entry.source == Source::Found).count();
        let address = Address::of(address);
        count < MAX_FOUND
            && !self.entries.contains_key(&address)
            && self.insert(address, Source::Found, None, false)
    }

    /// Addresses of members, for the members.
    pub(super) fn known(&self) -> Vec<(NodeId, SocketAddr)> {
        self.proven().filter_map(|(node, address)| Some((node, address.0.parse().ok()?))).collect()
    }

    /// Where which member is.
    pub(super) fn proven(&self) -> impl Iterator<Item = (NodeId, &Address)> {
        let proven = |(address, entry)| {
            let entry: &Entry = entry;
            entry.node.filter(|_| entry.proven || entry.source == Source::Told).zip(Some(address))
        };
        self.entries.iter().filter_map(proven)
    }

    /// Whether a member was reached at this address, whatever the port.
    pub(super) fn knows(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        let at = |address: &Address| address.0.parse::<SocketAddr>().is_ok_and(|a| a.ip() == ip);
        self.entries.iter().any(|(address, entry)| entry.proven && at(address))
    }

    /// The addresses to dial now, at most `most`, marked as being dialed; and when the next is due.
    /// `wanted` are the members that are not connected.
    pub(super) fn due(
        &mut self,
        now_ms: u64,
        wanted: &BTreeSet<NodeId>,
        most: usize,
    ) -> (Vec<Address>, Option<u64>) {
        if wanted.is_empty() {
            return (vec![], None);
        }
        let (mut due, mut next) = (Vec::new(), None);
        for (address, entry) in &mut self.entries {
            let useful = entry.node.is_none_or(|node| wanted.contains(&node));
            if !useful || entry.dialing {
                continue;
            }
            if entry.next_ms <= now_ms && due.len() < most {
                entry.dialing = true;
                due.push(address.clone());
            } else {
                next = Some(next.unwrap_or(u64::MAX).min(entry.next_ms));
            }
        }
        (due, next)
    }

    /// A dial ended. `node`: who has proven to be there, a member or not.
    pub(super) fn dialed(
        &mut self,
        address: &Address,
        node: Option<NodeId>,
        member: bool,
        now_ms: u64,
        jitter: u16,
    ) {
        let Some(entry) = self.entries.get_mut(address) else { return };
        entry.dialing = false;
        let proven = node.filter(|_| member);
        if proven.is_some() {
            entry.node = proven;
            entry.proven = true;
        }
        let longest = match (entry.proven, entry.source) {
            (false, Source::Found) => LONGEST_WAIT_FOUND_MS,
            _ => LONGEST_WAIT_MS,
        };
        // After success, too: a connection that ends at once must not be opened again at once.
        entry.next_ms = now_ms + wait_ms(entry.failures, longest, jitter);
        entry.failures = entry.failures.saturating_add(1);
        if node.is_some() && proven.is_none() && entry.source == Source::Configured {
            // Who was there before is there no more; whoever comes next is told by the dial.
            entry.node = None;
        }
    }

    /// The connection that a dial gave has lasted: the next loss begins with a short wait.
    pub(super) fn lasted(&mut self, address: &Address) {
        if let Some(entry) = self.entries.get_mut(address) {
            entry.failures = 0;
        }
    }

    /// Forgets who is no member (any more), and the addresses that are known by that alone.
    pub(super) fn keep(&mut self, members: &BTreeSet<NodeId>) {
        self.entries.retain(|_, entry| {
            if entry.node.is_none_or(|node| members.contains(&node)) {
                return true;
            }
            // Another gateway may be there now.
            entry.node = None;
            entry.proven = false;
            entry.source != Source::Told
        });
    }

    /// What must be written, and where; none when the file is right.
    pub(super) fn unsaved(&mut self) -> Option<(PathBuf, String)> {
        let file = self.file.clone()?;
        let proven = self.entries.iter().filter(|(_, entry)| entry.proven);
        let text: String = proven
            .filter_map(|(address, entry)| Some((address, entry.node?)))
            .map(|(address, node)| format!("{} {}\n", node.to_gateway_string(), address.0))
            .collect();
        if text == self.saved {
            return None;
        }
        self.saved.clone_from(&text);
        Some((file, text))
    }

    fn insert(
        &mut self,
        address: Address,
        source: Source,
        node: Option<NodeId>,
        proven: bool,
    ) -> bool {
        let of_member = |entry: &Entry| node.is_some() && entry.node == node;
        if self.entries.values().filter(|entry| of_member(entry)).count() >= MAX_OF_MEMBER {
            // The one that failed most often makes room, but not for words if all are proven.
            let worst = self
                .entries
                .iter()
                .filter(|(_, entry)| of_member(entry) && entry.source == Source::Told)
                .filter(|(_, entry)| !entry.dialing && (!entry.proven || entry.failures > 3))
                .max_by_key(|(_, entry)| (!entry.proven, entry.failures));
            let Some(worst) = worst.map(|(address, _)| address.clone()) else { return false };
            self.entries.remove(&worst);
        }
        if self.entries.len() >= MAX_ENTRIES {
            return false;
        }
        let entry = Entry { source, node, proven, failures: 0, next_ms: 0, dialing: false };
        self.entries.insert(address, entry);
        true
    }
}

/// Between half of the exponential wait and all of it: so that gateways that lost each other at
/// the same time do not dial each other at the same time.
fn wait_ms(failures: u32, longest: u64, jitter: u16) -> u64 {
    let whole = FIRST_WAIT_MS.saturating_mul(1 << failures.min(20)).min(longest);
    whole / 2 + whole / 2 * u64::from(jitter) / u64::from(u16::MAX)
}

/// Words about addresses that no member can be dialed at are not kept.
fn is_dialable(address: SocketAddr) -> bool {
    let ip = address.ip().to_canonical();
    address.port() != 0 && !ip.is_unspecified() && !ip.is_multicast()
}

fn read_line(line: &str) -> Option<(NodeId, Address)> {
    let (node, address) = line.split_once(' ')?;
    let (kind, node) = NodeId::parse(node).ok()?;
    (kind == NodeKind::Gateway).then_some((node, Address::parse(address).ok()?))
}

/// Keeps addresses at which members were reached, for the transport that is started next in this
/// data folder: a newcomer has them from its admission, and nobody knows its own yet.
///
/// # Errors
/// The file cannot be written.
pub fn remember<'a>(
    data_dir: &Path,
    reached: impl Iterator<Item = (&'a NodeId, &'a String)>,
) -> io::Result<()> {
    let line =
        |(node, address): (&NodeId, &String)| format!("{} {address}\n", node.to_gateway_string());
    save(&data_dir.join(FILE), &reached.map(line).collect::<String>())
}

/// All or nothing: a new file is synced and takes the name.
pub(super) fn save(file: &Path, text: &str) -> io::Result<()> {
    let new = file.with_extension("new");
    let mut options = OpenOptions::new();
    let mut opened = options.write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    opened.write_all(text.as_bytes())?;
    opened.sync_all()?;
    std::fs::rename(&new, file)?;
    file.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: NodeId = NodeId([1; 20]);
    const B: NodeId = NodeId([2; 20]);

    fn address(text: &str) -> Address {
        Address::parse(text).unwrap()
    }

    #[test]
    fn what_a_newcomer_remembers_is_dialed_by_the_member() {
        let folder = tempfile::tempdir().unwrap();
        let (member, name) = ("192.0.2.1:7447".to_owned(), "gateway.example".to_owned());
        remember(folder.path(), [(&A, &member), (&B, &name)].into_iter()).unwrap();
        let book = AddressBook::open(Some(folder.path())).unwrap();
        let mut proven: Vec<_> = book.proven().map(|(node, at)| (node, at.as_str())).collect();
        proven.sort_unstable();
        assert_eq!(proven, [(A, "192.0.2.1:7447"), (B, "gateway.example:7447")]);
    }

    #[test]
    fn addresses_are_read_in_all_their_forms() {
        let table = [
            ("192.0.2.1:1", "192.0.2.1:1"),
            ("192.0.2.1", "192.0.2.1:7447"),
            ("[2001:db8::1]:5", "[2001:db8::1]:5"),
            ("2001:db8::1", "[2001:db8::1]:7447"),
            ("[2001:db8::1]", "[2001:db8::1]:7447"),
            ("::ffff:192.0.2.1", "192.0.2.1:7447"),
            ("gateway-2.local", "gateway-2.local:7447"),
            ("gateway:9", "gateway:9"),
        ];
        for (text, expected) in table {
            assert_eq!(address(text).as_str(), expected);
        }
        let long = "a".repeat(254);
        for text in ["", ":7447", "host:", "host:0", "host:65536", "a b", "a/b", "x:y:z", &long] {
            assert!(Address::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn only_missing_members_are_dialed() {
        let mut book = AddressBook::default();
        book.configure(address("10.0.0.1"));
        book.told(A, "10.0.0.2:1".parse().unwrap());
        book.told(B, "10.0.0.3:1".parse().unwrap());
        assert_eq!(book.due(0, &BTreeSet::new(), 9), (vec![], None), "alone: nobody is dialed");
        let (due, _) = book.due(0, &BTreeSet::from([A]), 9);
        assert_eq!(due, [address("10.0.0.1"), address("10.0.0.2:1")]);
        assert_eq!(book.due(0, &BTreeSet::from([A]), 9).0, [], "they are being dialed");
        book.dialed(&due[0], Some(B), true, 0, 0);
        book.dialed(&due[1], None, false, 0, u16::MAX);
        let (again, next) = book.due(100, &BTreeSet::from([A]), 9);
        assert_eq!((again, next), (vec![], Some(500)), "the configured one is of B: connected");
        assert_eq!(book.due(500, &BTreeSet::from([A]), 9).0, [address("10.0.0.2:1")]);
    }

    #[test]
    fn waits_grow_to_a_bound_and_are_spread() {
        let all: Vec<u64> = (0..9).map(|failures| wait_ms(failures, 30_000, u16::MAX)).collect();
        assert!(all.windows(2).all(|pair| pair[0] <= pair[1]));
        assert_eq!((all[0], all[8]), (500, 30_000));
        assert_eq!(wait_ms(0, 30_000, 0), 250);
        assert_eq!(wait_ms(u32::MAX, 30_000, 0), 15_000);
    }

    #[test]
    fn words_do_not_push_out_what_is_proven() {
        let mut book = AddressBook::default();
        for n in 1..=4_u8 {
            book.told(A, SocketAddr::from(([10, 0, 0, n], 1)));
        }
        book.due(0, &BTreeSet::from([A]), 9);
        for n in 1..=4_u8 {
            let entry = Address::of(SocketAddr::from(([10, 0, 0, n], 1)));
            book.dialed(&entry, Some(A), true, 0, 0);
        }
        assert!(!book.told(A, "10.0.0.9:1".parse().unwrap()));
        assert!(!book.told(B, "10.0.0.1:1".parse().unwrap()), "nor is its owner changed");
        assert!(book.proven().all(|(node, _)| node == A));
        assert!(book.knows("10.0.0.4".parse().unwrap()));
        assert!(!book.knows("10.0.0.9".parse().unwrap()));
        assert!(!book.told(B, "0.0.0.0:1".parse().unwrap()));
        assert!(!book.told(B, "10.0.0.5:0".parse().unwrap()));
    }

    #[test]
    fn made_up_answers_of_mdns_are_bounded() {
        let mut book = AddressBook::default();
        let found = (0..1_000_u16).filter(|n| book.found(SocketAddr::from(([10, 0, 0, 1], *n))));
        assert_eq!(found.count(), MAX_FOUND);
        assert!(!book.knows("10.0.0.1".parse().unwrap()), "nobody has proven anything");
    }

    #[test]
    fn what_was_proven_is_found_again_and_damage_is_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        let mut book = AddressBook::open(Some(folder.path())).unwrap();
        book.told(A, "10.0.0.2:1".parse().unwrap());
        assert_eq!(book.unsaved(), None, "words are not kept");
        let (due, _) = book.due(0, &BTreeSet::from([A]), 9);
        book.dialed(&due[0], Some(A), true, 0, 0);
        let (file, text) = book.unsaved().unwrap();
        save(&file, &text).unwrap();
        assert_eq!(book.unsaved(), None);
        std::fs::write(&file, format!("nonsense\n{text}\u{0}\n")).unwrap();
        let book = AddressBook::open(Some(folder.path())).unwrap();
        assert_eq!(book.known(), [(A, "10.0.0.2:1".parse().unwrap())]);
        let mut book = book;
        book.keep(&BTreeSet::from([B]));
        assert_eq!(book.known(), []);
    }
}
