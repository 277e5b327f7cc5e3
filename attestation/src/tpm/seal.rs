//! Secrets that only this TPM gives back: objects under the storage root key, without a policy
//! (profile `tpm-only`; with one: [`super::authorized`]). The secret crosses the bus encrypted, in
//! a session salted with the storage root key.

use tss_esapi::attributes::SessionAttributesBuilder;
use tss_esapi::constants::SessionType;
use tss_esapi::handles::{KeyHandle, SessionHandle};
use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::interface_types::session_handles::AuthSession;
use tss_esapi::structures::{Public as TssPublic, SensitiveData, SymmetricDefinition};
use tss_esapi::traits::{Marshall, UnMarshall};
use zeroize::Zeroizing;

use crate::bytes::put_sized;
use crate::public::{ALG_NULL, ALG_SHA256, Attributes};
use crate::tpm::TpmError;
use crate::tpm::blob::{SealedBlob, WrappedKey};
use crate::tpm::connection::{EMPTY_PASSWORD, Engine, Link, Slot};
use crate::tpm::error::During;
use crate::tpm::objects::load_child;
use crate::tpm::response;

/// Longest secret that every TPM seals (TPM 2.0: MAX_SYM_DATA), in bytes.
pub const MAX_SEALED_LEN: usize = 128;

const ALG_KEYEDHASH: u16 = 0x0008;

impl Engine {
    pub(super) fn seal(&mut self, secret: &[u8]) -> Result<Vec<u8>, TpmError> {
        check_secret(secret)?;
        self.with_link(|link| Ok(link.create_sealed(secret, None)?.to_bytes()))
    }

    pub(super) fn unseal(&mut self, blob: &[u8]) -> Result<Zeroizing<Vec<u8>>, TpmError> {
        let damaged = |why| TpmError::Damaged { what: "of a sealed secret".to_owned(), why };
        let blob = SealedBlob::from_bytes(blob).map_err(damaged)?;
        let store = self.store.clone();
        self.with_link(|link| {
            link.require_srk(&blob.srk_name, || store.load())?;
            let srk = link.storage_root_key()?;
            link.make_room(1, &[Slot::StorageRoot])?;
            let object = load_child(&mut link.context, srk, &blob.object, EMPTY_PASSWORD)
                .map_err(damaged_blob)?;
            let data = link.with_temporary(object.into(), |link| {
                link.with_salted_session(srk, |link, session| {
                    link.context
                        .execute_with_session(session, |context| context.unseal(object.into()))
                        .during("TPM2_Unseal")
                })
            })?;
            Ok(Zeroizing::new(data.value().to_vec()))
        })
    }
}

/// Refuses what no TPM seals.
pub(super) fn check_secret(secret: &[u8]) -> Result<(), TpmError> {
    if secret.is_empty() || secret.len() > MAX_SEALED_LEN {
        return Err(TpmError::SecretTooLong { len: secret.len(), max: MAX_SEALED_LEN });
    }
    Ok(())
}

/// The parent is the right one, so a blob that does not load is not what the TPM gave out.
pub(super) fn damaged_blob(error: TpmError) -> TpmError {
    let refused = error.is_refusal(response::INTEGRITY)
        || error.is_refusal(response::SENSITIVE)
        || error.is_refusal(response::SIZE);
    if refused {
        let what = "of a sealed secret".to_owned();
        return TpmError::Damaged { what, why: "the TPM does not accept it" };
    }
    error
}

impl Link {
    /// Makes a sealed object under the storage root key: with the empty password, or with a policy
    /// and nothing else.
    pub(super) fn create_sealed(
        &mut self,
        secret: &[u8],
        policy: Option<&[u8; 32]>,
    ) -> Result<SealedBlob, TpmError> {
        let srk = self.storage_root_key()?;
        let srk_name = self.context.tr_get_name(srk.into()).during("reading a Name")?;
        let template = sealed_template(policy)?;
        // TPM2_Create needs a slot while it works.
        self.make_room(1, &[Slot::StorageRoot])?;
        let data = SensitiveData::try_from(secret.to_vec()).during("TPM2_Create")?;
        let created = self.with_salted_session(srk, |link, session| {
            link.context
                .execute_with_session(session, |context| {
                    context.create(srk, template, None, Some(data), None, None)
                })
                .during("TPM2_Create")
        })?;
        let public = created.out_public.marshall().during("TPM2_Create")?;
        let private = created.out_private.value().to_vec();
        let object = WrappedKey { public, private };
        Ok(SealedBlob { srk_name: srk_name.value().to_vec(), object })
    }

    /// Has a session encrypt the first parameter of answers, and of commands where asked.
    pub(super) fn encrypt(
        &mut self,
        session: Option<AuthSession>,
        commands: bool,
    ) -> Result<(), TpmError> {
        let Some(session) = session else { return Ok(()) };
        let (attributes, mask) =
            SessionAttributesBuilder::new().with_decrypt(commands).with_encrypt(true).build();
        self.context
            .tr_sess_set_attributes(session, attributes, mask)
            .during("setting up a session")
    }

    /// An HMAC session salted with `key`, which encrypts the first parameter both ways: a listener
    /// on the bus learns nothing.
    fn with_salted_session<T>(
        &mut self,
        key: KeyHandle,
        use_it: impl FnOnce(&mut Self, Option<AuthSession>) -> Result<T, TpmError>,
    ) -> Result<T, TpmError> {
        let session = self
            .context
            .start_auth_session(
                Some(key),
                None,
                None,
                SessionType::Hmac,
                SymmetricDefinition::AES_128_CFB,
                HashingAlgorithm::Sha256,
            )
            .during("TPM2_StartAuthSession")?;
        self.with_temporary(SessionHandle::from(session).into(), |link| {
            link.encrypt(session, true)?;
            use_it(link, session)
        })
    }
}

/// A sealed data object: no scheme, no lockout; opened by the empty password, or by a policy alone.
fn sealed_template(policy: Option<&[u8; 32]>) -> Result<TssPublic, TpmError> {
    let opened_by = match policy {
        None => Attributes::USER_WITH_AUTH,
        Some(_) => Attributes::ADMIN_WITH_POLICY,
    };
    let attributes =
        Attributes::FIXED_TPM | Attributes::FIXED_PARENT | Attributes::NO_DA | opened_by;
    let mut out = Vec::with_capacity(48);
    out.extend_from_slice(&ALG_KEYEDHASH.to_be_bytes());
    out.extend_from_slice(&ALG_SHA256.to_be_bytes());
    out.extend_from_slice(&attributes.to_be_bytes());
    put_sized(&mut out, policy.map_or(&[], |policy| policy));
    out.extend_from_slice(&ALG_NULL.to_be_bytes());
    put_sized(&mut out, &[]);
    TssPublic::unmarshall(&out).during("building the sealed object")
}
