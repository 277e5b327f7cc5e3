//! How keys get into the TPM: primary keys from the TCG's templates, children created and loaded
//! under them, and the policy session that an endorsement key asks for.

use tss_esapi::Context;
use tss_esapi::abstraction::AsymmetricAlgorithmSelection;
use tss_esapi::abstraction::ek::create_ek_public_from_default_template_2;
use tss_esapi::constants::SessionType;
use tss_esapi::handles::{AuthHandle, KeyHandle, SessionHandle};
use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::interface_types::ecc::EccCurve;
use tss_esapi::interface_types::key_bits::RsaKeyBits;
use tss_esapi::interface_types::resource_handles::Hierarchy;
use tss_esapi::interface_types::session_handles::{AuthSession, PolicySession};
use tss_esapi::structures::{
    Digest, DigestList, Nonce, Private, Public as TssPublic, SymmetricDefinition,
};
use tss_esapi::traits::{Marshall, UnMarshall};

use crate::bytes::put_sized;
use crate::public::{
    ALG_AES, ALG_CFB, ALG_ECC, ALG_ECDSA, ALG_NULL, ALG_SHA256, Attributes, CURVE_P256, Public,
};
use crate::template::EkKind;
use crate::tpm::TpmError;
use crate::tpm::blob::{KeyFile, WrappedKey};
use crate::tpm::connection::{EMPTY_PASSWORD, Link, Slot};
use crate::tpm::error::During;
use crate::tpm::response;

/// Attributes of the identity key: it signs, and never leaves the TPM.
pub(super) const BOUND_SIGNING_KEY: u32 = Attributes::FIXED_TPM
    | Attributes::FIXED_PARENT
    | Attributes::SENSITIVE_DATA_ORIGIN
    | Attributes::USER_WITH_AUTH
    | Attributes::NO_DA
    | Attributes::SIGN;
/// Attributes of the attestation key: it also signs nothing that the TPM did not make.
pub(super) const AK_ATTRIBUTES: u32 = BOUND_SIGNING_KEY | Attributes::RESTRICTED;
const SRK_ATTRIBUTES: u32 = Attributes::FIXED_TPM
    | Attributes::FIXED_PARENT
    | Attributes::SENSITIVE_DATA_ORIGIN
    | Attributes::USER_WITH_AUTH
    | Attributes::NO_DA
    | Attributes::RESTRICTED
    | Attributes::DECRYPT;

/// PolicyC of the high range templates, SHA-384 (EK Credential Profile 2.5, B.6.4): the other arm
/// of the PolicyOR that a P-384 endorsement key asks for.
const POLICY_C_SHA384: [u8; 48] = [
    0xd6, 0x03, 0x2c, 0xe6, 0x1f, 0x2f, 0xb3, 0xc2, 0x40, 0xeb, 0x3c, 0xf6, 0xa3, 0x32, 0x37, 0xef,
    0x2b, 0x6a, 0x16, 0xf4, 0x29, 0x3c, 0x22, 0xb4, 0x55, 0xe2, 0x61, 0xcf, 0xfd, 0x21, 0x7a, 0xd5,
    0xb4, 0x94, 0x7c, 0x2d, 0x73, 0xe6, 0x30, 0x05, 0xee, 0xd2, 0xdc, 0x2b, 0x35, 0x93, 0xd1, 0x65,
];

impl KeyFile {
    pub(super) fn ek_kind(&self) -> Result<EkKind, TpmError> {
        let ek = Public::parse(&self.ek_public).ok();
        ek.and_then(|ek| EkKind::of(&ek)).ok_or_else(|| TpmError::Damaged {
            what: "of this gateway".to_owned(),
            why: "no endorsement key in it",
        })
    }
}

impl Link {
    /// The storage root key: primary key of the owner hierarchy, TCG template.
    pub(super) fn storage_root_key(&mut self) -> Result<KeyHandle, TpmError> {
        self.key(Slot::StorageRoot, &[], |link| {
            let template = storage_template()?;
            link.create_primary(Hierarchy::Owner, template)
        })
    }

    pub(super) fn endorsement_key(&mut self, kind: EkKind) -> Result<KeyHandle, TpmError> {
        self.key(Slot::Endorsement, &[], |link| link.create_endorsement_key(kind))
    }

