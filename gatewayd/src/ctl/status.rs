//! `gatewayctl status`.

use serde_json::Value;

use super::exit::Failure;
use super::output::{Output, local_time, text};
use super::session::{Session, json};

pub(super) async fn run(session: Session, output: &mut Output) -> Result<(), Failure> {
    let status = json(session.client.manager().await?.status().await)?;
    output.value(&status)?;
    print(&status, output)
}

fn print(status: &Value, output: &mut Output) -> Result<(), Failure> {
    let state = text(status, "state");
    let bridge = &status["bridge"];
    let site = match text(status, "site").as_str() {
        "" if bridge.is_object() => "not known yet".into(),
        "" => "none yet: `gatewayctl site init` founds one".to_string(),
        site => site.to_string(),
    };
    output.list(&[
        ("State", state),
        ("Site", site),
        ("Gateway", text(status, "gateway")),
        ("Attestation", text(status, "attestation")),
        ("Join", join(&status["join"])),
        ("Bridge of", bridge_of(bridge)),
        ("Forwarders", forwarders(bridge)),
        ("Ports", ports(bridge)),
        ("Record", record(status)),
        ("Gateways", gateways(status)),
        ("Voters", text(status, "endurance")),
        ("Behind", behind(status)),
        ("Bridges", bridges(&status["bridges"])),
        // A bridge has neither: its member has.
        ("Sensors", if bridge.is_object() { String::new() } else { sensors(status) }),
        ("Readings", if bridge.is_object() { String::new() } else { readings(status) }),
        ("Strangers", strangers(status)),
        ("Clock", text(status, "clock")),
        ("Disk", disk(status)),
        ("TPM", text(status, "tpm")),
        ("Version", text(status, "version")),
    ])?;
    for key in ["reasons", "warnings"] {
        for sentence in status[key].as_array().into_iter().flatten() {
            output.line(&format!("! {}", sentence.as_str().unwrap_or_default()))?;
        }
    }
    Ok(())
}

fn number(status: &Value, key: &str) -> u64 {
    status[key].as_u64().unwrap_or(0)
}

fn record(status: &Value) -> String {
    match text(status, "height").as_str() {
        "" => String::new(),
        height => {
            let era = match number(status, "era") {
                0 => String::new(),
                era => format!(", recovered {era} time(s) by the operator"),
            };
            format!("height {height}, {}{era}", local_time(status, "block_time_ms"))
        }
    }
}

fn join(progress: &Value) -> String {
    match text(progress, "step").as_str() {
        "" => String::new(),
        step => format!("{step}: {}", text(progress, "detail")),
    }
}

fn bridge_of(bridge: &Value) -> String {
    match (text(bridge, "member").as_str(), bridge["connected"] == true) {
        ("", _) => String::new(),
        (member, true) => format!("{member} at {}, connected", text(bridge, "address")),
        (member, false) => format!("{member} at {}, not connected", text(bridge, "address")),
    }
}

fn forwarders(bridge: &Value) -> String {
    if !bridge.is_object() {
        return String::new();
    }
    let [count, up, down, dropped] =
        ["forwarders", "uplinks", "downlinks", "dropped"].map(|key| number(bridge, key));
    format!("{count}; {up} datagrams up, {down} down, {dropped} reached nobody")
}

fn ports(bridge: &Value) -> String {
    let Some(ports) = bridge["ports"].as_array() else { return String::new() };
    format!("{}, {} used by the member", ports.len(), number(bridge, "ports_open"))
}

fn bridges(bridges: &Value) -> String {
    let bridges = bridges.as_array().map(Vec::as_slice).unwrap_or_default();
    let count = |state: &str| bridges.iter().filter(|bridge| bridge["state"] == state).count();
    match (bridges.len(), count("connected"), count("away"), count("waiting")) {
        (0, ..) => String::new(),
        (_, connected, away, 0) => format!("{connected} connected, {away} away"),
        (_, connected, away, waiting) => format!(
            "{connected} connected, {away} away, {waiting} to be let in: `gatewayctl gateway \
             pending`"
        ),
    }
}

fn gateways(status: &Value) -> String {
    let (members, voters) = (number(status, "members"), number(status, "voters"));
    match members {
        0 => String::new(),
        1 => "1 member, which votes".into(),
        _ => {
            let connected = number(status, "connected");
            format!("{members} members, {voters} of them vote; {connected} others connected")
        }
    }
}

fn behind(status: &Value) -> String {
    match (number(status, "behind"), text(status, "syncing_from").as_str()) {
        (0, _) => String::new(),
        (blocks, "") => format!("{blocks} blocks"),
        (blocks, from) => format!("{blocks} blocks, fetched from {from}"),
    }
}

fn sensors(status: &Value) -> String {
    let presence: Vec<u64> =
        status["presence"].as_array().into_iter().flatten().filter_map(Value::as_u64).collect();
    match presence.as_slice() {
        [present, late, silent] => format!(
            "{} ({present} present, {late} late, {silent} silent)",
            number(status, "sensors")
        ),
        _ => number(status, "sensors").to_string(),
    }
}

fn readings(status: &Value) -> String {
    let unrecorded = match number(status, "readings_unrecorded") {
        0 => String::new(),
        some => format!(", {some} kept but unrecorded"),
    };
    format!(
        "{} committed, {} waiting{unrecorded}",
        number(status, "readings_committed"),
        number(status, "readings_waiting")
    )
}

fn strangers(status: &Value) -> String {
    match number(status, "strangers") {
        0 => String::new(),
        some => format!("{some} frames of unknown devices or with a bad MIC"),
    }
}

fn disk(status: &Value) -> String {
    /// One mebibyte, bytes.
    const MIB: u64 = 1024 * 1024;
    format!(
        "{} of {} MiB",
        number(status, "disk_used_bytes").div_ceil(MIB),
        number(status, "disk_budget_bytes") / MIB
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn gateways_are_counted_and_a_join_is_shown() {
        let alone = json!({"members": 1, "voters": 1});
        assert_eq!(gateways(&alone), "1 member, which votes");
        let four = json!({"members": 4, "voters": 1, "connected": 2});
        assert_eq!(gateways(&four), "4 members, 1 of them vote; 2 others connected");
        assert_eq!(gateways(&json!({})), "");
        assert_eq!(
            behind(&json!({"behind": 7, "syncing_from": "gw1a"})),
            "7 blocks, fetched from gw1a"
        );
        assert_eq!(join(&json!({"step": "finding", "detail": "a member"})), "finding: a member");
        assert_eq!(join(&Value::Null), "");
        assert_eq!((bridge_of(&Value::Null), forwarders(&Value::Null)), ("".into(), "".into()));
        let bridge = json!({"member": "gw1a", "address": "gw-1", "connected": false});
        assert_eq!(bridge_of(&bridge), "gw1a at gw-1, not connected");
        let known = json!([{"state": "connected"}, {"state": "waiting"}]);
        assert!(bridges(&known).starts_with("1 connected, 0 away, 1 to be let in"));
        assert_eq!(bridges(&json!([])), "");
    }
}
