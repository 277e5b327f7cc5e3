//! What is on disk: kills under load, a full disk, damaged files, an interrupted founding.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ledger::store::Reader;
use serde_json::Value;
use tests::gateway::{Gateway, PATIENCE, text};
use tests::peer::Peer;
use tests::pty::Cable;
pub(crate) use tests::record::{batches, value, wait_recorded};
use tests::sensor::SerialSensor;

/// A gateway with a site and one paired sensor that is switched on.
pub(crate) struct Site {
    pub(crate) peer: Peer,
    pub(crate) gateway: Gateway,
    /// Plugged in as long as the site lives.
    _cable: Cable,
}

impl Site {
    /// Founds the site and pairs a sensor that runs with these options.
    pub(crate) fn with_sensor(options: &[&str]) -> Result<Self> {
        Self::on(Gateway::with_site()?, options)
    }

    /// Pairs a sensor with the site of this gateway.
    fn on(gateway: Gateway, options: &[&str]) -> Result<Self> {
        let cable = Cable::plug(gateway.dir.path(), "cable")?;
        let sensor = SerialSensor::new(gateway.dir.path(), "cellar")?;
        let peer = sensor.switch_on(cable.sensor(), options)?;
        sensor.pair(&gateway, cable.gateway(), "cellar")?;
        Ok(Self { gateway, _cable: cable, peer })
    }
}

/// State of the daemon; empty when it does not answer.
pub(crate) fn state(gateway: &Gateway) -> String {
    let status = gateway.ctl_json(&["status"]).unwrap_or_default();
    status["state"].as_str().unwrap_or_default().to_owned()
}

/// Waits for a state; the status that shows it.
pub(crate) fn wait_state(gateway: &Gateway, wanted: &str) -> Result<Value> {
    let mut seen = Value::Null;
    gateway.wait_for(&format!("the state {wanted}"), |gateway| {
        seen = gateway.ctl_json(&["status"]).unwrap_or_default();
        seen["state"] == wanted
    })?;
    Ok(seen)
}

/// A figure of the status.
pub(crate) fn figure(gateway: &Gateway, name: &str) -> Result<u64> {
    gateway.ctl_json(&["status"])?[name].as_u64().with_context(|| format!("no {name}"))
}

/// Readings on the record.
pub(crate) fn committed(gateway: &Gateway) -> Result<u64> {
    figure(gateway, "readings_committed")
}

/// Height of the newest block on the disk; the daemon is stopped.
pub(crate) fn height_on_disk(gateway: &Gateway) -> Result<u64> {
    Ok(Reader::open(&gateway.data_dir())?.tip()?.height.0)
}

/// Runs `site init` with a key file of its own; whether it founded a site, and its words.
pub(crate) fn init(gateway: &Gateway, key: &str, more: &[&str]) -> Result<(bool, String)> {
    let (_, passphrase) = gateway.operator_key();
    std::fs::write(&passphrase, "correct horse battery staple\n")?;
    let key = gateway.dir.path().join(key);
    let mut arguments = vec!["site", "init", "--name", "site", "--operator-key", text(&key)?];
    arguments.extend(["--passphrase-file", text(&passphrase)?]);
    arguments.extend(more);
    let output = gateway.ctl(&arguments)?;
    let words = [output.stdout, output.stderr].concat();
    Ok((output.status.success(), String::from_utf8_lossy(&words).into_owned()))
}

/// Seed of this run: the same moments again with `SEED=…`.
fn seed() -> u64 {
    let given = std::env::var("SEED").ok().and_then(|text| text.parse().ok());
    let seed = given.unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.map_or(1, |since| since.as_nanos() as u64)
    });
    println!("SEED={seed}");
    seed
}

/// Pseudo-random numbers (xorshift64*), for moments.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) % bound
    }
}

const KILLS: usize = 50;

/// Every second kill comes at a random moment after the start, the others at one after a reading
/// was acknowledged: so that starts and writes are both hit.
#[test]
fn fifty_kills_lose_and_double_nothing() -> Result<()> {
    let mut random = Random(seed() | 1);
    let gateway = Gateway::with_site()?;
    let kept = gateway.dir.path().join("sensor-state");
    let options = ["--count", "0", "--interval", "0.005", "--value", "0", "--step", "1"];
    let options = [&options[..], &["--reopen", "--state", text(&kept)?]].concat();
    let mut site = Site::on(gateway, &options)?;
    site.peer.wait_count("acknowledged", 10)?;
    for kill in 0..KILLS {
        let acknowledged = site.peer.count("acknowledged");
        if kill % 2 == 0 {
            site.peer.wait_count("acknowledged", acknowledged + 1)?;
        }
        // A moment, not a condition: whatever is under way then is what is tested.
        std::thread::sleep(Duration::from_millis(random.below(400)));
        site.gateway.kill()?;
        site.gateway.spawn()?;
    }
    let acknowledged = site.peer.count("acknowledged");
    site.peer.wait_count("acknowledged", acknowledged + 3)?;
    let acknowledged = values_acknowledged(&site.peer.stop());
    wait_state(&site.gateway, "running")?;
    let file = site.gateway.dir.path().join("last.proof");
    let export = ["reading", "export", "cellar", "--last", "--out", text(&file)?];
    site.gateway.ctl_code(0, &export)?;
    wait_recorded(&site.gateway)?;
    let card = site.gateway.ctl_json(&["site", "card"])?;
    let code = card["site_code"].as_str().context("site code")?;
    site.gateway.stop()?;

    let entries = batches(&site.gateway, None)?;
    let mut times = BTreeMap::new();
    for entry in &entries {
        *times.entry(value(entry)?).or_insert(0) += 1;
    }
    for number in 0..acknowledged {
        ensure!(times.get(&number) == Some(&1), "reading {number}: {:?} times", times.get(&number));
    }
    // The one that was under way at the end may be there too, once.
    ensure!(times.values().all(|times| *times == 1), "doubled readings");
    ensure!(times.len() as u64 <= acknowledged + 1, "readings that were never sent");
    let verify = ["verify", text(&file)?, "--anchor", code];
    site.gateway.ctl_code(0, &verify)?;
    println!("{acknowledged} readings acknowledged over {KILLS} kills, each there once");
    Ok(())
}

