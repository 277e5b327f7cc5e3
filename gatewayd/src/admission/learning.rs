//! Reference values from what another member has booted: that member is asked for a fresh quote and
//! its logs, and everything that they prove is appraised, but for the boot itself, which is what is
//! to be learned. The operator signs what comes of it, or does not.

use attestation::activation::ENTROPY_LEN;
use attestation::{
    Challenge as Asked, ClaimKind, Evidence, ImaPart, Logs, Policy, Profile, ReferenceValues,
    Status, propose,
};
use ledger::codec::{Decode, Encode};
use ledger::ids::{Hash, NodeId};
use zeroize::Zeroizing;

use super::exchange::{ANSWER_LIMIT, Ask, AskError, fetch_logs};
use super::messages::{
    Bound, Bytes, Challenge, EvidenceRequest, LogsWanted, Profile as Applied, Request, Response,
    qualifying_data,
};
use super::verifier::{Denial, Facts, Introduced, Query, Trust};
use crate::control::{ControlError, Result};
use crate::ledger_task;
use crate::peers::{self, Session};
use crate::vault;

/// Documents of reference values that accept what a connected member has booted.
///
/// # Errors
/// It is not connected, does not prove its TPM, or its logs do not lead to its registers: in words.
pub async fn learn(
    ledger: &ledger_task::Handle,
    peers: &peers::Handle,
    own: NodeId,
    member: NodeId,
    profile: Profile,
) -> Result<Vec<ReferenceValues>> {
    let link = Link { peers, member };
    let (introduced, session) = introduce(&link).await?;
    let (time_ms, _) = ledger.clock().borrow().now();
    let query = Query::of(&introduced);
    let facts = ledger
        .with_node(move |node| Facts::of(node.state(), node.tip().height, time_ms, own, &query))
        .await?;
    let same = facts
        .endorsement
        .is_some_and(|known| known.gateway == member && known.ak_name == introduced.ak_name);
    if !same {
        return Err(refused(&Denial::OtherTpm));
    }
    let trust = Trust::read(ledger.view(Trust::documents).await?);
    let policy = trust.policy(&facts, &introduced).map_err(|denial| refused(&denial))?;
    let policy = Policy { profile, ..policy };
    let (nonce, secret) = (Hash(random()?), Zeroizing::new(random::<32>()?));
    let challenge = challenge(&introduced, &facts, profile, nonce, &secret)?;
    let wanted = challenge.logs;
    let answer = link.ask(&Request::Prove(Box::new(challenge))).await.map_err(unavailable)?;
    let evidence = match answer {
        // Another session has another exporter: its evidence would not be for this challenge.
        (Response::Evidence(evidence), exporter) if exporter == session.exporter => evidence,
        (Response::Evidence(_), _) => {
            return Err(ControlError::Unavailable("the connection was made anew".into()));
        }
        (other, _) => return Err(said(other)),
    };
    let logs = fetch_logs(&link, &evidence, wanted).await.map_err(unavailable)?;
    let ima = logs.ima.map(|bytes| ImaPart { from_offset: 0, bytes });
    let logs = Logs { event_log: logs.event_log, ima };
    let qualifying_data = qualifying_data(&Bound {
        nonce,
        exporter: &session.exporter,
        identity: &introduced.identity,
        vote_key: &introduced.vote.vote_key,
        label: introduced.label,
        event_log: evidence.event_log.map(|head| head.digest),
    });
    let now = time_ms / 1_000;
    let asked = Asked { qualifying_data, credential: *secret, now, judged: None };
    let evidence = proven(&introduced, &evidence, &policy, &asked)?;
    propose(&evidence, &logs, profile).map_err(|error| ControlError::Refused(error.to_string()))
}

async fn introduce(link: &Link<'_>) -> Result<(Introduced, Session)> {
    let request = Request::Introduce.to_bytes();
    let answer = link.peers.request(link.member, request, ANSWER_LIMIT).await;
    let answer = answer.map_err(|error| ControlError::Unavailable(error.to_string()))?;
    let response = Response::from_bytes(&answer.bytes);
    match response.map_err(|error| unavailable(error.into()))? {
        Response::Introduction(introduction) => {
            let introduced = Introduced::parse(&introduction, &answer.session);
            Ok((introduced.map_err(|denial| refused(&denial))?, answer.session))
        }
        other => Err(said(other)),
    }
}

fn challenge(
    introduced: &Introduced,
    facts: &Facts,
    profile: Profile,
    nonce: Hash,
    secret: &[u8; 32],
) -> Result<Challenge> {
    let entropy = Zeroizing::new(random::<ENTROPY_LEN>()?);
    let blob = introduced.credential(secret, &entropy).map_err(|denial| refused(&denial))?;
    let applied = match profile.wants_ima() {
        true => Applied::MeasuredIma,
        false => Applied::Measured,
    };
    Ok(Challenge {
        nonce,
        credential: Bytes::new(blob.to_bytes()).map_err(|error| unavailable(error.into()))?,
        pcrs: facts.policy.pcrs,
        profile: applied,
        policy_hash: facts.policy_hash,
        logs: LogsWanted {
            event: profile.wants_event_log(),
            ima_from: profile.wants_ima().then_some(0),
        },
    })
}

/// The evidence, when it proves all but what was booted and opened.
fn proven(
    introduced: &Introduced,
    answer: &EvidenceRequest,
    policy: &Policy,
    asked: &Asked,
) -> Result<Evidence> {
    let malformed = |error: &dyn std::fmt::Display| {
        ControlError::Refused(format!("its evidence is malformed: {error}"))
    };
    let evidence = Evidence::from_bytes(&answer.evidence).map_err(|error| malformed(&error))?;
    let same = evidence.ek_public == introduced.ek.raw()
        && evidence.ak_public == introduced.ak.raw()
        && evidence.identity_public == introduced.identity_public;
    if !same {
        return Err(refused(&Denial::OtherKeys));
    }
    let endorsements = &introduced.endorsements;
    let result = attestation::appraise(&evidence, endorsements, &Logs::none(), &[], policy, asked)
        .map_err(|error| malformed(&error))?;
    let failed = result.claims().iter().find(|claim| {
        claim.status == Status::Contraindicated
            && !matches!(claim.kind, ClaimKind::Boot | ClaimKind::Ima)
    });
    match failed {
        None => Ok(evidence),
        Some(claim) => {
            Err(ControlError::Refused(format!("{}: {}", claim.kind.as_str(), claim.reason)))
        }
    }
}

/// A connected member that is asked.
struct Link<'a> {
    peers: &'a peers::Handle,
    member: NodeId,
}

impl Ask for Link<'_> {
    async fn ask(&self, request: &Request) -> std::result::Result<(Response, [u8; 32]), AskError> {
        let answer = self.peers.request(self.member, request.to_bytes(), ANSWER_LIMIT).await?;
        Ok((Response::from_bytes(&answer.bytes)?, answer.session.exporter))
    }
}

fn unavailable(error: AskError) -> ControlError {
    ControlError::Unavailable(error.to_string())
}

fn refused(denial: &Denial) -> ControlError {
    ControlError::Refused(denial.to_string())
}

fn said(response: Response) -> ControlError {
    match response {
        Response::Refused(no) => ControlError::Refused(no.reason.as_str().into()),
        Response::Wait(wait) => ControlError::Unavailable(wait.reason.as_str().into()),
        _ => unavailable(AskError::Unexpected),
    }
}

fn random<const N: usize>() -> Result<[u8; N]> {
    let none = |_| ControlError::Internal("the system gives no random bytes".into());
    vault::random().map_err(none)
}
