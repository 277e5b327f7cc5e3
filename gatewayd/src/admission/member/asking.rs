//! Asking other members, and answering as an attester.

use std::time::Duration;

use ledger::codec::{Decode, Encode};
use ledger::ids::{Hash, NodeId};
use ledger::transaction::QuorumSignature;
use tokio::sync::oneshot;

use super::serving::{Reply, denied, refused, send};
use super::{Member, Shared, now};
use crate::admission::attester::Answer;
use crate::admission::exchange::{Ask, AskError};
use crate::admission::messages::{Challenge, Endorse, LogQuestion, Request, Response};
use crate::admission::quorum::{self, Answers, Question};
use crate::control::{ControlError, Result};
use crate::peers::{Allowance, Incoming, RequestError, Session};
use crate::vault;

/// Longest wait for a challenge or a verdict.
pub(super) const ATTEST_TIMEOUT: Duration = Duration::from_secs(20);

impl Member {
    /// Shows this gateway's keys to who is going to attest it.
    pub(super) async fn introduce(&mut self, session: &Session, reply: Reply) -> Result<()> {
        let own = self.shared.gateway;
        let view = move |node: &ledger::node::Node| {
            let attestation = node.state().gateway(&own).map(|own| own.attestation);
            (attestation, node.tip().height)
        };
        let (attestation, tip) = self.shared.ledger.with_node(view).await?;
        let (Some(attestation), Some(attester)) = (attestation, &self.shared.attester) else {
            send(reply, &refused("this gateway cannot prove itself now"));
            return Ok(());
        };
        let shown = self.shown.show(now().mono_ms, session, &attestation);
        let response = match shown.map(|()| attester.introduce(tip)) {
            Ok(Ok(introduction)) => Response::Introduction(Box::new(introduction)),
            Ok(Err(error)) => refused(&error.to_string()),
            Err(denial) => denied(&denial),
        };
        send(reply, &response);
        Ok(())
    }

    /// Answers a challenge to this gateway.
    pub(super) fn prove(&mut self, session: &Session, challenge: Challenge, reply: Reply) {
        if let Err(denial) = self.shown.prove(now().mono_ms, session) {
            return send(reply, &denied(&denial));
        }
        let asker = session.clone();
        self.beside(session, reply, move |shared| async move {
            let none = || ControlError::Unavailable("this gateway cannot prove itself now".into());
            let attester = shared.attester.as_deref().ok_or_else(none)?;
            let tpm = |error: crate::admission::attester::AttesterError| {
                ControlError::Tpm(error.to_string())
            };
            let answer = attester.answer(&challenge, &asker.exporter).await.map_err(tpm)?;
            let Answer { evidence, logs } = answer;
            shared.handed().keep(now().mono_ms, &asker, challenge.nonce, logs);
            Ok(Response::Evidence(Box::new(evidence)))
        });
    }

    /// Gives a part of the logs that were announced in such an answer.
    pub(super) fn log_part(&self, session: &Session, question: &LogQuestion) -> Response {
        match self.shared.handed().part(now().mono_ms, session, question) {
            Ok(part) => Response::Log(Box::new(part)),
            Err(denial) => denied(&denial),
        }
    }
}

/// Requests to one gateway, this one included.
pub(super) struct Conversation {
    shared: Shared,
    with: NodeId,
    /// Stands for a session of this gateway with itself.
    own_exporter: [u8; 32],
    limit: Duration,
}

impl Conversation {
    pub(super) fn new(shared: Shared, with: NodeId, limit: Duration) -> Self {
        // Without random bytes there is no challenge either: nothing hangs on this one.
        let own_exporter = vault::random().unwrap_or_default();
        Self { shared, with, own_exporter, limit }
    }

    async fn ask_oneself(&self, bytes: Vec<u8>) -> std::result::Result<Vec<u8>, RequestError> {
        let gone = RequestError::Closed("this gateway is stopping");
        let allowance = Allowance::default();
        let session = Session {
            node: self.shared.gateway,
            identity: self.shared.identity.ok_or(gone)?,
            exporter: self.own_exporter,
            member: true,
            remote: ([127, 0, 0, 1], 0).into(),
        };
        let (reply, answer) = oneshot::channel();
        self.shared
            .own
            .send(Incoming { session, bytes, reply, allowance })
            .await
            .map_err(|_| gone)?;
        let late = |_| RequestError::Timeout(self.limit);
        let answer = tokio::time::timeout(self.limit, answer).await.map_err(late)?;
        answer.map_err(|_| RequestError::Unanswered)
    }
}

impl Ask for Conversation {
    async fn ask(&self, request: &Request) -> std::result::Result<(Response, [u8; 32]), AskError> {
        if self.with == self.shared.gateway {
            let bytes = self.ask_oneself(request.to_bytes()).await?;
            return Ok((Response::from_bytes(&bytes)?, self.own_exporter));
        }
        let asked = self.shared.peers.request(self.with, request.to_bytes(), self.limit);
        let answer = asked.await?;
        Ok((Response::from_bytes(&answer.bytes)?, answer.session.exporter))
    }
}

/// Asks other voters to sign the same `digest`: see [`quorum::ask`].
pub(super) async fn collect(
    shared: &Shared,
    voters: &[NodeId],
    asked: &Endorse,
    digest: &Hash,
) -> Result<Vec<QuorumSignature>> {
    Ok(answers(shared, voters, asked, digest).await?.signed)
}

/// As [`collect`], with what those answer who do not sign.
pub(super) async fn answers(
    shared: &Shared,
    voters: &[NodeId],
    asked: &Endorse,
    digest: &Hash,
) -> Result<Answers> {
    let others: Vec<NodeId> =
        voters.iter().filter(|voter| **voter != shared.gateway).copied().collect();
    let question = Question { voters: &others, asked, digest, enough: usize::MAX };
    quorum::ask(&shared.ledger, &shared.peers, question).await
}