    pub(super) fn create_endorsement_key(&mut self, kind: EkKind) -> Result<KeyHandle, TpmError> {
        let algorithm = match kind {
            EkKind::Rsa2048 => AsymmetricAlgorithmSelection::Rsa(RsaKeyBits::Rsa2048),
            EkKind::P256 => AsymmetricAlgorithmSelection::Ecc(EccCurve::NistP256),
            EkKind::P384 => AsymmetricAlgorithmSelection::Ecc(EccCurve::NistP384),
        };
        let template = create_ek_public_from_default_template_2(algorithm, None)
            .during("building the EK template")?;
        self.create_primary(Hierarchy::Endorsement, template)
    }

    fn create_primary(
        &mut self,
        hierarchy: Hierarchy,
        template: TssPublic,
    ) -> Result<KeyHandle, TpmError> {
        let created = self
            .context
            .execute_with_session(EMPTY_PASSWORD, |context| {
                context.create_primary(hierarchy, template, None, None, None, None)
            })
            .during("TPM2_CreatePrimary");
        match created {
            Ok(created) => Ok(created.key_handle),
            Err(error) if error.is_bad_auth() => Err(TpmError::HierarchyPassword {
                hierarchy: match hierarchy {
                    Hierarchy::Endorsement => "endorsement",
                    _ => "owner",
                },
            }),
            Err(error) => Err(error),
        }
    }

    /// Loads the attestation key. Its parent is made anew from the endorsement seed, so a parent
    /// with another Name is another TPM.
    pub(super) fn attestation_key(&mut self, keys: &KeyFile) -> Result<KeyHandle, TpmError> {
        let kind = keys.ek_kind()?;
        self.key(Slot::Attestation, &[], |link| {
            let ek = link.endorsement_key(kind)?;
            if link.public_of(ek)? != keys.ek_public {
                return Err(TpmError::AnotherTpm);
            }
            link.make_room(1, &[Slot::Endorsement])?;
            link.with_ek_session(kind, |link, session| {
                load_child(&mut link.context, ek, &keys.ak, session).map_err(damaged_key)
            })
        })
    }

    /// Loads the identity key. A storage root key with another Name is another TPM, or the same
    /// one with its owner hierarchy cleared: the endorsement key tells which.
    pub(super) fn identity_key(
        &mut self,
        keys: &KeyFile,
        keep: &[Slot],
    ) -> Result<KeyHandle, TpmError> {
        self.key(Slot::Identity, keep, |link| {
            link.require_srk(&keys.srk_name, || Ok(keys.clone()))?;
            let srk = link.storage_root_key()?;
            let keep = [keep, &[Slot::StorageRoot]].concat();
            link.make_room(1, &keep)?;
            load_child(&mut link.context, srk, &keys.identity, EMPTY_PASSWORD).map_err(damaged_key)
        })
    }

    /// Checks that the storage root key is the one that wrapped a blob.
    pub(super) fn require_srk(
        &mut self,
        expected: &[u8],
        keys: impl FnOnce() -> Result<KeyFile, TpmError>,
    ) -> Result<(), TpmError> {
        let srk = self.storage_root_key()?;
        let name = self.context.tr_get_name(srk.into()).during("reading a Name")?;
        if name.value() == expected {
            return Ok(());
        }
        // Without a key file there is nothing that tells the two cases apart.
        let Ok(keys) = keys() else { return Err(TpmError::AnotherTpm) };
        let ek = self.endorsement_key(keys.ek_kind()?)?;
        let same = self.public_of(ek)? == keys.ek_public;
        Err(if same { TpmError::Cleared } else { TpmError::AnotherTpm })
    }

    pub(super) fn public_of(&mut self, key: KeyHandle) -> Result<Vec<u8>, TpmError> {
        let (public, ..) = self
            .context
            .execute_without_session(|context| context.read_public(key))
            .during("TPM2_ReadPublic")?;
        public.marshall().during("TPM2_ReadPublic")
    }

    /// Runs `use_it` with a policy session that may use the endorsement key: PolicySecret of the
    /// endorsement hierarchy, and for the P-384 template a PolicyOR on top.
    pub(super) fn with_ek_session<T>(
        &mut self,
        kind: EkKind,
        use_it: impl FnOnce(&mut Self, Option<AuthSession>) -> Result<T, TpmError>,
    ) -> Result<T, TpmError> {
        let (symmetric, hash) = match kind {
            EkKind::Rsa2048 | EkKind::P256 => {
                (SymmetricDefinition::AES_128_CFB, HashingAlgorithm::Sha256)
            }
            EkKind::P384 => (SymmetricDefinition::AES_256_CFB, HashingAlgorithm::Sha384),
        };
        let session = self
            .context
            .start_auth_session(None, None, None, SessionType::Policy, symmetric, hash)
            .during("TPM2_StartAuthSession")?;
        let handle = SessionHandle::from(session);
        self.with_temporary(handle.into(), |link| {
            if let Some(session) = session {
                satisfy_ek_policy(&mut link.context, kind, session)?;
            }
            use_it(link, session)
        })
    }
}

