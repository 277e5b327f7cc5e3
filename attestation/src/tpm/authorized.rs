//! Secrets that this TPM gives back only to a boot which the operator has approved: objects under
//! the storage root key whose policy is `TPM2_PolicyAuthorize` (measured profiles). See
//! [`crate::pcr_policy`] for what is signed.

use tss_esapi::constants::SessionType;
use tss_esapi::handles::{KeyHandle, SessionHandle};
use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::interface_types::resource_handles::Hierarchy;
use tss_esapi::interface_types::session_handles::{AuthSession, PolicySession};
use tss_esapi::structures::{
    Digest, Name as TssName, Nonce, Public as TssPublic, Signature, SymmetricDefinition,
    VerifiedTicket,
};
use tss_esapi::traits::UnMarshall;
use zeroize::Zeroizing;

use crate::bytes::put_sized;
use crate::crypto::sha256;
use crate::pcr::PcrSelection;
use crate::pcr_policy::{
    Approval, OperatorKey, approval_message, pcr_policy_digest, policy_reference,
};
use crate::public::{
    ALG_ECC, ALG_ECDSA, ALG_NULL, ALG_SHA256, Attributes, CURVE_P256, HashAlgorithm, Name,
};
use crate::tpm::TpmError;
use crate::tpm::blob::{AuthorizedBlob, WrappedKey};
use crate::tpm::connection::{EMPTY_PASSWORD, Engine, Link, Slot};
use crate::tpm::error::During;
use crate::tpm::keys::{read_registers, tss_selection};
use crate::tpm::objects::load_child;
use crate::tpm::response;
use crate::tpm::seal::check_secret;

impl Engine {
    pub(super) fn seal_authorized(
        &mut self,
        secret: &[u8],
        operator: &OperatorKey,
        epoch: u64,
    ) -> Result<Vec<u8>, TpmError> {
        check_secret(secret)?;
        let policy = authorized_policy(operator, epoch);
        let sealed = self.with_link(|link| {
            // A key that the TPM does not take would make a blob that never opens.
            let key = link.load_operator(operator)?;
            link.flush(key.into())?;
            link.create_sealed(secret, Some(&policy))
        })?;
        Ok(AuthorizedBlob { sealed, operator: *operator, epoch }.to_bytes())
    }

    pub(super) fn unseal_authorized(
        &mut self,
        blob: &[u8],
        approvals: &[Approval],
    ) -> Result<Zeroizing<Vec<u8>>, TpmError> {
        let damaged = |why| TpmError::Damaged { what: "of a sealed secret".to_owned(), why };
        let blob = AuthorizedBlob::from_bytes(blob).map_err(damaged)?;
        let usable: Vec<&Approval> = approvals
            .iter()
            .filter(|approval| approval.operator == blob.operator && approval.epoch == blob.epoch)
            .filter(|approval| approval.verifies())
            .collect();
        if usable.is_empty() {
            return Err(TpmError::NoApproval { epoch: blob.epoch });
        }
        let store = self.store.clone();
        self.with_link(|link| {
            link.require_srk(&blob.sealed.srk_name, || store.load())?;
            let srk = link.storage_root_key()?;
            let approval = link.approval_of_this_boot(&usable)?;
            let ticket = link.check_approval(approval)?;
            link.unseal_with(srk, &blob.sealed.object, approval, ticket)
        })
    }
}

impl Link {
    /// Loads the public part of an operator's key. In the owner hierarchy: a ticket of the null
    /// hierarchy is good for no policy.
    fn load_operator(&mut self, operator: &OperatorKey) -> Result<KeyHandle, TpmError> {
        self.make_room(1, &[])?;
        let public = TssPublic::unmarshall(&operator_public(operator)).during("an operator key")?;
        self.context
            .execute_without_session(|context| {
                context.load_external_public(public, Hierarchy::Owner)
            })
            .during("TPM2_LoadExternal")
    }

    /// The TPM's own word that the operator signed the approval.
    fn check_approval(&mut self, approval: &Approval) -> Result<VerifiedTicket, TpmError> {
        let key = self.load_operator(&approval.operator)?;
        self.with_temporary(key.into(), |link| {
            let message = approval_message(&approval.policy, approval.epoch);
            let digest = Digest::try_from(sha256(&[&message]).to_vec());
            let digest = digest.during("TPM2_VerifySignature")?;
            let signature = Signature::unmarshall(&ecdsa(&approval.signature));
            let signature = signature.during("TPM2_VerifySignature")?;
            link.context
                .execute_without_session(|context| context.verify_signature(key, digest, signature))
                .during("TPM2_VerifySignature")
        })
    }

