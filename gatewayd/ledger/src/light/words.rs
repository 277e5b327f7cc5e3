//! Sentences for people.

use alloc::{format, string::String, vec::Vec};

use crate::{
    batch::TimeQuality,
    ids::Height,
    policy::Policy,
    state::{Attestation, Gateway, LightNode, Standing, StandingRecord},
};

/// A time as `2026-11-23 04:05:06.789 UTC` (proleptic Gregorian calendar).
pub(super) fn time(unix_ms: u64) -> String {
    let (days, ms_of_day) = (unix_ms / 86_400_000, unix_ms % 86_400_000);
    // Days to civil date: shift to an era of 400 years that begins on 1 March of year 0.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute) = (ms_of_day / 3_600_000, ms_of_day / 60_000 % 60);
    let (second, ms) = (ms_of_day / 1_000 % 60, ms_of_day % 1_000);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}.{ms:03} UTC")
}

pub(super) fn time_quality(quality: TimeQuality) -> &'static str {
    match quality {
        TimeQuality::Synced => "by a synchronised clock of the gateway",
        TimeQuality::Site => "by the site's common time, which no outside clock had set",
        TimeQuality::Unknown => {
            "by a clock that was not set: the time of the block is the only sure one"
        }
    }
}

/// What an assurance level means.
pub(super) fn level(level: u8) -> &'static str {
    match level {
        0 => {
            "level 0, observed: nothing on the wire protects it, the gateway reports what it heard"
        }
        1 => {
            "level 1, shared key: it was authenticated with a key that the gateways share with \
             the sensor, so a holder of that key could have made it"
        }
        2 => "level 2, device key: it came over the sensor's own session, the gateway vouches",
        _ => "level 3, device signed: the sensor itself signed it",
    }
}

fn standing(record: &StandingRecord) -> String {
    let StandingRecord { standing, since, reason } = record;
    match (standing, reason.as_str()) {
        (Standing::Active, "") => "in good standing".into(),
        (standing, "") => format!("{} since height {since}", standing.word()),
        (standing, reason) => {
            format!("{} since height {since} (reason given: {reason})", standing.word())
        }
    }
}

/// How a gateway was attested; the loud form for those that were not.
pub(super) fn attestation(attestation: &Attestation) -> String {
    match attestation {
        Attestation::Unattested => {
            "UNATTESTED: its keys are in a software TPM, nothing vouches for the machine".into()
        }
        Attestation::Unverified => {
            "NOT VERIFIED: it has a hardware TPM that no other gateway has checked".into()
        }
        Attestation::Attested { height, time_ms, warnings, .. } => {
            let (time, accepted) = (time(*time_ms), accepted(*warnings));
            format!(
                "its TPM was attested by other gateways of the site, at height {height} \
                 ({time}){accepted}"
            )
        }
    }
}

/// The claims that the site's policy accepts without proof: who relies on the reading must know.
fn accepted(warnings: u32) -> String {
    let claims: Vec<String> = (0..u32::BITS)
        .filter(|claim| warnings & (1 << claim) != 0)
        .map(|claim| match claim {
            0 => "that a vendor vouches for the TPM".into(),
            1 => "that the TPM IS A CHIP AND NOT A PROGRAM".into(),
            5 => "what the machine booted".into(),
            6 => "which files were opened on it".into(),
            other => format!("claim {other}"),
        })
        .collect();
    if claims.is_empty() {
        return String::new();
    }
    format!(", NOT PROVEN and accepted by the site's policy: {}", claims.join(", "))
}

/// How old the attestation was when the header was made; stale, when the policy is at hand.
fn attestation_age(gateway: &Gateway, as_of_ms: u64, policy: Option<&Policy>) -> String {
    let Attestation::Attested { time_ms, .. } = gateway.attestation else {
        return String::new();
    };
    let hours = as_of_ms.saturating_sub(time_ms) / 3_600_000;
    match policy.map(|policy| policy.attestation_valid_s) {
        Some(valid_s) if gateway.attestation.is_stale(valid_s, as_of_ms) => {
            format!(", which was STALE: {hours} hours old, and valid for {}", valid_s / 3_600)
        }
        _ => format!(", {hours} hours before that header"),
    }
}

/// `as_of_ms`: time of the header that the record is under.
pub(super) fn gateway(
    name: &str,
    gateway: &Gateway,
    as_of_ms: u64,
    policy: Option<&Policy>,
) -> String {
    format!(
        "Gateway {name}: {}, member since height {}, {}; {}{}.",
        gateway.label().words(),
        gateway.member_since,
        standing(&gateway.standing),
        attestation(&gateway.attestation),
        attestation_age(gateway, as_of_ms, policy)
    )
}

pub(super) fn light_node(name: &str, node: &LightNode) -> String {
    let retired = match node.retired {
        None => String::new(),
        Some(retirement) => format!(", retired at height {}", retirement.height),
    };
    let exposed = exposed(node.exposed_since);
    format!(
        "Light node {name}: registered at height {}{retired}, {}, at most {}{exposed}.",
        node.registered,
        standing(&node.standing),
        level(node.level)
    )
}

pub(super) fn exposed(since: Option<Height>) -> String {
    since.map_or_else(String::new, |height| {
        format!("; its keys are EXPOSED since height {height}: a gateway that held them is revoked")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        for (ms, expected) in [
            (0, "1970-01-01 00:00:00.000 UTC"),
            (951_782_399_999, "2000-02-28 23:59:59.999 UTC"),
            (951_782_400_000, "2000-02-29 00:00:00.000 UTC"),
            (1_709_251_199_000, "2024-02-29 23:59:59.000 UTC"),
            (1_800_000_000_000, "2027-01-15 08:00:00.000 UTC"),
            (4_102_444_800_000, "2100-01-01 00:00:00.000 UTC"),
        ] {
            assert_eq!(time(ms), expected);
        }
        assert!(time(u64::MAX).ends_with("UTC"));
    }
}
