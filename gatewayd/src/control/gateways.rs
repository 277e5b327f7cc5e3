//! The gateways of the site as people read them: what the record says of each, and what this
//! gateway hears of it.

use ledger::ids::NodeId;
use ledger::state::{Attestation, Gateway, State};

use super::{Control, ControlError, GatewayInfo, HistoryEntry, Result};
use crate::coordination::Seen;
use crate::peers::PeerStatus;
use crate::sensors::settings::hex;
use crate::site::Running;
use crate::status::attestation_word;

/// Shortest beginning of an ID that names a gateway: `gw1` and four characters of its own.
pub(super) const MIN_PREFIX: usize = 7;

impl Control {
    /// All gateways that the record knows, voters first.
    ///
    /// # Errors
    /// No site runs.
    pub async fn gateways(&self) -> Result<Vec<GatewayInfo>> {
        let parts = self.parts()?;
        gateways(&parts).await
    }

    /// One gateway by `gw1…`, by an unambiguous beginning of it, or `self`.
    ///
    /// # Errors
    /// None, or several of that beginning.
    pub async fn gateway(&self, id: &str) -> Result<GatewayInfo> {
        let parts = self.parts()?;
        let own = parts.gateway.to_gateway_string();
        choose(gateways(&parts).await?, if id == "self" { &own } else { id })
    }

    /// Changes of a gateway on the record, newest first; batches are left out.
    ///
    /// # Errors
    /// No such gateway; the store cannot be read.
    pub async fn gateway_history(&self, id: &str, limit: u32) -> Result<Vec<HistoryEntry>> {
        // One that was replaced is still on the record: a whole ID is enough.
        let id = match NodeId::parse(id) {
            Ok(_) => id.to_owned(),
            Err(_) => self.gateway(id).await?.id,
        };
        self.sensor_history(&id, limit).await
    }
}

/// All gateways, voters first, then in the order of their IDs.
pub(crate) async fn gateways(parts: &Running) -> Result<Vec<GatewayInfo>> {
    let own = parts.gateway;
    let (now_ms, _) = parts.ledger.clock().borrow().now();
    let list = parts.ledger.with_node(move |node| {
        let (state, height) = (node.state(), node.tip().height.0);
        let one = |(id, gateway): (&NodeId, &Gateway)| {
            let mut info = describe(state, id, gateway, now_ms);
            if *id == own {
                info.own = true;
                info.connected = true;
                info.height = Some(height);
            }
            info
        };
        state.gateways().map(one).collect::<Vec<_>>()
    });
    let mut list = list.await?;
    connect(&mut list, &parts.peers.peers().borrow());
    see(&mut list, &parts.liveness.seen());
    list.sort_by(|a, b| b.voter.cmp(&a.voter).then_with(|| a.id.cmp(&b.id)));
    Ok(list)
}

/// Says of each gateway whether it is connected now, and where.
fn connect(list: &mut [GatewayInfo], peers: &[PeerStatus]) {
    for peer in peers {
        let id = peer.node.to_gateway_string();
        if let Some(gateway) = list.iter_mut().find(|gateway| gateway.id == id) {
            gateway.connected = true;
            gateway.address = Some(peer.address.to_string());
        }
    }
}

/// Says how far the others are, and since when those are offline who are.
fn see(list: &mut [GatewayInfo], seen: &Seen) {
    let id = |node: &NodeId| node.to_gateway_string();
    for (node, height) in &seen.heights {
        let node = id(node);
        if let Some(gateway) = list.iter_mut().find(|it| it.id == node && it.connected) {
            gateway.height = Some(*height);
        }
    }
    for (node, gone) in &seen.gone {
        let node = id(node);
        let same = |it: &&mut GatewayInfo| it.id == node && it.liveness_epoch == gone.epoch;
        if let Some(gateway) = list.iter_mut().filter(|it| !it.online).find(same) {
            gateway.offline_since = Some(gone.height);
            gateway.offline_since_ms = Some(gone.time_ms);
            gateway.offline_by = gone.by.iter().map(id).collect();
        }
    }
}

/// What the record says of a gateway.
fn describe(state: &State, node: &NodeId, gateway: &Gateway, now_ms: u64) -> GatewayInfo {
    let attested_ms = match gateway.attestation {
        Attestation::Attested { time_ms, .. } => Some(time_ms),
        Attestation::Unverified | Attestation::Unattested => None,
    };
    let stale = state.is_stale(node, now_ms);
    let (attestation, attestation_words) = attestation(&gateway.attestation, stale);
    GatewayInfo {
        id: node.to_gateway_string(),
        own: false,
        label: label(gateway.full, gateway.coordinator).into(),
        standing: gateway.standing.standing.word().into(),
        standing_since: gateway.standing.since.0,
        reason: gateway.standing.reason.as_str().into(),
        attestation,
        attestation_words,
        attested_ms,
        voter: state.voters().contains(node),
        online: gateway.online,
        offline_since: None,
        offline_since_ms: None,
        offline_by: vec![],
        connected: false,
        address: None,
        height: None,
        member_since: gateway.member_since.0,
        liveness_epoch: gateway.liveness_epoch,
        identity_key: hex(gateway.identity.as_bytes()),
        vote_key: hex(gateway.vote_key.as_bytes()),
    }
}

