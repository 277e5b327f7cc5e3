//! The keys of a gateway and what they are for: the endorsement key says which TPM it is, the
//! attestation key under it speaks for the TPM, the identity key under the storage root key signs
//! for the gateway.

use tss_esapi::Context;
use tss_esapi::abstraction::AsymmetricAlgorithmSelection;
use tss_esapi::abstraction::ek::create_ek_public_from_default_template_2;
use tss_esapi::constants::tss::{TPM2_RH_NULL, TPM2_ST_HASHCHECK};
use tss_esapi::constants::{PropertyTag, SessionType};
use tss_esapi::handles::{AuthHandle, KeyHandle, SessionHandle};
use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::interface_types::ecc::EccCurve;
use tss_esapi::interface_types::key_bits::RsaKeyBits;
use tss_esapi::interface_types::resource_handles::Hierarchy;
use tss_esapi::interface_types::session_handles::{AuthSession, PolicySession};
use tss_esapi::structures::{
    Attest, Data, Digest, DigestList, EncryptedSecret, HashcheckTicket, IdObject, Nonce,
    PcrSelectionList, PcrSlot, Private, Public as TssPublic, Signature, SignatureScheme,
    SymmetricDefinition,
};
use tss_esapi::traits::{Marshall, UnMarshall};
use tss_esapi::tss2_esys::TPMT_TK_HASHCHECK;

use crate::activation::CredentialBlob;
use crate::bytes::put_sized;
use crate::endorsement::{Certificate, certified_ek};
use crate::evidence::{Endorsements, Evidence};
use crate::manufacturer::Manufacturer;
use crate::pcr::{PcrSelection, composite};
use crate::public::{
    ALG_AES, ALG_CFB, ALG_ECC, ALG_ECDSA, ALG_NULL, ALG_SHA256, Attributes, CURVE_P256, Name,
    Public,
};
use crate::template::EkKind;
use crate::tpm::TpmError;
use crate::tpm::blob::{KeyFile, WrappedKey};
use crate::tpm::connection::{EMPTY_PASSWORD, Engine, Link, Slot};
use crate::tpm::error::{Answering, During};
use crate::tpm::nv;
use crate::tpm::response;

/// What a TPM says of itself, and which endorsement certificates it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TpmInfo {
    /// Who made it.
    pub manufacturer: Manufacturer,
    /// Whether it is a program: then its keys prove nothing about a machine.
    pub is_software: bool,
    /// Firmware version, as the vendor numbers it.
    pub firmware_version: u64,
    /// Endorsement keys with a certificate in NV.
    pub certified: Vec<EkKind>,
}

/// The public side of a gateway's identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentityInfo {
    /// The identity key as a SEC1 compressed point.
    pub identity: [u8; 33],
    /// Its `TPMT_PUBLIC`.
    pub identity_public: Vec<u8>,
    /// `TPMT_PUBLIC` of the attestation key.
    pub ak_public: Vec<u8>,
    /// Name of the attestation key.
    pub ak_name: Name,
    /// `TPMT_PUBLIC` of the endorsement key.
    pub ek_public: Vec<u8>,
    /// Its kind.
    pub ek_kind: EkKind,
    /// SHA-256 of `ek_public`: all that a ledger shows of it.
    pub ek_digest: [u8; 32],
    /// The EK certificate and intermediates in the TPM's NV, if any.
    pub endorsements: Endorsements,
    /// Who made the TPM.
    pub manufacturer: Manufacturer,
    /// Whether the TPM is a program.
    pub is_software: bool,
}

/// A certification of the identity key by the attestation key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certified {
    /// `TPMS_ATTEST`.
    pub attest: Vec<u8>,
    /// `TPMT_SIGNATURE`.
    pub signature: Vec<u8>,
}

/// A quote and the register values that it covers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quoted {
    /// `TPMS_ATTEST`.
    pub attest: Vec<u8>,
    /// `TPMT_SIGNATURE`.
    pub signature: Vec<u8>,
    /// SHA-256 values in ascending order of the registers.
    pub values: Vec<[u8; 32]>,
}

