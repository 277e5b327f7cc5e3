//! Readings a second through the whole path, and what they cost on the disk.

use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use gatewayd::store::BufferReader;
use tests::gateway::{Gateway, PATIENCE};
use tokio::runtime::Runtime;

use crate::daemon::{Daemon, Usage, folder_bytes};
use crate::figures::Figures;
use crate::lora;
use crate::serial::Load;
use crate::site::Parts;
use crate::testing::TestDevice;

/// Uplinks of the run at full speed.
const UPLINKS: usize = 400_000;

/// Uplinks a second of the run for the disk, and for how long.
const PACE: f64 = 10_000.0;
const PACED_S: usize = 20;

/// Readings of the run at one a second.
const RARE: usize = 60;

/// How long the serial sensors send.
const SERIAL: Duration = Duration::from_secs(10);

/// How often committed readings are counted.
const LOOK: Duration = Duration::from_millis(100);

/// Opens the session of each device on the record with its first uplink.
pub(crate) fn open_sessions(gateway: &Gateway, devices: &mut [TestDevice]) -> Result<()> {
    eprintln!("{} LoRaWAN devices send their first uplink", devices.len());
    let daemon = Daemon::start(gateway)?;
    let watch = Watch::new(gateway)?;
    let first = lora::datagrams(devices, devices.len());
    lora::send(gateway.lora_port, &first, Some(500.0))?;
    watch.wait(devices.len() as u64)?;
    daemon.stop()
}

/// Readings at [`PACE`], then one a second: what stays on the disk, and what was written.
pub(crate) fn disk(
    gateway: &Gateway,
    devices: &mut [TestDevice],
    figures: &mut Figures,
) -> Result<()> {
    let count = PACED_S * PACE as usize;
    eprintln!("{count} uplinks at {PACE}/s");
    let before = folder_bytes(&gateway.data_dir())?;
    let datagrams = lora::datagrams(devices, count);
    let run = run(gateway, count as u64, || lora::send(gateway.lora_port, &datagrams, Some(PACE)))?;
    let readings = count as f64;
    let kept = (folder_bytes(&gateway.data_dir())? - before) / readings;
    let how = format!("{count} readings of 40 B at {PACE}/s from {} devices", devices.len());
    let on_disk = format!("{how}; growth of the data folder after a clean stop");
    figures.add("disk_bytes_per_reading", kept, "B", &on_disk);
    let written = run.used.written / readings;
    figures.add("disk_written_per_reading", written, "B", &format!("{how}; write_bytes"));
    let cpu = run.used.cpu_s / readings * 1e6;
    figures.add("lorawan_cpu_us_per_uplink_10k", cpu, "µs", &format!("{how}; utime + stime"));

    eprintln!("{RARE} uplinks at 1/s");
    let datagrams = lora::datagrams(&mut devices[..1], RARE);
    let rare =
        self::run(gateway, RARE as u64, || lora::send(gateway.lora_port, &datagrams, Some(1.0)))?;
    let written = rare.used.written / RARE as f64;
    let how = format!("{RARE} readings of 40 B, one a second, default batches; write_bytes");
    figures.add("disk_written_per_reading_1hz", written, "B", &how);
    Ok(())
}

/// Uplinks as fast as the daemon takes them.
pub(crate) fn lorawan(
    gateway: &Gateway,
    devices: &mut [TestDevice],
    figures: &mut Figures,
) -> Result<()> {
    eprintln!("{UPLINKS} uplinks at full speed");
    let datagrams = lora::datagrams(devices, UPLINKS);
    let run = run(gateway, UPLINKS as u64, || lora::send(gateway.lora_port, &datagrams, None))?;
    let how = format!(
        "real daemon on one core, {} devices registered and joined with its own parts, one \
         forwarder on UDP with at most 128 datagrams unacknowledged, {UPLINKS} uplinks of 40 B, \
         all committed; slope of committed readings, 10 % to 90 %",
        devices.len(),
    );
    figures.add("lorawan_uplinks_per_s", run.per_second, "1/s", &how);
    let cpu = run.used.cpu_s / UPLINKS as f64 * 1e6;
    let how = "the same run; utime + stime of the daemon, kernel's share of sockets and disk in it";
    figures.add("lorawan_cpu_us_per_uplink", cpu, "µs", how);
    Ok(())
}

