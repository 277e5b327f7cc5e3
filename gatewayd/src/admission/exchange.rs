//! One question and its answer, and the exchange with one verifier: introduction, challenge,
//! evidence, verdict.

use std::time::Duration;

use ledger::codec::{Decode, DecodeError, Encode};

use super::attester::{Answer, Attester, AttesterError};
use super::handing::{Logs, Taking};
use super::messages::{
    Appraised, ClaimWords, EvidenceRequest, LogsWanted, Refused, Request, Response, Wait,
};
use super::verifier::Denial;
use crate::peers::{Connection, RequestError};

/// Longest wait for an answer: whoever authors an admission answers when it is in a block.
pub const ANSWER_LIMIT: Duration = Duration::from_secs(40);

/// A verifier that asks for other logs may challenge again, this often.
const MAX_CHALLENGES: usize = 4;

/// Why there is no usable answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// The transport has none.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// It is none of the protocol.
    #[error("its answer is malformed: {0}")]
    Malformed(#[from] DecodeError),
    /// It answers something else.
    #[error("it answers something else than was asked")]
    Unexpected,
    /// It asks again and again.
    #[error("it challenges again and again")]
    Endless,
    /// This gateway cannot answer.
    #[error(transparent)]
    Attester(#[from] AttesterError),
    /// Logs that it hands over are not what was asked for.
    #[error("{0}")]
    Logs(Denial),
}

/// Somebody who can be asked.
pub trait Ask {
    /// Asks; the answer comes with the exporter of the session that it came over.
    ///
    /// # Errors
    /// [`AskError`].
    fn ask(
        &self,
        request: &Request,
    ) -> impl Future<Output = Result<(Response, [u8; 32]), AskError>> + Send;
}

impl Ask for Connection {
    async fn ask(&self, request: &Request) -> Result<(Response, [u8; 32]), AskError> {
        let bytes = self.request(request.to_bytes(), ANSWER_LIMIT).await?;
        Ok((Response::from_bytes(&bytes)?, self.session().exporter))
    }
}

/// What a verifier says in the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// Appraised and endorsed.
    Endorsed(Box<Appraised>),
    /// Appraised; the operator has not approved.
    NeedsApproval(Vec<ClaimWords>),
    /// No.
    Refused(Refused),
    /// Not now.
    Wait(Wait),
}

/// Introduces this gateway with `first` (`Join` or `Attest`), answers the challenges and gives the
/// verdict.
///
/// # Errors
/// [`AskError`].
pub async fn attest(
    verifier: &impl Ask,
    first: &Request,
    attester: &Attester,
) -> Result<Said, AskError> {
    let (mut response, mut exporter) = verifier.ask(first).await?;
    for _ in 0..MAX_CHALLENGES {
        let Response::Challenge(challenge) = response else { return verdict(response) };
        let Answer { evidence, logs } = attester.answer(&challenge, &exporter).await?;
        (response, exporter) = verifier.ask(&Request::Evidence(Box::new(evidence))).await?;
        if response == Response::SendLogs {
            tracing::info!(bytes = logs.len(), "hands over its measurement logs");
            let last = logs.parts(challenge.nonce).map(|part| Request::Log(Box::new(part)));
            response = hand_over(verifier, last).await?;
        }
    }
    match response {
        Response::Challenge(_) => Err(AskError::Endless),
        last => verdict(last),
    }
}

/// Hands over parts in order; what is answered to the last of them.
async fn hand_over(
    verifier: &impl Ask,
    parts: impl Iterator<Item = Request> + Send,
) -> Result<Response, AskError> {
    for part in parts {
        match verifier.ask(&part).await?.0 {
            Response::Heard => {}
            other => return Ok(other),
        }
    }
    Err(AskError::Unexpected)
}

/// Fetches the logs that an attester has announced in its answer to `Prove`.
///
/// # Errors
/// [`AskError`].
pub async fn fetch_logs(
    attester: &impl Ask,
    evidence: &EvidenceRequest,
    wanted: LogsWanted,
) -> Result<Logs, AskError> {
    let mut taking = Taking::announced(evidence, wanted).map_err(AskError::Logs)?;
    while let Some(question) = taking.missing() {
        match attester.ask(&Request::Logs(question)).await?.0 {
            Response::Log(part) => taking.take(&part).map_err(AskError::Logs)?,
            _ => return Err(AskError::Unexpected),
        }
    }
    taking.finish().map_err(AskError::Logs)
}

fn verdict(response: Response) -> Result<Said, AskError> {
    Ok(match response {
        Response::Appraised(appraised) => Said::Endorsed(appraised),
        Response::NeedsApproval(claims) => Said::NeedsApproval(claims),
        Response::Refused(refused) => Said::Refused(refused),
        Response::Wait(wait) => Said::Wait(wait),
        _ => return Err(AskError::Unexpected),
    })
}