/// How many values the sensor has got rid of: reading n has the value n, and the next one is sent
/// when the last one is acknowledged or known to be kept.
fn values_acknowledged(lines: &[String]) -> u64 {
    let done = |line: &&String| line.starts_with("acknowledged") || *line == "settled";
    lines.iter().filter(done).count() as u64
}

/// A small file system of its own for the data folder.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// `None` where this user may not mount.
    fn mount(at: &Path) -> Result<Option<Self>> {
        std::fs::create_dir_all(at)?;
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=12m,mode=700", "tmpfs"])
            .arg(at)
            .output()
            .context("mount")?;
        Ok(mounted.status.success().then(|| Self(at.to_owned())))
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }

    /// Leaves no room, whatever else is written meanwhile.
    fn fill(&self) -> Result<()> {
        use std::io::Write;
        let mut file = std::fs::File::create(self.filler())?;
        for size in [64 * 1024, 4096, 512] {
            while file.write_all(&vec![0x55; size]).is_ok() {}
        }
        Ok(())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a daemon that is being killed may still have files open.
        let unmounted = Command::new("umount").arg("-l").arg(&self.0).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            eprintln!("{} stays mounted", self.0.display());
        }
    }
}

#[test]
fn a_full_disk_acknowledges_nothing_and_loses_nothing() -> Result<()> {
    let gateway = Gateway::prepare()?;
    let Some(disk) = SmallDisk::mount(&gateway.data_dir())? else {
        println!("this user may not mount: the disk budget stands in for the disk");
        return a_used_up_budget(gateway);
    };
    let mut gateway = gateway;
    gateway.start()?;
    gateway.init_site()?;
    let options = ["--count", "0", "--interval", "0.02", "--value", "0", "--step", "1"];
    // Declared after the disk, so that the daemon ends before it is unmounted.
    let site = Site::on(gateway, &options)?;
    site.peer.wait_count("acknowledged", 5)?;
    disk.fill()?;
    let status = wait_state(&site.gateway, "degraded")?;
    let reasons = status["reasons"].to_string();
    ensure!(reasons.contains("disk") || reasons.contains("space"), "{reasons}");
    // Frames go on coming and none is acknowledged.
    let before = site.peer.count("acknowledged");
    let sent = site.peer.count("lost");
    site.peer.wait_count("lost", sent + 1)?;
    assert_eq!(site.peer.count("acknowledged"), before, "acknowledged on a full disk");
    std::fs::remove_file(disk.filler())?;
    site.peer.wait_count("acknowledged", before + 5)?;
    wait_state(&site.gateway, "running")?;
    all_there(site)
}

/// A failure of the store that is not a full disk: another program holds the database for longer
/// than the daemon waits for it. The daemon stays, says so, and goes on from what is on the disk.
#[test]
fn a_record_that_cannot_be_written_is_opened_again() -> Result<()> {
    let options = ["--count", "0", "--interval", "0.05", "--value", "0", "--step", "1"];
    let site = Site::with_sensor(&options)?;
    site.peer.wait_count("acknowledged", 5)?;
    let pid = site.gateway.pid();
    let thief = rusqlite::Connection::open(site.gateway.data_dir().join("ledger.db"))?;
    thief.busy_timeout(PATIENCE)?;
    thief.execute_batch("BEGIN IMMEDIATE")?;
    let status = wait_state(&site.gateway, "degraded")?;
    let reasons = status["reasons"].to_string();
    ensure!(reasons.contains("locked"), "{reasons}");
    thief.execute_batch("ROLLBACK")?;
    wait_state(&site.gateway, "running")?;
    let acknowledged = site.peer.count("acknowledged");
    site.peer.wait_count("acknowledged", acknowledged + 3)?;
    assert_eq!(site.gateway.pid(), pid, "another daemon");
    all_there(site)
}

