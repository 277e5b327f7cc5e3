//! Asks voters to sign the same thing, all at once.

use std::time::Duration;

use ledger::codec::{Decode, Encode};
use ledger::ids::{Hash, NodeId};
use ledger::transaction::QuorumSignature;

use super::messages::{Endorse, Request, Response};
use crate::control::Result;
use crate::{ledger_task, peers};

/// Longest wait for a signature of another voter.
const ENDORSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Whom to ask for what.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// The voters; this gateway is not among them.
    pub voters: &'a [NodeId],
    /// What they are to sign.
    pub asked: &'a Endorse,
    /// What their signatures must be over.
    pub digest: &'a Hash,
    /// So many signatures are enough: who has not answered by then is not waited for.
    pub enough: usize,
}

/// What they said.
#[derive(Debug, Default)]
pub struct Answers {
    /// Good signatures.
    pub signed: Vec<QuorumSignature>,
    /// Answers that are none.
    pub others: Vec<(NodeId, Response)>,
}

/// Asks. Those that do not answer or say no are left out, and so are those that sign something
/// else: one wrong signature would void all others.
///
/// # Errors
/// The ledger is not running.
pub async fn ask(
    ledger: &ledger_task::Handle,
    peers: &peers::Handle,
    question: Question<'_>,
) -> Result<Answers> {
    let Question { voters, asked, digest, enough } = question;
    let keys = ledger.view(|state| state.validator_set()).await?;
    let request = Request::Endorse(asked.clone()).to_bytes();
    let mut asking = tokio::task::JoinSet::new();
    for voter in voters.iter().copied() {
        let (peers, request) = (peers.clone(), request.clone());
        asking.spawn(async move {
            let answer = peers.request(voter, request, ENDORSE_TIMEOUT).await;
            (voter, answer.map(|answer| Response::from_bytes(&answer.bytes)))
        });
    }
    let mut answers = Answers::default();
    while answers.signed.len() < enough
        && let Some(answered) = asking.join_next().await
    {
        // A task that broke has answered nothing.
        let Ok((voter, answer)) = answered else { continue };
        let name = voter.to_gateway_string();
        let response = match answer {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => {
                tracing::debug!(voter = name, %error, "answers nothing usable");
                continue;
            }
            Err(error) => {
                tracing::debug!(voter = name, %error, "does not answer");
                continue;
            }
        };
        let Response::Endorsed { voter: signer, signature } = response else {
            tracing::debug!(voter = name, ?response, "does not sign");
            answers.others.push((voter, response));
            continue;
        };
        let signed = QuorumSignature { voter, signature };
        let good = |key| signer == voter && signed.verify(digest, key).is_ok();
        if keys.vote_key(&voter).is_some_and(good) {
            answers.signed.push(signed);
        } else {
            tracing::warn!(voter = name, "signs something else than was asked");
        }
    }
    Ok(answers)
}
