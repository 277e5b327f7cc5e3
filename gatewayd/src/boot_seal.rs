//! The storage key where the boot is measured (design §4 "Keys"): it is sealed to the operator's
//! word (`TPM2_PolicyAuthorize`), and opens in the boots that the operator has signed, each a
//! policy over registers. So an update that was signed before bricks nothing, and a foreign boot
//! opens nothing. The signed policies are kept beside the key, in `boots`; they are no secret.
//!
//! Calls of this module block (TPM, disk).

use attestation::pcr::PcrSelection;
use attestation::pcr_policy::{Approval, OperatorKey, pcr_policy_digest};
use attestation::tpm::{Tpm, TpmError, sealed_to};
use ledger::crypto::PublicKey;
use ledger::policy::{Policy, Profile};

use crate::identity::{Folder, IdentityError};

/// Boots that may open the key at once: old and new ones of some updates.
const MAX_BOOTS: usize = 16;

/// The register of IMA, which every opened file changes: it opens and closes nothing.
const IMA_PCR: u32 = 10;

const FILE: &str = "boots";

type Result<T> = std::result::Result<T, IdentityError>;

/// What the site says that the key is sealed by.
#[derive(Debug, Clone)]
pub(crate) struct Rules {
    pub(crate) policy: Policy,
    pub(crate) operator: PublicKey,
}

/// What became of a signed boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kept {
    /// The key was sealed anew.
    pub(crate) sealed: bool,
    /// Signed boots that may open it.
    pub(crate) boots: usize,
    /// The epoch they are of.
    pub(crate) epoch: u64,
}

/// The storage key of this folder.
///
/// # Errors
/// The TPM does not give it back: another TPM, or a boot that nobody signed.
pub(crate) fn unseal(folder: &Folder, tpm: &Tpm) -> Result<zeroize::Zeroizing<Vec<u8>>> {
    let sealed = folder.must_read("storage.sealed")?;
    Ok(match sealed_to(&sealed) {
        None => tpm.unseal(&sealed)?,
        Some(_) => tpm.unseal_authorized(&sealed, &boots(folder)?)?,
    })
}

/// By whose word the key opens, and of which epoch; none: in any boot of its TPM.
pub(crate) fn sealed_by(folder: &Folder) -> Result<Option<(OperatorKey, u64)>> {
    Ok(sealed_to(&folder.must_read("storage.sealed")?))
}

/// The boots that were signed.
pub(crate) fn boots(folder: &Folder) -> Result<Vec<Approval>> {
    let bytes = folder.read(FILE)?.unwrap_or_default();
    let parsed: std::result::Result<Vec<Approval>, _> =
        bytes.chunks(Approval::LEN).map(Approval::from_bytes).collect();
    parsed.map_err(|_| IdentityError::Invalid("the file `boots` is damaged"))
}

/// What the operator is to sign, for the registers of now but for those given. `open`: whether the
/// key is open, so that it can be sealed anew.
///
/// # Errors
/// `Refused`, in words; the TPM does not answer.
pub(crate) fn prepare(
    folder: &Folder,
    tpm: &Tpm,
    rules: &Rules,
    registers: &[(u8, [u8; 32])],
    new_epoch: bool,
    open: bool,
) -> Result<Approval> {
    let sealed = sealed_by(folder)?;
    if sealed.is_none() && rules.policy.profile == Profile::TpmOnly {
        return refused(
            "the policy of this site measures no boot (profile tpm-only): the storage key is \
             sealed to the TPM alone. First: `gatewayctl site policy set profile=measured`",
        );
    }
    if new_epoch && !open {
        return refused("a new epoch seals the storage key anew, and it is not open now");
    }
    let current = uncompressed(&rules.operator)?;
    let (operator, epoch) = match sealed {
        None => (current, 1),
        // Only the word of the key that it is sealed to opens it.
        Some((operator, epoch)) if !open => (operator, epoch),
        Some((operator, epoch)) if operator == current && !new_epoch => (operator, epoch),
        Some((_, epoch)) => (current, epoch.saturating_add(1)),
    };
    let pcrs = PcrSelection::from_bits(rules.policy.pcrs & !(1 << IMA_PCR))
        .map_err(|_| IdentityError::Refused("the policy names no register to seal to".into()))?;
    let mut values = tpm.registers(pcrs)?;
    for (register, value) in registers {
        let place = pcrs.iter().position(|pcr| pcr == *register);
        let Some(place) = place.and_then(|place| values.get_mut(place)) else {
            return refused(&format!("the policy of this site does not look at PCR {register}"));
        };
        *place = *value;
    }
    if values.iter().all(|value| *value == [0; 32]) {
        return refused(
            "every register is zero: nothing has measured this boot, and any other would open the \
             same. Is measured boot switched on in the firmware?",
        );
    }
    let policy = pcr_policy_digest(pcrs, &values);
    Ok(Approval { pcrs, policy, epoch, operator, signature: [0; 64] })
}

