//! The newcomer: from an order to join to a founded record.
//!
//! ```text
//! find a member ─ check its head ─> admitted already? ──────────────────> fetch ─> done
//!      ^                               │ no                                 ^
//!      │                               v                                    │
//!      └── wait, and say why <── each voter appraises ─ founder ─ Admit ────┘
//! ```
//!
//! Every round begins with finding a member, so a round may end anywhere: what was reached is on
//! the record. It goes on for ever, with pauses that grow, and says in words where it stands.

mod fetch;
mod finding;
pub(crate) mod pause;
mod telling;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use attestation::tpm::{IdentityInfo, Tpm};
use ledger::codec::Encode;
use ledger::crypto::SigningKey;
use ledger::genesis::{Genesis, TpmName};
use ledger::ids::{Hash, Height, NodeId};
use ledger::transaction::{Admit, Purpose, QuorumSignature, Statement};
use tokio::sync::watch;

use super::appraise_founder::{self, FounderError};
use super::attester::Attester;
use super::collect::{Endorsements, Expected};
use super::exchange::{self, Ask, Said};
use super::head::KnownSite;
use super::join::JoinOrder;
use super::logs::MachineLogs;
use super::messages::{Bytes, ClaimWords, Request, Response, Stage};
use crate::control::{JoinProgress, JoinStep, JoinVerifier};
use crate::identity::identity_key;
use crate::peers;

use finding::Found;
pub(crate) use finding::check_address;
use telling::{Teller, claim_info, claim_infos};

/// What the newcomer works with.
pub struct Parts {
    /// The transport; it knows no members yet.
    pub peers: peers::Handle,
    /// The TPM.
    pub tpm: Tpm,
    /// Public side of the identity.
    pub info: Arc<IdentityInfo>,
    /// The vote key.
    pub vote: SigningKey,
    /// What to join.
    pub order: JoinOrder,
    /// Data folder.
    pub data_dir: PathBuf,
    /// Measurement logs of this machine.
    pub logs: MachineLogs,
    /// Where it is shown how far this is.
    pub progress: watch::Sender<JoinProgress>,
}

/// Joins; returns when the record was founded in the data folder. Ends early only when dropped.
pub async fn join(parts: Parts) -> Genesis {
    let mut newcomer = Newcomer::new(parts);
    loop {
        match newcomer.round().await {
            Ok(genesis) => {
                newcomer.teller.step(JoinStep::Done, String::new());
                return genesis;
            }
            Err(stop) => newcomer.rest(stop).await,
        }
    }
}

/// Why a round ends before the record is here.
#[derive(Debug)]
struct Stop {
    step: JoinStep,
    detail: String,
    then: Then,
}

/// When the next round begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    /// Something was reached: at once.
    GoOn,
    /// Somebody said when.
    After(Duration),
    /// It failed: after a pause that grows.
    Later,
}

impl Stop {
    fn new(step: JoinStep, detail: impl Into<String>) -> Self {
        Self { step, detail: detail.into(), then: Then::Later }
    }

    fn after(step: JoinStep, detail: impl Into<String>, pause: Duration) -> Self {
        Self { step, detail: detail.into(), then: Then::After(pause) }
    }

    fn go_on(step: JoinStep, detail: impl Into<String>) -> Self {
        Self { step, detail: detail.into(), then: Then::GoOn }
    }
}

/// How often the operator's approval is asked for.
const APPROVAL_EVERY: Duration = Duration::from_secs(4);

/// How often the block of the admission is asked for.
const BLOCK_EVERY: Duration = Duration::from_secs(1);

/// Longest pause that a member may ask for.
const LONGEST_WAIT: Duration = Duration::from_secs(300);

struct Newcomer {
    parts: Parts,
    teller: Teller,
    finding: finding::Finding,
    /// Rounds in vain since something was reached.
    failures: u32,
    /// All voters have shown what they think of this gateway, and wait for the operator.
    shown: bool,
    /// The admission was refused a moment ago, and is tried once more with fresh endorsements.
    refused_once: bool,
}

