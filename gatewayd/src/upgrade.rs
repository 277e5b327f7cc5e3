//! A founder on a software TPM moves to a hardware TPM (design §5 "Without a TPM"), with all that
//! it has recorded: a new identity in the new TPM takes the old one's place by the operator's
//! `Replace`, the storage key is sealed to the new TPM, and what it encrypts stays as it is.
//!
//! ```text
//! upgrade/1/tpm/            new keys (attestation crate)
//! upgrade/1/identity.pub    new identity key, public
//! upgrade/1/storage.sealed  the same storage key, sealed to the new TPM
//! upgrade/1/vote.sealed     new vote key
//! upgrade/1/counter         start counter of the new TPM
//! upgrade/1/address         where that TPM is
//! upgrade/1/replace.cbor    the act that the operator is to sign; written last
//! ```
//!
//! Until the record holds the act nothing of the old identity is touched. From then on the record
//! says who this gateway is, and the files above take the place of the old ones at the next look,
//! step by step, each of which may be done twice: a crash leaves the old gateway or the new one.
//!
//! Calls of this module block (TPM, disk), but for [`adopt`].

use std::convert::Infallible;
use std::path::Path;
use std::time::Duration;

use attestation::endorsement::TpmModel;
use attestation::tpm::{IdentityInfo, KEY_FILE, Tpm};
use ledger::codec::{Decode, Encode};
use ledger::crypto::SigningKey;
use ledger::genesis::{FounderAttestation, TpmName};
use ledger::ids::{ChainId, Hash, NodeId};
use ledger::state::{Attestation, State};
use ledger::store::{Reader, Store};
use ledger::transaction::{
    Assign, AssignItem, AssignReason, Author, Body, Label, Online, Reason, Replace, VoteKeyProof,
    vote_key_digest, vote_possession_digest,
};

use crate::control::{ControlError, Result as Controlled};
use crate::identity::{Folder, IdentityError, identity_key, normalized};
use crate::ledger_task;
use crate::vault::Vault;
use crate::vote_keys;

/// Moves that are kept ready at once: the operator may sign one of them weeks later.
const MAX_PREPARED: u32 = 8;

/// Sensors that one transaction assigns at most.
const MAX_ASSIGNED: usize = 1_000;

/// After a refusal the assignment is asked for again.
const ADOPT_AGAIN: Duration = Duration::from_secs(5);

type Result<T> = std::result::Result<T, IdentityError>;

/// What is to be moved, and where.
#[derive(Debug, Clone)]
pub(crate) struct Wish {
    /// Address of the new TPM.
    pub address: String,
    /// Address of the TPM that is left.
    pub old_address: String,
    /// Chain of the site.
    pub chain_id: ChainId,
    /// The identity that goes.
    pub old: NodeId,
    /// SHA-256 of the old TPM's EK.
    pub old_ek: [u8; 32],
    /// Label of this gateway.
    pub label: Label,
    /// Whether the site takes a software TPM for a hardware one.
    pub software_is_let_in: bool,
}

/// A move that waits for the operator's signature.
#[derive(Debug)]
pub(crate) struct Prepared {
    /// What the operator is to sign; the reason is still to be given.
    pub replace: Replace,
    /// Where the new TPM is.
    pub address: String,
    /// Its start counter when the keys were made.
    counter: u64,
    folder: Folder,
}

impl Prepared {
    /// The new identity.
    pub(crate) fn node(&self) -> NodeId {
        NodeId::of_key(&self.replace.identity)
    }

    /// Opens the new keys with the new TPM.
    ///
    /// # Errors
    /// It does not answer, or is another one.
    pub(crate) fn open(&self) -> Result<IdentityInfo> {
        let tpm = Tpm::spawn(&self.address, self.folder.tpm())?;
        let opened = (|| {
            let info = tpm.load_identity()?;
            tpm.unseal(&self.folder.must_read("storage.sealed")?)?;
            Ok(info)
        })();
        shut_down(&tpm);
        opened
    }

    fn read(folder: Folder) -> Result<Option<Self>> {
        let Some(replace) = folder.read("replace.cbor")? else { return Ok(None) };
        let damaged = || IdentityError::Refused("a prepared upgrade is damaged".into());
        let replace = Replace::from_bytes(&replace).map_err(|_| damaged())?;
        let address = String::from_utf8(folder.must_read("address")?).map_err(|_| damaged())?;
        let counter = folder.must_read("counter")?.try_into().map_err(|_| damaged())?;
        Ok(Some(Self { replace, address, counter: u64::from_be_bytes(counter), folder }))
    }
}

/// Whether this gateway may move, and what there is to know for it.
///
/// # Errors
/// Why not, in words.
pub(crate) fn wish(state: &State, own: NodeId, address: &str) -> Controlled<(Label, bool)> {
    let refused = |why: String| Err(ControlError::Refused(why));
    let Some(gateway) = state.gateway(&own) else {
        return refused("this gateway is not on the record as its disk has it".into());
    };
    let members = state.gateways().filter(|(_, it)| it.standing.standing.may_record()).count();
    if members > 1 {
        return refused(format!(
            "{members} gateways keep this record: one of them moves to another TPM by asking anew \
             from there, and `gatewayctl gateway replace`"
        ));
    }
    if gateway.attestation != Attestation::Unattested {
        return refused(format!(
            "this gateway is {}, not unattested: its identity is in a hardware TPM already, and \
             {address} would be a second one. After a change of the mainboard: `gatewayctl gateway \
             replace`",
            crate::status::attestation_word(&gateway.attestation)
        ));
    }
    Ok((gateway.label(), state.policy().insecure_software_tpm_sites))
}

