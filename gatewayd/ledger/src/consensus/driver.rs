//! Drives the consensus engine for one height at a time: inputs in, outputs in order.
//!
//! The rules it keeps, whatever the engine does: nothing signed leaves before the log is synced;
//! a sole voter's votes do not leave at all (its certificate leaves with the stored block); while
//! the log is replayed, recorded votes are reused and recorded inputs are not written again; a
//! height whose log was damaged is followed in silence; an error of an effect stops the node.
//! It knows no clock, disk, socket or block body.

mod checks;

use std::collections::{BTreeMap, BTreeSet};

use arc_malachitebft_core_consensus as bft;
use arc_malachitebft_core_types as engine;
use bft::{Effect, Input, Resumable, Resume, SignedConsensusMsg};
use engine::{CertificateError, NilOrVal, Round, SignedMessage, Timeout};
use thiserror::Error;

use super::context::{self, Address, Context, Voters};
use super::convert::*;
use super::message::{Message, Reason, Vote};
use super::record::Record;
use crate::codec::Encode;
use crate::crypto::{PublicKey, Signature, SigningKey};
use crate::ids::{ChainId, Era, Hash, Height, NodeId};
use crate::validator_set::ValidatorSet;

/// What the node must do next, in this order.
#[derive(Debug)]
pub(crate) enum Output {
    /// Append to the log.
    Append(Vec<u8>),
    /// Sync the log before anything that follows.
    Sync,
    /// Send to all voters.
    Publish(Message),
    /// Send the body of this block to all voters again.
    PublishBody(Hash),
    /// Build a block and call [`Driver::propose`].
    Build(Height, u32),
    /// The height is decided.
    Decided(Decision),
    /// A voter signed two different votes.
    Equivocation(Vote, Vote),
}

/// A decided height.
#[derive(Clone, Debug)]
pub(crate) struct Decision {
    pub(crate) height: Height,
    pub(crate) round: u32,
    pub(crate) block: Hash,
    pub(crate) signatures: Vec<(NodeId, Signature)>,
}

/// Why the engine cannot go on; the node must stop.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DriverError {
    /// The engine failed, or derived another vote than the recorded one.
    #[error("consensus engine: {0}")]
    Engine(String),
    /// The engine asked for a vote of a node that has no key.
    #[error("the consensus engine asked for a vote without a vote key")]
    NoKey,
}

/// The engine with its timers. One instance serves all heights of an era.
pub(crate) struct Driver {
    core: bft::State<Context>,
    shell: Shell,
}

/// Everything that the effect handler may touch while the engine runs.
struct Shell {
    chain: ChainId,
    era: Era,
    key: Option<SigningKey>,
    sole_voter: bool,
    /// The height in work; nothing but [`Driver::start`] begins one.
    running: Option<Height>,
    timers: BTreeMap<(u8, u32), u64>,
    /// Encoded records that the log already holds, while it is replayed.
    recorded: BTreeSet<Vec<u8>>,
    replaying: bool,
    /// Signatures of this height that were made or found right here: a vote is checked when it
    /// comes and again in every certificate that it is part of.
    good: BTreeSet<(PublicKey, Hash, Signature)>,
    /// The newest votes of each voter at this height.
    heard: BTreeMap<NodeId, Vec<Vote>>,
    build: Option<(Height, u32)>,
    unsynced: bool,
    now_ms: u64,
    outputs: Vec<Output>,
    fault: Option<DriverError>,
}

/// What a height starts from.
pub(crate) struct HeightStart {
    pub(crate) height: Height,
    pub(crate) voters: ValidatorSet,
    /// Those of them that propose only when all others have failed.
    pub(crate) silent: Vec<NodeId>,
    /// False: follow, sign nothing.
    pub(crate) may_vote: bool,
    /// The log's records of this height, in order.
    pub(crate) records: Vec<Record>,
}

