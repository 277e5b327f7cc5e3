//! Which boots may open a sealed secret: policies over registers that the operator signs.
//!
//! A secret is sealed to the operator's key, not to registers (`TPM2_PolicyAuthorize`): each
//! register state that may open it is signed apart, before an update as well as after it, and the
//! sealed blob stays as it is. So an update bricks nothing, and a boot that nobody signed opens
//! nothing. Pure: the operator's side needs no TPM.
//!
//! What is signed carries an epoch, which is also part of what the secret is sealed to. Sealing the
//! secret anew in the next epoch ends all older signatures for it.

use crate::bytes::{ParseError, Reader};
use crate::crypto::{es256_verifies, sha256};
use crate::pcr::{PcrSelection, composite};
use crate::public::ALG_SHA256;

const CC_POLICY_PCR: u32 = 0x0000_017f;

const APPROVAL_MAGIC: &[u8; 8] = b"gwappr\0\x01";

/// What a signature over a policy begins its reference with, so that it is good for nothing else.
const REFERENCE_TAG: &[u8; 8] = b"gwpcr\0\0\x01";

/// A P-256 public key: SEC1, uncompressed (`04 ‖ x ‖ y`).
pub type OperatorKey = [u8; 65];

/// The policy digest of `TPM2_PolicyPCR` over these values (TPM 2.0 Library, Part 3, 23.7): what an
/// operator signs to let a boot with these registers open sealed secrets.
#[must_use]
pub fn pcr_policy_digest(pcrs: PcrSelection, values: &[[u8; 32]]) -> [u8; 32] {
    let command = CC_POLICY_PCR.to_be_bytes();
    sha256(&[&[0; 32], &command, &selection_bytes(pcrs), &composite(values)])
}

/// `TPML_PCR_SELECTION` of registers of the SHA-256 bank.
fn selection_bytes(pcrs: PcrSelection) -> [u8; 10] {
    let [a, b, c] = pcrs.bitmap();
    let [high, low] = ALG_SHA256.to_be_bytes();
    [0, 0, 0, 1, high, low, 3, a, b, c]
}

/// The message whose ES256 signature by the operator approves a policy in an epoch.
#[must_use]
pub fn approval_message(policy: &[u8; 32], epoch: u64) -> Vec<u8> {
    [policy.as_slice(), &policy_reference(epoch)].concat()
}

/// `policyRef` of an epoch.
pub(crate) fn policy_reference(epoch: u64) -> [u8; 16] {
    let mut reference = [0; 16];
    reference[..8].copy_from_slice(REFERENCE_TAG);
    reference[8..].copy_from_slice(&epoch.to_be_bytes());
    reference
}

/// The operator's word that a boot with certain registers may open what is sealed in an epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Approval {
    /// The registers.
    pub pcrs: PcrSelection,
    /// Digest over their values: [`pcr_policy_digest`].
    pub policy: [u8; 32],
    /// The epoch.
    pub epoch: u64,
    /// Whose word it is.
    pub operator: OperatorKey,
    /// ES256 (r ‖ s) over [`approval_message`].
    pub signature: [u8; 64],
}

impl Approval {
    /// Length on the wire, in bytes.
    pub const LEN: usize = 8 + 3 + 32 + 8 + 65 + 64;

    /// Whether the operator signed it.
    #[must_use]
    pub fn verifies(&self) -> bool {
        let message = approval_message(&self.policy, self.epoch);
        es256_verifies(&self.operator, &message, &self.signature)
    }

    /// The wire form.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let Self { pcrs, policy, epoch, operator, signature } = self;
        let epoch = epoch.to_be_bytes();
        [APPROVAL_MAGIC.as_slice(), &pcrs.bitmap(), policy, &epoch, operator, signature].concat()
    }

    /// Parses the wire form. The signature is not looked at.
    ///
    /// # Errors
    /// Another magic or version, no register, another length.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ParseError> {
        let mut reader = Reader::new(bytes);
        if reader.array::<8>("approval.magic")? != *APPROVAL_MAGIC {
            return Err(ParseError::Invalid { field: "approval.magic" });
        }
        let approval = Self {
            pcrs: PcrSelection::from_bitmap(reader.array("approval.pcrs")?)?,
            policy: reader.array("approval.policy")?,
            epoch: reader.u64("approval.epoch")?,
            operator: reader.array("approval.operator")?,
            signature: reader.array("approval.signature")?,
        };
        reader.finish("approval")?;
        Ok(approval)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_approval_has_one_form_and_every_cut_is_an_error() {
        let approval = Approval {
            pcrs: PcrSelection::FIRMWARE,
            policy: [1; 32],
            epoch: 7,
            operator: [4; 65],
            signature: [9; 64],
        };
        let bytes = approval.to_bytes();
        assert_eq!(bytes.len(), Approval::LEN);
        assert_eq!(Approval::from_bytes(&bytes), Ok(approval.clone()));
        for len in 0..bytes.len() {
            assert!(Approval::from_bytes(&bytes[..len]).is_err(), "cut at {len}");
        }
        assert!(Approval::from_bytes(&[bytes, vec![0]].concat()).is_err());
        assert!(!approval.verifies(), "no point, no signature");
    }

    #[test]
    fn registers_values_and_epoch_are_all_in_what_is_signed() {
        let one = PcrSelection::new(&[4]).unwrap();
        let other = PcrSelection::new(&[7]).unwrap();
        let digest = pcr_policy_digest(one, &[[1; 32]]);
        assert_ne!(digest, pcr_policy_digest(other, &[[1; 32]]));
        assert_ne!(digest, pcr_policy_digest(one, &[[2; 32]]));
        assert_ne!(approval_message(&digest, 1), approval_message(&digest, 2));
    }
}
