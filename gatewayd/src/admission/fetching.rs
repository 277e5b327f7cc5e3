//! A snapshot of the record from one member, part by part: for a newcomer, and for a member that
//! blocks alone do not lead on. Who sends it is believed nothing: it follows from a header that is
//! trusted already, or it is not taken.

use ledger::header::Header;
use ledger::ids::NodeId;
use ledger::sync::VerifiedSnapshot;
use ledger::sync::client::{Client, ClientError, Effect, Input};

use super::exchange::{Ask, AskError};
use super::messages::{Bytes, Request, Response, Wait};
use crate::clock;

/// Why no snapshot came.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The member gives no usable answer.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// What it sent is not believed.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// Not now.
    #[error("{}", .0.reason.as_str())]
    Wait(Wait),
    /// It says no.
    #[error("{0}")]
    Refused(String),
    /// It has stopped half-way.
    #[error("the member sends nothing more")]
    Nothing,
}

/// Asks one member for a snapshot that follows from `trusted`; `tell` hears how far it is.
///
/// # Errors
/// [`FetchError`]: another member may be of more use.
pub async fn snapshot(
    member: &impl Ask,
    node: NodeId,
    trusted: &Header,
    tell: impl Fn(String),
) -> Result<Box<VerifiedSnapshot>, FetchError> {
    let mut client = Client::new(trusted.clone());
    let mut effects = client.step(clock::boot_ms(), Input::PeerUp(node));
    loop {
        let mut question = None;
        for effect in effects {
            match effect {
                Effect::Done(snapshot) => return Ok(snapshot),
                Effect::Failed { error, .. } => return Err(error.into()),
                Effect::Request { bytes, .. } => question = Some(bytes),
            }
        }
        let question = Bytes::new(question.ok_or(FetchError::Nothing)?).map_err(AskError::from)?;
        let bytes = match member.ask(&Request::Snapshot(question)).await?.0 {
            Response::Snapshot(part) => part.into_vec(),
            Response::Wait(wait) => return Err(FetchError::Wait(wait)),
            Response::Refused(refused) => {
                return Err(FetchError::Refused(refused.reason.as_str().into()));
            }
            _ => return Err(AskError::Unexpected.into()),
        };
        effects = client.step(clock::boot_ms(), Input::Answer { from: node, bytes });
        let so_far = client.progress();
        if so_far.of > 0 {
            tell(format!("{} of {} entries of the state", so_far.entries, so_far.of));
        }
    }
}