impl Driver {
    pub(crate) fn new(
        chain: ChainId,
        era: Era,
        node: NodeId,
        key: Option<SigningKey>,
        voters: &ValidatorSet,
    ) -> Self {
        let params = bft::Params {
            address: Address(node),
            threshold_params: bft::ThresholdParams::default(),
            // Bodies are judged by us: with `ProposalOnly` the engine takes every value for valid.
            value_payload: bft::ValuePayload::ProposalAndParts,
            enabled: false,
        };
        let core = bft::State::new(
            Context,
            Height::GENESIS,
            Voters::new(voters, &[]),
            params,
            QUEUED_HEIGHTS,
            QUEUED_INPUTS,
        );
        let shell = Shell {
            chain,
            era,
            key,
            sole_voter: false,
            running: None,
            timers: BTreeMap::new(),
            recorded: BTreeSet::new(),
            replaying: false,
            good: BTreeSet::new(),
            heard: BTreeMap::new(),
            build: None,
            unsynced: false,
            now_ms: 0,
            outputs: Vec::new(),
            fault: None,
        };
        Self { core, shell }
    }

    /// The height in work.
    pub(crate) fn running(&self) -> Option<Height> {
        self.shell.running
    }

    /// Whether it signs with this key.
    pub(crate) fn has_key(&self, key: Option<&SigningKey>) -> bool {
        let public = |key: &SigningKey| key.public_key();
        self.shell.key.as_ref().map(public) == key.map(public)
    }

    /// Whether it signs at the height in work.
    pub(crate) fn votes(&self) -> bool {
        self.core.params.enabled
    }

    /// When the next timer runs out, on the monotonic clock.
    pub(crate) fn next_timer(&self) -> Option<u64> {
        self.shell.timers.values().min().copied()
    }

    /// Starts a height, replaying what the log holds of it.
    pub(crate) fn start(
        &mut self,
        now_ms: u64,
        start: HeightStart,
    ) -> Result<Vec<Output>, DriverError> {
        let HeightStart { height, voters, silent, may_vote, records } = start;
        self.core.params.enabled = may_vote && self.shell.key.is_some();
        self.shell.now_ms = now_ms;
        self.shell.heard.clear();
        self.shell.running = Some(height);
        self.shell.sole_voter = voters.count() == 1;
        let inputs: Vec<_> = records.iter().filter_map(input_of_record).collect();
        self.shell.replaying = !inputs.is_empty();
        // What was read may have been appended without a sync before the crash.
        self.shell.unsynced = self.shell.replaying;
        self.shell.recorded = records.iter().map(Encode::to_bytes).collect();
        self.core.index_wal_entries(&inputs);
        let begin = Input::StartHeight(
            height,
            Voters::new(&voters, &silent),
            false,
            None,
            engine::VoteExtensionPolicy::Disabled,
        );
        if !self.shell.replaying {
            self.core.reset_entries_index();
        }
        self.run(begin)?;
        for input in inputs {
            self.run(input)?;
        }
        self.core.reset_entries_index();
        self.shell.replaying = false;
        self.shell.recorded.clear();
        self.ask_for_block();
        self.finish()
    }

    /// Proposes a block that the node has built and written to the log.
    pub(crate) fn propose(
        &mut self,
        now_ms: u64,
        height: Height,
        round: u32,
        block: Hash,
    ) -> Result<Vec<Output>, DriverError> {
        let value = bft::LocallyProposedValue::new(height, Round::new(round), block);
        self.input(now_ms, Input::Propose(value))
    }

    /// Reports this node's verdict on a body.
    pub(crate) fn verdict(
        &mut self,
        now_ms: u64,
        height: Height,
        round: u32,
        proposer: NodeId,
        block: Hash,
        valid: bool,
    ) -> Result<Vec<Output>, DriverError> {
        let value = proposed_value(height, round, proposer, block, valid);
        self.input(now_ms, Input::ProposedValue(value, engine::ValueOrigin::Consensus))
    }

