//! Acts of the operator: prepared here, signed elsewhere, submitted here.

use std::collections::BTreeMap;
use std::sync::Arc;

use ledger::codec::{Decode, Encode, Text};
use ledger::crypto::{PublicKey, Signature};
use ledger::genesis::FounderAttestation;
use ledger::ids::NodeId;
use ledger::operator::Request as ActRequest;
use ledger::state::{Standing, State};
use ledger::transaction::{
    Author, Body, Draft, GatewayApproval, NodeAct, OperatorRotation, Reason, Replace, Survivor,
    Suspend, SuspendCause, VoteKeyProof, vote_key_digest, vote_possession_digest,
};

use super::gateways::MIN_PREFIX;
use super::policy::changed;
use super::{AdmissionInfo, CommittedInfo, Control, ControlError, Result, blocking};
use crate::admission::verifier::Introduced;
use crate::clock;
use crate::identity::{Folder, identity_key, normalized};
use crate::sensors::settings::unhex;
use crate::site::{Request, Running};
use crate::upgrade::{self, Prepared};
use crate::vault::Vault;

/// How long a prepared act may be signed and submitted, ms: a walk to the safe and back.
const VALID_MS: u64 = 7 * 24 * 3_600 * 1_000;

/// Options of an act.
pub(super) type Options = BTreeMap<String, String>;

impl Control {
    /// Bytes of an operator act, to be signed with the operator key.
    ///
    /// # Errors
    /// Unknown kind, wrong options, or the record would refuse it.
    pub async fn prepare_operator_act(
        &self,
        kind: &str,
        options: Options,
        caller: &str,
    ) -> Result<Vec<u8>> {
        let parts = self.parts()?;
        let caller = Text::new(caller).map_err(|_| invalid("the caller's name is too long"))?;
        let draft = match kind {
            "recover" => self.recovery(&parts, &options).await?,
            "upgrade" => self.upgrade(&parts, &options).await?,
            _ => act(&parts, kind, options).await?,
        };
        let site = parts.genesis.site_name.clone();
        let request = ActRequest::new(draft, site, caller).map_err(|error| invalid(&error))?;
        Ok(request.to_bytes())
    }

    /// Submits a signed operator act; returns when it is committed.
    ///
    /// # Errors
    /// Not an act, not the operator's signature, or the record refuses it.
    pub async fn submit_operator_act(
        &self,
        act: Vec<u8>,
        signature: [u8; 64],
    ) -> Result<CommittedInfo> {
        let parts = self.parts()?;
        let request = ActRequest::from_bytes(&act).map_err(|error| invalid(&error))?;
        let operator = parts.ledger.view(|state| *state.operator()).await?;
        let recovers = matches!(request.draft().body, Body::Recover(_));
        let moves = own_successor(&parts, &request.draft().body).await?;
        let kind = request.draft().body.kind();
        let signature = Signature::normalized(signature).map_err(|error| invalid(&error))?;
        let signed = request
            .with_signature(&operator, signature)
            .map_err(|error| ControlError::Refused(error.to_string()))?;
        if let Some(successor) = moves {
            self.check_upgrade(successor).await?;
        }
        let done = parts.ledger.submit(signed.into_transaction()).await?;
        if recovers {
            self.take_next_key(parts.vault.clone()).await?;
        }
        if moves.is_some() {
            // A daemon that is stopping starts anew by itself.
            let _ = self.site.send(Request::Restart).await;
        }
        Ok(done.info(format!("{kind:?} is on the record")))
    }

    /// `Replace` of this gateway's own identity by one that was prepared here in another TPM.
    async fn upgrade(&self, parts: &Running, options: &Options) -> Result<Draft> {
        no_more(options, &["node", "reason"])?;
        let (node, reason) = (node_option(options)?, reason_option(options)?);
        let prepared = self.prepared(node).await?;
        let replace = Replace { reason, ..prepared.replace };
        draft(parts, Box::new(move |_| Ok(Body::Replace(Box::new(replace))))).await
    }

    /// The keys that an act names are here, and open with their TPM: else this gateway would be
    /// nobody once the act is recorded.
    async fn check_upgrade(&self, node: NodeId) -> Result<()> {
        let prepared = self.prepared(node).await?;
        blocking(move || prepared.open().map(drop).map_err(ControlError::from)).await
    }

    async fn prepared(&self, node: NodeId) -> Result<Prepared> {
        let dir = self.settings.data_dir.clone();
        let found = blocking(move || {
            let all = upgrade::prepared(&Folder::at(&dir)?)?;
            Ok(all.into_iter().find(|prepared| prepared.node() == node))
        });
        found.await?.ok_or_else(|| {
            ControlError::Refused(format!(
                "the keys of {} are not on this gateway: begin anew with `gatewayctl identity \
                 upgrade`",
                node.to_gateway_string()
            ))
        })
    }

