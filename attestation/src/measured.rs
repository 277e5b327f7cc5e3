//! The claims of the measured profiles: what the machine booted, which files it opened since.
//! Registers whose quote is not accepted are not looked at, and what is not affirmed is refused.

use crate::attest::Clock;
use crate::boot::{self, BootReason};
use crate::crypto::sha256;
use crate::event_log::Register;
use crate::ima::{self, IMA_PCR, ImaReason};
use crate::logs::{ImaProgress, Judged, Logs};
use crate::pcr::composite;
use crate::policy::{Policy, Profile};
use crate::public::Name;
use crate::reference_values::ReferenceValues;
use crate::result::{Reason, Status};
use crate::verifier::Verdict;

/// All that these claims depend on.
pub(crate) struct Case<'a> {
    pub(crate) policy: &'a Policy,
    /// Values of the policy's registers; `None` when the quote was not accepted.
    pub(crate) registers: Option<&'a [Register]>,
    pub(crate) logs: &'a Logs,
    pub(crate) references: &'a [ReferenceValues],
    pub(crate) earlier: Option<&'a Judged>,
    pub(crate) clock: Clock,
    pub(crate) ak_name: &'a Name,
}

/// The verdicts, and what may be kept for the next appraisal.
pub(crate) struct Measured {
    pub(crate) boot: Verdict,
    pub(crate) ima: Verdict,
    pub(crate) judged: Option<Judged>,
}

pub(crate) fn judge(case: &Case<'_>) -> Measured {
    let profile = case.policy.profile;
    if profile == Profile::TpmOnly {
        let boot = Ok((Status::Warning, Reason::BootNotMeasured));
        return Measured { boot, ima: ima_not_measured(), judged: None };
    }
    let context = case.context();
    let earlier = case.earlier.filter(|judged| judged.is_of(case.clock, &context));
    let boot = judge_boot(case, earlier);
    let ima = profile.wants_ima().then(|| judge_ima(case, earlier));
    let judged = match (&boot, &ima) {
        (Ok((_, digest)), None) => Some((*digest, None)),
        (Ok((_, digest)), Some(Ok((_, progress)))) => Some((*digest, Some(*progress))),
        _ => None,
    };
    let Clock { reset_count, restart_count, .. } = case.clock;
    let judged =
        judged.map(|(boot, ima)| Judged { reset_count, restart_count, context, boot, ima });
    let affirming = |reason| (Status::Affirming, reason);
    Measured {
        boot: boot.map(|(reason, _)| affirming(Reason::Boot(reason))).map_err(Reason::Boot),
        ima: match ima {
            None => ima_not_measured(),
            Some(ima) => ima.map(|(reason, _)| affirming(Reason::Ima(reason))).map_err(Reason::Ima),
        },
        judged,
    }
}

fn ima_not_measured() -> Verdict {
    Ok((Status::Warning, Reason::ImaNotMeasured))
}

impl Case<'_> {
    /// Digest of who is judged, and by what: what was judged under other reference values, or of
    /// another key, is judged anew.
    fn context(&self) -> [u8; 32] {
        let mut digests: Vec<[u8; 32]> =
            self.references.iter().map(|document| sha256(&[&document.to_bytes()])).collect();
        digests.sort_unstable();
        let fixed = [&[self.policy.profile as u8], self.policy.pcrs.bitmap().as_slice()].concat();
        sha256(&[self.ak_name.as_bytes(), &fixed, digests.as_flattened()])
    }

    /// The quoted registers with their numbers.
    fn quoted(&self) -> Option<Vec<(u8, Register)>> {
        let values = self.registers?.iter().copied();
        Some(self.policy.pcrs.iter().zip(values).collect())
    }
}

/// The reason, and the digest of the registers that were explained.
fn judge_boot(
    case: &Case<'_>,
    earlier: Option<&Judged>,
) -> Result<(BootReason, [u8; 32]), BootReason> {
    let mut quoted = case.quoted().ok_or(BootReason::NotQuoted)?;
    if case.policy.profile.wants_ima() {
        quoted.retain(|(pcr, _)| *pcr != IMA_PCR);
    } else if case.policy.pcrs.contains(IMA_PCR) {
        return Err(BootReason::UnexplainedRegister { pcr: IMA_PCR });
    }
    if quoted.is_empty() {
        return Err(BootReason::NoRegisters);
    }
    if case.references.iter().all(|document| document.boot.is_empty()) {
        return Err(BootReason::NoReferenceValues);
    }
    let values: Vec<Register> = quoted.iter().map(|(_, value)| *value).collect();
    let digest = composite(&values);
    match (&case.logs.event_log, earlier) {
        (Some(log), _) => {
            let events = boot::judge(log, &quoted, case.references)?;
            Ok((BootReason::Matches { events }, digest))
        }
        (None, Some(judged)) if judged.boot == digest => Ok((BootReason::Unchanged, digest)),
        (None, _) => Err(BootReason::WholeLogNeeded),
    }
}

/// The reason, and how far the log was judged.
fn judge_ima(
    case: &Case<'_>,
    earlier: Option<&Judged>,
) -> Result<(ImaReason, ImaProgress), ImaReason> {
    let registers = case.quoted().ok_or(ImaReason::NotQuoted)?;
    let register = registers.iter().find(|(pcr, _)| *pcr == IMA_PCR).map(|(_, value)| *value);
    let register = register.ok_or(ImaReason::RegisterNotQuoted)?;
    let aggregates = ima::aggregates(&registers);
    let progress = earlier.and_then(|judged| judged.ima);
    let quoted = ima::Quoted { register, progress, aggregates: &aggregates };
    let part = case.logs.ima.as_ref().ok_or(ImaReason::WholeLogNeeded)?;
    let (entries, progress) = ima::judge(part, &quoted, case.references)?;
    Ok((ImaReason::Matches { entries }, progress))
}