impl Newcomer {
    fn new(parts: Parts) -> Self {
        let teller = Teller::new(parts.progress.clone(), &parts.info);
        Self {
            teller,
            finding: finding::Finding::default(),
            failures: 0,
            shown: false,
            refused_once: false,
            parts,
        }
    }

    async fn rest(&mut self, stop: Stop) {
        let Stop { step, detail, then } = stop;
        self.finding.ended(then == Then::GoOn);
        self.failures = if then == Then::Later { self.failures.saturating_add(1) } else { 0 };
        let pause = match then {
            Then::GoOn => Duration::ZERO,
            Then::After(pause) => pause.min(LONGEST_WAIT),
            Then::Later => pause::after(self.failures),
        };
        self.teller.rest(step, detail, pause);
        tokio::time::sleep(pause).await;
    }

    async fn round(&mut self) -> Result<Genesis, Stop> {
        let found = self.find().await?;
        self.teller.site(found.site.genesis.site_name.as_str());
        match self.stands(&found.connection).await {
            // A guest's session is not enough for a record: as a member this gateway dials anew.
            Ok(Some(_)) if found.again => {
                return Err(Stop::go_on(JoinStep::Fetching, "a member now"));
            }
            Ok(Some(height)) => {
                self.remember()?;
                return self.fetch(&found.connection, &found.site, height).await;
            }
            Ok(None) => {}
            Err(stop) => {
                // Nothing but waiting: the next round may go on in the same session.
                if matches!(stop.then, Then::After(_)) {
                    self.keep(found);
                }
                return Err(stop);
            }
        }
        let Found { connection, site, members, .. } = found;
        let attester = self.attester(&site).await?;
        let voters = self.ask_voters(&connection, &site, &members, &attester).await?;
        self.shown = false;
        let (statement, endorsements) = voters;
        let founder = if appraise_founder::is_needed(&site) {
            self.teller.step(JoinStep::AttestingFounder, founder_words(&site));
            let result = appraise_founder::appraise(&connection, &site, &self.parts.vote).await;
            Some(result.map_err(|error| self.founder_refused(&error))?)
        } else {
            None
        };
        let admit = Admit { statement, vote: *attester.vote(), endorsements, founder };
        self.submit(&connection, &admit).await
    }

    /// What the member knows of this gateway: the height of its admission, once there is one.
    async fn stands(&mut self, member: &impl Ask) -> Result<Option<Height>, Stop> {
        let step = JoinStep::Checking;
        let answer = member.ask(&Request::Progress).await;
        let (response, _) = answer.map_err(|error| Stop::new(step, error.to_string()))?;
        let progress = match response {
            Response::Progress(progress) => progress,
            Response::Wait(wait) => return Err(waiting(step, &wait)),
            Response::Refused(refused) => {
                return Err(Stop::new(JoinStep::Refused, refused.reason.as_str()));
            }
            _ => return Err(Stop::new(step, "a member answers something else than was asked")),
        };
        match progress.stage {
            Stage::Admitted => Ok(Some(progress.height)),
            Stage::Submitted => {
                let detail = progress.detail.as_str();
                Err(Stop::after(JoinStep::Submitting, detail, BLOCK_EVERY))
            }
            Stage::AwaitingApproval if self.shown => {
                Err(Stop::after(JoinStep::AwaitingApproval, self.approval(), APPROVAL_EVERY))
            }
            Stage::AwaitingApproval | Stage::Approved | Stage::Unknown => Ok(None),
        }
    }

    async fn attester(&self, site: &KnownSite) -> Result<Attester, Stop> {
        let Parts { tpm, info, vote, order, logs, .. } = &self.parts;
        let (tpm, info, logs) = (tpm.clone(), Arc::clone(info), logs.clone());
        let made = Attester::new(tpm, info, vote, site.chain_id, order.label, logs).await;
        made.map_err(|error| Stop::new(JoinStep::Keys, error.to_string()))
    }

