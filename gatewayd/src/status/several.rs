//! What status says of a site of several gateways: how many may be lost, who is silent, behind,
//! stale or not attested. Pure: from snapshots to sentences.

use crate::control::{BridgeInfo, GatewayInfo};

/// A gateway that is so few blocks behind is not said to be.
const NEAR: u64 = 2;

/// What is known beside the record.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Around {
    /// Blocks that a connected gateway says it has and this one has not.
    pub(super) behind: u64,
    /// `gw1…` of whom they are fetched from.
    pub(super) syncing_from: Option<String>,
    /// The policy lets software TPMs in.
    pub(super) insecure: bool,
    /// This gateway does not vote up to this height.
    pub(super) silent_through: Option<u64>,
    /// It asks the other voters which of its votes they know, before it votes.
    pub(super) in_doubt: bool,
}

/// Voters that neither are this gateway nor are connected to it.
pub(super) fn silent_voters(gateways: &[GatewayInfo]) -> Vec<String> {
    let silent = gateways.iter().filter(|gateway| gateway.voter && !gateway.connected);
    silent.map(|gateway| gateway.id.clone()).collect()
}

/// How many voters may be lost at most, of so many.
pub(super) fn tolerance(voters: usize) -> usize {
    voters.saturating_sub(1) / 3
}

/// How many voters may still be lost, in a sentence.
pub(super) fn endurance(members: usize, voters: usize, silent: usize) -> String {
    let may = tolerance(voters);
    if silent > may {
        return format!(
            "THE RECORD STANDS: {silent} of {voters} voters are silent, {} must come back; if \
             they are lost for ever, `gatewayctl site recover`",
            silent - may
        );
    }
    let now = if silent > 0 { format!(" ({silent} silent now)") } else { String::new() };
    match (voters, may - silent) {
        (0, _) => String::new(),
        (1, _) if members == 1 => {
            "one gateway, one vote: when it is lost, so is what it has not handed out".into()
        }
        (1, _) => "one voter: when it is lost, the others listen and buffer until `gatewayctl \
                   site recover` gives one of them the vote"
            .into(),
        (voters, 0) if may == 0 => format!("all {voters} voters are needed: none may be lost"),
        (_, 0) => format!("no more voter may be lost before the record stops{now}"),
        (_, more) => format!("{more} more voter(s) may be lost before the record stops{now}"),
    }
}

/// Why the site as a whole does not work as it should.
pub(super) fn reasons(gateways: &[GatewayInfo], around: &Around) -> Vec<String> {
    let mut reasons = Vec::new();
    let voters = gateways.iter().filter(|gateway| gateway.voter).count();
    let silent = silent_voters(gateways);
    if silent.len() > tolerance(voters) {
        reasons.push(endurance(gateways.len(), voters, silent.len()));
        reasons.push(format!("silent voters: {}", silent.join(", ")));
    }
    if around.behind > NEAR {
        let from = around.syncing_from.as_deref().unwrap_or("whoever has them");
        reasons.push(format!("{} blocks behind; fetching them from {from}", around.behind));
    }
    if let Some(height) = around.silent_through {
        reasons.push(format!(
            "this gateway does not vote up to block {height}: its log was damaged, or an older \
             copy of its disk was put back; it follows the others"
        ));
    }
    if around.in_doubt {
        reasons.push(
            "this gateway was not stopped cleanly: it votes when enough voters have said which of \
             its votes they know"
                .into(),
        );
    }
    reasons
}

/// What must always be said of the site's gateways.
pub(super) fn warnings(gateways: &[GatewayInfo], around: &Around) -> Vec<String> {
    let mut warnings = Vec::new();
    if around.insecure {
        let what = "INSECURE site: its policy lets software TPMs in; attestation proves nothing";
        warnings.push(what.into());
    }
    let voters = gateways.iter().filter(|gateway| gateway.voter).count();
    let silent = silent_voters(gateways);
    if !silent.is_empty() && silent.len() <= tolerance(voters) {
        warnings.push(format!("silent voters: {}", silent.join(", ")));
    }
    warnings.extend(gateways.iter().filter_map(warning));
    warnings
}

/// Bridges that were let in and are not connected: what they lend is missing.
pub(super) fn away_bridges(bridges: &[BridgeInfo]) -> Option<String> {
    let away = bridges.iter().filter(|bridge| bridge.state == "away");
    let names: Vec<&str> = away.map(BridgeInfo::called).collect();
    (!names.is_empty()).then(|| format!("bridges that are away: {}", names.join(", ")))
}

/// What must be said of one gateway.
fn warning(gateway: &GatewayInfo) -> Option<String> {
    let GatewayInfo { id, standing, reason, attestation, own, .. } = gateway;
    let is_gone = !gateway.online;
    match (standing.as_str(), *attestation) {
        ("suspended" | "marked", _) => Some(format!("{id} is {standing}: {reason}")),
        // It left for good: that is history.
        ("revoked" | "candidate", _) => None,
        _ if is_gone => Some(unreachable(gateway)),
        (_, "stale") => Some(format!(
            "the attestation of {id} is STALE: it still votes, and endorses nothing until it is \
             renewed"
        )),
        // Of itself it is said elsewhere, and louder.
        (_, "unattested") if !own => Some(format!("{id} is UNATTESTED: its TPM is a software one")),
        _ => None,
    }
}