    /// Takes a vote, proposal or justification of a peer; unverified.
    pub(crate) fn message(
        &mut self,
        now_ms: u64,
        message: &Message,
    ) -> Result<Vec<Output>, DriverError> {
        let input = match message {
            Message::Vote(vote) => Input::Vote(engine_vote(vote)),
            Message::Proposal(proposal) => Input::Proposal(engine_proposal(proposal)),
            Message::Justification(votes) => match votes.reason {
                Reason::Polka => match engine_polka(votes) {
                    Some(polka) => Input::PolkaCertificate(polka),
                    None => return Ok(Vec::new()),
                },
                Reason::RoundOver | Reason::Skip => {
                    Input::RoundCertificate(engine_round_certificate(votes))
                }
            },
            _ => return Ok(Vec::new()),
        };
        self.input(now_ms, input)
    }

    /// Runs the timers that are due.
    pub(crate) fn wake(&mut self, now_ms: u64) -> Result<Vec<Output>, DriverError> {
        let mut outputs = Vec::new();
        while let Some((key, _)) = self.shell.timers.iter().find(|(_, due)| **due <= now_ms) {
            let key = *key;
            self.shell.timers.remove(&key);
            if let Some(kind) = timer_kind(key.0) {
                let timeout = Timeout::new(Round::new(key.1), kind);
                outputs.extend(self.input(now_ms, Input::TimeoutElapsed(timeout))?);
            }
        }
        Ok(outputs)
    }

    /// Leaves the height in work: it was decided elsewhere and is stored.
    pub(crate) fn leave(&mut self) {
        self.shell.running = None;
        self.shell.timers.clear();
        self.shell.good.clear();
        self.shell.build = None;
    }

    /// The newest votes of a voter at the height in work, or the one that was decided last.
    pub(crate) fn heard(&self, voter: &NodeId) -> impl Iterator<Item = &Vote> {
        self.shell.heard.get(voter).into_iter().flatten()
    }

    /// Takes note of a signature that was found right: the engine need not check it again.
    pub(crate) fn remember(&mut self, key: PublicKey, digest: Hash, signature: Signature) {
        self.shell.remember((key, digest, signature));
    }

    fn input(&mut self, now_ms: u64, input: Input<Context>) -> Result<Vec<Output>, DriverError> {
        self.shell.now_ms = now_ms;
        self.run(input)?;
        self.ask_for_block();
        self.finish()
    }

    fn run(&mut self, input: Input<Context>) -> Result<(), DriverError> {
        let Self { core: state, shell } = self;
        let result: Result<(), bft::Error<Context>> = bft::process!(
            input: input,
            state: state,
            metrics: &(),
            with: effect => Ok::<_, DriverError>(shell.handle(effect))
        );
        // The macro logs a handler's error and goes on, so faults are kept aside and end here.
        if let Some(fault) = shell.fault.take() {
            return Err(fault);
        }
        result.map_err(|error| DriverError::Engine(error.to_string()))
    }

    /// A value is asked for after replay, unless the replay has shown that one was proposed.
    fn ask_for_block(&mut self) {
        let Some((height, round)) = self.shell.build.take() else {
            return;
        };
        let wanted = self.core.height() == height
            && self.core.round() == Round::new(round)
            && self.core.driver.step_is_propose()
            && self.shell.running == Some(height);
        if wanted {
            self.shell.outputs.push(Output::Build(height, round));
        }
    }

    fn finish(&mut self) -> Result<Vec<Output>, DriverError> {
        Ok(joined(std::mem::take(&mut self.shell.outputs)))
    }
}

/// One sync for all that leaves together: a proposer's proposal and prevote are records of one
/// sync and not of two. Records only move to before what leaves; what is no record and does not
/// leave stays in its place.
fn joined(outputs: Vec<Output>) -> Vec<Output> {
    let mut all = Vec::with_capacity(outputs.len());
    let (mut syncs, mut leaving) = (false, Vec::new());
    for output in outputs {
        match output {
            Output::Append(_) => all.push(output),
            Output::Sync => syncs = true,
            Output::Publish(_) | Output::PublishBody(_) => leaving.push(output),
            other => {
                all.extend(std::mem::take(&mut syncs).then_some(Output::Sync));
                all.append(&mut leaving);
                all.push(other);
            }
        }
    }
    all.extend(syncs.then_some(Output::Sync));
    all.append(&mut leaving);
    all
}

