//! The member's half of a bridge's serial ports: those that its sensors want open, over one
//! connection after the other. `step(input) -> effects`; no socket here.

use std::collections::BTreeMap;

use drivers::serial::link::{Event, LinkError, READ_BYTES};
use ledger::codec::Text;

use super::frame::{FromBridge, FromMember, MAX_PATH, MAX_PORTS, WINDOW, cost};
use crate::admission::messages::Bytes;

/// Names a port that is wanted, for as long as the process runs.
pub type Key = u64;

/// Something has happened.
#[derive(Debug)]
pub enum Input {
    /// The bridge is connected.
    Up,
    /// It is not any more.
    Down,
    /// It says something.
    Said(FromBridge),
    /// A sensor is on this port.
    Want(Key, Text<MAX_PATH>, u32),
    /// It is not any more.
    Unwant(Key),
    /// Write to a port.
    Write(Key, Vec<u8>),
    /// What came from the port of this number has been taken.
    Taken(u16, u32),
}

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub enum Effect {
    /// Send this.
    Send(FromMember),
    /// Tell whoever wants the port; bytes are reported as taken by the number that they came under.
    Tell(Key, u16, Event),
    /// The bridge has broken the rules: end the connection.
    Misbehaved(&'static str),
}

/// The ports of one bridge.
#[derive(Debug, Default)]
pub struct Serving {
    wanted: BTreeMap<Key, Wanted>,
    /// Open ports of this connection, each with what is under way of it.
    open: BTreeMap<u16, (Key, u32)>,
    /// All ports that the bridge has.
    ports: Vec<Text<MAX_PATH>>,
    up: bool,
    next: u16,
}

#[derive(Debug)]
struct Wanted {
    path: Text<MAX_PATH>,
    baud: u32,
    port: Option<u16>,
}

impl Serving {
    /// All ports that the bridge has, as it said last.
    pub fn ports(&self) -> &[Text<MAX_PATH>] {
        &self.ports
    }

    /// Ports that sensors are on.
    pub fn wanted(&self) -> usize {
        self.wanted.len()
    }

    /// Takes one input.
    pub fn step(&mut self, input: Input) -> Vec<Effect> {
        match input {
            Input::Up => {
                self.up = true;
                self.open.clear();
                let wanted: Vec<Key> = self.wanted.keys().copied().collect();
                wanted.into_iter().flat_map(|key| self.open(key)).collect()
            }
            Input::Down => {
                self.up = false;
                self.open.clear();
                self.ports.clear();
                let away = |(key, wanted): (&Key, &mut Wanted)| {
                    wanted.port = None;
                    Effect::Tell(*key, 0, Event::Gone(LinkError::Away))
                };
                self.wanted.iter_mut().map(away).collect()
            }
            Input::Said(message) => self.said(message),
            Input::Want(key, path, baud) => {
                if self.wanted.len() >= MAX_PORTS {
                    return vec![Effect::Tell(key, 0, Event::Gone(LinkError::Busy))];
                }
                self.wanted.insert(key, Wanted { path, baud, port: None });
                match self.up {
                    true => self.open(key).into_iter().collect(),
                    false => vec![Effect::Tell(key, 0, Event::Gone(LinkError::Away))],
                }
            }
            Input::Unwant(key) => {
                let port = self.wanted.remove(&key).and_then(|wanted| wanted.port);
                let open = port.filter(|port| self.open.remove(port).is_some());
                open.map(|port| Effect::Send(FromMember::Close(port))).into_iter().collect()
            }
            Input::Write(key, bytes) => self.write(key, &bytes),
            Input::Taken(port, taken) => {
                // Of an earlier connection nothing is owed.
                let Some((_, under_way)) = self.open.get_mut(&port) else { return vec![] };
                *under_way = under_way.saturating_sub(taken);
                vec![Effect::Send(FromMember::Taken(port, taken))]
            }
        }
    }

    /// Under a number that no port of this connection, and none of a while ago, has.
    fn open(&mut self, key: Key) -> Option<Effect> {
        let wanted = self.wanted.get_mut(&key)?;
        while self.open.contains_key(&self.next) {
            self.next = self.next.wrapping_add(1);
        }
        let port = self.next;
        self.next = self.next.wrapping_add(1);
        wanted.port = Some(port);
        self.open.insert(port, (key, 0));
        let (path, baud) = (wanted.path.clone(), wanted.baud);
        Some(Effect::Send(FromMember::Open { port, path, baud }))
    }

    fn said(&mut self, message: FromBridge) -> Vec<Effect> {
        let (port, event) = match message {
            FromBridge::Ports(ports) => {
                self.ports = ports;
                return vec![];
            }
            FromBridge::Opened(port) => (port, Event::Opened),
            FromBridge::Gone(port, why) => (port, Event::Gone(why)),
            FromBridge::Bytes(port, bytes) => (port, Event::Bytes(bytes.into_vec())),
        };
        // It may have been closed in between.
        let Some((key, under_way)) = self.open.get_mut(&port) else { return vec![] };
        if let Event::Bytes(bytes) = &event {
            *under_way = under_way.saturating_add(cost(bytes));
            if *under_way > WINDOW {
                return vec![Effect::Misbehaved("it sends more of a port than was asked for")];
            }
        }
        vec![Effect::Tell(*key, port, event)]
    }

    fn write(&mut self, key: Key, bytes: &[u8]) -> Vec<Effect> {
        let port = self.wanted.get(&key).and_then(|wanted| wanted.port);
        let Some(port) = port.filter(|_| self.up) else { return vec![] };
        let part = |part: &[u8]| Bytes::new(part.to_vec()).ok();
        let parts = bytes.chunks(READ_BYTES).filter_map(part);
        parts.map(|part| Effect::Send(FromMember::Write(port, part))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path() -> Text<MAX_PATH> {
        Text::new("/dev/ttyUSB0").unwrap()
    }

    fn open(port: u16) -> Effect {
        Effect::Send(FromMember::Open { port, path: path(), baud: 9600 })
    }

    fn bytes(port: u16, length: usize) -> Input {
        Input::Said(FromBridge::Bytes(port, Bytes::new(vec![7; length]).unwrap()))
    }

    fn away(key: Key) -> Effect {
        Effect::Tell(key, 0, Event::Gone(LinkError::Away))
    }

    #[test]
    fn a_wanted_port_is_opened_at_each_connection_anew() {
        let mut serving = Serving::default();
        assert_eq!(serving.step(Input::Want(1, path(), 9600)), [away(1)]);
        assert_eq!(serving.step(Input::Write(1, vec![1])), [], "nobody is there to write it");
        assert_eq!(serving.step(Input::Up), [open(0)]);
        assert_eq!(serving.step(Input::Want(2, path(), 9600)), [open(1)]);
        let effects = serving.step(Input::Said(FromBridge::Opened(0)));
        assert_eq!(effects, [Effect::Tell(1, 0, Event::Opened)]);
        assert_eq!(serving.step(bytes(1, 2)), [Effect::Tell(2, 1, Event::Bytes(vec![7; 2]))]);
        assert_eq!(serving.step(Input::Down), [away(1), away(2)]);
        assert_eq!(serving.step(Input::Up), [open(2), open(3)]);
        assert_eq!(serving.step(Input::Taken(1, 66)), [], "of the connection before");
        assert_eq!(serving.step(bytes(0, 2)), [], "likewise");
        assert_eq!(serving.step(Input::Unwant(1)), [Effect::Send(FromMember::Close(2))]);
        assert_eq!(serving.step(Input::Unwant(1)), []);
        assert_eq!((serving.wanted(), serving.open.len()), (1, 1));
    }

    #[test]
    fn a_bridge_sends_no_more_than_was_taken() {
        let mut serving = Serving::default();
        serving.step(Input::Up);
        serving.step(Input::Want(1, path(), 9600));
        let each = cost(&[0; READ_BYTES]);
        for _ in 0..WINDOW / each {
            assert!(matches!(serving.step(bytes(0, READ_BYTES))[..], [Effect::Tell(..)]));
        }
        let taken = Effect::Send(FromMember::Taken(0, each));
        assert_eq!(serving.step(Input::Taken(0, each)), [taken]);
        assert!(matches!(serving.step(bytes(0, READ_BYTES))[..], [Effect::Tell(..)]));
        assert!(matches!(serving.step(bytes(0, READ_BYTES))[..], [Effect::Misbehaved(_)]));
        // Crumbs cost, too.
        let mut serving = Serving::default();
        serving.step(Input::Up);
        serving.step(Input::Want(1, path(), 9600));
        let crumbs =
            (0..).take_while(|_| matches!(serving.step(bytes(0, 1))[..], [Effect::Tell(..)]));
        assert_eq!(crumbs.count(), (WINDOW / cost(&[0])) as usize);
    }

    #[test]
    fn writes_and_ports_have_bounds() {
        let mut serving = Serving::default();
        serving.step(Input::Up);
        for key in 0..MAX_PORTS as Key {
            assert_eq!(serving.step(Input::Want(key, path(), 9600)).len(), 1);
        }
        let busy = Effect::Tell(999, 0, Event::Gone(LinkError::Busy));
        assert_eq!(serving.step(Input::Want(999, path(), 9600)), [busy]);
        assert_eq!(serving.step(Input::Write(0, vec![0; 2 * READ_BYTES + 1])).len(), 3);
        serving.step(Input::Said(FromBridge::Ports(vec![path()])));
        assert_eq!(serving.ports(), [path()]);
    }
}
