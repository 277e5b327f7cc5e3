//! The site's policy: numbers that every gateway must agree on.
//!
//! The operator replaces it as a whole. What only one machine must know belongs into its
//! configuration file, not here.

use alloc::{format, string::String, vec, vec::Vec};

use crate::{
    codec::{Decode, DecodeError, Decoder, Encode, Encoder, check_ascending},
    ids::Hash,
};

/// What the attestation of a gateway must show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Profile {
    /// Chain of the EK, residency of the keys, a fresh quote; boot is not measured.
    TpmOnly = 1,
    /// Also the event log against reference values.
    Measured = 2,
    /// Also the IMA log.
    MeasuredIma = 3,
}

/// Rules of one site. Limits bound what one gateway can do to all others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Version of the state machine that applies the rules.
    pub state_version: u32,
    /// Age of the oldest waiting transaction at which a block is made, milliseconds.
    pub block_interval_ms: u32,
    /// Age of the oldest reading at which a batch is cut at low rates, milliseconds.
    pub batch_interval_ms: u32,
    /// Silence after which a gateway counts as offline, milliseconds.
    pub offline_after_ms: u32,
    /// Receipts wanted for a batch.
    pub receipts: u8,
    /// Light nodes that one gateway may sponsor.
    pub nodes_per_sponsor: u32,
    /// Registrations that one gateway may sponsor within an hour of block time.
    pub registrations_per_hour: u32,
    /// Transactions of one author in one block.
    pub transactions_per_author: u32,
    /// Refusals that one gateway may record within an hour of block time.
    pub refusals_per_hour: u32,
    /// Attestation profile for gateways.
    pub profile: Profile,
    /// Whether admission needs the operator's approval.
    pub operator_approval: bool,
    /// Whether coordinators without the full bar must be attested, or their key suffices.
    pub coordinator_attestation: bool,
    /// Whether software TPMs are let in: for demonstrations and tests, and loud.
    pub insecure_software_tpm_sites: bool,
    /// SHA-256 of the EK certificate anchors that are trusted; ascending, at most 64.
    pub ek_anchors: Vec<Hash>,
}

/// Version of the state machine that this build runs.
pub const STATE_VERSION: u32 = 1;

const MAX_ANCHORS: usize = 64;

impl Default for Policy {
    fn default() -> Self {
        Self {
            state_version: STATE_VERSION,
            block_interval_ms: 500,
            batch_interval_ms: 15_000,
            offline_after_ms: 10_000,
            receipts: 2,
            nodes_per_sponsor: 100_000,
            registrations_per_hour: 2_000,
            transactions_per_author: 256,
            refusals_per_hour: 60,
            profile: Profile::TpmOnly,
            operator_approval: true,
            coordinator_attestation: true,
            insecure_software_tpm_sites: false,
            ek_anchors: Vec::new(),
        }
    }
}

impl Policy {
    /// Checks that every number is within its useful range.
    ///
    /// # Errors
    /// [`DecodeError::Invalid`] with the field's name.
    pub fn check(&self) -> Result<(), DecodeError> {
        let rules = [
            (self.state_version >= 1, "state_version"),
            ((10..=60_000).contains(&self.block_interval_ms), "block_interval_ms"),
            ((100..=3_600_000).contains(&self.batch_interval_ms), "batch_interval_ms"),
            ((1_000..=600_000).contains(&self.offline_after_ms), "offline_after_ms"),
            (self.receipts <= 16, "receipts"),
            (self.nodes_per_sponsor >= 1, "nodes_per_sponsor"),
            (self.registrations_per_hour >= 1, "registrations_per_hour"),
            ((1..=2_000).contains(&self.transactions_per_author), "transactions_per_author"),
        ];
        match rules.iter().find(|(holds, _)| !holds) {
            Some((_, field)) => Err(DecodeError::Invalid(field)),
            None => check_ascending("ek_anchors", &self.ek_anchors),
        }
    }
}

