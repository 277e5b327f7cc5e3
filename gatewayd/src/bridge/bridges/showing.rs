//! Bridges as management sees them: those that are let in, and those that ask.

use ledger::crypto::sha256;

use super::{Bridge, Served, Task};
use crate::clock;
use crate::control::BridgeInfo;
use crate::peers;
use crate::sensors::settings::hex;

impl Task {
    pub(super) fn infos(&self) -> Vec<BridgeInfo> {
        let mut infos: Vec<_> = self.list.iter().map(|bridge| self.info(bridge)).collect();
        let waiting = self.parts.peers.waiting_bridges();
        infos.extend(waiting.iter().map(|one| self.waiting_info(one)));
        infos
    }

    fn info(&self, bridge: &Bridge) -> BridgeInfo {
        let node = bridge.node();
        let served = self.served.get(&node);
        let counts = served.map(Served::counts).unwrap_or_default();
        let connected = served.is_some_and(|served| served.live.is_some());
        let away = served.map_or("", |served| served.away);
        let ports = served.map_or(&[][..], |served| served.serving.ports());
        BridgeInfo {
            node,
            id: node.to_gateway_string(),
            role: "bridge",
            name: bridge.name.as_str().to_owned(),
            state: if connected { "connected" } else { "away" },
            reason: if connected { String::new() } else { away_words(away) },
            serving: Some(self.parts.gateway.to_gateway_string()),
            connected,
            address: served.and_then(|served| served.address).map(|address| address.to_string()),
            since_ms: bridge.added_ms,
            seen_ms: served.and_then(|served| served.seen_ms),
            ports: ports.iter().map(|port| port.as_str().to_owned()).collect(),
            ports_used: served.map_or(0, |served| served.serving.wanted() as u64),
            uplinks: counts.uplinks,
            downlinks: counts.downlinks,
            bytes: counts.bytes,
            dropped: counts.dropped,
            identity_key: hex(bridge.identity.as_bytes()),
            key_digest: hex(&sha256(&[bridge.identity.as_bytes()]).0),
        }
    }

    fn waiting_info(&self, one: &peers::WaitingBridge) -> BridgeInfo {
        let ago = |boot_ms: u64| {
            clock::wall_ms().saturating_sub(clock::boot_ms().saturating_sub(boot_ms))
        };
        BridgeInfo {
            node: one.node,
            id: one.node.to_gateway_string(),
            role: "bridge",
            name: String::new(),
            state: "waiting",
            reason: "it asks to be let in as a bridge of this gateway".into(),
            serving: None,
            connected: false,
            address: Some(one.remote.to_string()),
            since_ms: ago(one.since_ms),
            seen_ms: Some(ago(one.seen_ms)),
            ports: vec![],
            ports_used: 0,
            uplinks: 0,
            downlinks: 0,
            bytes: 0,
            dropped: 0,
            identity_key: hex(one.identity.as_bytes()),
            key_digest: hex(&sha256(&[one.identity.as_bytes()]).0),
        }
    }
}

fn away_words(why: &str) -> String {
    match why {
        "" => "it has not connected since this gateway started".into(),
        why => format!("it is not connected: {why}"),
    }
}
