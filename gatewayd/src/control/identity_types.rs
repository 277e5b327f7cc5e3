//! What management sees of this gateway's keys and TPM. Plain data; no behaviour.

use serde::Serialize;

/// What `identity show` shows.
#[derive(Debug, Clone, Serialize)]
pub struct IdentityInfo {
    /// `gw1…` when a site exists.
    pub gateway: Option<String>,
    /// TPM manufacturer and firmware in words.
    pub tpm: String,
    /// True for a software TPM.
    pub software: bool,
    /// SHA-256 of the EK public area, hex.
    pub ek_digest: Option<String>,
    /// Type of the EK: `rsa-2048`, `p256`, `p384`.
    pub ek_type: Option<String>,
    /// Whether the TPM holds an EK certificate.
    pub ek_certificate: bool,
    /// Name of the AK, hex.
    pub ak_name: Option<String>,
    /// Identity public key, hex.
    pub identity_key: Option<String>,
    /// SHA-256 of it, hex: what the member of a bridge shows, too.
    pub key_digest: Option<String>,
    /// Vote public key, hex.
    pub vote_key: Option<String>,
    /// Attestation state.
    pub attestation: Option<String>,
    /// Start counter in the TPM.
    pub start_counter: Option<u64>,
    /// In which boots the storage key opens, in words.
    pub storage_key: Option<String>,
}

/// A vote key that took another's place.
#[derive(Debug, Clone, Serialize)]
pub struct RotatedInfo {
    /// Height of the block that names the new one.
    pub height: u64,
    /// Transaction hash, hex.
    pub transaction: String,
    /// The one that is destroyed, public half, hex.
    pub old_vote_key: String,
    /// The new one, public half, hex.
    pub vote_key: String,
    /// In a sentence.
    pub summary: String,
}

/// Keys in another TPM that wait for the operator's act.
#[derive(Debug, Clone, Serialize)]
pub struct UpgradeInfo {
    /// `gw1…` of the new identity.
    pub gateway: String,
    /// `gw1…` of the identity that goes.
    pub replaces: String,
    /// Where the new TPM is.
    pub address: String,
    /// Who made it, in words.
    pub tpm: String,
    /// True for a software TPM.
    pub software: bool,
    /// SHA-256 of its EK's public area, hex.
    pub ek_digest: String,
    /// Whether it holds an EK certificate.
    pub ek_certificate: bool,
}

/// A signed boot that is kept.
#[derive(Debug, Clone, Serialize)]
pub struct KeptBootInfo {
    /// The storage key was sealed anew.
    pub sealed: bool,
    /// Signed boots in which it opens.
    pub boots: u32,
    /// The epoch they are of.
    pub epoch: u64,
    /// In a sentence.
    pub summary: String,
}