/// Serial frames as fast as they are acknowledged.
pub(crate) fn serial(runtime: &Runtime, gateway: &Gateway, figures: &mut Figures) -> Result<()> {
    let load = runtime.block_on(async {
        let load = Load::new()?;
        let parts = Parts::open(gateway)?;
        parts.add_serial(&load.codes).await?;
        tokio::task::block_in_place(|| parts.close())?;
        anyhow::Ok(load)
    })?;
    let what = load.describe();
    eprintln!("{what}, {} s", SERIAL.as_secs());
    let daemon = Daemon::start(gateway)?;
    let watch = Watch::new(gateway)?;
    let before = daemon.usage()?;
    let samples = watch.sample();
    let sent = runtime.block_on(load.run(SERIAL))?;
    watch.wait(sent)?;
    let per_second = samples.slope()?;
    let used = daemon.usage()?.since(before);
    daemon.stop()?;
    let how = format!(
        "real daemon on one core, {what} (pseudo-terminals), each waiting for its \
         acknowledgement, 40 B of SenML; {sent} acknowledged and all of them committed; slope of \
         committed readings, 10 % to 90 %"
    );
    figures.add("serial_frames_per_s", per_second, "1/s", &how);
    let how = "the same run; utime + stime of the daemon";
    figures.add("serial_cpu_us_per_frame", used.cpu_s / sent as f64 * 1e6, "µs", how);
    Ok(())
}

/// What came of a load.
struct Run {
    per_second: f64,
    used: Usage,
}

/// Starts the daemon, runs a load of `count` readings, waits until all are committed, stops it.
fn run(gateway: &Gateway, count: u64, load: impl FnOnce() -> Result<()>) -> Result<Run> {
    let daemon = Daemon::start(gateway)?;
    let watch = Watch::new(gateway)?;
    let before = daemon.usage()?;
    let samples = watch.sample();
    load()?;
    watch.wait(count)?;
    let per_second = samples.slope()?;
    let used = daemon.usage()?.since(before);
    daemon.stop()?;
    Ok(Run { per_second, used })
}

/// Counts committed readings from outside, in the buffer's file.
struct Watch {
    path: PathBuf,
    before: u64,
}

impl Watch {
    fn new(gateway: &Gateway) -> Result<Self> {
        let path = gateway.data_dir().join("buffer.db");
        let before = committed(&path)?;
        Ok(Self { path, before })
    }

    /// Waits until `count` more are committed, and makes sure that it stays at these.
    fn wait(&self, count: u64) -> Result<()> {
        let mut newest = (0, Instant::now());
        loop {
            let now = committed(&self.path)? - self.before;
            ensure!(now <= count, "{now} readings are committed of {count} that were sent");
            if now == count {
                return Ok(());
            }
            if now > newest.0 {
                newest = (now, Instant::now());
            }
            ensure!(newest.1.elapsed() < PATIENCE, "{now} of {count} readings are committed");
            std::thread::sleep(LOOK);
        }
    }

    /// Counts in the background until the samples are asked for.
    fn sample(&self) -> Samples {
        let (stop, stopped) = mpsc::channel::<()>();
        let (path, before) = (self.path.clone(), self.before);
        let thread = std::thread::spawn(move || {
            let begun = Instant::now();
            let mut samples = Vec::new();
            while matches!(stopped.recv_timeout(LOOK), Err(mpsc::RecvTimeoutError::Timeout)) {
                let count = committed(&path)? - before;
                samples.push((begun.elapsed().as_secs_f64(), count as f64));
            }
            Ok(samples)
        });
        Samples { stop, thread }
    }
}

struct Samples {
    stop: mpsc::Sender<()>,
    thread: std::thread::JoinHandle<Result<Vec<(f64, f64)>>>,
}

impl Samples {
    /// Readings a second between the first tenth and the last.
    fn slope(self) -> Result<f64> {
        drop(self.stop);
        let samples = self.thread.join().map_err(|_| anyhow::anyhow!("sampling broke"))??;
        let all = samples.last().context("samples")?.1;
        let at = |part: f64| samples.iter().find(|each| each.1 >= all * part).context("samples");
        let (first, last) = (at(0.1)?, at(0.9)?);
        ensure!(last.0 > first.0, "the run was too short to be measured");
        Ok((last.1 - first.1) / (last.0 - first.0))
    }
}

fn committed(path: &Path) -> Result<u64> {
    Ok(BufferReader::open(path)?.counts()?[1])
}
