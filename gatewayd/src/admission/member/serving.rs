//! Requests and their answers.

use ledger::codec::{Decode, Encode};
use ledger::ids::NodeId;
use ledger::state::Standing;
use ledger::transaction::{Admit, Body, Document, Purpose, Refusal, Statement};
use tokio::sync::oneshot;
use zeroize::Zeroizing;

use super::{Member, Shared, now};
use crate::admission::endorsing::sign_statement;
use crate::admission::messages::{
    Appraised, Bytes, ClaimWords, Endorse, EvidenceRequest, HeadAnswer, Introduction, LogPart,
    MemberAddress, Progress, Refused, Request, Response, Stage, Wait,
};
use crate::admission::verifier::{
    Denial, Effect, Facts, Fresh, Input, Introduced, Query, Stand, Trust, entry, fitting, words,
};
use crate::control::{ControlError, Result};
use crate::peers::{Allowance, Incoming, Session};
use crate::vault;
use ledger::ids::Hash;
use ledger::proof::Anchor;
use ledger::state::Key;

/// Most addresses of one member in an answer.
const MAX_ADDRESSES: usize = 4;

/// Most members in an answer.
const MAX_MEMBERS: usize = 128;

impl Member {
    /// Answers one request. What it says nothing to, has no answer: the asker is told so.
    pub(super) async fn serve(&mut self, incoming: Incoming) {
        let Incoming { session, bytes, reply, allowance } = incoming;
        let request = match Request::from_bytes(&bytes) {
            Ok(request) => request,
            Err(error) => {
                tracing::debug!(peer = %session.remote, %error, "a malformed request");
                return;
            }
        };
        match self.respond(&session, request, reply, &allowance).await {
            Ok(()) => {}
            Err(error) => tracing::debug!(peer = %session.remote, %error, "no answer"),
        }
    }

    async fn respond(
        &mut self,
        session: &Session,
        request: Request,
        reply: Reply,
        allowance: &Allowance,
    ) -> Result<()> {
        match request {
            Request::Head(anchor) => {
                self.beside(session, reply, move |shared| head(shared, anchor))
            }
            Request::Join(introduction) => {
                self.introduced(session, Purpose::Admit, &introduction, reply).await?;
            }
            Request::Attest(introduction) => {
                self.introduced(session, Purpose::Attest, &introduction, reply).await?;
            }
            Request::Log(part) => {
                self.answered(session, Answered::Log(&part), reply, allowance).await?;
            }
            Request::Logs(question) => send(reply, &self.log_part(session, &question)),
            Request::Evidence(answer) => {
                self.answered(session, Answered::Evidence(&answer), reply, allowance).await?;
            }
            Request::Admit(admit) => self.submit(session, &admit, reply),
            Request::Progress => send(reply, &self.progress(&session.node).await?),
            Request::Ready(ready) => self.ready(session, ready, reply).await?,
            Request::Endorse(asked) => self.countersign(session, asked, reply).await?,
            Request::Introduce => self.introduce(session, reply).await?,
            Request::Prove(challenge) => self.prove(session, *challenge, reply),
            Request::Document(hash) => send(reply, &self.document(hash).await?),
            Request::Snapshot(question) => self.snapshot(session, &question, reply),
        }
        Ok(())
    }

    async fn introduced(
        &mut self,
        session: &Session,
        purpose: Purpose,
        introduction: &Introduction,
        reply: Reply,
    ) -> Result<()> {
        let effects = match Introduced::parse(introduction, session) {
            Ok(introduced) => {
                let facts = self.facts_of(Query::of(&introduced)).await?;
                let introduced = Box::new(introduced);
                let input = Input::Introduced { purpose, introduced, fresh: fresh()? };
                self.verifier.step(now(), session, &facts, input)
            }
            Err(denial) => self.verifier.refuse_introduction(now(), session, &denial),
        };
        self.act(session, effects, reply).await;
        Ok(())
    }

