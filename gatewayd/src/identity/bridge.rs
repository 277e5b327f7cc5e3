//! What lies on the disk about bridges: on a bridge the order to be one, on a member those that
//! were let in.
//!
//! ```text
//! bridge.cbor      whose bridge this machine is; its key is the identity key of its TPM
//! bridges.cbor     the bridges of this gateway
//! ```

use attestation::tpm::{IdentityInfo, Tpm, TpmError};
use ledger::codec::{Decode, Encode};

use super::{Folder, IdentityError};
use crate::bridge::{List, Order};

impl Folder {
    /// Makes the identity key and keeps the order to be a bridge. A join that is under way gives
    /// way to it; so does an earlier order.
    ///
    /// # Errors
    /// [`IdentityError`]; a gateway that has a site is no bridge.
    pub fn become_bridge(&self, tpm: &Tpm, order: &Order) -> Result<(), IdentityError> {
        if self.joining()?.is_none() {
            self.must_be_new()?;
        }
        let info = match tpm.create_identity() {
            Err(TpmError::IdentityExists { .. }) => tpm.load_identity()?,
            other => other?,
        };
        self.write("identity.pub", &info.identity)?;
        self.keep_bridge_order(order)?;
        self.abandon_join()
    }

    /// Whose bridge this machine is: nobody's once there is a site or a join.
    ///
    /// # Errors
    /// Damaged or unreadable.
    pub fn bridging(&self) -> Result<Option<Order>, IdentityError> {
        for name in ["genesis.cbor", "join.cbor"] {
            if self.read(name)?.is_some() {
                return Ok(None);
            }
        }
        let Some(bytes) = self.read("bridge.cbor")? else { return Ok(None) };
        let order = Order::from_bytes(&bytes);
        order.map(Some).map_err(|_| IdentityError::Invalid("bridge.cbor is damaged"))
    }

    /// Keeps what has become of the order.
    ///
    /// # Errors
    /// [`IdentityError::Io`].
    pub fn keep_bridge_order(&self, order: &Order) -> Result<(), IdentityError> {
        self.write("bridge.cbor", &order.to_bytes())
    }

    /// This machine is no bridge any more. Its key stays, to be used by what it does next.
    ///
    /// # Errors
    /// [`IdentityError::Io`].
    pub fn abandon_bridge(&self) -> Result<(), IdentityError> {
        self.remove("bridge.cbor")
    }

    /// Opens the key of a bridge.
    ///
    /// # Errors
    /// [`IdentityError`]; [`TpmError::AnotherTpm`] when it is not the TPM that made it.
    pub fn bridge_key(&self, tpm: &Tpm) -> Result<IdentityInfo, IdentityError> {
        Ok(tpm.load_identity()?)
    }

    /// The bridges that were let in here.
    ///
    /// # Errors
    /// Damaged or unreadable.
    pub fn bridges(&self) -> Result<List, IdentityError> {
        let Some(bytes) = self.read("bridges.cbor")? else { return Ok(List::default()) };
        List::from_bytes(&bytes).map_err(|_| IdentityError::Invalid("bridges.cbor is damaged"))
    }

    /// Keeps them.
    ///
    /// # Errors
    /// [`IdentityError::Io`].
    pub fn keep_bridges(&self, list: &List) -> Result<(), IdentityError> {
        self.write("bridges.cbor", &list.to_bytes())
    }
}
