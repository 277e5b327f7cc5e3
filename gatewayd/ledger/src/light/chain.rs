//! From the anchor to the certified header.

use alloc::{format, string::String, vec::Vec};

use super::{Checks, Entries, OLD_ANCHOR_MS, Options, words};
use crate::{
    certificate::Signers,
    header::Header,
    ids::{Era, Hash, Height},
    proof::{Anchor, Target},
    state::{Key, Record},
    validator_set::ValidatorSet,
};

/// How the target hangs on the anchor.
pub(super) struct Trusted {
    /// The anchor's header, when the file holds it.
    anchor_time_ms: Option<u64>,
    /// Set changes between them.
    steps: usize,
    /// Recoveries among those, by height.
    recoveries: Vec<u64>,
}

pub(super) fn check_target(
    checks: &mut Checks,
    target: &Target,
    anchor: &Anchor,
    options: &Options,
) -> Trusted {
    let mut trusted = Trusted { anchor_time_ms: None, steps: 0, recoveries: Vec::new() };
    let hash = target.header.hash();
    check_certificate(checks, target, &hash);
    if anchor.height == target.header.height {
        let ok = anchor.hash == hash;
        let sentence = if ok {
            "The site code names the certified header itself.".into()
        } else {
            "The site code names another header at this height: another site, or a forgery.".into()
        };
        checks.add("anchor", ok, sentence);
        trusted.anchor_time_ms = Some(target.header.time_ms);
        return trusted;
    }
    if anchor.height > target.header.height {
        let sentence = format!(
            "The site code is newer (height {}) than the proof (height {}): export the reading \
             again, or use an older code.",
            anchor.height, target.header.height
        );
        checks.add("anchor", false, sentence);
        return trusted;
    }
    let Some(header) = held_anchor(target, anchor) else {
        let sentence = format!(
            "The file holds no way from this site code (height {}) to its header: export the \
             reading again and name the code.",
            anchor.height
        );
        checks.add("anchor", false, sentence);
        return trusted;
    };
    trusted.anchor_time_ms = Some(header.time_ms);
    check_forward(checks, target, header, &mut trusted);
    check_age(checks, target, header, options);
    trusted
}

fn check_certificate(checks: &mut Checks, target: &Target, hash: &Hash) {
    let header = &target.header;
    let result =
        target.sets.last().ok_or_else(|| String::from("the file holds no validator set")).and_then(
            |set| {
                let verified = target.signers.verify(header, hash, set);
                verified.map(|()| set).map_err(|error| format!("{error}"))
            },
        );
    let sentence = match (&result, &target.signers) {
        (Ok(set), Signers::Votes(votes)) => format!(
            "{} of {} voting gateways certified the header of height {}.",
            votes.signatures.len(),
            set.count(),
            header.height
        ),
        (Ok(_), Signers::Operator(_)) => {
            format!("The operator certified the header of height {}.", header.height)
        }
        (Err(error), _) => {
            format!("The header of height {} is not certified: {error}.", header.height)
        }
    };
    checks.add("certificate", result.is_ok(), sentence);
}

/// The header that the anchor names, among those of the file.
fn held_anchor<'a>(target: &'a Target, anchor: &Anchor) -> Option<&'a Header> {
    let steps = target.steps.iter().map(|(header, _)| header);
    target
        .anchors
        .iter()
        .chain(steps)
        .find(|header| header.height == anchor.height && header.hash() == anchor.hash)
}

/// The voters that are trusted, from the anchor forward.
struct Walk<'a> {
    target: &'a Target,
    /// Hash of each set of the file.
    hashes: Vec<Hash>,
    trusted: &'a ValidatorSet,
    height: Height,
    era: Era,
}

impl<'a> Walk<'a> {
    /// The anchor's header names the set that votes next.
    fn from(target: &'a Target, anchor: &Header) -> Option<Self> {
        let hashes: Vec<Hash> = target.sets.iter().map(ValidatorSet::hash).collect();
        let trusted = named(target, &hashes, &anchor.next_validators_hash)?;
        Some(Self { target, hashes, trusted, height: anchor.height, era: anchor.era })
    }

