//! Several gateways: real daemons on loopback, each with its own software TPM, bus and disk. What a
//! commit takes, how many blocks a second they make, what an admission takes, how fast one that was
//! off catches up, and what they cost when nothing happens.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use gatewayd::config::Bus;
use gatewayd::dbus::client::{Arguments, Client};
use gatewayd::dbus::manager::ManagerProxy;
use gatewayd::operator_key::{self, Passphrase};
use ledger::codec::{Decode, Encode, Text};
use ledger::crypto::SigningKey;
use ledger::operator::Request;
use ledger::store::Reader;
use ledger::transaction::Draft;
use tests::gateway::{Gateway, PATIENCE};
use tests::site::{Links, Plan, Site};
use tests::tpm_maker::Ek;
use tokio::runtime::Runtime;

use crate::daemon::{Usage, usage_of};
use crate::figures::Figures;

/// Gateways of the large site: what `1-then-4` grows to in steps of three.
const MANY: usize = 16;

/// Acts that are timed.
const ACTS: usize = 200;

/// How long blocks are counted.
const RATE: Duration = Duration::from_secs(15);

/// Blocks that the one that was off has to catch up with.
const BEHIND: u64 = 2_000;

/// How long idle gateways are looked at, and how long they get before that.
const IDLE: Duration = Duration::from_secs(60);
const SETTLE: Duration = Duration::from_secs(10);

/// Longest wait for an answer of a daemon.
const ANSWER: Duration = Duration::from_secs(60);

/// All figures of several gateways.
pub(crate) fn measure(runtime: &Runtime, figures: &mut Figures) -> Result<()> {
    eprintln!("{MANY} gateways are made");
    let tpms = &[Ek::Both; MANY];
    let mut site = Site::founded(Plan { tpms, links: Links::Loopback, insecure: true })?;
    site.policy(&["operator_approval=false"])?;
    let mut admissions = Vec::new();
    for gateway in 1..4 {
        admit(&mut site, gateway)?;
    }
    site.wait_voters(4)?;
    idle(&site, figures)?;
    let acts = Arc::new(runtime.block_on(Acts::prepare(&site.gateways[0]))?);
    finality(runtime, &acts, &site, 4, figures)?;
    let all = rate(runtime, &acts, &site, &[0, 1, 2, 3])?;
    let how = "4 voters, 4 processes on loopback, disk syncs on, an operator's act after the other \
               at each gateway (D-Bus), blocks of 15 s";
    figures.add("blocks_per_s_n4", all, "1/s", how);
    one_dead(runtime, &acts, &mut site, figures)?;
    for gateway in 4..MANY {
        admissions.push(admit(&mut site, gateway)?);
    }
    admissions.sort_by(f64::total_cmp);
    let how = format!(
        "{} admissions to a site of 4 to {} gateways, one after the other, software TPMs, no \
         approval asked for: from the newcomer's request over D-Bus to its own copy of the record, \
         `gatewayctl gateway join` in it",
        admissions.len(),
        MANY - 1
    );
    figures.add("admission_p50_ms", at(&admissions, 0.5), "ms", &how);
    figures.add("admission_p95_ms", at(&admissions, 0.95), "ms", &how);
    site.wait_voters(MANY as u64)?;
    finality(runtime, &acts, &site, MANY, figures)
}

/// Starts a gateway and has it admitted; what that took from its request on, ms.
fn admit(site: &mut Site, gateway: usize) -> Result<f64> {
    site.gateways[gateway].start()?;
    let begun = Instant::now();
    let (code, said) = site.join(gateway, 0)?.finish()?;
    ensure!(code == Some(0), "gateway {gateway}: {}", said.join("\n"));
    Ok(begun.elapsed().as_secs_f64() * 1e3)
}

