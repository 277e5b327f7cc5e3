//! A state entry with the proof that it is in the map, or that there is none.

use alloc::vec::Vec;

use super::{Key, Record, State, map::MapProof, map::value_hash};
use crate::{
    codec::{Decode, DecodeError, Decoder, Encode, Encoder},
    ids::Hash,
};

/// What is under a key of the state, provable against a `state_root`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateProof {
    key: Key,
    value: Option<Vec<u8>>,
    map: MapProof,
}

impl State {
    /// Proves what is under a key now.
    pub fn state_proof(&self, key: &Key) -> StateProof {
        StateProof { key: *key, value: self.value(key), map: self.prove(key) }
    }
}

impl StateProof {
    /// The key that is asked.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// The entry under a root: `Some(None)` when there provably is none, `None` when the proof
    /// does not hold under this root.
    pub fn under(&self, root: &Hash) -> Option<Option<Record>> {
        let path = self.key.path();
        match &self.value {
            None => self.map.shows_absence(root, &path).then_some(None),
            Some(value) if self.map.shows_value(root, &path, value) => {
                Record::from_bytes(&self.key, value).ok().map(Some)
            }
            Some(_) => None,
        }
    }
}

/// Largest value of a state entry in a proof, in bytes.
const MAX_VALUE: usize = 4096;

impl Encode for StateProof {
    fn encode(&self, encoder: &mut Encoder) {
        let key = self.key.to_bytes();
        match &self.value {
            Some(value) => {
                encoder.array(5).bytes(&key).bytes(value);
                self.map.encode_siblings(encoder);
            }
            None => {
                encoder.array(3).bytes(&key).null().value(&self.map);
            }
        }
    }
}

impl Decode for StateProof {
    const MAX_BYTES: usize = MapProof::MAX_BYTES + MAX_VALUE + 64;

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let fields = decoder.array("state proof", 5)?;
        let key = Key::from_bytes(decoder.bytes("state key", 64)?)?;
        match (fields, decoder.null()) {
            (3, true) => Ok(Self { key, value: None, map: MapProof::decode(decoder)? }),
            (5, false) => {
                let value = decoder.bytes("state value", MAX_VALUE)?.to_vec();
                let siblings = MapProof::decode_siblings(decoder)?;
                let terminal = (key.path(), value_hash(&value));
                let map = MapProof::of_entry(siblings, terminal);
                Ok(Self { key, value: Some(value), map })
            }
            _ => Err(DecodeError::Invalid("state proof")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{fixture::Fixture, ids::NodeId};

    #[test]
    fn entries_and_their_absence_are_proved_and_read_back() {
        let mut site = Fixture::new();
        let node = site.join(2);
        let root = site.state.root();
        let stranger = NodeId([9; 20]);
        for (key, there) in [
            (Key::Gateway(site.gateway()), true),
            (Key::LightNode(node), true),
            (Key::Site, true),
            (Key::Gateway(stranger), false),
            (Key::LightNode(stranger), false),
        ] {
            let proof = site.state.state_proof(&key);
            let read = StateProof::from_bytes(&proof.to_bytes()).unwrap();
            assert_eq!(read, proof);
            assert_eq!(read.under(&root).map(|entry| entry.is_some()), Some(there), "{key:?}");
            assert_eq!(read.under(&Hash([1; 32])), None);
        }
    }

    #[test]
    fn a_value_is_no_proof_of_another_keys_value() {
        let mut site = Fixture::new();
        let (a, b) = (site.join(2), site.join(3));
        let root = site.state.root();
        let mut forged = site.state.state_proof(&Key::LightNode(a));
        forged.key = Key::LightNode(b);
        assert_eq!(forged.under(&root), None);
        let mut denied = site.state.state_proof(&Key::LightNode(a));
        denied.value = None;
        assert_eq!(denied.under(&root), None);
    }
}
