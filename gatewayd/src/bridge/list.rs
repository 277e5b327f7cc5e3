//! The bridges that a member's administrator has let in, as they lie on the disk.

use ledger::codec::{Decode, DecodeError, Decoder, Encode, Encoder, Text};
use ledger::crypto::PublicKey;
use ledger::ids::NodeId;

use crate::control::{ControlError, Result};

/// Version of the file.
const VERSION: u64 = 1;

/// Bridges of one member: each has quotas of its own, and together they must not crowd it.
pub const MAX_BRIDGES: usize = 16;

/// A bridge that was let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bridge {
    /// Its identity key.
    pub identity: PublicKey,
    /// What the administrator calls it; empty: by its ID.
    pub name: Text<64>,
    /// When it was let in, ms since 1970.
    pub added_ms: u64,
}

impl Bridge {
    /// Its node ID.
    pub fn node(&self) -> NodeId {
        NodeId::of_key(&self.identity)
    }
}

/// All of them, in the order in which they were let in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct List(Vec<Bridge>);

impl List {
    /// All.
    pub fn iter(&self) -> impl Iterator<Item = &Bridge> {
        self.0.iter()
    }

    /// The one with this ID.
    pub fn get(&self, node: &NodeId) -> Option<&Bridge> {
        self.0.iter().find(|bridge| bridge.node() == *node)
    }

    /// Lets one in, or gives it another name.
    ///
    /// # Errors
    /// There are too many, or another one has the name.
    pub fn put(&mut self, bridge: Bridge) -> Result<()> {
        let node = bridge.node();
        let named = |other: &Bridge| other.name == bridge.name && other.node() != node;
        if !bridge.name.as_str().is_empty() && self.iter().any(named) {
            let why = format!("another bridge is called {}", bridge.name.as_str());
            return Err(ControlError::InvalidArgument(why));
        }
        if let Some(known) = self.0.iter_mut().find(|known| known.node() == node) {
            *known = bridge;
            return Ok(());
        }
        if self.0.len() >= MAX_BRIDGES {
            let why = format!("{MAX_BRIDGES} bridges are let in here: forget one first");
            return Err(ControlError::Refused(why));
        }
        self.0.push(bridge);
        Ok(())
    }

    /// Forgets one; false when there was none.
    pub fn remove(&mut self, node: &NodeId) -> bool {
        let before = self.0.len();
        self.0.retain(|bridge| bridge.node() != *node);
        self.0.len() < before
    }

    /// The one with this name, this ID, or the only one whose ID begins so.
    ///
    /// # Errors
    /// None, or several.
    pub fn find(&self, who: &str) -> Result<&Bridge> {
        let not_found = || ControlError::NotFound { what: "bridge", name: who.to_owned() };
        let named = |bridge: &&Bridge| !who.is_empty() && bridge.name.as_str() == who;
        if let Some(named) = self.iter().find(named) {
            return Ok(named);
        }
        if who.len() < MIN_PREFIX || !who.starts_with("gw1") {
            return Err(not_found());
        }
        let begins = |bridge: &&Bridge| bridge.node().to_gateway_string().starts_with(who);
        let mut found = self.iter().filter(begins);
        let first = found.next().ok_or_else(not_found)?;
        match found.next() {
            None => Ok(first),
            Some(_) => {
                let why = format!("several bridges begin with {who}: give more of the ID");
                Err(ControlError::InvalidArgument(why))
            }
        }
    }
}

/// Shortest beginning of an ID that names a bridge: `gw1` and four characters of its own.
const MIN_PREFIX: usize = 7;

impl Encode for List {
    fn encode(&self, encoder: &mut Encoder) {
        encoder.array(2).uint(VERSION).list(&self.0);
    }
}

impl Decode for List {
    const MAX_BYTES: usize = 4096;

    fn decode(decoder: &mut Decoder<'_>) -> std::result::Result<Self, DecodeError> {
        decoder.fields("bridges", 2)?;
        match decoder.uint("version")? {
            VERSION => Ok(Self(decoder.list("bridges", MAX_BRIDGES)?)),
            found => Err(DecodeError::Version { what: "bridges", found }),
        }
    }
}

impl Encode for Bridge {
    fn encode(&self, encoder: &mut Encoder) {
        let Self { identity, name, added_ms } = self;
        encoder.array(3).value(identity).value(name).value(added_ms);
    }
}

impl Decode for Bridge {
    const MAX_BYTES: usize = 160;

    fn decode(decoder: &mut Decoder<'_>) -> std::result::Result<Self, DecodeError> {
        decoder.fields("bridge", 3)?;
        Ok(Self {
            identity: PublicKey::decode(decoder)?,
            name: Text::decode(decoder)?,
            added_ms: u64::decode(decoder)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ledger::crypto::SigningKey;

    fn bridge(number: u8, name: &str) -> Bridge {
        let identity = SigningKey::from_bytes(&[number; 32]).unwrap().public_key();
        Bridge { identity, name: Text::new(name).unwrap(), added_ms: 7 }
    }

    #[test]
    fn bridges_are_few_have_names_and_come_back_from_the_disk() {
        let mut list = List::default();
        for number in 1..=MAX_BRIDGES as u8 {
            list.put(bridge(number, "")).unwrap();
        }
        assert!(matches!(list.put(bridge(99, "")), Err(ControlError::Refused(_))));
        list.put(bridge(3, "barn")).unwrap();
        assert!(matches!(list.put(bridge(4, "barn")), Err(ControlError::InvalidArgument(_))));
        assert_eq!(list.iter().count(), MAX_BRIDGES);
        let bytes = list.to_bytes();
        assert_eq!(List::from_bytes(&bytes), Ok(list.clone()));
        for cut in 0..bytes.len() {
            assert!(List::from_bytes(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        let id = bridge(3, "").node().to_gateway_string();
        for who in ["barn", &id, &id[..20]] {
            assert_eq!(list.find(who).map(Bridge::node).ok(), Some(bridge(3, "").node()), "{who}");
        }
        for who in ["", "gw1", "shed"] {
            assert!(matches!(list.find(who), Err(ControlError::NotFound { .. })), "{who}");
        }
        assert!(list.remove(&bridge(3, "").node()) && !list.remove(&bridge(3, "").node()));
    }
}