/// Makes identity, storage key and vote key under the new TPM. What an earlier call has made for
/// the same TPM is used again.
///
/// # Errors
/// The new TPM does not answer, is the old one, or a software one where that is not let in.
pub(crate) fn prepare(folder: &Folder, tpm: &Tpm, wish: &Wish) -> Result<(Prepared, IdentityInfo)> {
    if wish.address == wish.old_address {
        return Err(the_same(wish));
    }
    for known in prepared(folder)? {
        if known.address == wish.address && known.replace.old == wish.old {
            match known.open() {
                Ok(info) => {
                    check_tpm(&info, wish)?;
                    return Ok((known, info));
                }
                Err(error) if error.is_absence() => return Err(error),
                // Another TPM is there now: its keys are made beside these.
                Err(_) => {}
            }
        }
    }
    let place = fresh(folder)?;
    let new = Tpm::spawn(&wish.address, place.tpm())?;
    let made = make(folder, tpm, &place, &new, wish);
    shut_down(&new);
    let info = made.inspect_err(|_| place.discard())?;
    let missing = || IdentityError::Refused("the prepared upgrade is gone again".into());
    Ok((Prepared::read(place)?.ok_or_else(missing)?, info))
}

fn make(
    folder: &Folder,
    tpm: &Tpm,
    place: &Folder,
    new: &Tpm,
    wish: &Wish,
) -> Result<IdentityInfo> {
    let about = new.info()?;
    if about.is_software && !wish.software_is_let_in {
        return Err(software(about.manufacturer.to_string(), wish));
    }
    let info = new.create_identity()?;
    check_tpm(&info, wish)?;
    let key = folder.storage_key(tpm)?;
    place.write("storage.sealed", &new.seal(&key[..])?)?;
    let vote = crate::identity::new_key()?;
    place.keep_vote_key(&Vault::new(&key), &vote)?;
    place.write("identity.pub", &info.identity)?;
    place.write("counter", &new.counter_define()?.to_be_bytes())?;
    place.write("address", wish.address.as_bytes())?;
    place.write("replace.cbor", &replacement(new, &info, &vote, wish)?.to_bytes())?;
    Ok(info)
}

fn check_tpm(info: &IdentityInfo, wish: &Wish) -> Result<()> {
    if info.is_software && !wish.software_is_let_in {
        return Err(software(info.manufacturer.to_string(), wish));
    }
    if info.ek_digest == wish.old_ek {
        return Err(the_same(wish));
    }
    Ok(())
}

fn the_same(wish: &Wish) -> IdentityError {
    IdentityError::Refused(format!(
        "the TPM at {} is the one that this gateway's identity is in: name the other one",
        wish.address
    ))
}

fn software(manufacturer: String, wish: &Wish) -> IdentityError {
    IdentityError::Refused(format!(
        "the TPM at {} says that it is software ({manufacturer}): nothing would be won by moving \
         there. Name the chip, as a rule device:/dev/tpmrm0",
        wish.address
    ))
}

fn replacement(new: &Tpm, info: &IdentityInfo, vote: &SigningKey, wish: &Wish) -> Result<Replace> {
    let (chain, identity) = (&wish.chain_id.0, identity_key(info)?);
    let certified = vote_key_digest(chain, &identity, &vote.public_key());
    let held = vote_possession_digest(chain, &identity, &vote.public_key());
    let vote = VoteKeyProof {
        vote_key: vote.public_key(),
        certificate: normalized(new.sign_identity(certified.0)?)?,
        possession: vote.sign_digest(&held),
    };
    let ak_name = info.ak_name.as_bytes().try_into();
    let ak_name =
        ak_name.map_err(|_| IdentityError::Invalid("the attestation key's name is not SHA-256"))?;
    let model = TpmModel::of_endorsements(&info.endorsements, info.manufacturer);
    Ok(Replace {
        old: wish.old,
        identity,
        vote,
        ek_digest: Hash(info.ek_digest),
        ak_name: TpmName(ak_name),
        ek_kind: info.ek_kind.number(),
        tpm_model: Hash(model.digest()),
        label: wish.label,
        // Nobody has checked it yet: the second gateway does, before it comes in.
        attestation: FounderAttestation::Unverified,
        reason: Reason::default(),
    })
}

/// The moves that wait for the operator, oldest first.
///
/// # Errors
/// [`IdentityError`].
pub(crate) fn prepared(folder: &Folder) -> Result<Vec<Prepared>> {
    let places = (1..=MAX_PREPARED).map(|number| place(folder, number));
    let existing = places.filter(Folder::exists);
    existing.filter_map(|place| Prepared::read(place).transpose()).collect()
}