    /// What comes in answer to a challenge: the evidence, or a part of its logs.
    async fn answered(
        &mut self,
        session: &Session,
        answered: Answered<'_>,
        reply: Reply,
        allowance: &Allowance,
    ) -> Result<()> {
        let Some(facts) = self.facts(session).await? else {
            send(reply, &denied(&Denial::NoChallenge));
            return Ok(());
        };
        if !self.trust.is_of(&facts.policy_hash) {
            let documents = self.shared.ledger.view(Trust::documents).await?;
            self.trust = Trust::read(documents);
        }
        let (trust, fresh) = (&self.trust, fresh()?);
        let input = match answered {
            Answered::Evidence(answer) => Input::Evidence { answer, trust, fresh },
            Answered::Log(part) => Input::Log { part, trust, fresh },
        };
        let effects = self.verifier.step(now(), session, &facts, input);
        for effect in &effects {
            // Before the answer: what was allowed may come at once.
            if let Effect::Allow { bytes, time } = effect {
                allowance.raise(*bytes, *time);
            }
        }
        self.act(session, effects, reply).await;
        Ok(())
    }

    /// The ledger's word on who was challenged in this session.
    async fn facts(&self, session: &Session) -> Result<Option<Facts>> {
        match self.verifier.challenged(session) {
            Some(query) => Ok(Some(self.facts_of(query).await?)),
            None => Ok(None),
        }
    }

    async fn facts_of(&self, query: Query) -> Result<Facts> {
        let own = self.shared.gateway;
        let (time_ms, _) = self.shared.ledger.clock().borrow().now();
        let facts = self.shared.ledger.with_node(move |node| {
            Facts::of(node.state(), node.tip().height, time_ms, own, &query)
        });
        facts.await
    }

    /// Carries effects out; the answer among them is sent.
    async fn act(&mut self, session: &Session, effects: Vec<Effect>, reply: Reply) {
        let mut reply = Some(reply);
        for effect in effects {
            match effect {
                Effect::Reply(response) => {
                    if let Some(reply) = reply.take() {
                        send(reply, &response);
                    }
                }
                Effect::Endorse { statement, claims } => {
                    let response = endorse(&self.shared, *statement, claims).await;
                    if let Some(reply) = reply.take() {
                        send(reply, &response);
                    }
                }
                Effect::Allow { .. } => {}
                Effect::Record { node, reason } => self.record(session, node, &reason),
                Effect::Failed(statement) => self.alert_failed(&statement),
            }
        }
    }

    /// Records a refusal; the ledger's own limit may say no.
    fn record(&mut self, session: &Session, node: NodeId, reason: &str) {
        let name = node.to_gateway_string();
        tracing::warn!(gateway = name, reason, "refused");
        let Some(permit) = self.shared.jobs.place(session) else { return };
        let (ledger, reason) = (self.shared.ledger.clone(), fitting(reason));
        self.tasks.spawn(async move {
            let _permit = permit;
            let refusal = Refusal { node, reason };
            if let Err(error) = ledger.propose(move |_| Ok(Body::Refusal(refusal))).await {
                tracing::debug!(%error, "the refusal is not on the record");
            }
        });
    }

    /// Authors an `Admit` that a newcomer has collected the endorsements for. Only its own: whoever
    /// else holds them may not choose the moment.
    fn submit(&mut self, session: &Session, admit: &[u8], reply: Reply) {
        let admit = match Admit::from_bytes(admit) {
            Ok(admit) if admit.statement.identity == session.identity => admit,
            Ok(_) => return send(reply, &denied(&Denial::AnotherIdentity)),
            Err(_) => return send(reply, &denied(&Denial::Malformed("admission"))),
        };
        self.beside(session, reply, move |shared| async move {
            let body = Body::Admit(Box::new(admit));
            let done = shared.ledger.propose(move |_| Ok(body)).await?;
            let detail = words(&format!("a member since block {}", done.height));
            let height = ledger::ids::Height(done.height);
            Ok(Response::Progress(Progress { stage: Stage::Admitted, height, detail }))
        });
    }

