//! The keys of a gateway and what they are for: the endorsement key says which TPM it is, the
//! attestation key under it speaks for the TPM, the identity key under the storage root key signs
//! for the gateway.

use tss_esapi::Context;
use tss_esapi::constants::PropertyTag;
use tss_esapi::constants::tss::{TPM2_RH_NULL, TPM2_ST_HASHCHECK};
use tss_esapi::handles::KeyHandle;
use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::structures::{
    Attest, Data, Digest, EncryptedSecret, HashcheckTicket, IdObject, PcrSelectionList, PcrSlot,
    Signature, SignatureScheme,
};
use tss_esapi::traits::Marshall;
use tss_esapi::tss2_esys::TPMT_TK_HASHCHECK;

use crate::activation::CredentialBlob;
use crate::endorsement::{Certificate, certified_ek};
use crate::evidence::{Endorsements, Evidence};
use crate::manufacturer::Manufacturer;
use crate::pcr::{PcrSelection, composite};
use crate::public::{Name, Public};
use crate::template::EkKind;
use crate::tpm::TpmError;
use crate::tpm::blob::KeyFile;
use crate::tpm::connection::{EMPTY_PASSWORD, Engine, Link, Slot};
use crate::tpm::error::{Answering, During};
use crate::tpm::objects::{AK_ATTRIBUTES, BOUND_SIGNING_KEY, create_child, signing_template};
use crate::tpm::{nv, response};

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

    pub(super) fn registers(&mut self, pcrs: PcrSelection) -> Result<Vec<[u8; 32]>, TpmError> {
        self.with_link(|link| read_registers(&mut link.context, pcrs))
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

fn marshal(attest: &Attest, signature: &Signature) -> Result<(Vec<u8>, Vec<u8>), TpmError> {
    Ok((
        attest.marshall().during("an attestation")?,
        signature.marshall().during("an attestation")?,
    ))
}

pub(super) fn tss_selection(pcrs: PcrSelection) -> Result<PcrSelectionList, TpmError> {
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
pub(super) fn read_registers(
    context: &mut Context,
    pcrs: PcrSelection,
) -> Result<Vec<[u8; 32]>, TpmError> {
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
