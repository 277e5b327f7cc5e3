//! Several gateways of one site: real daemons, each with its own software TPM of one maker, bus and
//! data folder, on loopback or in network namespaces on one bridge.
//!
//! The first gateway founds the site and holds the operator's key; the others are admitted by the
//! command line, as an operator would do it.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, bail, ensure};
use ledger::ids::NodeId;
use serde_json::Value;

use crate::gateway::{Gateway, Stand, text};
use crate::network::{Network, Place, Wire};
use crate::peer::Peer;
use crate::record;
use crate::sensor::Load;
use crate::swtpm::Swtpm;
use crate::tpm_maker::{Ek, Maker};

/// Port for other gateways where nobody else has any.
const PORT: u16 = 7447;

/// Sites of this process stand one after the other: each has a dozen processes.
static ALONE: Mutex<()> = Mutex::new(());

/// The gateways of a site, those that are to join it, and those that must not.
pub struct Site {
    /// All gateways; the first is the founder. They end before their network does.
    pub gateways: Vec<Gateway>,
    /// Who made their TPMs.
    pub maker: Maker,
    /// Between them; none on loopback.
    pub network: Option<Network>,
    dir: tempfile::TempDir,
    _alone: MutexGuard<'static, ()>,
}

/// What a site is made of.
#[derive(Debug, Clone, Copy)]
pub struct Plan<'a> {
    /// Which certificate each gateway's TPM has; as many gateways as entries.
    pub tpms: &'a [Ek],
    /// How they reach each other.
    pub links: Links,
    /// Whether software TPMs count as real ones.
    pub insecure: bool,
}

/// How gateways reach each other.
#[derive(Debug, Clone, Copy)]
pub enum Links {
    /// On this machine's loopback, each with ports of its own.
    Loopback,
    /// In network namespaces on one bridge; links can be cut. Needs root.
    Bridge,
    /// In network namespaces on a bad wire. Needs root.
    Bad(Wire),
}

impl Site {
    /// Four gateways in namespaces, on a site that takes their software TPMs for real ones, their
    /// maker trusted; the first runs and has founded it.
    pub fn of_four() -> Result<Self> {
        Self::founded(Plan { tpms: &[Ek::Both; 4], links: Links::Bridge, insecure: true })
    }

    /// As [`Site::of_four`], all of them admitted and voting.
    pub fn grown_to_four() -> Result<Self> {
        let mut site = Self::of_four()?;
        site.grow()?;
        Ok(site)
    }

    /// Has all the others admitted, one after the other, and waits until four vote.
    pub fn grow(&mut self) -> Result<()> {
        for gateway in 1..self.gateways.len() {
            self.admit(gateway)?;
        }
        self.wait_voters(4)
    }

    /// A site with these gateways; only the founder runs.
    pub fn founded(plan: Plan<'_>) -> Result<Self> {
        let mut site = Self::prepared(plan)?;
        site.found()?;
        Ok(site)
    }

    /// Starts the first gateway and has it found the site.
    pub fn found(&mut self) -> Result<()> {
        self.gateways[0].start()?;
        if self.gateways[0].stand.insecure {
            self.gateways[0].found_site(&[])?;
            self.trust(&self.maker.anchors())?;
        } else {
            self.gateways[0].init_site()?;
        }
        // Voters come as soon as they are ready; the minute of the default is for real life.
        self.policy(&["activation_after_ms=1000", "batch_interval_ms=500"]).map(drop)
    }

    /// The gateways, none of them started.
    pub fn prepared(plan: Plan<'_>) -> Result<Self> {
        // A test that broke while it had it has said so.
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let dir = tempfile::tempdir()?;
        let maker = Maker::new(&dir.path().join("maker"))?;
        let network = match plan.links {
            Links::Loopback => None,
            Links::Bridge => Some(Network::build(plan.tpms.len())?),
            Links::Bad(wire) => Some(Network::build_on(wire, plan.tpms.len())?),
        };
        let mut site = Self { gateways: Vec::new(), maker, network, dir, _alone: alone };
        for &kind in plan.tpms {
            let stand = site.stand(site.gateways.len(), plan.insecure)?;
            let maker = &site.maker;
            let make = |dir: &Path, place: Place| Swtpm::made_by(maker, kind, dir, place);
            let gateway = Gateway::prepare_at(stand, &make)?;
            site.gateways.push(gateway);
        }
        Ok(site)
    }

    fn stand(&self, number: usize, insecure: bool) -> Result<Stand> {
        let alone = Stand { insecure, ..Stand::alone()? };
        Ok(match &self.network {
            None => alone,
            Some(network) => Stand {
                place: network.place(number),
                address: format!("{}:{PORT}", Network::address(number)),
                ..alone
            },
        })
    }

    /// Starts one more gateway and has it admitted through the founder; it ends as a member.
    pub fn admit(&mut self, number: usize) -> Result<()> {
        self.admit_through(number, 0)
    }

