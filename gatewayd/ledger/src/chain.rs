//! Blocks on top of each other: what makes a block valid, as far as no clock is needed.

use thiserror::Error;

use crate::{
    block::{Block, BodyError, MAX_BLOCK_TRANSACTIONS},
    certificate::{Certificate, CertificateError},
    genesis::Genesis,
    header::Header,
    ids::{Hash, Height, NodeId},
    merkle::{Frontier, Tag},
    policy::SUPPORTED_VERSIONS,
    state::{
        ApplyError, BlockContext, Execution, Outcome, State, VerifiedTransaction, VerifyError,
    },
    transaction::{Body, Transaction},
    validator_set::ValidatorSet,
};

/// The newest block: what the next one builds on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tip {
    /// Its header.
    pub header: Header,
    /// Its hash.
    pub hash: Hash,
    /// Peaks of the tree of all header hashes up to and including this one.
    pub history: Frontier,
}

/// Leaf of the history tree for a block: its header hash under the tag `history`.
pub fn history_leaf(header_hash: &Hash) -> Hash {
    Tag::HISTORY.leaf(&[&header_hash.0])
}

impl Tip {
    /// Height 0.
    pub fn genesis(genesis: &Genesis) -> Self {
        Self::on(&Frontier::new(), State::genesis_header(genesis))
    }

    /// The context in which the next block's transactions are applied.
    pub fn next_context(&self, time_ms: u64) -> BlockContext {
        BlockContext { height: self.header.height.next(), time_ms, parent_hash: self.hash }
    }

    /// The header of the next block, made of what is known about it.
    pub fn next_header(
        &self,
        state: &State,
        outcome: &Outcome,
        transactions: &[Transaction],
        last_commit: Option<&Certificate>,
        time_ms: u64,
        proposer: NodeId,
    ) -> Header {
        Header {
            state_version: state.policy().version_at(self.header.height.next()),
            chain_id: self.header.chain_id,
            era: outcome.era,
            height: self.header.height.next(),
            time_ms,
            parent_hash: self.hash,
            tx_root: Block::tx_root(transactions),
            tx_count: u32::try_from(transactions.len()).unwrap_or(u32::MAX),
            state_root: outcome.root(),
            history_root: self.history.root(Tag::HISTORY),
            validators_hash: self.header.next_validators_hash,
            next_validators_hash: outcome.validators.hash(),
            last_commit_hash: Block::last_commit_hash(last_commit),
            proposer,
        }
    }

    /// The tip after a block was decided.
    pub fn advance(&self, header: Header) -> Self {
        Self::on(&self.history, header)
    }

    pub(crate) fn on(earlier: &Frontier, header: Header) -> Self {
        let hash = header.hash();
        let mut history = earlier.clone();
        history.push(history_leaf(&hash));
        Self { header, hash, history }
    }
}

/// Why a block is invalid. Its proposer is at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BlockError {
    /// Body and header do not belong together.
    #[error("{0}")]
    Body(#[from] BodyError),
    /// Block time does not grow.
    #[error("the block is not younger than its parent")]
    Time,
    /// The first block with a parent certificate, or a later one without.
    #[error("the parent's certificate is missing or not allowed")]
    LastCommit,
    /// The parent's certificate is not valid.
    #[error("the parent's certificate is not valid: {0}")]
    Certificate(#[from] CertificateError),
    /// The proposer is no voter.
    #[error("the proposer is no voter")]
    Proposer,
    /// Too many transactions.
    #[error("too many transactions")]
    TooMany,
    /// A transaction's signatures are not valid.
    #[error("transaction {index}: {error}")]
    Verify {
        /// Its position.
        index: usize,
        /// Why.
        error: VerifyError,
    },
    /// A transaction cannot be recorded.
    #[error("transaction {index}: {error}")]
    Apply {
        /// Its position.
        index: usize,
        /// Why.
        error: ApplyError,
    },
    /// A header field is not what it must be.
    #[error("the header says something else than what the block does")]
    Header,
    /// The policy has activated a state machine that this build does not have.
    #[error("state machine version {0} is in force, which this build cannot run: update gatewayd")]
    Version(u32),
    /// A `Recover` that does not name this very block.
    #[error("the recovery was signed for another block")]
    Recovery,
}

/// Begins a block on top of `tip`: what applies to every block is noted, its transactions are
/// still to be applied. `parent_set` and `last_commit` certified the parent.
pub fn begin<'a>(
    state: &'a State,
    tip: &Tip,
    parent_set: &ValidatorSet,
    last_commit: Option<&Certificate>,
    time_ms: u64,
) -> Execution<'a> {
    let mut execution = state.begin(tip.next_context(time_ms));
    if let Some(certificate) = last_commit {
        execution.note_certificate(parent_set, certificate);
    }
    execution
}