    async fn progress(&self, node: &NodeId) -> Result<Response> {
        let node = *node;
        let (time_ms, _) = self.shared.ledger.clock().borrow().now();
        let found = self.shared.ledger.view(move |state| {
            let approval: Option<ledger::state::Approval> = entry(state, &Key::Approval(node));
            (state.gateway(&node).cloned(), approval.is_some_and(|it| it.holds(time_ms)))
        });
        let (member, approved) = found.await?;
        let member = member.filter(|known| known.standing.standing != Standing::Candidate);
        let progress = |stage, height, detail: &str| {
            Response::Progress(Progress { stage, height, detail: words(detail) })
        };
        let none = ledger::ids::Height::GENESIS;
        Ok(match (member, approved, self.verifier.stand(&node)) {
            (Some(member), ..) if member.standing.standing == Standing::Revoked => {
                refused("this identity is revoked")
            }
            (Some(member), ..) => {
                let detail = format!("a member, {}", member.standing.standing.word());
                progress(Stage::Admitted, member.member_since, &detail)
            }
            (None, true, _) => {
                progress(Stage::Approved, none, "approved; show fresh evidence to the voters")
            }
            (None, false, Some(Stand::NeedsApproval { .. })) => {
                progress(Stage::AwaitingApproval, none, "the operator has not approved yet")
            }
            (None, false, Some(Stand::Refused(why))) => {
                progress(Stage::Unknown, none, &format!("refused: {why}"))
            }
            (None, false, _) => progress(Stage::Unknown, none, "nothing is known of it here"),
        })
    }

    async fn document(&self, hash: Hash) -> Result<Response> {
        let view = move |state: &ledger::state::State| entry(state, &Key::Document(hash));
        let found: Option<Document> = self.shared.ledger.view(view).await?;
        let bytes = found.and_then(|document| Bytes::new(document.bytes).ok());
        Ok(match bytes {
            Some(bytes) => Response::Document(bytes),
            None => refused("no such document is on the record"),
        })
    }

    async fn countersign(&mut self, session: &Session, asked: Endorse, reply: Reply) -> Result<()> {
        if !session.member {
            send(reply, &denied(&Denial::NotAMember));
            return Ok(());
        }
        let response = match asked {
            Endorse::Statement(bytes) => match Statement::from_bytes(&bytes) {
                Ok(statement) => self.sign_failed(statement).await,
                Err(_) => denied(&Denial::Malformed("statement")),
            },
            Endorse::Activate { height, hash, nodes } => {
                self.sign_activation(height, hash, nodes).await
            }
            Endorse::Offline { node, liveness_epoch } => {
                self.beside(session, reply, move |shared| async move {
                    let signed = shared.liveness.sign(node, liveness_epoch).await?;
                    Ok(Response::Endorsed { voter: signed.voter, signature: signed.signature })
                });
                return Ok(());
            }
        };
        send(reply, &response);
        Ok(())
    }

    /// Runs what takes long beside the task; when too much runs already, the asker is to wait.
    pub(super) fn beside<F>(
        &mut self,
        session: &Session,
        reply: Reply,
        job: impl FnOnce(Shared) -> F,
    ) where
        F: Future<Output = Result<Response>> + Send + 'static,
    {
        let Some(permit) = self.shared.jobs.place(session) else {
            return send(reply, &denied(&Denial::Busy));
        };
        let job = job(self.shared.clone());
        self.tasks.spawn(async move {
            let _permit = permit;
            send(reply, &job.await.unwrap_or_else(|error| failed(&error)));
        });
    }
}