    /// As [`Site::admit`], through a member of one's choice.
    pub fn admit_through(&mut self, number: usize, member: usize) -> Result<()> {
        if self.gateways[number].pid().is_none() {
            self.gateways[number].start()?;
        }
        let join = self.join(number, member)?;
        self.admitted(number, member, join)
    }

    /// Approves the gateway that joins, and waits until it is a member.
    pub fn admitted(&self, number: usize, member: usize, join: Peer) -> Result<()> {
        self.approve(number, member)?;
        let (code, said) = join.finish()?;
        ensure!(
            code == Some(0),
            "gateway {number} is not admitted ({code:?}):\n{}\n--- its log:\n{}\n\
             --- the member's:\n{}",
            said.join("\n"),
            self.gateways[number].log(),
            self.gateways[member].log(),
        );
        Ok(())
    }

    /// Starts `gateway join` on one gateway, towards a member.
    pub fn join(&self, number: usize, member: usize) -> Result<Peer> {
        let (address, code) = (self.address(member), self.code(member)?);
        self.gateways[number].ctl_peer(&["gateway", "join", &address, "--site", &code])
    }

    /// The operator approves the gateway that waits, at a member.
    pub fn approve(&self, number: usize, member: usize) -> Result<()> {
        let mut waiting = None;
        let what = format!("gateway {number} to wait for approval");
        self.gateways[member].wait_for(&what, |member| {
            let pending = member.ctl_json(&["gateway", "pending"]).unwrap_or_default();
            waiting = needs_approval(&pending);
            waiting.is_some()
        })?;
        let waiting = waiting.context("it waits")?;
        self.sign(member, &["gateway", "approve", &waiting])?;
        Ok(())
    }

    /// Address of a gateway for the others.
    pub fn address(&self, number: usize) -> String {
        self.gateways[number].stand.address.clone()
    }

    /// The site code as a member shows it now.
    pub fn code(&self, member: usize) -> Result<String> {
        let card = self.gateways[member].ctl_json(&["site", "card"])?;
        Ok(card["site_code"].as_str().context("site_code")?.to_owned())
    }

    /// Adds certificates to what the site trusts as makers of TPMs.
    pub fn trust(&self, anchors: &[PathBuf]) -> Result<()> {
        for anchor in anchors {
            self.sign(0, &["site", "policy", "anchor", "add", text(anchor)?])?;
        }
        Ok(())
    }

    /// Changes the policy.
    pub fn policy(&self, settings: &[&str]) -> Result<Value> {
        self.sign(0, &[&["site", "policy", "set"], settings].concat())
    }

    /// An act of the operator at a gateway, signed there and then.
    pub fn sign(&self, number: usize, act: &[&str]) -> Result<Value> {
        let (key, passphrase) = self.gateways[0].operator_key();
        let key = ["--operator-key", text(&key)?, "--passphrase-file", text(&passphrase)?, "--yes"];
        self.gateways[number].ctl_json(&[act, &key].concat())
    }