    /// Shows evidence to one voter after the other, until more than two thirds have endorsed.
    async fn ask_voters(
        &mut self,
        first: &finding::Guest,
        site: &KnownSite,
        members: &[(NodeId, Vec<String>)],
        attester: &Attester,
    ) -> Result<(Statement, Vec<QuorumSignature>), Stop> {
        let introduction = attester
            .introduce(site.header.height)
            .map_err(|error| Stop::new(JoinStep::Attesting, error.to_string()))?;
        let request = Request::Join(Box::new(introduction));
        let mut endorsements = Endorsements::new(self.expected(site, attester)?);
        let mut verdicts = Verdicts::default();
        self.teller.voters(&site.voters);
        for voter in site.voters.voters() {
            self.teller.step(JoinStep::Attesting, String::new());
            let said = if first.session().node == voter.node {
                exchange::attest(first, &request, attester).await.map_err(|it| it.to_string())
            } else {
                match self.reach(voter.node, members).await {
                    Ok(connection) => {
                        let said = exchange::attest(&connection, &request, attester).await;
                        said.map_err(|error| error.to_string())
                    }
                    Err(why) => Err(why),
                }
            };
            let taken = verdicts.take(&mut endorsements, site, voter.node, said);
            self.teller.verifier(&voter.node, taken);
            if endorsements.count() >= site.voters.quorum() {
                break;
            }
        }
        let count = endorsements.count();
        if let Some(complete) = endorsements.complete(&site.voters) {
            return Ok(complete);
        }
        Err(self.short(site, verdicts, count))
    }

    /// Why there are too few endorsements, the most useful reason first.
    fn short(&mut self, site: &KnownSite, verdicts: Verdicts, count: usize) -> Stop {
        let Verdicts { refused, approval, wait, unreachable } = verdicts;
        let (needed, all) = (site.voters.quorum(), site.voters.count());
        let so_far = format!("{count} of {all} voters endorsed, {needed} are needed");
        if let Some((voter, reason, claims)) = refused {
            self.teller.claims(claim_infos(&claims));
            let failed = claims.iter().filter(|claim| claim.status == CONTRAINDICATED);
            let failed: Vec<_> = failed.map(|claim| claim.claim).collect();
            let mut detail = format!("{} says: {reason}", voter.to_gateway_string());
            let software = self.parts.info.is_software && !site.policy.insecure_software_tpm_sites;
            if software || failed.contains(&HARDWARE) || failed.contains(&ENDORSEMENT) {
                detail.push_str(&self.parts.order.no_hardware());
            }
            return Stop::new(JoinStep::Refused, detail);
        }
        if let Some(claims) = approval {
            self.teller.claims(claim_infos(&claims));
            self.shown = unreachable.is_empty();
            return Stop::after(JoinStep::AwaitingApproval, self.approval(), APPROVAL_EVERY);
        }
        if let Some(pause) = wait {
            let (why, pause) = pause;
            let pause = Duration::from_secs(pause.into());
            return Stop::after(JoinStep::Attesting, format!("{so_far}: {why}"), pause);
        }
        let detail = format!("{so_far}; {}", unreachable.join("; "));
        Stop::new(JoinStep::Attesting, detail)
    }

    fn expected(&self, site: &KnownSite, attester: &Attester) -> Result<Expected, Stop> {
        let Parts { info, order, .. } = &self.parts;
        let malformed = || Stop::new(JoinStep::Keys, "the attestation key has no SHA-256 name");
        let ak_name = info.ak_name.as_bytes().try_into().map_err(|_| malformed())?;
        Ok(Expected {
            chain_id: site.chain_id,
            era: site.header.era,
            purpose: Purpose::Admit,
            identity: *attester.identity(),
            vote_key: attester.vote().vote_key,
            ek_digest: Hash(info.ek_digest),
            ak_name: TpmName(ak_name),
            label: order.label,
            base_height: site.header.height,
        })
    }

    fn founder_refused(&mut self, error: &FounderError) -> Stop {
        if let FounderError::NotAccepted(result) = error {
            self.teller.claims(result.claims().iter().map(claim_info).collect());
        }
        let detail = format!("this gateway does not accept the founder: {error}");
        Stop::new(JoinStep::Refused, detail)
    }