/// What never changes about a TPM while it is connected.
#[derive(Debug, Clone)]
pub(super) struct TpmFacts {
    manufacturer: Manufacturer,
    firmware_version: u64,
    certificates: Vec<(EkKind, Vec<u8>)>,
    chain: Vec<Vec<u8>>,
}

/// Which endorsement key is taken when several have a certificate: elliptic curves before RSA,
/// whose key takes a chip seconds to make; P-256 first, which a verifier checks fastest.
const PREFERENCE: [EkKind; 3] = [EkKind::P256, EkKind::P384, EkKind::Rsa2048];

/// How often registers are read and quoted again when they change in between.
const QUOTE_ATTEMPTS: usize = 4;

const BOUND_SIGNING_KEY: u32 = Attributes::FIXED_TPM
    | Attributes::FIXED_PARENT
    | Attributes::SENSITIVE_DATA_ORIGIN
    | Attributes::USER_WITH_AUTH
    | Attributes::NO_DA
    | Attributes::SIGN;
const AK_ATTRIBUTES: u32 = BOUND_SIGNING_KEY | Attributes::RESTRICTED;
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

impl Engine {
    pub(super) fn info(&mut self) -> Result<TpmInfo, TpmError> {
        let facts = self.facts()?;
        Ok(TpmInfo {
            manufacturer: facts.manufacturer,
            is_software: facts.manufacturer.is_software(),
            firmware_version: facts.firmware_version,
            certified: facts.certificates.iter().map(|&(kind, _)| kind).collect(),
        })
    }

    fn facts(&mut self) -> Result<TpmFacts, TpmError> {
        if let Some(facts) = &self.facts {
            return Ok(facts.clone());
        }
        let facts = self.with_link(|link| {
            let mut property =
                |tag| link.context.get_tpm_property(tag).during("TPM2_GetCapability");
            let manufacturer = Manufacturer(property(PropertyTag::Manufacturer)?.unwrap_or(0));
            let high = property(PropertyTag::FirmwareVersion1)?.unwrap_or(0);
            let low = property(PropertyTag::FirmwareVersion2)?.unwrap_or(0);
            Ok(TpmFacts {
                manufacturer,
                firmware_version: u64::from(high) << 32 | u64::from(low),
                certificates: nv::ek_certificates(link)?,
                chain: nv::ek_chain(link)?,
            })
        })?;
        Ok(self.facts.insert(facts).clone())
    }

    /// Makes attestation and identity key and writes their blobs. Refuses when there is a key
    /// file, whatever is in it.
    pub(super) fn create_identity(&mut self) -> Result<IdentityInfo, TpmError> {
        if self.store.exists()? {
            return Err(TpmError::IdentityExists { path: self.store.path() });
        }
        let facts = self.facts()?;
        let keys = self.with_link(|link| {
            link.forget(Slot::Attestation)?;
            link.forget(Slot::Identity)?;
            let (kind, ek_public) = choose_endorsement_key(link, &facts)?;
            let ek = link.endorsement_key(kind)?;
            // TPM2_Create needs a slot while it works.
            link.make_room(1, &[Slot::Endorsement])?;
            let ak = link.with_ek_session(kind, |link, session| {
                let template = signing_template(AK_ATTRIBUTES)?;
                create_child(&mut link.context, ek, template, session)
            })?;
            let srk = link.storage_root_key()?;
            let srk_name = link.context.tr_get_name(srk.into()).during("reading a Name")?;
            let template = signing_template(BOUND_SIGNING_KEY)?;
            link.make_room(1, &[Slot::StorageRoot])?;
            let identity = create_child(&mut link.context, srk, template, EMPTY_PASSWORD)?;
            Ok(KeyFile { ek_public, srk_name: srk_name.value().to_vec(), ak, identity })
        })?;
        self.store.create(&keys)?;
        self.keys = Some(keys);
        self.identity()
    }