    /// The approval whose registers are those of now.
    fn approval_of_this_boot<'a>(
        &mut self,
        approvals: &[&'a Approval],
    ) -> Result<&'a Approval, TpmError> {
        let mut read: Option<(PcrSelection, Vec<[u8; 32]>)> = None;
        for approval in approvals {
            let values = match read.take() {
                Some((pcrs, values)) if pcrs == approval.pcrs => values,
                _ => read_registers(&mut self.context, approval.pcrs)?,
            };
            if pcr_policy_digest(approval.pcrs, &values) == approval.policy {
                return Ok(approval);
            }
            read = Some((approval.pcrs, values));
        }
        Err(TpmError::BootNotApproved { approvals: approvals.len() })
    }

    fn satisfy_pcr(&mut self, session: PolicySession, approval: &Approval) -> Result<(), TpmError> {
        let selection = tss_selection(approval.pcrs)?;
        self.context
            .execute_without_session(|context| {
                context.policy_pcr(session, Digest::default(), selection)
            })
            .during("TPM2_PolicyPCR")
    }

    fn unseal_with(
        &mut self,
        srk: KeyHandle,
        object: &WrappedKey,
        approval: &Approval,
        ticket: VerifiedTicket,
    ) -> Result<Zeroizing<Vec<u8>>, TpmError> {
        self.make_room(1, &[Slot::StorageRoot])?;
        let object = load_child(&mut self.context, srk, object, EMPTY_PASSWORD)
            .map_err(crate::tpm::seal::damaged_blob)?;
        let data = self.with_temporary(object.into(), |link| {
            link.with_policy_session(srk, |link, session| {
                link.satisfy_pcr(policy(session)?, approval)?;
                link.authorize(policy(session)?, approval, ticket)?;
                link.context
                    .execute_with_session(session, |context| context.unseal(object.into()))
                    .during("TPM2_Unseal")
            })
        });
        let data = data.map_err(|error| {
            // The registers changed since they were looked at, or the blob is of another policy.
            if error.is_refusal(response::POLICY_FAIL) || error.is_refusal(response::PCR_CHANGED) {
                return TpmError::BootNotApproved { approvals: 1 };
            }
            error
        })?;
        Ok(Zeroizing::new(data.value().to_vec()))
    }

    fn authorize(
        &mut self,
        session: PolicySession,
        approval: &Approval,
        ticket: VerifiedTicket,
    ) -> Result<(), TpmError> {
        let during = "TPM2_PolicyAuthorize";
        let approved = Digest::try_from(approval.policy.to_vec()).during(during)?;
        let reference = policy_reference(approval.epoch).to_vec();
        let reference = Nonce::try_from(reference).during(during)?;
        let name = operator_name(&approval.operator).as_bytes().to_vec();
        let name = TssName::try_from(name).during(during)?;
        self.context
            .execute_without_session(|context| {
                context.policy_authorize(session, approved, reference, &name, ticket)
            })
            .during(during)
    }

    /// A policy session salted with the storage root key, which encrypts the answer.
    fn with_policy_session<T>(
        &mut self,
        srk: KeyHandle,
        use_it: impl FnOnce(&mut Self, Option<AuthSession>) -> Result<T, TpmError>,
    ) -> Result<T, TpmError> {
        let session = self
            .context
            .start_auth_session(
                Some(srk),
                None,
                None,
                SessionType::Policy,
                SymmetricDefinition::AES_128_CFB,
                HashingAlgorithm::Sha256,
            )
            .during("TPM2_StartAuthSession")?;
        self.with_temporary(SessionHandle::from(session).into(), |link| {
            link.encrypt(session, false)?;
            use_it(link, session)
        })
    }
}

/// By whose word a sealed blob opens, and of which epoch; `None` when it opens without, or is no
/// sealed blob.
#[must_use]
pub fn sealed_to(blob: &[u8]) -> Option<(OperatorKey, u64)> {
    let blob = AuthorizedBlob::from_bytes(blob).ok()?;
    Some((blob.operator, blob.epoch))
}

fn policy(session: Option<AuthSession>) -> Result<PolicySession, TpmError> {
    let missing = TpmError::Library {
        command: "TPM2_StartAuthSession",
        text: "no session came back".to_owned(),
    };
    PolicySession::try_from(session.ok_or(missing)?).during("a policy session")
}

/// `TPMT_SIGNATURE` of ECDSA with SHA-256.
fn ecdsa(signature: &[u8; 64]) -> Vec<u8> {
    let mut out = [ALG_ECDSA.to_be_bytes(), ALG_SHA256.to_be_bytes()].concat();
    put_sized(&mut out, &signature[..32]);
    put_sized(&mut out, &signature[32..]);
    out
}

/// `TPMT_PUBLIC` of an operator's key, as it is loaded into a TPM to check signatures.
fn operator_public(operator: &OperatorKey) -> Vec<u8> {
    let attributes = Attributes::USER_WITH_AUTH | Attributes::SIGN;
    let mut out = Vec::with_capacity(90);
    out.extend_from_slice(&ALG_ECC.to_be_bytes());
    out.extend_from_slice(&ALG_SHA256.to_be_bytes());
    out.extend_from_slice(&attributes.to_be_bytes());
    for value in [0, ALG_NULL, ALG_ECDSA, ALG_SHA256, CURVE_P256, ALG_NULL] {
        out.extend_from_slice(&value.to_be_bytes());
    }
    for coordinate in [&operator[1..33], &operator[33..]] {
        put_sized(&mut out, coordinate);
    }
    out
}

/// The Name of an operator's key.
fn operator_name(operator: &OperatorKey) -> Name {
    Name::of(HashAlgorithm::Sha256, &[&operator_public(operator)])
}

/// `TPM_CC_PolicyAuthorize`.
const CC_POLICY_AUTHORIZE: u32 = 0x0000_016a;

/// The policy of an object that opens with an operator's word (TPM 2.0 Library, Part 3, 23.16).
fn authorized_policy(operator: &OperatorKey, epoch: u64) -> [u8; 32] {
    let command = CC_POLICY_AUTHORIZE.to_be_bytes();
    let by = sha256(&[&[0; 32], &command, operator_name(operator).as_bytes()]);
    sha256(&[&by, &policy_reference(epoch)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_and_epoch_are_both_in_the_policy_of_an_object() {
        assert_ne!(authorized_policy(&[4; 65], 1), authorized_policy(&[4; 65], 2));
        assert_ne!(authorized_policy(&[4; 65], 1), authorized_policy(&[5; 65], 1));
    }
}
