//! An introduction after parsing: from here on nothing of it can be malformed, and it is about the
//! key of the session that it came over.

use attestation::Endorsements;
use attestation::activation::{CredentialBlob, ENTROPY_LEN, make_credential};
use attestation::certify::check_ak;
use attestation::endorsement::{Certificate, CertificateError, TpmDescription, TpmModel, trim_der};
use attestation::manufacturer::Manufacturer;
use attestation::public::Public;
use attestation::template::EkKind;
use ledger::crypto::PublicKey;
use ledger::genesis::TpmName;
use ledger::ids::{Hash, Height, NodeId};
use ledger::transaction::{Label, VoteKeyProof};

use super::Denial;
use crate::admission::messages::Introduction;
use crate::peers::Session;

/// Who wants to be attested, checked as far as that needs neither ledger nor policy.
#[derive(Debug, Clone)]
pub struct Introduced {
    /// Node ID of the identity.
    pub node: NodeId,
    /// The identity key: that of the session.
    pub identity: PublicKey,
    /// The label that is asked for.
    pub label: Label,
    /// The measurements behind it, in the newcomer's words.
    pub measurements: String,
    /// Height that all verifiers sign as base.
    pub base_height: Height,
    /// EK certificate and intermediates.
    pub endorsements: Endorsements,
    /// What the EK certificate says of the TPM.
    pub described: Option<TpmDescription>,
    /// The endorsement key: a TCG template.
    pub ek: Public,
    /// Its kind.
    pub ek_kind: EkKind,
    /// SHA-256 of its public area.
    pub ek_digest: Hash,
    /// The attestation key: restricted, bound to its TPM.
    pub ak: Public,
    /// Its Name.
    pub ak_name: TpmName,
    /// The identity key's public area.
    pub identity_public: Vec<u8>,
    /// The vote key with its proofs; the chain that they are for is not checked yet.
    pub vote: VoteKeyProof,
    /// What the TPM says who made it.
    pub manufacturer: Manufacturer,
    /// SHA-256(manufacturer ‖ 0 ‖ model).
    pub tpm_model: Hash,
}

impl Introduced {
    /// Parses what came over a session.
    ///
    /// # Errors
    /// [`Denial`]: malformed, an EK of no TCG template, an AK that may sign anything, an identity
    /// key that is not the session's.
    pub fn parse(introduction: &Introduction, session: &Session) -> Result<Self, Denial> {
        let malformed = |part| move |_| Denial::Malformed(part);
        let endorsements = Endorsements::from_bytes(&introduction.endorsements)
            .map_err(malformed("endorsements"))?;
        let described = described(&endorsements)?;
        let ek = Public::parse(&introduction.ek_public).map_err(malformed("endorsement key"))?;
        let ek_kind = EkKind::of(&ek).ok_or(Denial::EkTemplate)?;
        let ak = Public::parse(&introduction.ak_public).map_err(malformed("attestation key"))?;
        check_ak(&ak).map_err(|reason| Denial::AttestationKey(reason.to_string()))?;
        let ak_name = ak.name().as_bytes().try_into();
        let ak_name = ak_name.map_err(|_| Denial::Malformed("attestation key"))?;
        let identity = Public::parse(&introduction.identity_public)
            .and_then(|public| public.p256_compressed())
            .map_err(malformed("identity key"))?;
        if identity != *session.identity.as_bytes() {
            return Err(Denial::AnotherIdentity);
        }
        let manufacturer = Manufacturer(introduction.manufacturer);
        Ok(Self {
            node: session.node,
            identity: session.identity,
            label: introduction.label,
            measurements: introduction.measurements.as_str().to_owned(),
            base_height: introduction.base_height,
            ek_digest: Hash(ek.digest()),
            tpm_model: Hash(TpmModel::of_endorsements(&endorsements, manufacturer).digest()),
            endorsements,
            described,
            ek,
            ek_kind,
            ak,
            ak_name: TpmName(ak_name),
            identity_public: introduction.identity_public.to_vec(),
            vote: introduction.vote,
            manufacturer,
        })
    }

    /// A credential that only this TPM can open, and only for this attestation key.
    ///
    /// # Errors
    /// The EK is no valid key.
    pub fn credential(
        &self,
        secret: &[u8; 32],
        entropy: &[u8; ENTROPY_LEN],
    ) -> Result<CredentialBlob, Denial> {
        make_credential(&self.ek, &self.ak.name(), secret, entropy)
            .map_err(|_| Denial::Malformed("endorsement key"))
    }

    /// The TPM in words.
    pub fn tpm_words(&self) -> String {
        match &self.described {
            Some(TpmDescription { manufacturer, model, version }) => {
                let maker = manufacturer.unwrap_or(self.manufacturer);
                format!("{maker} {model} {version}").trim().to_owned()
            }
            None => format!("{}, without an EK certificate", self.manufacturer),
        }
    }
}

fn described(endorsements: &Endorsements) -> Result<Option<TpmDescription>, Denial> {
    let Some(bytes) = &endorsements.ek_certificate else { return Ok(None) };
    let certificate = trim_der(bytes).and_then(Certificate::parse);
    let certificate =
        certificate.map_err(|error: CertificateError| Denial::Certificate(error.to_string()))?;
    Ok(Some(certificate.description().clone()))
}