    /// `Recover` for the sole voter: a new era on top of the newest block here, with a new vote
    /// key of this gateway.
    async fn recovery(&self, parts: &Running, options: &Options) -> Result<Draft> {
        no_more(options, &[])?;
        let (tpm, dir) = (self.tpm.clone(), self.settings.data_dir.clone());
        let (vault, info) = (parts.vault.clone(), parts.identity.clone());
        let (chain, gateway) = (parts.genesis.chain_id().0, parts.gateway);
        let counter = parts.counter;
        let known = parts.ledger.view(move |state| state.gateway(&gateway).map(|g| g.vote_key));
        let known = known.await?;
        let proof = blocking(move || {
            let key = Folder::at(&dir)?.next_vote_key(&vault, known.as_ref(), counter)?;
            let identity = identity_key(&info)?;
            let certified = vote_key_digest(&chain, &identity, &key.public_key());
            let signed = tpm
                .sign_identity(certified.0)
                .map_err(|error| ControlError::Tpm(error.to_string()))?;
            let held = vote_possession_digest(&chain, &identity, &key.public_key());
            Ok(VoteKeyProof {
                vote_key: key.public_key(),
                certificate: normalized(signed)?,
                possession: key.sign_digest(&held),
            })
        });
        let survivor = Survivor { node: parts.gateway, new_vote_key: Some(proof.await?) };
        let prepared = parts.ledger.with_node(move |node| {
            let nonce = next_nonce(node.state());
            let expiry = node.tip().time_ms.saturating_add(VALID_MS);
            node.prepare_recovery(vec![survivor], nonce, expiry)
        });
        prepared.await?.map_err(|error| ControlError::Refused(error.to_string()))
    }

    /// After a recovery the new vote key counts; the disk and the TPM's counter agree again, and
    /// the daemon starts anew on them.
    async fn take_next_key(&self, vault: Arc<Vault>) -> Result<()> {
        let (tpm, dir) = (self.tpm.clone(), self.settings.data_dir.clone());
        blocking(move || {
            Folder::at(&dir)?.take_next_vote_key(&vault)?;
            let agreed = crate::site::agree(&dir, &tpm);
            agreed.map_err(|error| ControlError::Storage(format!("{error:#}")))
        })
        .await?;
        // A daemon that is stopping starts anew by itself.
        let _ = self.site.send(Request::Restart).await;
        Ok(())
    }
}

/// Makes the body of an act from the state.
type Make = Box<dyn FnOnce(&State) -> Result<Body> + Send>;

async fn act(parts: &Running, kind: &str, options: Options) -> Result<Draft> {
    let make: Make = match kind {
        "policy" => Box::new(move |state| Ok(Body::Policy(Box::new(changed(state, &options)?)))),
        "approve" => approval(parts, &options).await?,
        "replace" => replacement(parts, &options).await?,
        _ => {
            let body = body(kind, &options)?;
            Box::new(move |_| Ok(body))
        }
    };
    draft(parts, make).await
}

async fn draft(parts: &Running, make: Make) -> Result<Draft> {
    let draft = parts.ledger.with_node(move |node| {
        Ok(Draft {
            chain_id: node.state().chain_id(),
            era: node.state().era(),
            author: Author::Operator,
            nonce: next_nonce(node.state()),
            expiry: node.tip().time_ms.max(clock::wall_ms()).saturating_add(VALID_MS),
            attachment: None,
            body: make(node.state())?,
        })
    });
    draft.await?
}

/// Whom an act puts in the place of this gateway, where nobody else keeps the record.
async fn own_successor(parts: &Running, body: &Body) -> Result<Option<NodeId>> {
    let Body::Replace(replace) = body else { return Ok(None) };
    if replace.old != parts.gateway {
        return Ok(None);
    }
    let members = parts.ledger.view(|state| {
        state.gateways().filter(|(_, gateway)| gateway.standing.standing.may_record()).count()
    });
    Ok((members.await? <= 1).then(|| NodeId::of_key(&replace.identity)))
}

fn next_nonce(state: &ledger::state::State) -> u64 {
    state.activity(&Author::Operator).map_or(0, |activity| activity.nonce_highest) + 1
}