/// Heights whose early messages are queued by the engine.
const QUEUED_HEIGHTS: usize = 2;
/// Votes of one voter that are remembered: both of the last rounds.
const MAX_HEARD: usize = 4;
/// Early messages a height: two votes and a proposal of each of 128 voters in a few rounds.
const QUEUED_INPUTS: usize = 1024;

impl Shell {
    fn handle(&mut self, effect: Effect<Context>) -> Resume<Context> {
        match effect {
            Effect::CancelAllTimeouts(r) => {
                self.timers.clear();
                r.resume_with(())
            }
            Effect::CancelTimeout(timeout, r) => {
                if let Some(key) = timer_key(&timeout) {
                    self.timers.remove(&key);
                }
                r.resume_with(())
            }
            Effect::ScheduleTimeout(timeout, r) => {
                self.schedule(timeout);
                r.resume_with(())
            }
            Effect::PublishConsensusMsg(message, r) => {
                self.publish(match message {
                    SignedConsensusMsg::Vote(vote) => Message::Vote(wire_vote(&vote)),
                    SignedConsensusMsg::Proposal(p) => Message::Proposal(wire_proposal(&p)),
                });
                r.resume_with(())
            }
            Effect::PublishLivenessMsg(message, r) => {
                self.publish(match message {
                    bft::LivenessMsg::Vote(vote) => Message::Vote(wire_vote(&vote)),
                    bft::LivenessMsg::PolkaCertificate(polka) => {
                        Message::Justification(wire_polka(&polka))
                    }
                    bft::LivenessMsg::SkipRoundCertificate(certificate) => {
                        Message::Justification(wire_round_certificate(&certificate))
                    }
                });
                r.resume_with(())
            }
            Effect::RepublishVote(vote, r) => {
                self.publish(Message::Vote(wire_vote(&vote)));
                r.resume_with(())
            }
            Effect::RepublishRoundCertificate(certificate, r) => {
                self.publish(Message::Justification(wire_round_certificate(&certificate)));
                r.resume_with(())
            }
            Effect::RestreamProposal(_, _, _, _, block, r) => {
                if !self.sole_voter {
                    self.outputs.push(Output::PublishBody(block));
                }
                r.resume_with(())
            }
            Effect::GetValue(height, round, _, r) => {
                self.build = round.as_u32().map(|round| (height, round));
                r.resume_with(())
            }
            Effect::WalAppend(_, input, r) => {
                self.append(&input);
                r.resume_with(())
            }
            other => self.handle_crypto(other),
        }
    }

    fn handle_crypto(&mut self, effect: Effect<Context>) -> Resume<Context> {
        match effect {
            Effect::SignVote(vote, r) => {
                let signature = self.sign(&self.vote_digest(&vote));
                r.resume_with(SignedMessage::new(vote, signature))
            }
            Effect::SignProposal(proposal, r) => {
                let signature = self.sign(&self.proposal_digest(&proposal));
                r.resume_with(SignedMessage::new(proposal, signature))
            }
            Effect::VerifySignature(message, key, r) => {
                let digest = match &message.message {
                    bft::ConsensusMsg::Vote(vote) => self.vote_digest(vote),
                    bft::ConsensusMsg::Proposal(proposal) => self.proposal_digest(proposal),
                };
                r.resume_with(self.is_good(&key, &digest, &message.signature))
            }
            Effect::VerifyCommitCertificate(certificate, voters, thresholds, r) => {
                let votes: Vec<_> = (certificate.commit_signatures.iter())
                    .map(|entry| {
                        let value = NilOrVal::Val(certificate.value_id);
                        let (height, round) = (certificate.height, certificate.round);
                        let kind = engine::VoteType::Precommit;
                        let voter = entry.address;
                        (context::Vote { kind, height, round, value, voter }, entry.signature)
                    })
                    .collect();
                r.resume_with(self.verify_votes(&votes, &voters, thresholds.quorum))
            }
            Effect::VerifyPolkaCertificate(certificate, voters, thresholds, r) => {
                let votes: Vec<_> = certificate
                    .votes(&Context)
                    .map(|vote| (vote.message, vote.signature))
                    .collect();
                r.resume_with(self.verify_votes(&votes, &voters, thresholds.quorum))
            }
            Effect::VerifyRoundCertificate(certificate, voters, thresholds, r) => {
                let needed = match certificate.cert_type {
                    engine::RoundCertificateType::Precommit => thresholds.quorum,
                    engine::RoundCertificateType::Skip => thresholds.honest,
                };
                let votes: Vec<_> = certificate
                    .votes(&Context)
                    .map(|vote| (vote.message, vote.signature))
                    .collect();
                let over = certificate.cert_type == engine::RoundCertificateType::Precommit;
                let prevote = votes.iter().find(|(vote, _)| vote.kind == engine::VoteType::Prevote);
                r.resume_with(match prevote {
                    Some((vote, _)) if over => Err(CertificateError::InvalidVoteType(vote.voter)),
                    _ => self.verify_votes(&votes, &voters, needed),
                })
            }
            other => self.handle_end(other),
        }
    }

