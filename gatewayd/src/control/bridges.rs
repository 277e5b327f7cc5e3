//! Bridges as management sees them: on the machine that is one, and on the member that it serves.

use ledger::ids::NodeId;
use serde::Serialize;

use super::{Control, ControlError, Result};

/// A bridge of this gateway, or one that asks to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BridgeInfo {
    /// Its node ID.
    #[serde(skip)]
    pub node: NodeId,
    /// `gw1…`: a digest of its identity key.
    pub id: String,
    /// `bridge`: it is no member and has no vote.
    pub role: &'static str,
    /// What the administrator calls it; empty: by its ID.
    pub name: String,
    /// `waiting` (to be let in), `connected` or `away`.
    pub state: &'static str,
    /// Why it is not connected, in a sentence.
    pub reason: String,
    /// `gw1…` of the member under which it serves; absent while it waits.
    pub serving: Option<String>,
    /// Whether it is connected now.
    pub connected: bool,
    /// Where it is, or was last.
    pub address: Option<String>,
    /// When it was let in, or asked first, ms since 1970.
    pub since_ms: u64,
    /// When it was heard last, ms since 1970.
    pub seen_ms: Option<u64>,
    /// Serial ports that something is plugged in to.
    pub ports: Vec<String>,
    /// Ports that sensors of this gateway are on.
    pub ports_used: u64,
    /// Datagrams of its packet forwarders since this gateway started.
    pub uplinks: u64,
    /// Datagrams for them.
    pub downlinks: u64,
    /// Bytes that came from it.
    pub bytes: u64,
    /// Messages that were dropped because a queue was full.
    pub dropped: u64,
    /// Identity key, hex, SEC1 compressed.
    pub identity_key: String,
    /// SHA-256 of it, hex: to be compared with `identity show` on the bridge.
    pub key_digest: String,
}

impl BridgeInfo {
    /// Its name, or its ID.
    pub fn called(&self) -> &str {
        if self.name.is_empty() { &self.id } else { &self.name }
    }
}

/// What a bridge lends, and to whom; a snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct BridgeStatus {
    /// `gw1…` of the member, once one was found and checked.
    pub member: Option<String>,
    /// Where it is.
    pub address: Option<String>,
    /// Whether it has let this bridge in and is connected.
    pub connected: bool,
    /// How it stands with the member, in a sentence.
    pub detail: String,
    /// Packet forwarders that speak to this bridge.
    pub forwarders: u64,
    /// Why they cannot be heard.
    pub failed: Option<String>,
    /// Datagrams handed to the member.
    pub uplinks: u64,
    /// Datagrams handed to forwarders.
    pub downlinks: u64,
    /// Datagrams that reached nobody.
    pub dropped: u64,
    /// Serial ports that something is plugged in to.
    pub ports: Vec<String>,
    /// Ports that the member has open.
    pub ports_open: u64,
}

impl Control {
    /// Bridges of this gateway, and those that ask to be.
    ///
    /// # Errors
    /// No site runs.
    pub async fn bridges(&self) -> Result<Vec<BridgeInfo>> {
        self.parts()?.bridges.list().await
    }

    /// Lets a bridge in that asks here, or gives one another name.
    ///
    /// # Errors
    /// None of that ID asks; it is a gateway of the site; too many are let in.
    pub async fn let_bridge_in(&self, id: &str, name: Option<&str>) -> Result<BridgeInfo> {
        let parts = self.parts()?;
        let asks = parts.bridges.list().await?;
        let asked: Vec<_> = asks.iter().filter(|one| one.id.starts_with(id)).collect();
        if let [one] = asked[..] {
            let node = one.node;
            let known = parts.ledger.view(move |state| state.gateway(&node).is_some()).await?;
            if known {
                let why = format!("{} is a gateway on the record, not a bridge", one.id);
                return Err(ControlError::Refused(why));
            }
        }
        parts.bridges.let_in(id, name).await
    }

    /// Lets a bridge in no more; its connection ends at once.
    ///
    /// # Errors
    /// There is none of that ID or name.
    pub async fn forget_bridge(&self, who: &str) -> Result<()> {
        self.parts()?.bridges.forget(who).await
    }
}