    /// Reads the key file and loads the identity key, which proves that this is the TPM (and the
    /// owner hierarchy) in which it was made.
    pub(super) fn load_identity(&mut self) -> Result<IdentityInfo, TpmError> {
        self.keys = None;
        self.key_file()?;
        self.with_identity_key(|_, _| Ok(()))?;
        self.identity()
    }

    fn key_file(&mut self) -> Result<KeyFile, TpmError> {
        match &self.keys {
            Some(keys) => Ok(keys.clone()),
            None => Ok(self.keys.insert(self.store.load()?).clone()),
        }
    }

    pub(super) fn identity(&mut self) -> Result<IdentityInfo, TpmError> {
        let keys = self.key_file()?;
        let facts = self.facts()?;
        let damaged =
            |why| TpmError::Damaged { what: self.store.path().display().to_string(), why };
        let ek = Public::parse(&keys.ek_public).map_err(|_| damaged("no endorsement key in it"))?;
        let ek_kind = EkKind::of(&ek).ok_or_else(|| damaged("no endorsement key in it"))?;
        let ak = Public::parse(&keys.ak.public).map_err(|_| damaged("no attestation key in it"))?;
        let identity = Public::parse(&keys.identity.public)
            .and_then(|identity| identity.p256_compressed())
            .map_err(|_| damaged("no identity key in it"))?;
        let ek_certificate = facts
            .certificates
            .iter()
            .find(|&&(kind, _)| kind == ek_kind)
            .map(|(_, certificate)| certificate.clone());
        Ok(IdentityInfo {
            identity,
            identity_public: keys.identity.public,
            ak_name: ak.name(),
            ak_public: keys.ak.public,
            ek_digest: ek.digest(),
            ek_public: keys.ek_public,
            ek_kind,
            endorsements: Endorsements { ek_certificate, intermediates: facts.chain },
            manufacturer: facts.manufacturer,
            is_software: facts.manufacturer.is_software(),
        })
    }

    /// ES256 over a digest by the identity key: r ‖ s.
    pub(super) fn sign_identity(&mut self, digest: [u8; 32]) -> Result<[u8; 64], TpmError> {
        self.with_identity_key(|link, key| {
            let digest = Digest::try_from(digest.to_vec()).during("TPM2_Sign")?;
            let ticket = HashcheckTicket::try_from(TPMT_TK_HASHCHECK {
                tag: TPM2_ST_HASHCHECK,
                hierarchy: TPM2_RH_NULL,
                digest: Default::default(),
            })
            .during("TPM2_Sign")?;
            let signature = link
                .context
                .execute_with_session(EMPTY_PASSWORD, |context| {
                    context.sign(key, digest, SignatureScheme::Null, ticket)
                })
                .during("TPM2_Sign")?;
            let bytes = signature.marshall().during("TPM2_Sign")?;
            crate::signature::parse(&bytes).answering("TPM2_Sign")
        })
    }

    pub(super) fn certify(&mut self, qualifying: [u8; 32]) -> Result<Certified, TpmError> {
        let keys = self.key_file()?;
        self.with_link(|link| {
            let ak = link.attestation_key(&keys)?;
            let identity = link.identity_key(&keys, &[Slot::Attestation])?;
            let sessions = (EMPTY_PASSWORD, EMPTY_PASSWORD, None);
            let (attest, signature) = link
                .context
                .execute_with_sessions(sessions, |context| {
                    let data = Data::try_from(qualifying.to_vec())?;
                    context.certify(identity.into(), ak, data, SignatureScheme::Null)
                })
                .during("TPM2_Certify")?;
            let (attest, signature) = marshal(&attest, &signature)?;
            Ok(Certified { attest, signature })
        })
    }