/// What comes in answer to a challenge.
enum Answered<'a> {
    Evidence(&'a EvidenceRequest),
    Log(&'a LogPart),
}

/// Where an answer goes.
pub(super) type Reply = oneshot::Sender<Vec<u8>>;

pub(super) fn send(reply: Reply, response: &Response) {
    // An asker that has gone away is not told.
    let _ = reply.send(response.to_bytes());
}

/// Signs what was affirmed, if it can still be signed.
async fn endorse(shared: &Shared, statement: Statement, claims: Vec<ClaimWords>) -> Response {
    let bytes = Bytes::new(statement.to_bytes());
    let signed = shared.ledger.with_key(move |here| sign_statement(here, &statement)).await;
    match (signed, bytes) {
        (Ok(Ok(signed)), Ok(statement)) => {
            let (voter, signature) = (signed.voter, signed.signature);
            Response::Appraised(Box::new(Appraised { claims, statement, voter, signature }))
        }
        (Ok(Err(denial)), _) => denied(&denial),
        (Err(error), _) => failed(&error),
        (_, Err(_)) => denied(&Denial::Malformed("statement")),
    }
}

/// This gateway's record and its own place in it, for who holds a site code.
async fn head(shared: Shared, anchor: Anchor) -> Result<Response> {
    // With the policy, and whether the operator pinned this gateway's EK: what a newcomer judges it
    // by.
    let more = [Key::Policy, Key::Endorsement(shared.ek_digest)];
    let proof = crate::control::identity_proof(
        &shared.ledger,
        &shared.data_dir,
        shared.gateway,
        &more,
        Some(anchor),
    );
    let proof = proof.await?;
    let internal = |_| ControlError::Internal("the proof is too long for a message".into());
    Ok(Response::Head(Box::new(HeadAnswer {
        genesis: Bytes::new(shared.genesis.to_vec()).map_err(internal)?,
        proof: Bytes::new(proof).map_err(internal)?,
        members: members(&shared).await?,
    })))
}

/// Members with the addresses at which they were reached.
async fn members(shared: &Shared) -> Result<Vec<MemberAddress>> {
    let known = shared.peers.addresses();
    let members = shared.ledger.view(|state| {
        let fit = state.gateways().filter(|(_, found)| found.standing.standing.may_record());
        fit.take(MAX_MEMBERS).map(|(node, found)| (*node, found.identity)).collect::<Vec<_>>()
    });
    let address = |(node, identity)| {
        let here = known.iter().filter(|(at, _)| *at == node);
        let addresses =
            here.filter_map(|(_, address)| ledger::codec::Text::new(address.as_str()).ok());
        MemberAddress { identity, addresses: addresses.take(MAX_ADDRESSES).collect() }
    };
    Ok(members.await?.into_iter().map(address).collect())
}

pub(super) fn refused(reason: &str) -> Response {
    Response::Refused(Refused { reason: words(reason), claims: vec![] })
}

/// A denial as an answer.
pub(super) fn denied(denial: &Denial) -> Response {
    match denial.wait_s() {
        Some(after_s) => Response::Wait(Wait { reason: words(&denial.to_string()), after_s }),
        None => refused(&denial.to_string()),
    }
}

/// What went wrong here as an answer: what the asker can do nothing about, it waits for.
pub(super) fn failed(error: &ControlError) -> Response {
    match error {
        ControlError::Refused(_) | ControlError::InvalidArgument(_) => refused(&error.to_string()),
        _ => Response::Wait(Wait { reason: words(&error.to_string()), after_s: 5 }),
    }
}

/// Fresh bytes for one challenge.
fn fresh() -> Result<Fresh> {
    let none = |_| ControlError::Internal("the system gives no random bytes".into());
    Ok(Fresh {
        nonce: Hash(vault::random().map_err(none)?),
        secret: Zeroizing::new(vault::random().map_err(none)?),
        entropy: Zeroizing::new(vault::random().map_err(none)?),
    })
}