/// Keeps a signed boot. The key is sealed anew where it was sealed to the TPM alone, to another
/// operator key or in another epoch; it must open in the boot of now then.
///
/// # Errors
/// `Refused`, in words; the TPM does not answer, or does not give the key back.
pub(crate) fn keep(folder: &Folder, tpm: &Tpm, rules: &Rules, signed: Approval) -> Result<Kept> {
    let sealed = sealed_by(folder)?;
    let current = uncompressed(&rules.operator)?;
    if signed.operator != current && sealed.is_none_or(|(operator, _)| operator != signed.operator)
    {
        return refused("it is signed with a key that is not the operator's");
    }
    if !signed.verifies() {
        return refused("the signature is not the operator's");
    }
    let mut boots = boots(folder)?;
    let epoch = signed.epoch;
    if sealed == Some((signed.operator, epoch)) {
        boots.retain(|boot| (boot.pcrs, boot.policy) != (signed.pcrs, signed.policy));
        if boots.len() >= MAX_BOOTS {
            return refused(&format!(
                "{MAX_BOOTS} boots are signed already: a new epoch (--new-epoch) ends them all but \
                 the one of now"
            ));
        }
        boots.push(signed);
        write(folder, &boots)?;
        return Ok(Kept { sealed: false, boots: boots.len(), epoch });
    }
    let next = sealed.map_or(1, |(_, epoch)| epoch.saturating_add(1));
    if epoch != next || signed.operator != current {
        return refused("it was signed for another epoch or operator key: have it signed anew");
    }
    let key = folder.storage_key(tpm)?;
    let blob = tpm.seal_authorized(&key[..], &signed.operator, epoch)?;
    match tpm.unseal_authorized(&blob, std::slice::from_ref(&signed)) {
        Ok(_) => {}
        Err(TpmError::BootNotApproved { .. }) => {
            return refused("the first boot that is signed in an epoch is the one of now");
        }
        Err(error) => return Err(error.into()),
    }
    // The new blob finds its boot whenever it gets its place; the old one keeps its own until then.
    boots.push(signed);
    write(folder, &boots)?;
    folder.write("storage.sealed", &blob)?;
    boots.retain(|boot| (boot.operator, boot.epoch) == (current, epoch));
    write(folder, &boots)?;
    Ok(Kept { sealed: true, boots: boots.len(), epoch })
}

/// What has to be said of it while the site runs.
pub(crate) fn warning(folder: &Folder, rules: &Rules) -> Option<String> {
    let sealed = sealed_by(folder).ok()?;
    let current = uncompressed(&rules.operator).ok()?;
    match sealed {
        None if rules.policy.profile == Profile::TpmOnly => None,
        None => Some(
            "the boot is measured, and the storage key opens in any boot of this TPM: `gatewayctl \
             identity seal`"
                .into(),
        ),
        Some((operator, _)) if operator != current => Some(
            "the storage key still opens by the word of the operator key before this one: \
             `gatewayctl identity seal`"
                .into(),
        ),
        Some(_) => None,
    }
}

/// How it is sealed, in words.
pub(crate) fn words(folder: &Folder) -> Option<String> {
    Some(match sealed_by(folder).ok()? {
        None => "sealed to the TPM, opens in any boot".into(),
        Some((_, epoch)) => {
            let boots = boots(folder).ok()?;
            let count = boots.iter().filter(|boot| boot.epoch == epoch).count();
            format!("opens in {count} boot(s) that the operator has signed (epoch {epoch})")
        }
    })
}

fn write(folder: &Folder, boots: &[Approval]) -> Result<()> {
    folder.write(FILE, &boots.iter().flat_map(Approval::to_bytes).collect::<Vec<u8>>())
}

fn uncompressed(key: &PublicKey) -> Result<OperatorKey> {
    key.to_uncompressed().map_err(|_| IdentityError::Invalid("the operator key is no P-256 key"))
}

fn refused<T>(why: &str) -> Result<T> {
    Err(IdentityError::Refused(why.to_owned()))
}