/// A label in words.
pub(crate) fn label(full: bool, coordinator: bool) -> &'static str {
    match (full, coordinator) {
        (true, true) => "full, coordinator",
        (true, false) => "full",
        (false, true) => "coordinator",
        (false, false) => "none",
    }
}

/// An attestation as a word and as a sentence.
fn attestation(attestation: &Attestation, stale: bool) -> (&'static str, String) {
    let words = match attestation {
        Attestation::Attested { height, .. } if stale => {
            let words = format!(
                "STALE: attested at height {height}, too long ago; it still votes and renews, and \
                 endorses nothing"
            );
            return ("stale", words);
        }
        Attestation::Unverified => "no other gateway has checked its TPM yet".into(),
        Attestation::Unattested => {
            "UNATTESTED: its TPM is a software one; whoever copies its disk copies the gateway"
                .into()
        }
        Attestation::Attested { height, .. } => {
            format!("a quorum of the voters attested its TPM at height {height}")
        }
    };
    (attestation_word(attestation), words)
}

/// The gateway with this ID, or with the only ID that begins so.
fn choose(list: Vec<GatewayInfo>, id: &str) -> Result<GatewayInfo> {
    let not_found = || ControlError::NotFound { what: "gateway", name: id.to_owned() };
    if id.len() < MIN_PREFIX || !id.starts_with("gw1") {
        return Err(not_found());
    }
    let mut found = list.into_iter().filter(|gateway| gateway.id.starts_with(id));
    let first = found.next().ok_or_else(not_found)?;
    match found.next() {
        None => Ok(first),
        Some(_) => {
            let what = format!("several gateways begin with {id}: give more of the ID");
            Err(ControlError::InvalidArgument(what))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coordination::Gone;
    use crate::peers::Direction;

    fn gateway(id: &str) -> GatewayInfo {
        GatewayInfo {
            id: id.into(),
            own: false,
            label: label(true, true).into(),
            standing: "active".into(),
            standing_since: 0,
            reason: String::new(),
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

    #[test]
    fn who_is_heard_is_connected() {
        let node = NodeId([7; 20]);
        let mut list = [gateway(&node.to_gateway_string()), gateway("gw1other")];
        list.iter_mut().for_each(|gateway| gateway.connected = false);
        let peer = PeerStatus {
            node,
            address: ([192, 0, 2, 1], 7447).into(),
            direction: Direction::Incoming,
            since_ms: 0,
            last_heard_ms: 0,
            duplicates: 0,
            dropped: 0,
        };
        connect(&mut list, &[peer]);
        assert!(list[0].connected && !list[1].connected);
        assert_eq!(list[0].address.as_deref(), Some("192.0.2.1:7447"));
    }

    #[test]
    fn who_is_offline_is_so_since_a_block_and_by_somebodys_word() {
        let (gone, near) = (NodeId([7; 20]), NodeId([8; 20]));
        let mut list = [gone, near].map(|node| gateway(&node.to_gateway_string()));
        (list[0].online, list[0].connected) = (false, false);
        let word = |epoch| Gone { epoch, height: 31, time_ms: 9, by: vec![near] };
        let seen = |epoch| Seen {
            heights: [(gone, 30), (near, 33)].into(),
            gone: [(gone, word(epoch)), (near, word(0))].into(),
        };
        see(&mut list, &seen(1));
        assert_eq!(list[0].offline_since, None, "that was about another life");
        see(&mut list, &seen(0));
        assert_eq!((list[0].offline_since, list[0].offline_since_ms), (Some(31), Some(9)));
        assert_eq!(list[0].offline_by, [near.to_gateway_string()]);
        assert_eq!(list[0].height, None, "what it said before is old");
        assert_eq!((list[1].height, list[1].offline_since), (Some(33), None));
    }

    #[test]
    fn gateways_are_named_by_the_beginning_of_their_id() {
        let list = || vec![gateway("gw1qqqq5xyz"), gateway("gw1qqqq7abc"), gateway("gw1zzzz7")];
        let chosen = |id| choose(list(), id).map(|gateway| gateway.id);
        assert_eq!(chosen("gw1qqqq5").expect("one"), "gw1qqqq5xyz");
        assert_eq!(chosen("gw1zzzz7").expect("one"), "gw1zzzz7");
        let several = chosen("gw1qqqq").expect_err("two");
        assert!(several.to_string().contains("more of the ID"), "{several}");
        for id in ["", "gw1", "gw1zzz", "zzzz7", "gw1zzzz77", "ln1zzzz7"] {
            let none = chosen(id).expect_err(id);
            assert!(matches!(none, ControlError::NotFound { what: "gateway", .. }), "{id}: {none}");
        }
    }
}
