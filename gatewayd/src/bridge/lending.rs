//! The bridge's half of lending serial ports: which the member has open, and how much of each is
//! under way. `step(input) -> effects`; no port and no socket here.

use std::collections::BTreeMap;

use drivers::serial::link::{Event, LinkError};

use super::frame::{FromBridge, FromMember, MAX_PORTS, cost};
use crate::admission::messages::Bytes;

/// Something has happened.
#[derive(Debug)]
pub enum Input {
    /// The member says something.
    Said(FromMember),
    /// An open port does.
    Port(u16, Event),
}

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub enum Effect {
    /// The member has let this bridge in; the name of its site.
    Welcome(String),
    /// Send this.
    Send(FromBridge),
    /// Open a port and keep it open.
    Open {
        /// What the member calls it.
        port: u16,
        /// Device file.
        path: String,
        /// Bit/s.
        baud: u32,
    },
    /// Close it.
    Close(u16),
    /// Write to it.
    Write(u16, Vec<u8>),
    /// So much more of it may be read.
    Read(u16, u32),
    /// The member has broken the rules: end the connection.
    Misbehaved(&'static str),
}

/// Ports that the member has open, each with what is under way of it.
#[derive(Debug, Default)]
pub struct Lending {
    open: BTreeMap<u16, u32>,
    welcome: bool,
}

impl Lending {
    /// How many ports the member has open.
    pub fn count(&self) -> usize {
        self.open.len()
    }

    /// Takes one input.
    pub fn step(&mut self, input: Input) -> Vec<Effect> {
        match input {
            Input::Said(FromMember::Welcome(site)) => {
                self.welcome = true;
                vec![Effect::Welcome(site.as_str().to_owned())]
            }
            Input::Said(_) if !self.welcome => {
                vec![Effect::Misbehaved("the member begins without a welcome")]
            }
            Input::Said(FromMember::Open { port, path, baud }) => {
                self.open(port, path.as_str(), baud)
            }
            Input::Said(FromMember::Close(port)) => {
                self.open.remove(&port).map(|_| Effect::Close(port)).into_iter().collect()
            }
            Input::Said(FromMember::Write(port, bytes)) => {
                let open = self.open.contains_key(&port);
                open.then(|| Effect::Write(port, bytes.into_vec())).into_iter().collect()
            }
            Input::Said(FromMember::Taken(port, taken)) => self.taken(port, taken),
            Input::Port(port, event) => self.port(port, event),
        }
    }

    fn open(&mut self, port: u16, path: &str, baud: u32) -> Vec<Effect> {
        if self.open.contains_key(&port) {
            return vec![Effect::Misbehaved("the member opens a port twice")];
        }
        // A device file of this machine; the driver looks at what it is.
        if !path.starts_with('/') {
            return vec![Effect::Send(FromBridge::Gone(port, LinkError::NotFound))];
        }
        if self.open.len() >= MAX_PORTS {
            return vec![Effect::Send(FromBridge::Gone(port, LinkError::Busy))];
        }
        self.open.insert(port, 0);
        vec![Effect::Open { port, path: path.to_owned(), baud }]
    }

    fn taken(&mut self, port: u16, taken: u32) -> Vec<Effect> {
        // It may have been closed in between.
        let Some(under_way) = self.open.get_mut(&port) else { return vec![] };
        match under_way.checked_sub(taken) {
            Some(left) => {
                *under_way = left;
                vec![Effect::Read(port, taken)]
            }
            None => vec![Effect::Misbehaved("the member has taken more than was sent")],
        }
    }

    fn port(&mut self, port: u16, event: Event) -> Vec<Effect> {
        let Some(under_way) = self.open.get_mut(&port) else { return vec![] };
        let message = match event {
            Event::Opened => FromBridge::Opened(port),
            Event::Gone(why) => FromBridge::Gone(port, why),
            Event::Bytes(bytes) => {
                *under_way = under_way.saturating_add(cost(&bytes));
                // The driver reads no more at once than a message takes.
                let Ok(bytes) = Bytes::new(bytes) else { return vec![] };
                FromBridge::Bytes(port, bytes)
            }
        };
        vec![Effect::Send(message)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ledger::codec::Text;

    fn said(message: FromMember) -> Input {
        Input::Said(message)
    }

    fn open(port: u16, path: &str) -> Input {
        said(FromMember::Open { port, path: Text::new(path).unwrap(), baud: 9600 })
    }

    fn welcome() -> Lending {
        let mut lending = Lending::default();
        let effects = lending.step(said(FromMember::Welcome(Text::new("orchard").unwrap())));
        assert_eq!(effects, [Effect::Welcome("orchard".into())]);
        lending
    }

    #[test]
    fn a_port_is_opened_read_written_and_closed() {
        let mut lending = welcome();
        let effects = lending.step(open(3, "/dev/ttyUSB0"));
        assert_eq!(effects, [Effect::Open { port: 3, path: "/dev/ttyUSB0".into(), baud: 9600 }]);
        let effects = lending.step(Input::Port(3, Event::Opened));
        assert_eq!(effects, [Effect::Send(FromBridge::Opened(3))]);
        let bytes = lending.step(Input::Port(3, Event::Bytes(b"ab".to_vec())));
        let sent = FromBridge::Bytes(3, Bytes::new(b"ab".to_vec()).unwrap());
        assert_eq!(bytes, [Effect::Send(sent)]);
        assert_eq!(lending.step(said(FromMember::Taken(3, 66))), [Effect::Read(3, 66)]);
        let write = FromMember::Write(3, Bytes::new(b"c".to_vec()).unwrap());
        assert_eq!(lending.step(said(write.clone())), [Effect::Write(3, b"c".to_vec())]);
        assert_eq!(lending.step(said(FromMember::Close(3))), [Effect::Close(3)]);
        // What was under way then reaches nobody.
        assert_eq!(lending.step(Input::Port(3, Event::Opened)), []);
        assert_eq!(lending.step(said(write)), []);
        assert_eq!(lending.step(said(FromMember::Taken(3, 1))), []);
        assert_eq!(lending.step(said(FromMember::Close(3))), []);
    }

    #[test]
    fn a_member_that_breaks_the_rules_is_named() {
        let mut unwelcome = Lending::default();
        assert!(matches!(unwelcome.step(open(1, "/dev/x"))[..], [Effect::Misbehaved(_)]));
        let mut lending = welcome();
        lending.step(open(1, "/dev/x"));
        assert!(matches!(lending.step(open(1, "/dev/y"))[..], [Effect::Misbehaved(_)]));
        let more = lending.step(said(FromMember::Taken(1, 1)));
        assert!(matches!(more[..], [Effect::Misbehaved(_)]));
        let gone = |port, why| vec![Effect::Send(FromBridge::Gone(port, why))];
        assert_eq!(lending.step(open(2, "tcp:1")), gone(2, LinkError::NotFound));
        for port in 10..10 + MAX_PORTS as u16 {
            lending.step(open(port, "/dev/x"));
        }
        assert_eq!(lending.step(open(999, "/dev/x")), gone(999, LinkError::Busy));
        assert_eq!(lending.count(), MAX_PORTS);
    }
}