/// What four gateways cost when nothing happens.
fn idle(site: &Site, figures: &mut Figures) -> Result<()> {
    eprintln!("4 gateways idle, {} s", IDLE.as_secs());
    std::thread::sleep(SETTLE);
    let look = || -> Result<Vec<Usage>> {
        site.gateways[..4]
            .iter()
            .map(|gateway| usage_of(gateway.pid().context("it runs")?))
            .collect()
    };
    let before = look()?;
    std::thread::sleep(IDLE);
    let used: Vec<Usage> =
        look()?.iter().zip(&before).map(|(now, then)| now.since(*then)).collect();
    let mean = |part: fn(&Usage) -> f64| used.iter().map(part).sum::<f64>() / used.len() as f64;
    let seconds = IDLE.as_secs_f64();
    let how = "4 gateways, no sensors, mean of a gateway over 60 s with its heartbeat block";
    let cpu = mean(|used| used.cpu_s) * 100.0 / seconds;
    figures.add("cpu_idle_percent", cpu, "%", &format!("{how}; ticks of 10 ms"));
    figures.add("disk_idle_bytes_per_s", mean(|used| used.written) / seconds, "B/s", how);
    figures.add("rss_idle_mib", mean(|used| used.rss_mib), "MiB", how);
    Ok(())
}

/// From an act being due to its being committed, as its submitter hears it.
fn finality(
    runtime: &Runtime,
    acts: &Acts,
    site: &Site,
    voters: usize,
    figures: &mut Figures,
) -> Result<()> {
    eprintln!("{ACTS} acts with {voters} voters");
    let times = runtime.block_on(async {
        let mut managers = Vec::new();
        for gateway in &site.gateways[..voters] {
            managers.push(manager(gateway).await?);
        }
        let mut times = Vec::new();
        for number in 0..ACTS {
            times.push(acts.commit(&managers[number % voters]).await?);
        }
        anyhow::Ok(times)
    })?;
    let mut times: Vec<f64> = times.iter().map(|time| time.as_secs_f64() * 1e3).collect();
    times.sort_by(f64::total_cmp);
    let how = format!(
        "{voters} processes on loopback, disk syncs on, {ACTS} operator's acts (urgent: due at \
         once), one after the other, at each gateway in turn: SubmitOperatorAct to its answer"
    );
    figures.add(&format!("finality_p50_ms_n{voters}"), at(&times, 0.5), "ms", &how);
    figures.add(&format!("finality_p95_ms_n{voters}"), at(&times, 0.95), "ms", &how);
    Ok(())
}

/// The same rate without one of them, and how fast that one catches up.
fn one_dead(
    runtime: &Runtime,
    acts: &Arc<Acts>,
    site: &mut Site,
    figures: &mut Figures,
) -> Result<()> {
    site.gateways[3].kill()?;
    // The first blocks wait for its turn; then it is ordered last.
    let first = rate(runtime, acts, site, &[0, 1, 2, 0])?;
    let three = rate(runtime, acts, site, &[0, 1, 2, 0])?;
    let how = format!(
        "the same with one of the four killed 15 s before (in which {first:.1} blocks a second \
         were made)"
    );
    let how = how.as_str();
    figures.add("blocks_per_s_one_dead_n4", three, "1/s", how);
    let (dead, alive) = (height(&site.gateways[3])?, height(&site.gateways[0])?);
    let goal = alive.max(dead + BEHIND);
    eprintln!("blocks to catch up with: {}", goal - dead);
    while height(&site.gateways[0])? < goal {
        rate(runtime, acts, site, &[0, 1, 2, 0])?;
    }
    let goal = height(&site.gateways[0])?;
    site.gateways[3].spawn()?;
    let per_second = slope(&site.gateways[3], dead, goal)?;
    let how = format!("{} blocks of one act each, 10 % to 90 % of them stored", goal - dead);
    figures.add("catch_up_blocks_per_s", per_second, "1/s", &how);
    site.wait_height(&[3], goal)
}

