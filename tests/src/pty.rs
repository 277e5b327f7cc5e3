//! A serial cable: two pseudo-terminals joined by `socat`, each with a lasting name.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// The cable; pulled when dropped.
pub struct Cable {
    gateway: PathBuf,
    sensor: PathBuf,
    socat: Child,
}

impl Cable {
    /// Plugs a cable in; its ends are `NAME-gateway` and `NAME-sensor` in `dir`.
    pub fn plug(dir: &Path, name: &str) -> Result<Self> {
        let gateway = dir.join(format!("{name}-gateway"));
        let sensor = dir.join(format!("{name}-sensor"));
        let end = |path: &Path| format!("pty,raw,echo=0,link={}", path.display());
        let socat = Command::new("socat")
            .args([end(&gateway), end(&sensor)])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("socat (package socat)")?;
        let deadline = Instant::now() + Duration::from_secs(10);
        while !(gateway.exists() && sensor.exists()) {
            if Instant::now() > deadline {
                bail!("socat makes no pseudo-terminals");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(Self { gateway, sensor, socat })
    }

    /// The gateway's end.
    pub fn gateway(&self) -> &Path {
        &self.gateway
    }

    /// The sensor's end.
    pub fn sensor(&self) -> &Path {
        &self.sensor
    }

    /// Pulls the cable.
    pub fn pull(mut self) -> Result<()> {
        self.socat.kill()?;
        self.socat.wait()?;
        Ok(())
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        // Pulled already, or the test is over.
        let _ = self.socat.kill();
        let _ = self.socat.wait();
        let _ = std::fs::remove_file(&self.gateway);
        let _ = std::fs::remove_file(&self.sensor);
    }
}