fn satisfy_ek_policy(
    context: &mut Context,
    kind: EkKind,
    session: AuthSession,
) -> Result<(), TpmError> {
    let policy = PolicySession::try_from(session).during("a policy session")?;
    let secret = context
        .execute_with_session(EMPTY_PASSWORD, |context| {
            let (nonce, reference) = (Nonce::default(), Nonce::default());
            let endorsement = AuthHandle::Endorsement;
            context.policy_secret(policy, endorsement, nonce, Digest::default(), reference, None)
        })
        .during("TPM2_PolicySecret");
    if let Err(error) = secret {
        return Err(if error.is_bad_auth() {
            TpmError::HierarchyPassword { hierarchy: "endorsement" }
        } else {
            error
        });
    }
    if kind == EkKind::P384 {
        let policy_a = context
            .execute_without_session(|context| context.policy_get_digest(policy))
            .during("TPM2_PolicyGetDigest")?;
        let mut arms = DigestList::new();
        let policy_c = Digest::try_from(POLICY_C_SHA384.to_vec()).during("TPM2_PolicyOR")?;
        arms.add(policy_a).and_then(|()| arms.add(policy_c)).during("TPM2_PolicyOR")?;
        context
            .execute_without_session(|context| context.policy_or(policy, arms))
            .during("TPM2_PolicyOR")?;
    }
    Ok(())
}

pub(super) fn create_child(
    context: &mut Context,
    parent: KeyHandle,
    template: TssPublic,
    session: Option<AuthSession>,
) -> Result<WrappedKey, TpmError> {
    let created = context
        .execute_with_session(session, |context| {
            context.create(parent, template, None, None, None, None)
        })
        .during("TPM2_Create")?;
    Ok(WrappedKey {
        public: created.out_public.marshall().during("TPM2_Create")?,
        private: created.out_private.value().to_vec(),
    })
}

pub(super) fn load_child(
    context: &mut Context,
    parent: KeyHandle,
    key: &WrappedKey,
    session: Option<AuthSession>,
) -> Result<KeyHandle, TpmError> {
    let public = TssPublic::unmarshall(&key.public).during("TPM2_Load")?;
    let private = Private::try_from(key.private.clone()).during("TPM2_Load")?;
    context
        .execute_with_session(session, |context| context.load(parent, private, public))
        .during("TPM2_Load")
}

/// The parent is the right one, so a blob that does not load is not what the TPM gave out.
fn damaged_key(error: TpmError) -> TpmError {
    let codes = [response::INTEGRITY, response::VALUE, response::SIZE, response::SENSITIVE];
    if codes.into_iter().any(|code| error.is_refusal(code)) {
        return TpmError::Damaged {
            what: "of this gateway".to_owned(),
            why: "the TPM does not accept it",
        };
    }
    error
}

/// A P-256 key that signs with ECDSA and SHA-256.
pub(super) fn signing_template(attributes: u32) -> Result<TssPublic, TpmError> {
    ecc_template(attributes, &[ALG_NULL, ALG_ECDSA, ALG_SHA256], &[])
}

/// The storage root key of the TCG's provisioning guidance: P-256, AES-128-CFB.
fn storage_template() -> Result<TssPublic, TpmError> {
    ecc_template(SRK_ATTRIBUTES, &[ALG_AES, 128, ALG_CFB, ALG_NULL], &[0; 32])
}

fn ecc_template(
    attributes: u32,
    algorithms: &[u16],
    coordinate: &[u8],
) -> Result<TssPublic, TpmError> {
    let mut out = Vec::with_capacity(100);
    out.extend_from_slice(&ALG_ECC.to_be_bytes());
    out.extend_from_slice(&ALG_SHA256.to_be_bytes());
    out.extend_from_slice(&attributes.to_be_bytes());
    put_sized(&mut out, &[]);
    for value in algorithms.iter().chain(&[CURVE_P256, ALG_NULL]) {
        out.extend_from_slice(&value.to_be_bytes());
    }
    put_sized(&mut out, coordinate);
    put_sized(&mut out, coordinate);
    TssPublic::unmarshall(&out).during("building a key template")
}
