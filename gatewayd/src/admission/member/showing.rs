//! What management is shown.

use attestation::result::ClaimKind;
use ledger::ids::NodeId;
use ledger::state::Attestation;

use super::{Ask, Member};
use crate::admission::verifier::{is_stale, valid_until_ms};
use crate::control::{AdmissionInfo, AttestationInfo, ControlError, Result};

impl Member {
    pub(super) async fn answer(&mut self, ask: Ask) {
        match ask {
            Ask::Pending(reply) => {
                // Who has gone away is not told; likewise below.
                let _ = reply.send(self.newcomers().await);
            }
            Ask::Introduced(node, reply) => {
                let _ = reply.send(Ok(self.verifier.newcomer(&node).cloned()));
            }
            Ask::Attestation(node, reply) => {
                let _ = reply.send(self.attestation(node).await);
            }
            Ask::Renew(reply) => self.renew_now(reply).await,
        }
    }

    async fn newcomers(&mut self) -> Result<Vec<AdmissionInfo>> {
        let members = self.shared.ledger.view(|state| {
            let fit = state.gateways().filter(|(_, it)| it.standing.standing.may_record());
            fit.map(|(node, _)| *node).collect::<Vec<NodeId>>()
        });
        let members = members.await?;
        Ok(self.verifier.pending(|node| members.contains(node)))
    }

    async fn attestation(&self, node: NodeId) -> Result<AttestationInfo> {
        let (time_ms, _) = self.shared.ledger.clock().borrow().now();
        let found = self.shared.ledger.view(move |state| {
            let gateway = state.gateway(&node)?.clone();
            let policy = state.policy().clone();
            Some((gateway, policy, is_stale(state, &node, time_ms)))
        });
        let id = node.to_gateway_string();
        let none = || ControlError::NotFound { what: "gateway", name: id.clone() };
        let (gateway, policy, stale) = found.await?.ok_or_else(none)?;
        let mut info = AttestationInfo {
            id: id.clone(),
            state: match gateway.attestation {
                Attestation::Unverified => "unverified",
                Attestation::Unattested => "unattested",
                Attestation::Attested { .. } if stale => "stale",
                Attestation::Attested { .. } => "attested",
            },
            height: None,
            time_ms: None,
            valid_until_ms: None,
            current_policy: None,
            warnings: vec![],
            last: self.verifier.appraised(&node).cloned(),
            renewal: (node == self.shared.gateway).then(|| self.renewing.words().to_owned()),
        };
        if let Attestation::Attested { height, time_ms, policy_hash, warnings } =
            gateway.attestation
        {
            info.height = Some(height.0);
            info.time_ms = Some(time_ms);
            info.valid_until_ms = Some(valid_until_ms(&policy, time_ms));
            info.current_policy = Some(policy_hash == policy.attestation_hash());
            info.warnings = warning_words(warnings);
        }
        Ok(info)
    }
}

fn warning_words(warnings: u32) -> Vec<&'static str> {
    let set = |kind: &&ClaimKind| warnings & (1 << **kind as u8) != 0;
    ClaimKind::ALL.iter().filter(set).map(|kind| kind.as_str()).collect()
}