/// Checks a block against its parent and the state after it, and says what it does.
///
/// `parent_set` is the validator set that certified the parent. Whether the block time fits the
/// own clock, and whose turn it was to propose, is for consensus to judge.
///
/// # Errors
/// [`BlockError`]; the state is as before in any case.
pub fn execute(
    state: &State,
    tip: &Tip,
    parent_set: &ValidatorSet,
    block: &Block,
) -> Result<Outcome, BlockError> {
    execute_with(state, tip, parent_set, block, |transaction| state.verify(transaction.clone()))
}

/// As [`execute`], for a block that is known to be decided: the voters have checked the
/// signatures under its parent certificate, and they are not checked once more.
///
/// # Errors
/// [`BlockError`]; the state is as before in any case.
pub fn execute_decided(
    state: &State,
    tip: &Tip,
    parent_set: &ValidatorSet,
    block: &Block,
) -> Result<Outcome, BlockError> {
    check_time_and_parent(tip, block, |certificate| {
        let same = certificate.height == tip.header.height && certificate.block_hash == tip.hash;
        if same { Ok(()) } else { Err(CertificateError::OtherBlock) }
    })?;
    let verify = |transaction: &Transaction| state.verify(transaction.clone());
    execute_checked(state, tip, parent_set, block, verify)
}

/// As [`execute`], with transactions that may have been verified before: `verify` gives the
/// verified form of a transaction, from a mempool or by `State::verify`.
///
/// # Errors
/// [`BlockError`]; the state is as before in any case.
pub fn execute_with(
    state: &State,
    tip: &Tip,
    parent_set: &ValidatorSet,
    block: &Block,
    verify: impl FnMut(&Transaction) -> Result<VerifiedTransaction, VerifyError>,
) -> Result<Outcome, BlockError> {
    check_parent(tip, block, |certificate| certificate.verify(&tip.header, parent_set))?;
    execute_checked(state, tip, parent_set, block, verify)
}

/// Body, time and parent certificate; the latter as `verify` finds it.
fn check_parent(
    tip: &Tip,
    block: &Block,
    verify: impl FnOnce(&Certificate) -> Result<(), CertificateError>,
) -> Result<(), BlockError> {
    block.check_body()?;
    check_time_and_parent(tip, block, verify)
}

/// As [`check_parent`] without the body: whether it is the header's is found once more when the
/// header is made anew of what the block does.
fn check_time_and_parent(
    tip: &Tip,
    block: &Block,
    verify: impl FnOnce(&Certificate) -> Result<(), CertificateError>,
) -> Result<(), BlockError> {
    if block.header.time_ms <= tip.header.time_ms {
        return Err(BlockError::Time);
    }
    match (&block.last_commit, tip.header.height) {
        (None, Height::GENESIS) => Ok(()),
        (Some(certificate), height) if height > Height::GENESIS => Ok(verify(certificate)?),
        _ => Err(BlockError::LastCommit),
    }
}