const FIELDS: usize = 14;

impl Encode for Policy {
    fn encode(&self, encoder: &mut Encoder) {
        let Self {
            state_version,
            block_interval_ms,
            batch_interval_ms,
            offline_after_ms,
            receipts,
            nodes_per_sponsor,
            registrations_per_hour,
            transactions_per_author,
            refusals_per_hour,
            profile,
            operator_approval,
            coordinator_attestation,
            insecure_software_tpm_sites,
            ek_anchors,
        } = self;
        encoder.array(FIELDS).value(state_version);
        encoder.value(block_interval_ms).value(batch_interval_ms).value(offline_after_ms);
        encoder.value(receipts).value(nodes_per_sponsor).value(registrations_per_hour);
        encoder.value(transactions_per_author).value(refusals_per_hour);
        encoder.uint(*profile as u64).bool(*operator_approval).bool(*coordinator_attestation);
        encoder.bool(*insecure_software_tpm_sites).list(ek_anchors);
    }
}

impl Decode for Policy {
    const MAX_BYTES: usize = 4096;

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        decoder.fields("policy", FIELDS)?;
        let policy = Self {
            state_version: decoder.uint32("state_version")?,
            block_interval_ms: decoder.uint32("block_interval_ms")?,
            batch_interval_ms: decoder.uint32("batch_interval_ms")?,
            offline_after_ms: decoder.uint32("offline_after_ms")?,
            receipts: decoder.uint8("receipts")?,
            nodes_per_sponsor: decoder.uint32("nodes_per_sponsor")?,
            registrations_per_hour: decoder.uint32("registrations_per_hour")?,
            transactions_per_author: decoder.uint32("transactions_per_author")?,
            refusals_per_hour: decoder.uint32("refusals_per_hour")?,
            profile: match decoder.uint8("profile")? {
                1 => Profile::TpmOnly,
                2 => Profile::Measured,
                3 => Profile::MeasuredIma,
                _ => return Err(DecodeError::Invalid("profile")),
            },
            operator_approval: decoder.bool("operator_approval")?,
            coordinator_attestation: decoder.bool("coordinator_attestation")?,
            insecure_software_tpm_sites: decoder.bool("insecure_software_tpm_sites")?,
            ek_anchors: decoder.list("ek_anchors", MAX_ANCHORS)?,
        };
        policy.check()?;
        Ok(policy)
    }
}

impl Policy {
    /// The policy as sentences.
    pub fn describe(&self) -> Vec<String> {
        let switch = |on: bool| if on { "yes" } else { "no" };
        let profile = match self.profile {
            Profile::TpmOnly => "TPM only, boot not measured",
            Profile::Measured => "measured boot",
            Profile::MeasuredIma => "measured boot and IMA",
        };
        let mut lines = vec![
            format!("state machine version {}", self.state_version),
            format!(
                "a block after {} ms, a batch after {} ms",
                self.block_interval_ms, self.batch_interval_ms
            ),
            format!("a gateway is offline after {} ms of silence", self.offline_after_ms),
            format!("receipts wanted for a batch: {}", self.receipts),
            format!(
                "light nodes a sponsor: {}, registrations an hour: {}",
                self.nodes_per_sponsor, self.registrations_per_hour
            ),
            format!(
                "transactions of an author in a block: {}, refusals an hour: {}",
                self.transactions_per_author, self.refusals_per_hour
            ),
            format!("attestation of gateways: {profile}"),
            format!("admission needs the operator's approval: {}", switch(self.operator_approval)),
            format!("coordinators must be attested: {}", switch(self.coordinator_attestation)),
            format!("trusted EK anchors: {}", self.ek_anchors.len()),
        ];
        if self.insecure_software_tpm_sites {
            lines.push("SOFTWARE TPMs ARE LET IN: attestation proves nothing".into());
        }
        lines
    }
}