    async fn submit(&mut self, member: &impl Ask, admit: &Admit) -> Result<Genesis, Stop> {
        self.teller.step(JoinStep::Submitting, String::new());
        let bytes = Bytes::new(admit.to_bytes());
        let bytes = bytes.map_err(|error| Stop::new(JoinStep::Submitting, error.to_string()))?;
        let answer = member.ask(&Request::Admit(bytes)).await;
        // Whether it is on the record is asked in the next round, also after a lost answer.
        let (response, _) =
            answer.map_err(|error| Stop::new(JoinStep::Submitting, error.to_string()))?;
        Err(match response {
            Response::Progress(progress) if progress.stage == Stage::Admitted => {
                Stop::go_on(JoinStep::Fetching, progress.detail.as_str())
            }
            Response::Progress(progress) => {
                Stop::after(JoinStep::Submitting, progress.detail.as_str(), BLOCK_EVERY)
            }
            Response::Wait(wait) => waiting(JoinStep::Submitting, &wait),
            // The voters or the policy may have changed since they endorsed: asked anew, once.
            Response::Refused(refused) if !self.refused_once => {
                self.refused_once = true;
                Stop::go_on(JoinStep::Submitting, refused.reason.as_str())
            }
            Response::Refused(refused) => {
                self.refused_once = false;
                Stop::new(JoinStep::Refused, refused.reason.as_str())
            }
            _ => Stop::new(JoinStep::Submitting, "a member answers something else"),
        })
    }

    fn approval(&self) -> String {
        let id = identity_key(&self.parts.info)
            .map(|key| NodeId::of_key(&key).to_gateway_string())
            .unwrap_or_default();
        format!("the operator approves it on a member: `gatewayctl gateway approve {id}`")
    }
}

/// Numbers of the attestation crate that are looked at here.
const CONTRAINDICATED: u8 = attestation::Status::Contraindicated as u8;
const HARDWARE: u8 = attestation::ClaimKind::Hardware as u8;
const ENDORSEMENT: u8 = attestation::ClaimKind::Endorsement as u8;

fn founder_words(site: &KnownSite) -> String {
    format!("{} has not been attested by anybody yet", site.node.to_gateway_string())
}

fn waiting(step: JoinStep, wait: &super::messages::Wait) -> Stop {
    Stop::after(step, wait.reason.as_str(), Duration::from_secs(wait.after_s.into()))
}

/// What the voters said in one round.
#[derive(Debug, Default)]
struct Verdicts {
    refused: Option<(NodeId, String, Vec<ClaimWords>)>,
    approval: Option<Vec<ClaimWords>>,
    wait: Option<(String, u32)>,
    unreachable: Vec<String>,
}

impl Verdicts {
    /// Takes one; returns it as it is shown: state and words.
    fn take(
        &mut self,
        endorsements: &mut Endorsements,
        site: &KnownSite,
        voter: NodeId,
        said: Result<Said, String>,
    ) -> (&'static str, String) {
        match said {
            Ok(Said::Endorsed(appraised)) => {
                match endorsements.add(&site.voters, voter, &appraised) {
                    Ok(()) => ("endorsed", String::new()),
                    Err(error) => {
                        let why = error.to_string();
                        self.wait.get_or_insert((why.clone(), 5));
                        ("waiting", why)
                    }
                }
            }
            Ok(Said::NeedsApproval(claims)) => {
                self.approval.get_or_insert(claims);
                ("needs-approval", "the operator has to approve".into())
            }
            Ok(Said::Refused(refused)) => {
                let reason = refused.reason.as_str().to_owned();
                self.refused.get_or_insert((voter, reason.clone(), refused.claims));
                ("refused", reason)
            }
            Ok(Said::Wait(wait)) => {
                let reason = wait.reason.as_str().to_owned();
                self.wait.get_or_insert((reason.clone(), wait.after_s));
                ("waiting", reason)
            }
            Err(why) => {
                self.unreachable.push(format!("{}: {why}", voter.to_gateway_string()));
                ("unreachable", why)
            }
        }
    }
}

/// A verifier as it is shown before it has said anything.
fn not_asked(node: &NodeId) -> JoinVerifier {
    JoinVerifier {
        gateway: node.to_gateway_string(),
        address: None,
        state: "waiting",
        detail: "not asked yet".into(),
    }
}