fn execute_checked(
    state: &State,
    tip: &Tip,
    parent_set: &ValidatorSet,
    block: &Block,
    verify: impl FnMut(&Transaction) -> Result<VerifiedTransaction, VerifyError>,
) -> Result<Outcome, BlockError> {
    // Under other rules the same transactions may do something else: better no answer.
    let version = state.policy().version_at(tip.header.height.next());
    if !SUPPORTED_VERSIONS.contains(&version) {
        return Err(BlockError::Version(version));
    }
    let header = &block.header;
    if block.transactions.len() > MAX_BLOCK_TRANSACTIONS {
        return Err(BlockError::TooMany);
    }
    let recovery = recovery_of(block);
    if recovery.is_none() && state.validator_set().position(&header.proposer).is_none() {
        return Err(BlockError::Proposer);
    }
    // A recovery follows from the operator's act and its parent alone.
    let execution = match recovery {
        Some(_) => state.begin(tip.next_context(header.time_ms)),
        None => begin(state, tip, parent_set, block.last_commit.as_ref(), header.time_ms),
    };
    let outcome = apply_all(execution, block, verify)?;
    let expected = tip.next_header(
        state,
        &outcome,
        &block.transactions,
        block.last_commit.as_ref(),
        header.time_ms,
        header.proposer,
    );
    if *header != expected {
        return Err(BlockError::Header);
    }
    if recovery.is_some_and(|digest| digest != header.recovery_digest()) {
        return Err(BlockError::Recovery);
    }
    Ok(outcome)
}

fn recovery_of(block: &Block) -> Option<Hash> {
    block.transactions.iter().find_map(|transaction| match &transaction.draft().body {
        Body::Recover(body) => Some(body.block_digest),
        _ => None,
    })
}