    fn handle_end(&mut self, effect: Effect<Context>) -> Resume<Context> {
        match effect {
            Effect::Decide(certificate, _, r) => {
                self.decide(certificate);
                r.resume_with(())
            }
            Effect::Finalize(_, _, evidence, r) => {
                for (one, other) in evidence.votes.iter().flat_map(|(_, pairs)| pairs) {
                    self.outputs.push(Output::Equivocation(wire_vote(one), wire_vote(other)));
                }
                r.resume_with(())
            }
            Effect::StartRound(_, _, _, _, r) => r.resume_with(()),
            // Blocks decided elsewhere are verified by the node and never enter the engine, and
            // vote extensions are off: these do not come.
            Effect::CertVerifiedSyncValue(_, _, r) => r.resume_with(()),
            Effect::CertRejectedSyncValue(_, _, _, r) => r.resume_with(()),
            Effect::VerifyExtendedCommitCertificate(_, _, _, _, r) => {
                r.resume_with(Err(CertificateError::VerificationError(None)))
            }
            Effect::ExtendVote(_, _, _, _, r) => r.resume_with(None),
            Effect::VerifyVoteExtension(_, _, _, _, _, _, r) => {
                r.resume_with(Err(bft::VoteExtensionError::InvalidVoteExtension))
            }
            other => {
                self.fault = Some(DriverError::Engine(format!("unexpected effect {other:?}")));
                Resume::Continue
            }
        }
    }

    /// Nothing signed leaves before its record, and the body it is about, is on disk.
    fn publish(&mut self, message: Message) {
        if self.sole_voter {
            return;
        }
        if self.unsynced {
            self.outputs.push(Output::Sync);
            self.unsynced = false;
        }
        self.outputs.push(Output::Publish(message));
    }

    fn append(&mut self, input: &Input<Context>) {
        let Some(record) = record_of_input(self.running, input) else {
            return;
        };
        if let Record::Vote(vote) = &record {
            let votes = self.heard.entry(vote.voter).or_default();
            votes.insert(0, *vote);
            votes.truncate(MAX_HEARD);
        }
        let bytes = record.to_bytes();
        if !self.recorded.contains(&bytes) {
            self.outputs.push(Output::Append(bytes));
            self.unsynced = true;
        }
    }

    fn schedule(&mut self, timeout: Timeout) {
        let Some(key) = timer_key(&timeout) else {
            return;
        };
        // Alone there is nobody to wait for or to repeat anything to.
        if self.sole_voter && key.0 == REBROADCAST {
            return;
        }
        let wait = context::TIMEOUTS.duration_for(timeout).as_millis() as u64;
        self.timers.insert(key, self.now_ms + wait);
    }

    fn decide(&mut self, certificate: engine::CommitCertificate<Context>) {
        self.timers.clear();
        self.running = None;
        let signatures = certificate
            .commit_signatures
            .iter()
            .map(|entry| (entry.address.0, entry.signature))
            .collect();
        self.outputs.push(Output::Decided(Decision {
            height: certificate.height,
            round: certificate.round.as_u32().unwrap_or(0),
            block: certificate.value_id,
            signatures,
        }));
    }
}
