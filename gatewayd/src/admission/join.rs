//! What a join was asked to do, as it lies on the disk: a restart goes on with it.

use ledger::codec::{Decode, DecodeError, Decoder, Encode, Encoder, Text};
use ledger::ids::{Hash, Height};
use ledger::proof::Anchor;
use ledger::transaction::Label;

use crate::control::{ControlError, JoinSite};

/// Version of the file.
const VERSION: u64 = 1;

/// The order to join a site.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinOrder {
    /// The site code.
    pub anchor: Anchor,
    /// Address of a member.
    pub address: Option<Text<128>>,
    /// Whether members are looked for by mDNS.
    pub discover: bool,
    /// The label that is asked for.
    pub label: Label,
}

impl JoinOrder {
    /// Checks what the operator asked for.
    ///
    /// # Errors
    /// [`ControlError::InvalidArgument`].
    pub fn new(request: &JoinSite) -> Result<Self, ControlError> {
        let invalid = |what: String| ControlError::InvalidArgument(what);
        let anchor = Anchor::parse(&request.site_code)
            .map_err(|error| invalid(format!("the site code: {error}")))?;
        let address = request.address.as_deref().map(|address| Text::new(address.trim()));
        let address = address.transpose().map_err(|error| invalid(format!("address: {error}")))?;
        if address.is_none() && !request.discover {
            return Err(invalid("give the address of a member, or --discover".into()));
        }
        let label = Label { full: request.full, coordinator: request.coordinator };
        if !label.full && !label.coordinator {
            return Err(invalid("a gateway is a full node, a coordinator, or both".into()));
        }
        Ok(Self { anchor, address, discover: request.discover, label })
    }
}

impl JoinOrder {
    /// What a gateway without a hardware TPM is told, with the very command for what it can be.
    pub fn no_hardware(&self) -> String {
        let place = match &self.address {
            Some(address) => address.as_str(),
            None => "--discover",
        };
        format!(
            "; without a hardware TPM that the site trusts, this gateway cannot be a full node or \
             coordinator here; as a bridge it can lend its ports and its packet forwarder to a \
             member: `gatewayctl gateway join {place} --site {} --bridge`",
            self.anchor.to_code()
        )
    }
}

impl Encode for JoinOrder {
    fn encode(&self, encoder: &mut Encoder) {
        let Self { anchor, address, discover, label } = self;
        encoder.array(6).uint(VERSION).value(&anchor.height).value(&anchor.hash);
        encoder.value(address).bool(*discover).value(label);
    }
}

impl Decode for JoinOrder {
    const MAX_BYTES: usize = 512;

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        decoder.fields("join", 6)?;
        match decoder.uint("version")? {
            VERSION => {}
            found => return Err(DecodeError::Version { what: "join", found }),
        }
        let (height, hash) = (Height::decode(decoder)?, Hash::decode(decoder)?);
        Ok(Self {
            anchor: Anchor { height, hash },
            address: decoder.option()?,
            discover: decoder.bool("discover")?,
            label: Label::decode(decoder)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> JoinSite {
        JoinSite {
            address: Some(" gw-1:7447 ".into()),
            discover: false,
            site_code: Anchor { height: Height(4), hash: Hash([1; 32]) }.to_code(),
            full: true,
            coordinator: true,
            bridge: false,
        }
    }

    #[test]
    fn a_bridge_is_offered_with_its_command() {
        let (order, code) = (JoinOrder::new(&request()).unwrap(), request().site_code);
        let command = format!("`gatewayctl gateway join gw-1:7447 --site {code} --bridge`");
        assert!(order.no_hardware().ends_with(&command), "{}", order.no_hardware());
        let discovering = JoinSite { address: None, discover: true, ..request() };
        let words = JoinOrder::new(&discovering).unwrap().no_hardware();
        assert!(words.contains("join --discover --site"), "{words}");
    }

    #[test]
    fn an_order_is_read_back_and_a_wrong_one_is_refused() {
        let order = JoinOrder::new(&request()).unwrap();
        assert_eq!(order.address.as_ref().map(Text::as_str), Some("gw-1:7447"));
        assert_eq!(JoinOrder::from_bytes(&order.to_bytes()), Ok(order.clone()));
        let bytes = order.to_bytes();
        for len in 0..bytes.len() {
            assert!(JoinOrder::from_bytes(&bytes[..len]).is_err(), "cut at {len}");
        }
        let site = JoinSite { site_code: "gws1qqqq".into(), ..request() };
        let nowhere = JoinSite { address: None, ..request() };
        let nothing = JoinSite { full: false, coordinator: false, ..request() };
        for wrong in [site, nowhere, nothing] {
            assert!(matches!(JoinOrder::new(&wrong), Err(ControlError::InvalidArgument(_))));
        }
        let found = JoinSite { address: None, discover: true, ..request() };
        assert!(JoinOrder::new(&found).is_ok());
    }
}