    pub(super) fn quote(
        &mut self,
        qualifying: [u8; 32],
        pcrs: PcrSelection,
    ) -> Result<Quoted, TpmError> {
        let keys = self.key_file()?;
        let selection = tss_selection(pcrs)?;
        self.with_link(|link| {
            let ak = link.attestation_key(&keys)?;
            for _ in 0..QUOTE_ATTEMPTS {
                let values = read_registers(&mut link.context, pcrs)?;
                let (attest, signature) = link
                    .context
                    .execute_with_session(EMPTY_PASSWORD, |context| {
                        let data = Data::try_from(qualifying.to_vec())?;
                        context.quote(ak, data, SignatureScheme::Null, selection.clone())
                    })
                    .during("TPM2_Quote")?;
                let (attest, signature) = marshal(&attest, &signature)?;
                if attest.ends_with(&composite(&values)) {
                    return Ok(Quoted { attest, signature, values });
                }
            }
            Err(TpmError::PcrUnstable)
        })
    }

    pub(super) fn activate_credential(
        &mut self,
        blob: &CredentialBlob,
    ) -> Result<Vec<u8>, TpmError> {
        let keys = self.key_file()?;
        let kind = keys.ek_kind()?;
        let foreign = |error: TpmError| {
            let codes = [
                response::INTEGRITY,
                response::VALUE,
                response::SIZE,
                response::SENSITIVE,
                ECC_POINT,
                INSUFFICIENT,
            ];
            if codes.into_iter().any(|code| error.is_refusal(code)) {
                return TpmError::ForeignCredential;
            }
            error
        };
        self.with_link(|link| {
            let ak = link.attestation_key(&keys)?;
            let ek = link.key(Slot::Endorsement, &[Slot::Attestation], |link| {
                link.create_endorsement_key(kind)
            })?;
            let id_object = IdObject::try_from(blob.id_object.clone()).during("a credential")?;
            let secret = EncryptedSecret::try_from(blob.secret.clone()).during("a credential")?;
            let credential = link.with_ek_session(kind, |link, session| {
                link.context
                    .execute_with_sessions((EMPTY_PASSWORD, session, None), |context| {
                        context.activate_credential(ak, ek, id_object, secret)
                    })
                    .during("TPM2_ActivateCredential")
                    .map_err(foreign)
            })?;
            Ok(credential.value().to_vec())
        })
    }

    /// Everything that answers a challenge, made in one go.
    pub(super) fn attest(
        &mut self,
        qualifying: [u8; 32],
        pcrs: PcrSelection,
        blob: &CredentialBlob,
    ) -> Result<Evidence, TpmError> {
        let identity = self.identity()?;
        let activated: [u8; 32] =
            self.activate_credential(blob)?.try_into().map_err(|_| TpmError::ForeignCredential)?;
        let certified = self.certify(qualifying)?;
        let quoted = self.quote(qualifying, pcrs)?;
        Ok(Evidence {
            manufacturer: identity.manufacturer,
            ek_public: identity.ek_public,
            ak_public: identity.ak_public,
            identity_public: identity.identity_public,
            activated,
            certification: certified.attest,
            certification_signature: certified.signature,
            quote: quoted.attest,
            quote_signature: quoted.signature,
            pcrs,
            pcr_values: quoted.values,
        })
    }

    fn with_identity_key<T>(
        &mut self,
        mut use_it: impl FnMut(&mut Link, KeyHandle) -> Result<T, TpmError>,
    ) -> Result<T, TpmError> {
        let keys = self.key_file()?;
        self.with_link(|link| {
            let key = link.identity_key(&keys, &[])?;
            use_it(link, key)
        })
    }
}

/// TPM_RC_ECC_POINT, TPM_RC_INSUFFICIENT: what a credential for another kind of EK provokes.
const ECC_POINT: u32 = 0x0a7;
const INSUFFICIENT: u32 = 0x09a;

