//! A peer of the gateway that someone else's runtime executes: its output is read line by line.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::gateway::PATIENCE;

/// A running program; killed when dropped.
pub struct Peer {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
    readers: Vec<JoinHandle<()>>,
}

impl Peer {
    /// Starts it; both of its outputs are kept.
    ///
    /// # Errors
    /// It cannot be started; `missing` says what has to be installed.
    pub fn start(command: &mut Command, missing: &'static str) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context(missing)?;
        let lines = Arc::new(Mutex::new(Vec::new()));
        let mut readers = Vec::new();
        readers.extend(child.stdout.take().map(|output| collect(output, &lines)));
        readers.extend(child.stderr.take().map(|output| collect(output, &lines)));
        Ok(Self { child, lines, readers })
    }

    /// What it has said so far.
    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many of its lines begin so.
    pub fn count(&self, beginning: &str) -> usize {
        self.lines().iter().filter(|line| line.starts_with(beginning)).count()
    }

    /// Waits until it has said a line that contains `part`; that line.
    ///
    /// # Errors
    /// It does not say so in time.
    pub fn wait_line(&self, part: &str) -> Result<String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let lines = self.lines();
            if let Some(line) = lines.iter().find(|line| line.contains(part)) {
                return Ok(line.clone());
            }
            if Instant::now() > deadline {
                bail!("waited in vain for `{part}` in:\n{}", lines.join("\n"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until so many of its lines begin so.
    ///
    /// # Errors
    /// It does not say so in time.
    pub fn wait_count(&self, beginning: &str, count: usize) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while self.count(beginning) < count {
            if Instant::now() > deadline {
                let said = self.lines().join("\n");
                bail!("waited in vain for {count} times `{beginning}` in:\n{said}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Waits until it ends; its exit code and all it said.
    ///
    /// # Errors
    /// It does not end in time.
    pub fn finish(mut self) -> Result<(Option<i32>, Vec<String>)> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait()? {
                self.join();
                return Ok((status.code(), self.lines()));
            }
            if Instant::now() > deadline {
                bail!("the peer does not end:\n{}", self.lines().join("\n"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ends it; all it said.
    pub fn stop(mut self) -> Vec<String> {
        self.end();
        self.lines()
    }

    fn end(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.join();
    }

    fn join(&mut self) {
        for reader in self.readers.drain(..) {
            // A reader that panicked has shown so; its lines are kept.
            let _ = reader.join();
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.end();
    }
}

fn collect(
    output: impl std::io::Read + Send + 'static,
    lines: &Arc<Mutex<Vec<String>>>,
) -> JoinHandle<()> {
    let lines = lines.clone();
    std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(std::result::Result::ok) {
            lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
        }
    })
}