fn body(kind: &str, options: &Options) -> Result<Body> {
    Ok(match kind {
        "suspend" => {
            let NodeAct { node, reason } = node_act(options)?;
            Body::Suspend(Suspend { node, reason, cause: SuspendCause::Operator })
        }
        "pardon" => Body::Pardon(node_act(options)?),
        "revoke" => Body::Revoke(node_act(options)?),
        "rotate-operator" => {
            no_more(options, &["new_key", "possession"])?;
            let new_key = PublicKey::from_sec1(&hex_option(options, "new_key")?)
                .map_err(|error| invalid(&error))?;
            let possession = hex_option(options, "possession")?;
            let possession = possession
                .try_into()
                .map_err(|_| invalid("possession: 64 bytes in hexadecimal"))?;
            let possession = Signature::normalized(possession).map_err(|error| invalid(&error))?;
            Body::OperatorRotation(OperatorRotation { new_key, possession })
        }
        _ => {
            let kinds = "policy, approve, suspend, pardon, revoke, replace, upgrade, recover, \
                         rotate-operator";
            return Err(invalid(&format!("unknown act `{kind}`; there are {kinds}")));
        }
    })
}

fn node_act(options: &Options) -> Result<NodeAct> {
    no_more(options, &["node", "reason"])?;
    Ok(NodeAct { node: node_option(options)?, reason: reason_option(options)? })
}

fn node_option(options: &Options) -> Result<NodeId> {
    let node = options.get("node").ok_or_else(|| invalid("node=ID is missing"))?;
    Ok(NodeId::parse(node).map_err(|error| invalid(&error))?.1)
}

fn reason_option(options: &Options) -> Result<Reason> {
    let reason = options.get("reason").ok_or_else(|| invalid("reason=TEXT is missing"))?;
    Text::new(reason.as_str()).map_err(|error| invalid(&error))
}

/// Lets a newcomer in that was appraised here, as it was appraised.
async fn approval(parts: &Running, options: &Options) -> Result<Make> {
    no_more(options, &["node", "pin"])?;
    let pin = match options.get("pin").map(String::as_str) {
        None | Some("false") => false,
        Some("true") => true,
        Some(_) => return Err(invalid("pin is true or false")),
    };
    if let Ok(node) = node_option(options) {
        let known = move |state: &State| state.gateway(&node).map(|it| it.standing.standing);
        let standing = parts.ledger.view(known).await?;
        if standing.is_some_and(|standing| standing != Standing::Candidate) {
            return member_pin(node, pin);
        }
    }
    let newcomer = newcomer(parts, options, "node").await?;
    approvable(&newcomer, pin)?;
    let introduced = introduced(parts, &newcomer).await?;
    Ok(Box::new(move |state| {
        let policy_hash = state.policy().attestation_hash();
        // What was shown was judged by another policy: it is judged anew within minutes.
        if policy_hash.to_string() != newcomer.policy_hash {
            let what = "the attestation policy has changed since this gateway was appraised; it \
                        asks again by itself: look again in a minute";
            return Err(ControlError::Refused(what.into()));
        }
        Ok(Body::GatewayApproval(GatewayApproval {
            identity: introduced.identity,
            ek_digest: introduced.ek_digest,
            label: introduced.label,
            policy_hash,
            pin,
        }))
    }))
}

/// Vouches for the TPM of a member: of a founder whose TPM has no certificate, say, which nobody
/// could attest otherwise.
fn member_pin(node: NodeId, pin: bool) -> Result<Make> {
    if !pin {
        let what = "this gateway is a member already: nothing is to be approved but its TPM, with \
                    --pin, where no certificate vouches for that";
        return Err(ControlError::Refused(what.into()));
    }
    Ok(Box::new(move |state| {
        let none = || invalid("no such gateway");
        let gateway = state.gateway(&node).ok_or_else(none)?;
        let mut known = state.endorsements().filter(|(_, known)| known.gateway == node);
        let (ek_digest, _) = known.next().ok_or_else(none)?;
        Ok(Body::GatewayApproval(GatewayApproval {
            identity: gateway.identity,
            ek_digest: *ek_digest,
            label: gateway.label(),
            policy_hash: state.policy().attestation_hash(),
            pin,
        }))
    }))
}

/// Whether an approval would be of use.
fn approvable(newcomer: &AdmissionInfo, pin: bool) -> Result<()> {
    match newcomer.state {
        "refused" => Err(ControlError::Refused(format!(
            "{} does not pass, and an approval does not change that: {}",
            newcomer.id, newcomer.reason
        ))),
        _ if newcomer.needs_pin && !pin => Err(ControlError::Refused(format!(
            "nobody the site trusts vouches for the TPM of {} ({}): add the vendor's anchor \
             (`gatewayctl site policy anchor add`), or approve it with --pin if you know this very \
             TPM",
            newcomer.id, newcomer.tpm
        ))),
        _ => Ok(()),
    }
}

