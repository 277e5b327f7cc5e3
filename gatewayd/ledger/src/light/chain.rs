//! From the anchor to the certified header.

use alloc::{format, string::String, vec::Vec};

use super::{Checks, Entries, OLD_ANCHOR_MS, Options, words};
use crate::{
    certificate::Signers,
    header::Header,
    ids::{Era, Hash},
    proof::{Anchor, Target},
    state::{Key, Record},
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

/// The anchor's header names the set that votes next; from there each set certifies its change.
fn check_forward(checks: &mut Checks, target: &Target, from: &Header, trusted: &mut Trusted) {
    let hashes: Vec<Hash> = target.sets.iter().map(|set| set.hash()).collect();
    let start = (0..hashes.len()).find(|index| {
        let later = target.steps.get(*index).map_or(&target.header, |(header, _)| header);
        hashes[*index] == from.next_validators_hash && later.height > from.height
    });
    let Some(start) = start else {
        let sentence = "The gateways that certified the header are not those that the site code \
                        leads to.";
        checks.add("anchor", false, sentence.into());
        return;
    };
    let (mut height, mut era) = (from.height, from.era);
    for (index, (header, signers)) in target.steps.iter().enumerate().skip(start) {
        let grows = header.height > height && header.era >= era;
        let next = hashes.get(index + 1) == Some(&header.next_validators_hash);
        let certified = signers.verify(header, &header.hash(), &target.sets[index]).is_ok();
        if !(grows && next && certified) {
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
        (height, era) = (header.height, header.era);
    }
    let ok = target.header.height > height && target.header.era >= era;
    let sentence = if ok {
        format!(
            "From the site code (height {}) {} certified changes of the voting gateways lead to \
             the header.",
            from.height, trusted.steps
        )
    } else {
        "The certified header is older than the changes that lead to it.".into()
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