fn apply_all(
    mut execution: Execution<'_>,
    block: &Block,
    mut verify: impl FnMut(&Transaction) -> Result<VerifiedTransaction, VerifyError>,
) -> Result<Outcome, BlockError> {
    for (index, transaction) in block.transactions.iter().enumerate() {
        let verified = verify(transaction).map_err(|error| BlockError::Verify { index, error })?;
        // What `verify` gives back must be this very transaction.
        if verified.transaction().hash() != transaction.hash() {
            return Err(BlockError::Body(BodyError::Transactions));
        }
        execution.apply(&verified).map_err(|error| BlockError::Apply { index, error })?;
    }
    Ok(execution.finish())
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;
    use crate::{
        certificate::{Signers, Votes},
        codec::{Decode, Encode, Text},
        fixture::Fixture,
        policy::{NextVersion, Policy},
        state::{Key, Record},
        transaction::Refusal,
    };

    fn refusal(site: &mut Fixture) -> Transaction {
        let reason = Text::new("not on the list").unwrap();
        site.by_founder(Body::Refusal(Refusal { node: NodeId([1; 20]), reason }))
    }

    fn run(site: &Fixture, block: &Block) -> Option<BlockError> {
        execute(&site.state, &site.tip, &site.tip_set, block).err()
    }

    #[test]
    fn a_block_travels_and_is_valid_again() {
        let mut site = Fixture::new();
        site.join(2);
        let transaction = refusal(&mut site);
        let block = site.block(site.now_ms(), vec![transaction]).unwrap();
        let read = Block::from_bytes(&block.to_bytes()).unwrap();
        assert_eq!(read, block);
        assert_eq!(run(&site, &read), None);
    }

    #[test]
    fn every_header_field_is_what_it_must_be() {
        let mut site = Fixture::new();
        site.join(2);
        let transaction = refusal(&mut site);
        let good = site.block(site.now_ms(), vec![transaction]).unwrap();
        let zero = Hash::ZERO;
        type Change = fn(&mut Header, Hash);
        let changes: [(BlockError, Change); 13] = [
            (BlockError::Header, |header, _| header.state_version += 1),
            (BlockError::Header, |header, zero| header.chain_id.0 = zero),
            (BlockError::Header, |header, _| header.era.0 += 1),
            (BlockError::Header, |header, _| header.height.0 += 1),
            (BlockError::Time, |header, _| header.time_ms = 0),
            (BlockError::Header, |header, zero| header.parent_hash = zero),
            (BodyError::Transactions.into(), |header, zero| header.tx_root = zero),
            (BodyError::Transactions.into(), |header, _| header.tx_count += 1),
            (BlockError::Header, |header, zero| header.state_root = zero),
            (BlockError::Header, |header, zero| header.history_root = zero),
            (BlockError::Header, |header, zero| header.validators_hash = zero),
            (BlockError::Header, |header, zero| header.next_validators_hash = zero),
            (BodyError::LastCommit.into(), |header, zero| header.last_commit_hash = zero),
        ];
        for (index, (error, change)) in changes.into_iter().enumerate() {
            let mut block = good.clone();
            change(&mut block.header, zero);
            assert_eq!(run(&site, &block), Some(error), "change {index}");
        }
        let mut stranger = good;
        stranger.header.proposer = NodeId([9; 20]);
        assert_eq!(run(&site, &stranger), Some(BlockError::Proposer));
    }

    /// A build that has not the version in force says so, and takes part in nothing.
    #[test]
    fn a_version_that_this_build_cannot_run_stops_it_at_its_height() {
        let mut site = Fixture::new();
        site.join(2);
        let next = NextVersion { state_version: 2, height: Height(4) };
        let policy = Policy { next_version: Some(next), ..Policy::default() };
        site.put(Key::Policy, Record::Policy(policy));
        while site.height() < Height(3) {
            site.commit(vec![]).unwrap();
            assert_eq!(site.tip.header.state_version, 1);
        }
        let block = site.block(site.now_ms(), vec![]).unwrap();
        assert_eq!(block.header.state_version, 2);
        assert_eq!(run(&site, &block), Some(BlockError::Version(2)));
    }

    #[test]
    fn time_grows() {
        let mut site = Fixture::new();
        site.join(2);
        let parent_ms = site.tip.header.time_ms;
        let block = site.block(parent_ms, vec![]).unwrap();
        assert_eq!(run(&site, &block), Some(BlockError::Time));
        let block = site.block(parent_ms + 1, vec![]).unwrap();
        assert_eq!(run(&site, &block), None);
    }

    #[test]
    fn the_parents_certificate_is_there_and_right() {
        let mut site = Fixture::new();
        let first = site.block(site.now_ms(), vec![]).unwrap();
        assert_eq!(run(&site, &first), None);
        site.join(2);
        let with = |site: &Fixture, last_commit: Option<Certificate>| {
            let mut block = site.block(site.now_ms(), vec![]).unwrap();
            block.header.last_commit_hash = Block::last_commit_hash(last_commit.as_ref());
            block.last_commit = last_commit;
            run(site, &block)
        };
        assert_eq!(with(&site, None), Some(BlockError::LastCommit));
        let good = site.last_commit.clone().unwrap();
        let Signers::Votes(votes) = good.signers.clone() else { unreachable!() };
        let unsigned = Votes::collect(0, 1, []);
        for votes in [Votes { round: 1, ..votes }, unsigned] {
            let forged = Certificate { signers: Signers::Votes(votes), ..good.clone() };
            let refused = with(&site, Some(forged));
            assert!(matches!(refused, Some(BlockError::Certificate(_))), "{refused:?}");
        }
        assert_eq!(with(&site, Some(good.clone())), None);
        // The first block has no parent certificate.
        let young = Fixture::new();
        assert_eq!(with(&young, Some(good)), Some(BlockError::LastCommit));
    }

    #[test]
    fn a_verifier_that_answers_for_another_transaction_is_noticed() {
        let mut site = Fixture::new();
        let (one, other) = (refusal(&mut site), refusal(&mut site));
        let other = site.state.verify(other).unwrap();
        let block = site.block(site.now_ms(), vec![one]).unwrap();
        let result =
            execute_with(&site.state, &site.tip, &site.tip_set, &block, |_| Ok(other.clone()));
        assert_eq!(result.err(), Some(BodyError::Transactions.into()));
    }
}