/// Moves a gateway's place to a newcomer that asked here: a new mainboard.
async fn replacement(parts: &Running, options: &Options) -> Result<Make> {
    no_more(options, &["node", "new", "reason"])?;
    let (old, reason) = (node_option(options)?, reason_option(options)?);
    let newcomer = newcomer(parts, options, "new").await?;
    let introduced = introduced(parts, &newcomer).await?;
    let attestation = match introduced.manufacturer.is_software() {
        true => FounderAttestation::Unattested,
        false => FounderAttestation::Unverified,
    };
    let replace = Replace {
        old,
        identity: introduced.identity,
        vote: introduced.vote,
        ek_digest: introduced.ek_digest,
        ak_name: introduced.ak_name,
        ek_kind: introduced.ek_kind.number(),
        tpm_model: introduced.tpm_model,
        label: introduced.label,
        attestation,
        reason,
    };
    Ok(Box::new(move |_| Ok(Body::Replace(Box::new(replace)))))
}

/// The newcomer that an option names: its ID, or the beginning of it.
async fn newcomer(parts: &Running, options: &Options, key: &str) -> Result<AdmissionInfo> {
    let id = options.get(key).ok_or_else(|| invalid(&format!("{key}=ID is missing")))?;
    choose_newcomer(parts.admission.pending().await?, id)
}

async fn introduced(parts: &Running, newcomer: &AdmissionInfo) -> Result<Introduced> {
    let (_, node) = NodeId::parse(&newcomer.id).map_err(|error| invalid(&error))?;
    let introduced = parts.admission.introduced(node).await?;
    introduced.ok_or_else(|| not_asking(&newcomer.id))
}

fn choose_newcomer(pending: Vec<AdmissionInfo>, id: &str) -> Result<AdmissionInfo> {
    let long_enough = id.len() >= MIN_PREFIX;
    let mut found = pending.into_iter().filter(|one| long_enough && one.id.starts_with(id));
    match (found.next(), found.next()) {
        (Some(newcomer), None) => Ok(newcomer),
        (Some(_), Some(_)) => {
            Err(invalid(&format!("several newcomers begin with {id}: give more of the ID")))
        }
        _ => Err(not_asking(id)),
    }
}

fn not_asking(id: &str) -> ControlError {
    ControlError::NotFound { what: "newcomer that asks here", name: id.to_owned() }
}

fn hex_option(options: &Options, key: &str) -> Result<Vec<u8>> {
    let missing = || invalid(&format!("{key}=HEX is missing"));
    unhex(options.get(key).ok_or_else(missing)?).ok_or_else(missing)
}

fn no_more(options: &Options, known: &[&str]) -> Result<()> {
    match options.keys().find(|key| !known.contains(&key.as_str())) {
        Some(key) => Err(invalid(&format!("unknown option `{key}`"))),
        None => Ok(()),
    }
}

pub(super) fn invalid(what: &(impl std::fmt::Display + ?Sized)) -> ControlError {
    ControlError::InvalidArgument(what.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn newcomer(id: &str, state: &'static str, needs_pin: bool) -> AdmissionInfo {
        AdmissionInfo {
            id: id.into(),
            identity_key: String::new(),
            ek_digest: String::new(),
            ek_type: "P-256",
            tpm: "a TPM".into(),
            full: true,
            coordinator: true,
            measurements: String::new(),
            policy_hash: String::new(),
            claims: vec![],
            state,
            reason: "the certificate has expired".into(),
            needs_pin,
            from: String::new(),
            since_ms: 0,
            seen_ms: 0,
            replaces: None,
        }
    }

    #[test]
    fn only_what_an_approval_helps_is_approved() {
        assert!(approvable(&newcomer("gw1a", "needs-approval", false), false).is_ok());
        assert!(approvable(&newcomer("gw1a", "needs-approval", true), true).is_ok());
        let unpinned = approvable(&newcomer("gw1a", "needs-approval", true), false);
        let words = unpinned.expect_err("nobody vouches").to_string();
        assert!(words.contains("--pin") && words.contains("anchor add"), "{words}");
        let refused = approvable(&newcomer("gw1a", "refused", false), true);
        let words = refused.expect_err("it does not pass").to_string();
        assert!(words.contains("the certificate has expired"), "{words}");
    }

    #[test]
    fn newcomers_are_named_by_the_beginning_of_their_id() {
        let pending = || ["gw1aaaa2", "gw1aaaa3"].map(|id| newcomer(id, "endorsed", false)).into();
        assert_eq!(
            choose_newcomer(pending(), "gw1aaaa2").map(|n| n.id).ok().as_deref(),
            Some("gw1aaaa2")
        );
        let several = choose_newcomer(pending(), "gw1aaaa").expect_err("two");
        assert!(matches!(several, ControlError::InvalidArgument(_)), "{several}");
        for id in ["gw1a", "", "gw1bbbb2"] {
            let none = choose_newcomer(pending(), id).expect_err(id);
            assert!(matches!(none, ControlError::NotFound { .. }), "{id}: {none}");
        }
    }
}