    /// Whether those who certified a later header are the trusted voters, or a quorum of these is
    /// among them. Otherwise whoever signed it is a stranger.
    fn leads_to(&self, header: &Header, signers: &Signers) -> Option<&'a ValidatorSet> {
        let set = named(self.target, &self.hashes, &header.validators_hash)?;
        let grows = header.height > self.height && header.era >= self.era;
        let known = set == self.trusted || signers.are_quorum_of(self.trusted, set);
        (grows && known).then_some(set)
    }

    /// Goes over one change of the voters; whether it is certified.
    fn step(&mut self, header: &Header, signers: &Signers) -> bool {
        let next = named(self.target, &self.hashes, &header.next_validators_hash);
        let set = self.leads_to(header, signers);
        let (Some(next), Some(set)) = (next, set) else {
            return false;
        };
        (self.trusted, self.height, self.era) = (next, header.height, header.era);
        signers.verify(header, &header.hash(), set).is_ok()
    }
}

/// The set of the file that a header names.
fn named<'a>(target: &'a Target, hashes: &[Hash], hash: &Hash) -> Option<&'a ValidatorSet> {
    let position = hashes.iter().position(|each| each == hash)?;
    target.sets.get(position)
}

/// From the anchor's voters each set certifies its change.
fn check_forward(checks: &mut Checks, target: &Target, from: &Header, trusted: &mut Trusted) {
    let strangers = "The gateways that certified the header are not those that the site code \
                     leads to.";
    let Some(mut walk) = Walk::from(target, from) else {
        checks.add("anchor", false, strangers.into());
        return;
    };
    for (header, signers) in target.steps.iter().filter(|(step, _)| step.height > from.height) {
        if !walk.step(header, signers) {
            let at = header.height;
            let sentence =
                format!("The change of voting gateways at height {at} is not certified.");
            checks.add("anchor", false, sentence);
            return;
        }
        if matches!(signers, Signers::Operator(_)) {
            trusted.recoveries.push(header.height.0);
        }
        trusted.steps += 1;
    }
    // That it is certified was checked before.
    let Target { header, signers, .. } = target;
    let ok = walk.leads_to(header, signers).is_some();
    let sentence = if ok {
        let steps = trusted.steps;
        format!(
            "From the site code (height {}) {steps} certified changes of the voting gateways lead \
             to the header.",
            from.height
        )
    } else if header.height <= walk.height || header.era < walk.era {
        "The certified header is older than the changes that lead to it.".into()
    } else {
        strangers.into()
    };
    checks.add("anchor", ok, sentence);
}

fn check_age(checks: &mut Checks, target: &Target, from: &Header, options: &Options) {
    let now = options.now_ms.unwrap_or(0).max(target.header.time_ms);
    let age_ms = now.saturating_sub(from.time_ms);
    if age_ms <= OLD_ANCHOR_MS {
        return;
    }
    let days = age_ms / 86_400_000;
    let sentence = if options.old_anchor {
        format!("The site code is {days} days old; accepted because you asked for it.")
    } else {
        format!(
            "The site code is {days} days old: whoever holds retired keys could have forged what \
             came after it. Get a newer code, or accept this one with --old-anchor."
        )
    };
    checks.add("anchor-age", options.old_anchor, sentence);
}

/// Statements about height, recoveries and the anchor.
pub(super) fn state(
    statements: &mut Vec<String>,
    target: &Target,
    entries: &Entries,
    trusted: &Trusted,
    anchor: &Anchor,
    options: &Options,
) {
    let header = &target.header;
    let time = words::time(header.time_ms);
    statements.push(format!("All this is as of height {}, {time}.", header.height));
    if header.era > Era(0) {
        statements.push(recoveries(header.era, entries, trusted));
    }
    let from = options.anchor_from.as_deref().unwrap_or("whoever gave you the site code");
    let anchored = trusted.anchor_time_ms.map_or_else(String::new, |ms| {
        let time = words::time(ms);
        format!(" of {time}")
    });
    statements.push(format!(
        "Which site this is, you know from {from}: code for height {}{anchored}.",
        anchor.height
    ));
}

fn recoveries(era: Era, entries: &Entries, trusted: &Trusted) -> String {
    let heights: Vec<u64> = match entries.get(&Key::Site) {
        Some(Some(Record::Site(site))) => {
            site.recoveries.iter().map(|recovery| recovery.height.0).collect()
        }
        _ => trusted.recoveries.clone(),
    };
    if heights.is_empty() {
        return format!("The ledger was RECOVERED BY THE OPERATOR, {era} times so far.");
    }
    let heights: Vec<String> = heights.iter().map(|height| format!("{height}")).collect();
    let heights = heights.join(", ");
    format!("The ledger was RECOVERED BY THE OPERATOR at height {heights}: era {era} now.")
}
