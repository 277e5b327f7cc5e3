//! The real daemon as a process that is looked at from outside: when it is ready, how much time
//! and disk it uses.

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tests::gateway::{Gateway, PATIENCE, binary};

/// The core that the daemon gets; the load runs on the others.
const CORE: &str = "0";

/// Clock ticks a second in /proc (USER_HZ, fixed on Linux).
const TICKS: f64 = 100.0;

/// A running daemon on one core.
pub(crate) struct Daemon {
    child: Child,
    stop_listening: Arc<AtomicBool>,
    /// From the start of the process to its READY=1, s.
    pub(crate) ready_s: f64,
}

/// What it has used so far.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Usage {
    /// Processor time, s.
    pub(crate) cpu_s: f64,
    /// Bytes handed to the block layer.
    pub(crate) written: f64,
    /// Resident memory now, MiB.
    pub(crate) rss_mib: f64,
}

impl Daemon {
    /// Starts it and waits for READY.
    pub(crate) fn start(gateway: &Gateway) -> Result<Self> {
        let path = gateway.dir.path().join("notify");
        // Left over from the last start, if there was one.
        let _ = std::fs::remove_file(&path);
        let notify = UnixDatagram::bind(&path)?;
        notify.set_read_timeout(Some(Duration::from_millis(200)))?;
        let log = std::fs::File::create(gateway.dir.path().join("bench.log"))?;
        let begun = Instant::now();
        let child = Command::new("taskset")
            .args(["-c", CORE])
            .arg(binary("gatewayd")?)
            .arg("--config")
            .arg(gateway.config())
            .env("NOTIFY_SOCKET", &path)
            .env("TSS2_LOG", "all+NONE")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("taskset (package util-linux)")?;
        let stop_listening = Arc::new(AtomicBool::new(false));
        let mut daemon = Self { child, stop_listening, ready_s: 0.0 };
        let mut buffer = [0; 4096];
        loop {
            if let Ok(length) = notify.recv(&mut buffer)
                && buffer[..length].starts_with(b"READY=1")
            {
                break;
            }
            ensure!(begun.elapsed() < PATIENCE, "the daemon is not ready");
        }
        daemon.ready_s = begun.elapsed().as_secs_f64();
        daemon.listen(notify);
        Ok(daemon)
    }

    /// Goes on reading what the service manager would read.
    fn listen(&self, notify: UnixDatagram) {
        let stop = Arc::clone(&self.stop_listening);
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while !stop.load(Ordering::Relaxed) {
                // A time-out is no error here.
                let _ = notify.recv(&mut buffer);
            }
        });
    }

    /// What it has used until now.
    pub(crate) fn usage(&self) -> Result<Usage> {
        usage_of(self.child.id())
    }

    /// Stops it with SIGTERM and waits.
    pub(crate) fn stop(mut self) -> Result<()> {
        Command::new("kill").arg(self.child.id().to_string()).status()?;
        ensure!(self.child.wait()?.success(), "the daemon did not end well");
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.stop_listening.store(true, Ordering::Relaxed);
        // Has ended already, unless the measurement failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a process has used until now.
pub(crate) fn usage_of(process: u32) -> Result<Usage> {
    let read =
        |name: &str| std::fs::read_to_string(format!("/proc/{process}/{name}")).context("/proc");
    let stat = read("stat")?;
    let fields: Vec<&str> = stat.rsplit_once(')').context("stat")?.1.split_whitespace().collect();
    // utime and stime are fields 14 and 15 of proc(5); the first two are cut off.
    let ticks: f64 = fields[11].parse::<f64>()? + fields[12].parse::<f64>()?;
    let written = field(&read("io")?, "write_bytes:")? - field(&read("io")?, "cancelled_write")?;
    let rss_mib = field(&read("status")?, "VmRSS:")? / 1024.0;
    Ok(Usage { cpu_s: ticks / TICKS, written, rss_mib })
}

impl Usage {
    /// What was used since then; the memory is that of now.
    pub(crate) fn since(self, before: Self) -> Self {
        let (cpu_s, written) = (self.cpu_s - before.cpu_s, self.written - before.written);
        Self { cpu_s, written, rss_mib: self.rss_mib }
    }
}

fn field(text: &str, name: &str) -> Result<f64> {
    let line = text.lines().find(|line| line.starts_with(name)).context(name.to_owned())?;
    Ok(line.split_whitespace().nth(1).context(name.to_owned())?.parse()?)
}

/// Bytes of all files in a folder, without what is below it.
pub(crate) fn folder_bytes(folder: &Path) -> Result<f64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder)? {
        let about = entry?.metadata()?;
        bytes += if about.is_file() { about.len() } else { 0 };
    }
    Ok(bytes as f64)
}
