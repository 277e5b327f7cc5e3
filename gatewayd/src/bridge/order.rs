//! What a machine was asked to be a bridge of, as it lies on the disk: a restart goes on with it.

use ledger::codec::{Decode, DecodeError, Decoder, Encode, Encoder, Text};
use ledger::crypto::PublicKey;
use ledger::ids::{Hash, Height};
use ledger::proof::Anchor;

use crate::admission::join::JoinOrder;
use crate::control::{ControlError, JoinSite};

/// Version of the file.
const VERSION: u64 = 1;

/// The order to be a bridge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// The site code.
    pub anchor: Anchor,
    /// Address of a member.
    pub address: Option<Text<128>>,
    /// Whether members are looked for by mDNS.
    pub discover: bool,
    /// The member that was found and checked: nobody else is lent anything.
    pub found: Option<Found>,
}

/// A member that was checked against the site code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its identity key.
    pub member: PublicKey,
    /// Where it was.
    pub address: Text<128>,
    /// Name of its site.
    pub site: Text<64>,
}

impl Order {
    /// Checks what the operator asked for.
    ///
    /// # Errors
    /// [`ControlError::InvalidArgument`].
    pub fn new(request: &JoinSite) -> Result<Self, ControlError> {
        // A bridge asks for no label; the rest is that of a newcomer.
        let labelled = JoinSite { full: true, ..request.clone() };
        let JoinOrder { anchor, address, discover, label: _ } = JoinOrder::new(&labelled)?;
        Ok(Self { anchor, address, discover, found: None })
    }
}

impl Encode for Order {
    fn encode(&self, encoder: &mut Encoder) {
        let Self { anchor, address, discover, found } = self;
        encoder.array(6).uint(VERSION).value(&anchor.height).value(&anchor.hash);
        encoder.value(address).bool(*discover).value(found);
    }
}

impl Decode for Order {
    const MAX_BYTES: usize = 512;

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        decoder.fields("bridge", 6)?;
        match decoder.uint("version")? {
            VERSION => {}
            found => return Err(DecodeError::Version { what: "bridge", found }),
        }
        let (height, hash) = (Height::decode(decoder)?, Hash::decode(decoder)?);
        Ok(Self {
            anchor: Anchor { height, hash },
            address: decoder.option()?,
            discover: decoder.bool("discover")?,
            found: decoder.option()?,
        })
    }
}

impl Encode for Found {
    fn encode(&self, encoder: &mut Encoder) {
        let Self { member, address, site } = self;
        encoder.array(3).value(member).value(address).value(site);
    }
}

impl Decode for Found {
    const MAX_BYTES: usize = 256;

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        decoder.fields("member", 3)?;
        Ok(Self {
            member: PublicKey::decode(decoder)?,
            address: Text::decode(decoder)?,
            site: Text::decode(decoder)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ledger::crypto::SigningKey;

    #[test]
    fn an_order_is_read_back() {
        let request = JoinSite {
            address: Some("gw-1".into()),
            discover: false,
            site_code: Anchor { height: Height(4), hash: Hash([1; 32]) }.to_code(),
            full: false,
            coordinator: false,
            bridge: true,
        };
        let mut order = Order::new(&request).unwrap();
        assert_eq!(Order::from_bytes(&order.to_bytes()), Ok(order.clone()));
        order.found = Some(Found {
            member: SigningKey::from_bytes(&[3; 32]).unwrap().public_key(),
            address: Text::new("gw-1").unwrap(),
            site: Text::new("orchard").unwrap(),
        });
        let bytes = order.to_bytes();
        assert_eq!(Order::from_bytes(&bytes), Ok(order));
        for cut in 0..bytes.len() {
            assert!(Order::from_bytes(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        let nowhere = JoinSite { address: None, ..request };
        assert!(matches!(Order::new(&nowhere), Err(ControlError::InvalidArgument(_))));
    }
}