/// That a quorum has found a gateway offline: of this one, that it is coming back.
fn unreachable(gateway: &GatewayInfo) -> String {
    let GatewayInfo { id, own, offline_since, offline_by, .. } = gateway;
    let since = offline_since.map_or(String::new(), |height| format!(" since height {height}"));
    let by = match offline_by.as_slice() {
        [] => String::new(),
        voters => format!(", found so by {}", voters.join(", ")),
    };
    let word = if *own { "this gateway was found UNREACHABLE and is coming back" } else { id };
    let is = if *own { "" } else { " is UNREACHABLE" };
    format!("{word}{is}{since}{by}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gateway(id: &str) -> GatewayInfo {
        GatewayInfo {
            id: id.into(),
            own: id == "gw1own",
            label: "full".into(),
            standing: "active".into(),
            standing_since: 0,
            reason: "why".into(),
            attestation: "attested",
            attestation_words: String::new(),
            attested_ms: None,
            voter: true,
            online: true,
            offline_since: None,
            offline_since_ms: None,
            offline_by: vec![],
            connected: true,
            address: None,
            height: None,
            member_since: 0,
            liveness_epoch: 0,
            identity_key: String::new(),
            vote_key: String::new(),
        }
    }

    fn four(change: impl Fn(&mut GatewayInfo)) -> Vec<GatewayInfo> {
        let mut gateways: Vec<_> = ["gw1own", "gw1b", "gw1c", "gw1d"].map(gateway).into();
        gateways.iter_mut().filter(|gateway| !gateway.own).for_each(change);
        gateways
    }

    #[test]
    fn what_may_be_lost_is_a_sentence() {
        let table = [
            (1, 1, 0, "one gateway, one vote"),
            (3, 1, 0, "one voter: when it is lost, the others listen"),
            (3, 3, 0, "all 3 voters are needed"),
            (4, 4, 0, "1 more voter(s) may be lost"),
            (4, 4, 1, "no more voter may be lost before the record stops (1 silent now)"),
            (4, 4, 2, "THE RECORD STANDS: 2 of 4 voters are silent, 1 must come back"),
            (9, 7, 1, "1 more voter(s) may be lost before the record stops (1 silent now)"),
            (2, 2, 1, "THE RECORD STANDS: 1 of 2 voters are silent"),
        ];
        for (members, voters, silent, begin) in table {
            let words = endurance(members, voters, silent);
            assert!(words.starts_with(begin), "{members} {voters} {silent}: {words}");
        }
    }

    #[test]
    fn who_was_found_offline_is_named_with_who_found_so() {
        let mut gone = gateway("gw1b");
        gone.online = false;
        gone.attestation = "stale";
        assert_eq!(warning(&gone).as_deref(), Some("gw1b is UNREACHABLE"));
        gone.offline_since = Some(31);
        gone.offline_by = vec!["gw1c".into(), "gw1d".into()];
        let words = "gw1b is UNREACHABLE since height 31, found so by gw1c, gw1d";
        assert_eq!(warning(&gone).as_deref(), Some(words));
        gone.own = true;
        assert!(warning(&gone).is_some_and(|words| words.contains("is coming back since height")));
        gone.standing = "revoked".into();
        assert_eq!(warning(&gone), None, "history");
    }

    #[test]
    fn silent_voters_are_named_and_too_many_are_a_reason() {
        let around = Around::default();
        let one = four(|gateway| gateway.connected = gateway.id != "gw1b");
        assert!(reasons(&one, &around).is_empty());
        assert_eq!(warnings(&one, &around), ["silent voters: gw1b"]);
        let all = four(|gateway| gateway.connected = false);
        let why = reasons(&all, &around);
        assert!(why[0].contains("THE RECORD STANDS"), "{why:?}");
        assert_eq!(why[1], "silent voters: gw1b, gw1c, gw1d");
        // Who has no vote is no voter that is silent.
        let members = four(|gateway| (gateway.connected, gateway.voter) = (false, false));
        assert!(reasons(&members, &around).is_empty() && silent_voters(&members).is_empty());
    }

    #[test]
    fn what_is_behind_stale_or_insecure_is_said() {
        let syncing_from = Some("gw1c".into());
        let behind = Around { behind: 900, syncing_from, ..Around::default() };
        let why = reasons(&four(|_| ()), &behind);
        assert_eq!(why, ["900 blocks behind; fetching them from gw1c"]);
        assert!(reasons(&four(|_| ()), &Around { behind: NEAR, ..behind }).is_empty());
        let silent = Around { silent_through: Some(12), in_doubt: true, ..Around::default() };
        let why = reasons(&four(|_| ()), &silent);
        assert!(why[0].contains("does not vote up to block 12"), "{why:?}");
        assert!(why[1].contains("was not stopped cleanly"), "{why:?}");
        let insecure = Around { insecure: true, ..Around::default() };
        assert!(warnings(&four(|_| ()), &insecure)[0].starts_with("INSECURE site"));
        let quiet = Around::default();
        for (attestation, word) in [("stale", "STALE"), ("unattested", "UNATTESTED")] {
            let said = warnings(&four(|gateway| gateway.attestation = attestation), &quiet);
            assert_eq!(said.len(), 3, "{said:?}");
            assert!(said.iter().all(|sentence| sentence.contains(word)), "{said:?}");
        }
        let suspended = four(|gateway| gateway.standing = "suspended".into());
        assert_eq!(warnings(&suspended, &quiet)[0], "gw1b is suspended: why");
        assert!(warnings(&four(|_| ()), &quiet).is_empty());
    }
}