impl KeyFile {
    fn ek_kind(&self) -> Result<EkKind, TpmError> {
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

    fn endorsement_key(&mut self, kind: EkKind) -> Result<KeyHandle, TpmError> {
        self.key(Slot::Endorsement, &[], |link| link.create_endorsement_key(kind))
    }

    fn create_endorsement_key(&mut self, kind: EkKind) -> Result<KeyHandle, TpmError> {
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
    fn attestation_key(&mut self, keys: &KeyFile) -> Result<KeyHandle, TpmError> {
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

    fn public_of(&mut self, key: KeyHandle) -> Result<Vec<u8>, TpmError> {
        let (public, ..) = self
            .context
            .execute_without_session(|context| context.read_public(key))
            .during("TPM2_ReadPublic")?;
        public.marshall().during("TPM2_ReadPublic")
    }

    /// Runs `use_it` with a policy session that may use the endorsement key: PolicySecret of the
    /// endorsement hierarchy, and for the P-384 template a PolicyOR on top.
    fn with_ek_session<T>(
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

/// The endorsement key whose certificate is in NV and fits it, in order of preference; else a
/// P-256 key without a certificate; else any.
fn choose_endorsement_key(
    link: &mut Link,
    facts: &TpmFacts,
) -> Result<(EkKind, Vec<u8>), TpmError> {
    for kind in PREFERENCE {
        let certificate = facts.certificates.iter().find(|&&(certified, _)| certified == kind);
        let Some((_, certificate)) = certificate else { continue };
        link.forget(Slot::Endorsement)?;
        let ek = link.endorsement_key(kind)?;
        let public = link.public_of(ek)?;
        // Some TPMs hold a certificate for another key than the template makes.
        let certified = Certificate::parse(certificate).ok().and_then(|found| certified_ek(&found));
        let made = Public::parse(&public).ok();
        if certified.as_ref().map(Public::key) == made.as_ref().map(Public::key) && made.is_some() {
            return Ok((kind, public));
        }
        tracing::warn!(kind = kind.as_str(), "the EK certificate in NV is for another key");
    }
    for kind in PREFERENCE {
        link.forget(Slot::Endorsement)?;
        match link.endorsement_key(kind) {
            Ok(ek) => return Ok((kind, link.public_of(ek)?)),
            // A TPM without this curve says so; the next kind may do.
            Err(error @ TpmError::Refused { .. }) if !error.wants_reconnection() => {}
            Err(error) => return Err(error),
        }
    }
    Err(TpmError::NoEndorsementKey)
}

fn create_child(
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

fn marshal(attest: &Attest, signature: &Signature) -> Result<(Vec<u8>, Vec<u8>), TpmError> {
    Ok((
        attest.marshall().during("an attestation")?,
        signature.marshall().during("an attestation")?,
    ))
}

fn tss_selection(pcrs: PcrSelection) -> Result<PcrSelectionList, TpmError> {
    let slots = pcrs
        .iter()
        .map(|pcr| PcrSlot::try_from(1u32 << pcr))
        .collect::<Result<Vec<_>, _>>()
        .during("a PCR selection")?;
    PcrSelectionList::builder()
        .with_selection(HashingAlgorithm::Sha256, &slots)
        .build()
        .during("a PCR selection")
}

/// Reads registers, eight at a time, which is what a TPM answers at most.
fn read_registers(context: &mut Context, pcrs: PcrSelection) -> Result<Vec<[u8; 32]>, TpmError> {
    let registers: Vec<u8> = pcrs.iter().collect();
    let mut values = Vec::with_capacity(registers.len());
    for eight in registers.chunks(8) {
        let some = PcrSelection::new(eight).answering("TPM2_PCR_Read")?;
        let selection = tss_selection(some)?;
        let (_, _, digests) = context
            .execute_without_session(|context| context.pcr_read(selection))
            .during("TPM2_PCR_Read")?;
        for digest in digests.value() {
            values.push(<[u8; 32]>::try_from(digest.value()).map_err(|_| TpmError::PcrBank)?);
        }
    }
    if values.len() == registers.len() { Ok(values) } else { Err(TpmError::PcrBank) }
}

/// A P-256 key that signs with ECDSA and SHA-256.
fn signing_template(attributes: u32) -> Result<TssPublic, TpmError> {
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