fn place(folder: &Folder, number: u32) -> Folder {
    folder.inside("upgrade").inside(&number.to_string())
}

/// An empty folder. What a crash left half-made goes: no act names it.
fn fresh(folder: &Folder) -> Result<Folder> {
    for number in 1..=MAX_PREPARED {
        let place = place(folder, number);
        if place.exists() && place.read("replace.cbor")?.is_none() {
            place.discard();
        }
        if !place.exists() {
            folder.inside("upgrade").made()?;
            return place.made();
        }
    }
    Err(IdentityError::Refused(format!(
        "{MAX_PREPARED} upgrades to other TPMs are prepared already, and the operator may sign any \
         of them: submit one, or remove the folder `upgrade` in the data folder while the daemon \
         is stopped"
    )))
}

/// Puts the new identity in the old one's place if the record says so.
///
/// # Errors
/// Disk or record unreadable. What was begun is gone on with at the next call.
pub(crate) fn settle(folder: &Folder, data_dir: &Path, configured: &str) -> anyhow::Result<()> {
    let prepared = prepared(folder)?;
    let Some(own) = folder.identity()?.filter(|_| !prepared.is_empty()) else { return Ok(()) };
    let own = NodeId::of_key(&own);
    let successor = Reader::open(data_dir)?.gateway(&own)?.and_then(|own| own.replaced_by);
    let taken = prepared.iter().find(|it| it.node() == own || Some(it.node()) == successor);
    let Some(taken) = taken else { return Ok(()) };
    let names = ["storage.sealed", "vote.sealed", "identity.pub"];
    folder.inside("tpm").write(KEY_FILE, &taken.folder.inside("tpm").must_read(KEY_FILE)?)?;
    folder.remove("vote-next.sealed")?;
    folder.remove("attest-again")?;
    for name in names {
        folder.write(name, &taken.folder.must_read(name)?)?;
    }
    folder.tpm_is_at(configured, &taken.address)?;
    // Of the time before the act was signed: an older copy of this disk is found out by it.
    Store::open(data_dir)?.write_counter(taken.counter)?;
    tracing::info!(gateway = taken.node().to_gateway_string(), tpm = taken.address, "moved");
    folder.inside("upgrade").discard();
    Ok(())
}

/// Has the record know the new identity at work, and assign the sensors of the one before it to it.
/// It goes on until nothing is left, and then does nothing for ever.
pub(crate) async fn adopt(ledger: ledger_task::Handle, tpm: Tpm, own: NodeId) -> Infallible {
    loop {
        match adopt_some(&ledger, &tpm, own).await {
            Ok(0) => return std::future::pending().await,
            Ok(sensors) => tracing::info!(sensors, "taken over from the identity before this one"),
            Err(error) => {
                tracing::warn!(%error, "the place of the identity before is not taken yet");
                tokio::time::sleep(ADOPT_AGAIN).await;
            }
        }
    }
}

async fn adopt_some(ledger: &ledger_task::Handle, tpm: &Tpm, own: NodeId) -> Controlled<usize> {
    let look = move |state: &State| (arrival(state, own), inherited(state, own).len());
    let (arrival, count) = ledger.view(look).await?;
    if let Some(online) = arrival {
        // A block of its own: newcomers learn from it who votes here now.
        vote_keys::record_with_identity(ledger, tpm, Body::Online(online)).await?;
    }
    if count > 0 {
        let assign = |here: &ledger_task::Here<'_>| {
            let items = inherited(here.state, here.gateway);
            Ok(Body::Assign(Assign { reason: AssignReason::Refill, items, holders: vec![] }))
        };
        ledger.propose(assign).await?;
    }
    Ok(count)
}

/// What an identity says first that took another's place.
fn arrival(state: &State, own: NodeId) -> Option<Online> {
    let gateway = state.gateway(&own)?;
    let silent = state.activity(&Author::Node(own)).is_none_or(|known| known.nonce_highest == 0);
    let liveness_epoch = gateway.liveness_epoch.checked_add(1)?;
    let first = silent && state.voters() == [own] && state.lineage(&own).len() > 1;
    first.then_some(Online { liveness_epoch })
}

/// Sensors that only identities before this one are listed for.
fn inherited(state: &State, own: NodeId) -> Vec<AssignItem> {
    let before = state.lineage(&own);
    let served = state.light_nodes().filter(|(_, node)| {
        let ours = |gateway: &NodeId| *gateway != own && before.contains(gateway);
        node.retired.is_none()
            && node.standing.standing.may_record()
            && !node.gateways.is_empty()
            && node.gateways.iter().all(ours)
    });
    let item = |(node, known): (&NodeId, &ledger::state::LightNode)| AssignItem {
        node: *node,
        expected_epoch: known.assign_epoch,
        session_epoch: state.session(node).map_or(0, |session| session.counters.epoch),
        gateways: vec![own],
    };
    served.take(MAX_ASSIGNED).map(item).collect()
}

fn shut_down(tpm: &Tpm) {
    if let Err(error) = tpm.shutdown() {
        tracing::warn!(%error, "the thread of the other TPM");
    }
}