    /// Makes a block through a gateway: an act of the operator that changes the policy and back.
    /// Its height. Acts that the operator asked for at two gateways at once may have the same
    /// number: one of them is refused, and asked for again.
    pub fn commit(&self, number: usize) -> Result<u64> {
        loop {
            match self.sign(number, &["site", "policy", "set", "receipts=2"]) {
                Ok(done) => return done["height"].as_u64().context("height"),
                Err(error) if error.to_string().contains("refused: nonce") => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Asks for a block through a gateway that is not expected to answer; the asking ends when
    /// what is returned is dropped.
    pub fn commit_in_vain(&self, number: usize) -> Result<Peer> {
        let (key, passphrase) = self.gateways[0].operator_key();
        let act = ["site", "policy", "set", "receipts=2", "--yes", "--timeout", "60"];
        let key = ["--operator-key", text(&key)?, "--passphrase-file", text(&passphrase)?];
        self.gateways[number].ctl_peer(&[&act[..], &key].concat())
    }

    /// Makes sure that these gateways have the same block at this height.
    pub fn same_blocks(&self, gateways: &[usize], height: u64) -> Result<()> {
        let mut blocks = Vec::new();
        for &gateway in gateways {
            let shown =
                self.gateways[gateway].ctl_json(&["ledger", "show", &height.to_string()])?;
            blocks.push((gateway, shown["hash"].clone()));
        }
        let same = blocks.windows(2).all(|two| two[0].1 == two[1].1 && two[0].1.is_string());
        ensure!(same, "different blocks at height {height}: {blocks:?}");
        Ok(())
    }

    /// The ID of a gateway.
    pub fn id(&self, number: usize) -> Result<String> {
        let status = self.gateways[number].ctl_json(&["status"])?;
        Ok(status["gateway"].as_str().context("gateway")?.to_owned())
    }

    /// The same as the record has it.
    pub fn node(&self, number: usize) -> Result<NodeId> {
        let id = self.id(number)?;
        let (_, node) = NodeId::parse(&id).map_err(|error| anyhow::anyhow!("{id}: {error}"))?;
        Ok(node)
    }

    /// The standing of a gateway as another one sees it; `gone` when the record has no such one.
    pub fn standing(&self, number: usize, id: &str) -> Result<String> {
        let list = self.gateways[number].ctl_json(&["gateway", "list"])?;
        let list = list.as_array().context("a list of gateways")?;
        let found = list.iter().find(|gateway| gateway["id"] == id);
        let standing = found.map_or("gone", |found| found["standing"].as_str().unwrap_or_default());
        Ok(standing.to_owned())
    }

    /// The network, where there is one.
    pub fn network(&self) -> Result<&Network> {
        self.network.as_ref().context("the gateways stand on loopback: nothing can be cut")
    }

    /// A folder of the test's own.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A figure of a gateway's status; zero when it does not answer.
    pub fn figure(&self, number: usize, name: &str) -> u64 {
        let status = self.gateways[number].ctl_json(&["status"]).unwrap_or_default();
        status[name].as_u64().unwrap_or(0)
    }

    /// Waits until every running gateway sees so many voters.
    pub fn wait_voters(&self, voters: u64) -> Result<()> {
        self.wait_all(&format!("{voters} voters"), &self.running(), |site, gateway| {
            site.figure(gateway, "voters") == voters
        })
    }

    /// Waits until these gateways have at least this height.
    pub fn wait_height(&self, gateways: &[usize], height: u64) -> Result<()> {
        self.wait_all(&format!("height {height}"), gateways, |site, gateway| {
            site.figure(gateway, "height") >= height
        })
    }

    /// Waits until something holds at each of these gateways.
    pub fn wait_all(
        &self,
        what: &str,
        gateways: &[usize],
        done: impl Fn(&Self, usize) -> bool,
    ) -> Result<()> {
        for &gateway in gateways {
            let waited = self.gateways[gateway].wait_for(what, |_| done(self, gateway));
            if let Err(error) = waited {
                bail!("gateway {gateway}: {error:#}\n{}", self.statuses());
            }
        }
        Ok(())
    }

    /// What every gateway says of itself, for a failure.
    fn statuses(&self) -> String {
        let status = |number: &usize| match self.gateways[*number].ctl_json(&["status"]) {
            Ok(status) => format!("--- gateway {number}: {status}\n"),
            Err(_) => format!("--- gateway {number} does not answer\n"),
        };
        (0..self.gateways.len()).collect::<Vec<_>>().iter().map(status).collect()
    }

    /// The gateways whose daemon runs.
    pub fn running(&self) -> Vec<usize> {
        let numbers = 0..self.gateways.len();
        numbers.filter(|&number| self.gateways[number].pid().is_some()).collect()
    }

    /// Switches the only sensor of a gateway off, a counting one, and stops the gateway: every
    /// value that the sensor got rid of is on the record, once.
    pub fn nothing_lost(&mut self, number: usize, load: Load) -> Result<()> {
        self.nothing_lost_on(number, load, number)
    }

    /// As [`Site::nothing_lost`], on the record as another gateway has it.
    pub fn nothing_lost_on(&mut self, number: usize, load: Load, record: usize) -> Result<()> {
        let (acknowledged, own) = (load.stop(), self.node(number)?);
        record::wait_recorded(&self.gateways[number])?;
        let height = self.figure(number, "height");
        self.wait_height(&[record], height)?;
        let folder = self.gateways[record].data_dir();
        let gateway = &mut self.gateways[number];
        gateway.stop()?;
        let entries = record::batches_in(gateway, Some(own), &folder)?;
        let mut values = entries.iter().map(record::value).collect::<Result<Vec<u64>>>()?;
        values.sort_unstable();
        let all: Vec<u64> = (0..values.len() as u64).collect();
        ensure!(values == all, "gateway {number}: values are missing or doubled: {values:?}");
        // The one that was under way at the end may be there too.
        let (kept, range) = (all.len() as u64, acknowledged..=acknowledged + 1);
        ensure!(
            range.contains(&kept),
            "gateway {number}: {acknowledged} acknowledged, {kept} kept"
        );
        println!("gateway {number}: {acknowledged} readings acknowledged, each on the record once");
        Ok(())
    }

    /// Stops a gateway and forgets all it had on its disk; its TPM is the same.
    pub fn wipe(&mut self, number: usize) -> Result<()> {
        let gateway = &mut self.gateways[number];
        if gateway.pid().is_some() {
            gateway.stop()?;
        }
        Ok(std::fs::remove_dir_all(gateway.data_dir())?)
    }
}

/// The ID of the first newcomer that waits for the operator.
fn needs_approval(pending: &Value) -> Option<String> {
    let waits = |newcomer: &&Value| newcomer["state"] == "needs-approval";
    Some(pending.as_array()?.iter().find(waits)?["id"].as_str()?.to_owned())
}