/// Every value that the sensor got rid of is on the record once.
fn all_there(mut site: Site) -> Result<()> {
    let acknowledged = values_acknowledged(&site.peer.stop());
    wait_recorded(&site.gateway)?;
    site.gateway.stop()?;
    let values: BTreeSet<u64> = batches(&site.gateway, None)?.iter().flat_map(value).collect();
    let missing: Vec<u64> = (0..acknowledged).filter(|value| !values.contains(value)).collect();
    ensure!(missing.is_empty(), "acknowledged and lost: {missing:?}");
    Ok(())
}

/// One MiB for all, and no readings that could be dropped: nothing is acknowledged beyond it.
fn a_used_up_budget(mut gateway: Gateway) -> Result<()> {
    gateway.configure("[storage]\ndisk_budget_mib = 1\n")?;
    gateway.start()?;
    gateway.init_site()?;
    let big = "55".repeat(200);
    let options = ["--count", "0", "--interval", "0", "--payload", &big];
    let site = Site::on(gateway, &options)?;
    site.peer.wait_count("acknowledged", 100)?;
    let used = figure(&site.gateway, "disk_used_bytes")?;
    ensure!(used < 4 << 20, "{used} bytes of one MiB");
    Ok(())
}

/// Does something to a file.
type Damage<'a> = &'a dyn Fn(&Path) -> Result<()>;

#[test]
fn damaged_and_unknown_files_are_named_and_left_alone() -> Result<()> {
    let mut gateway = Gateway::with_site()?;
    gateway.stop()?;
    let newer = |path: &Path| -> Result<()> {
        let database = rusqlite::Connection::open(path)?;
        Ok(database.pragma_update(None, "user_version", 99)?)
    };
    let half = |path: &Path| -> Result<()> {
        let file = std::fs::OpenOptions::new().write(true).open(path)?;
        let pages = file.metadata()?.len() / 4096 / 2;
        Ok(file.set_len(pages.max(1) * 4096)?)
    };
    let nothing = |path: &Path| -> Result<()> { Ok(std::fs::write(path, "")?) };
    let cases: [(&str, Damage<'_>); 3] =
        [("schema version 99", &newer), ("damaged", &half), ("damaged", &nothing)];
    for file in ["ledger.db", "buffer.db"] {
        for (reason, damage) in cases {
            let path = gateway.data_dir().join(file);
            let good = std::fs::read(&path)?;
            damage(&path)?;
            let bad = std::fs::read(&path)?;
            gateway.start()?;
            let status = wait_state(&gateway, "degraded")?;
            let reasons = status["reasons"].to_string();
            ensure!(reasons.contains(reason), "{file}, {reason}: {reasons}");
            gateway.stop()?;
            ensure!(std::fs::read(&path)? == bad, "{file} ({reason}) was changed");
            std::fs::write(&path, good)?;
        }
    }
    gateway.start()?;
    wait_state(&gateway, "running")?;
    gateway.stop()
}

/// Killed as soon as each of the files of a founding appears; afterwards there is a whole site or
/// none, and none can be founded.
#[test]
fn an_interrupted_founding_leaves_no_half_site() -> Result<()> {
    let mut gateway = Gateway::prepare()?;
    let moments = [
        "tpm",
        "storage.sealed",
        "vote.sealed",
        "founding",
        "genesis.cbor",
        "ledger.db",
        "buffer.db",
    ];
    let mut founded = 0;
    for (number, moment) in moments.iter().enumerate() {
        gateway.start()?;
        let file = gateway.data_dir().join(moment);
        let key = format!("operator-{number}.pem");
        std::thread::scope(|scope| -> Result<()> {
            let founding = scope.spawn(|| init_apart(&gateway, &key));
            appear(&file)?;
            let killed = Command::new("kill")
                .args(["-KILL", &gateway.pid().context("no daemon")?.to_string()])
                .status()?;
            ensure!(killed.success(), "kill");
            // Its outcome depends on the moment; what counts is what the next start finds.
            founding.join().map(drop).map_err(|_| anyhow::anyhow!("`site init` panicked"))
        })?;
        gateway.wait_exit()?;
        gateway.start()?;
        if gateway.data_dir().join("genesis.cbor").exists() {
            founded += 1;
        } else {
            wait_state(&gateway, "uninitialised")?;
            let again = format!("operator-{number}-again.pem");
            let (done, words) = init(&gateway, &again, &["--unattested"])?;
            ensure!(done, "after a kill at {moment}: {words}");
        }
        for start in ["first", "second"] {
            wait_state(&gateway, "running").with_context(|| format!("{start} start, {moment}"))?;
            gateway.ctl_code(0, &["ledger", "head"])?;
            gateway.stop()?;
            gateway.start()?;
        }
        gateway.stop()?;
        std::fs::remove_dir_all(gateway.data_dir())?;
    }
    ensure!(founded > 0 && founded < moments.len(), "{founded} of {} were founded", moments.len());
    Ok(())
}

fn init_apart(gateway: &Gateway, key: &str) -> Result<(bool, String)> {
    init(gateway, key, &["--unattested"])
}

/// Waits for a file without letting time pass.
fn appear(path: &Path) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !path.exists() {
        ensure!(Instant::now() < deadline, "{} does not appear", path.display());
        std::thread::yield_now();
    }
    Ok(())
}
