//! The site's policy: numbers that every gateway must agree on.
//!
//! The operator replaces it as a whole. What only one machine must know belongs into its
//! configuration file, not here.

use alloc::{format, string::String, vec, vec::Vec};

use crate::{
    codec::{Decode, DecodeError, Decoder, Encode, Encoder, canonical, check_ascending},
    crypto::sha256,
    ids::{Hash, Height},
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

/// Which members vote (design §4 "Voters").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum VoterRule {
    /// Voters grow only to 1, 4, 7, 10 …: what is between breaks more often and tolerates no more.
    OneThenFour = 1,
    /// Every member that is ready votes.
    All = 2,
}

/// Reference values that hold until a time: an update's are published before the old ones end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Window {
    /// SHA-256 of the document.
    pub document: Hash,
    /// Block time until which it holds, Unix milliseconds; 0 for no end.
    pub until_ms: u64,
}

canonical!(Window, "reference values", 48, [document, until_ms]);

impl Window {
    /// Whether it holds at a block time.
    pub fn holds(&self, time_ms: u64) -> bool {
        self.until_ms == 0 || time_ms <= self.until_ms
    }
}

/// A version of the state machine that begins at a height.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextVersion {
    /// The version.
    pub state_version: u32,
    /// The first block that follows its rules.
    pub height: Height,
}

canonical!(NextVersion, "next version", 16, [state_version, height]);

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
    /// Which members vote.
    pub voters: VoterRule,
    /// How long a member is heard before a voter says that it is ready, milliseconds.
    pub activation_after_ms: u32,
    /// Age at which an attestation is stale, seconds.
    pub attestation_valid_s: u32,
    /// Registers that a quote must cover, bit i for PCR i.
    pub pcrs: u32,
    /// Reference values, ascending by document, at most 32.
    pub reference_values: Vec<Window>,
    /// Version of the state machine that begins later; `None` for no change in sight.
    pub next_version: Option<NextVersion>,
}

/// Newest version of the state machine that this build runs: a new site begins with it.
pub const STATE_VERSION: u32 = 1;

/// The versions of the state machine that this build can run.
pub const SUPPORTED_VERSIONS: core::ops::RangeInclusive<u32> = 1..=STATE_VERSION;

const MAX_ANCHORS: usize = 64;
const MAX_REFERENCE_VALUES: usize = 32;

/// PCRs 0 to 7: what the firmware measures (TCG PC Client Platform Firmware Profile 3.3.4).
const FIRMWARE_PCRS: u32 = 0xff;

/// A TPM has 24 registers (PC Client Platform TPM Profile 4.6).
const ALL_PCRS: u32 = 0xff_ffff;

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
            voters: VoterRule::OneThenFour,
            activation_after_ms: 60_000,
            attestation_valid_s: 86_400,
            pcrs: FIRMWARE_PCRS,
            reference_values: Vec::new(),
            next_version: None,
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
            ((1_000..=3_600_000).contains(&self.activation_after_ms), "activation_after_ms"),
            ((60..=31_536_000).contains(&self.attestation_valid_s), "attestation_valid_s"),
            (self.pcrs != 0 && self.pcrs & !ALL_PCRS == 0, "pcrs"),
            (self.next_version.is_none_or(|next| next.state_version >= 1), "next_version"),
        ];
        match rules.iter().find(|(holds, _)| !holds) {
            Some((_, field)) => Err(DecodeError::Invalid(field)),
            None => check_ascending("ek_anchors", &self.ek_anchors),
        }?;
        let documents: Vec<_> = self.reference_values.iter().map(|each| each.document).collect();
        check_ascending("reference_values", &documents)
    }
}

const FIELDS: usize = 20;

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
            voters,
            activation_after_ms,
            attestation_valid_s,
            pcrs,
            reference_values,
            next_version,
        } = self;
        encoder.array(FIELDS).value(state_version);
        encoder.value(block_interval_ms).value(batch_interval_ms).value(offline_after_ms);
        encoder.value(receipts).value(nodes_per_sponsor).value(registrations_per_hour);
        encoder.value(transactions_per_author).value(refusals_per_hour);
        encoder.uint(*profile as u64).bool(*operator_approval).bool(*coordinator_attestation);
        encoder.bool(*insecure_software_tpm_sites).list(ek_anchors);
        encoder.uint(*voters as u64).value(activation_after_ms).value(attestation_valid_s);
        encoder.value(pcrs).list(reference_values).value(next_version);
    }
}

impl Decode for Policy {
    const MAX_BYTES: usize = 8192;

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
            voters: match decoder.uint8("voters")? {
                1 => VoterRule::OneThenFour,
                2 => VoterRule::All,
                _ => return Err(DecodeError::Invalid("voters")),
            },
            activation_after_ms: decoder.uint32("activation_after_ms")?,
            attestation_valid_s: decoder.uint32("attestation_valid_s")?,
            pcrs: decoder.uint32("pcrs")?,
            reference_values: decoder.list("reference_values", MAX_REFERENCE_VALUES)?,
            next_version: decoder.option()?,
        };
        policy.check()?;
        Ok(policy)
    }
}

impl Policy {
    /// SHA-256 over the fields that say what an attestation must show: what verifiers applied.
    ///
    /// A change of any other field leaves endorsements and approvals valid.
    pub fn attestation_hash(&self) -> Hash {
        let mut encoder = Encoder::new();
        encoder.array(6).uint(self.profile as u64).bool(self.coordinator_attestation);
        encoder.bool(self.insecure_software_tpm_sites).list(&self.ek_anchors);
        encoder.value(&self.pcrs).list(&self.reference_values);
        sha256(&[b"gatewayd/attestation-policy/1", &encoder.into_bytes()])
    }

    /// The version of the state machine whose rules a block follows.
    pub fn version_at(&self, height: Height) -> u32 {
        match self.next_version {
            Some(next) if next.height <= height => next.state_version,
            _ => self.state_version,
        }
    }

    /// Hashes of the documents that it names.
    pub fn documents(&self) -> impl Iterator<Item = &Hash> {
        self.ek_anchors.iter().chain(self.reference_values.iter().map(|each| &each.document))
    }

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
        lines.extend(self.describe_admission());
        if self.insecure_software_tpm_sites {
            lines.push("SOFTWARE TPMs ARE LET IN: attestation proves nothing".into());
        }
        lines
    }

    fn describe_admission(&self) -> Vec<String> {
        let voters = match self.voters {
            VoterRule::OneThenFour => "1, then 4, 7, 10 and so on",
            VoterRule::All => "every member that is ready",
        };
        let pcrs: Vec<String> =
            (0..24).filter(|pcr| self.pcrs & (1 << pcr) != 0).map(|pcr| format!("{pcr}")).collect();
        let mut lines = vec![
            format!("voters: {voters}, after {} ms", self.activation_after_ms),
            format!("an attestation is stale after {} s", self.attestation_valid_s),
            format!("a quote covers PCR {}", pcrs.join(", ")),
        ];
        lines.extend(self.reference_values.iter().map(|window| match window.until_ms {
            0 => format!("reference values {}", window.document),
            until => {
                let until = crate::light::time_in_words(until);
                format!("reference values {} until {until}", window.document)
            }
        }));
        lines.extend(self.ek_anchors.iter().map(|anchor| format!("EK anchor {anchor}")));
        lines.extend(self.next_version.map(|NextVersion { state_version, height }| {
            format!("state machine version {state_version} from height {height} on")
        }));
        lines
    }
}
