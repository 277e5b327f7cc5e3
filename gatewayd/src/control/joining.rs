//! Joining a site as management sees it: what is asked for, how far it is, why it waits.

use serde::Serialize;
use tokio::sync::{oneshot, watch};

use super::{Control, ControlError, Result};
use crate::site::Request;

/// Asks to become a member of a site.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinSite {
    /// `HOST:PORT`, `[ADDRESS]:PORT` or `HOST` of any member.
    pub address: Option<String>,
    /// Look for members by mDNS, too.
    pub discover: bool,
    /// The site code, `gws1…`: what the members are checked against.
    pub site_code: String,
    /// Ask for the label full node.
    pub full: bool,
    /// Ask for the label coordinator.
    pub coordinator: bool,
    /// Be no member but a bridge: lend ports and packet forwarder to one.
    pub bridge: bool,
}

/// How far a join is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum JoinStep {
    /// Nothing is being joined.
    #[default]
    Idle,
    /// Keys are being made.
    Keys,
    /// A member is looked for.
    Finding,
    /// A member's record is checked against the site code.
    Checking,
    /// The voters appraise the evidence of this gateway's TPM.
    Attesting,
    /// This gateway appraises the founder, whom nobody has attested yet.
    AttestingFounder,
    /// The operator has to approve.
    AwaitingApproval,
    /// Endorsed; the admission waits for its block.
    Submitting,
    /// A member: the record is being fetched.
    Fetching,
    /// A member, with the record.
    Done,
    /// Refused: what is said in `detail` must change first. It is tried again all the same.
    Refused,
}

impl JoinStep {
    /// In words.
    pub fn words(self) -> &'static str {
        match self {
            Self::Idle => "nothing is being joined",
            Self::Keys => "making keys in the TPM",
            Self::Finding => "looking for a member of the site",
            Self::Checking => "checking a member against the site code",
            Self::Attesting => "the voters appraise this gateway's TPM",
            Self::AttestingFounder => "appraising the founder's TPM",
            Self::AwaitingApproval => "waiting for the operator's approval",
            Self::Submitting => "waiting for the block of the admission",
            Self::Fetching => "fetching the record",
            Self::Done => "a member of the site",
            Self::Refused => "refused",
        }
    }
}

/// Where a join stands; a snapshot.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct JoinProgress {
    /// Step.
    pub step: JoinStep,
    /// What is awaited, or why it stopped, in a sentence.
    pub detail: String,
    /// Since when this step is on, ms since 1970.
    pub since_ms: u64,
    /// Tries so far, of all steps.
    pub attempts: u32,
    /// When it is tried again, ms since 1970, while it waits.
    pub next_try_ms: Option<u64>,
    /// Name of the site, once its record was checked.
    pub site: Option<String>,
    /// `gw1…` of this gateway, once it has keys.
    pub gateway: Option<String>,
    /// It is to be a bridge: the administrator of the member lets it in, nobody attests it.
    pub bridge: bool,
    /// The newest verdicts of a verifier, contraindicated ones with the reason.
    pub claims: Vec<ClaimInfo>,
    /// Each voter, and what it said.
    pub verifiers: Vec<JoinVerifier>,
}

/// One verdict of a verifier.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ClaimInfo {
    /// `endorsement`, `hardware`, `attestation-key`, `residency`, `freshness`, `boot`, …
    pub claim: &'static str,
    /// `affirming`, `warning` or `contraindicated`.
    pub status: &'static str,
    /// Why.
    pub reason: String,
}

/// A voter that is asked for its endorsement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct JoinVerifier {
    /// `gw1…`.
    pub gateway: String,
    /// Where it was reached, or is looked for.
    pub address: Option<String>,
    /// `endorsed`, `needs-approval`, `refused`, `unreachable`, `waiting`.
    pub state: &'static str,
    /// What it said, in a sentence.
    pub detail: String,
}

impl Control {
    /// Begins to join a site; returns when keys were made and the join is on disk. It goes on by
    /// itself, also after a restart: see [`Control::join_progress`].
    ///
    /// # Errors
    /// An identity exists, the TPM does not answer or is a software one, an argument is wrong.
    pub async fn join_site(&self, request: JoinSite) -> Result<JoinProgress> {
        self.ask(|reply| Request::Join(Box::new(request), reply)).await?;
        Ok(self.join_progress())
    }

    /// Gives up a join that is not done. Keys that were made for it are kept aside.
    ///
    /// # Errors
    /// Nothing is being joined, or it is done.
    pub async fn abandon_join(&self) -> Result<()> {
        self.ask(Request::AbandonJoin).await
    }

    /// Where the join stands.
    pub fn join_progress(&self) -> JoinProgress {
        self.join.borrow().clone()
    }

    /// Changes of it.
    pub fn join_changes(&self) -> watch::Receiver<JoinProgress> {
        self.join.clone()
    }

    async fn ask(
        &self,
        request: impl FnOnce(oneshot::Sender<Result<()>>) -> Request,
    ) -> Result<()> {
        let (reply, answer) = oneshot::channel();
        let stopping = || ControlError::Unavailable("the daemon is stopping".into());
        self.site.send(request(reply)).await.map_err(|_| stopping())?;
        let late = || ControlError::Timeout("the TPM did not answer in time".into());
        let answered = tokio::time::timeout(super::FOUNDING_TIMEOUT, answer).await;
        answered.map_err(|_| late())?.map_err(|_| stopping())?
    }
}