/// Blocks a second while each of these gateways is given one act after the other.
fn rate(runtime: &Runtime, acts: &Arc<Acts>, site: &Site, gateways: &[usize]) -> Result<f64> {
    eprintln!("blocks from gateways {gateways:?}, {} s", RATE.as_secs());
    let before = height(&site.gateways[gateways[0]])?;
    runtime.block_on(async {
        let mut under_way = tokio::task::JoinSet::new();
        for &gateway in gateways {
            let (manager, acts) = (manager(&site.gateways[gateway]).await?, Arc::clone(acts));
            under_way.spawn(async move {
                let begun = Instant::now();
                while begun.elapsed() < RATE {
                    acts.commit(&manager).await?;
                }
                anyhow::Ok(())
            });
        }
        while let Some(done) = under_way.join_next().await {
            done??;
        }
        anyhow::Ok(())
    })?;
    let blocks = height(&site.gateways[gateways[0]])? - before;
    Ok(blocks as f64 / RATE.as_secs_f64())
}

/// Blocks a second that a gateway stores, between the first tenth and the last of what it misses.
fn slope(gateway: &Gateway, from: u64, goal: u64) -> Result<f64> {
    let begun = Instant::now();
    let mut samples: Vec<(f64, u64)> = Vec::new();
    let missing = goal - from;
    let (first, last) = (from + missing / 10, from + missing * 9 / 10);
    while samples.last().is_none_or(|sample| sample.1 < goal) {
        ensure!(begun.elapsed() < PATIENCE, "it does not catch up: {:?}", samples.last());
        samples.push((begun.elapsed().as_secs_f64(), height(gateway)?));
        std::thread::sleep(Duration::from_millis(5));
    }
    let reached = |height: u64| samples.iter().find(|sample| sample.1 >= height).context("samples");
    let (first, last) = (reached(first)?, reached(last)?);
    ensure!(last.0 > first.0, "too fast to be sampled: give it more blocks");
    Ok((last.1 - first.1) as f64 / (last.0 - first.0))
}

/// Height of the newest block on the disk of a gateway that runs or not.
fn height(gateway: &Gateway) -> Result<u64> {
    Ok(Reader::open(&gateway.data_dir())?.tip()?.height.0)
}

/// The value below which so much of them is; they are sorted.
fn at(sorted: &[f64], part: f64) -> f64 {
    let place = (sorted.len() as f64 * part).ceil() as usize;
    sorted.get(place.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

/// The operator's acts, made ahead: a gateway that is a few milliseconds behind another one would
/// number its next act as one that is on the record already.
struct Acts {
    draft: Draft,
    next: AtomicU64,
    key: SigningKey,
}

impl Acts {
    /// From an act that the founder prepares.
    async fn prepare(founder: &Gateway) -> Result<Self> {
        let (key, passphrase) = founder.operator_key();
        let key = operator_key::open(&key, &Passphrase::from_file(&passphrase)?)?;
        let options = Arguments::default().text("receipts", "2").dict();
        let manager = manager(founder).await?;
        let act = manager.prepare_operator_act("policy".into(), options).await?;
        let request = Request::from_bytes(&act).map_err(|error| anyhow::anyhow!("{error}"))?;
        let draft = request.draft().clone();
        Ok(Self { next: AtomicU64::new(draft.nonce), draft, key })
    }

    /// Has the next one committed through this gateway; the time from its submission to the answer.
    async fn commit(&self, manager: &ManagerProxy<'static>) -> Result<Duration> {
        let nonce = self.next.fetch_add(1, Ordering::Relaxed);
        let draft = Draft { nonce, ..self.draft.clone() };
        let name = || Text::new("bench").map_err(|error| anyhow::anyhow!("{error:?}"));
        let request = Request::new(draft, name()?, name()?)?;
        let act = request.to_bytes();
        let signature = request.sign(&self.key).transaction().signature().as_bytes().to_vec();
        let begun = Instant::now();
        manager.submit_operator_act(act, signature).await?;
        Ok(begun.elapsed())
    }
}

/// The management interface of a gateway.
async fn manager(gateway: &Gateway) -> Result<ManagerProxy<'static>> {
    let bus = Bus::Address(gateway.bus.address().to_owned());
    Ok(Client::connect(&bus, ANSWER).await?.manager().await?)
}
