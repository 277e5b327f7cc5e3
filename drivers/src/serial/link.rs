//! The only I/O of the serial driver: one task owns one port, reads it, writes it, and opens it
//! again when it was unplugged.
//!
//! ```text
//!   open ──Opened──> read ──Bytes──> … ──Gone──> wait (0.1 s, doubling, to 5 s) ──> open
//! ```
//!
//! Ports are opened exclusively (TIOCEXCL and flock), so that two daemons never share one. Names
//! under `/dev/serial/by-id` follow the device from socket to socket. Pseudo-terminals work.
//! What the bytes mean is not known here.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_serial::{DataBits, ErrorKind, FlowControl, SerialPortBuilder, SerialStream, StopBits};

/// How a port is to be opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Device file, best a name under `/dev/serial/by-id`.
    pub path: PathBuf,
    /// Bits per second.
    pub baud: u32,
    /// Data bits of a character, 5 to 8.
    pub data_bits: u8,
    /// Parity bit.
    pub parity: Parity,
    /// Stop bits, 1 or 2.
    pub stop_bits: u8,
    /// Use RTS and CTS.
    pub hardware_flow_control: bool,
}

/// Parity of a character.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Parity {
    /// No parity bit.
    #[default]
    None,
    /// Odd number of ones.
    Odd,
    /// Even number of ones.
    Even,
}

impl Settings {
    /// 115,200 baud, 8 data bits, no parity, 1 stop bit, no flow control.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            baud: 115_200,
            data_bits: 8,
            parity: Parity::None,
            stop_bits: 1,
            hardware_flow_control: false,
        }
    }

    fn builder(&self) -> Result<SerialPortBuilder, LinkError> {
        let data_bits = match self.data_bits {
            5 => DataBits::Five,
            6 => DataBits::Six,
            7 => DataBits::Seven,
            8 => DataBits::Eight,
            _ => return Err(LinkError::Settings),
        };
        let stop_bits = match self.stop_bits {
            1 => StopBits::One,
            2 => StopBits::Two,
            _ => return Err(LinkError::Settings),
        };
        let parity = match self.parity {
            Parity::None => tokio_serial::Parity::None,
            Parity::Odd => tokio_serial::Parity::Odd,
            Parity::Even => tokio_serial::Parity::Even,
        };
        let hardware = self.hardware_flow_control;
        let flow = if hardware { FlowControl::Hardware } else { FlowControl::None };
        let path = self.path.to_str().ok_or(LinkError::NotFound)?;
        Ok(tokio_serial::new(path, self.baud)
            .data_bits(data_bits)
            .parity(parity)
            .stop_bits(stop_bits)
            .flow_control(flow)
            .exclusive(true))
    }
}

/// Why a port is not open. All are tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum LinkError {
    /// No such device file: not plugged in.
    #[error("the serial port is not there: is the device plugged in?")]
    NotFound,
    /// Another program has the port open.
    #[error("the serial port is in use by another program (a second gatewayd, ModemManager?)")]
    Busy,
    /// The user may not open it.
    #[error("no permission for the serial port: is the user in the group of the device file?")]
    Permission,
    /// Something else than a serial device, or it refuses the settings.
    #[error("this is not a serial port")]
    NotASerialPort,
    /// Data bits or stop bits that do not exist.
    #[error("serial settings: data bits are 5 to 8, stop bits 1 or 2")]
    Settings,
    /// It was open and went away.
    #[error("the serial port was unplugged")]
    Unplugged,
    /// It is on a bridge that is not connected, or is not let in.
    #[error("the bridge that has the serial port is not connected")]
    Away,
    /// Any other failure of the system.
    #[error("serial port: {0}")]
    Io(io::ErrorKind),
}

/// What a link has to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The port is open; what was cut off before is not continued.
    Opened,
    /// Bytes from the port, at most [`READ_BYTES`].
    Bytes(Vec<u8>),
    /// The port is not open, and why; said once for each reason in a row.
    Gone(LinkError),
}

/// Most bytes of one [`Event::Bytes`].
pub const READ_BYTES: usize = 4096;

/// A port that is kept open by a task of its own, or by another machine; dropping it closes the
/// port.
#[derive(Debug)]
pub struct Link {
    events: mpsc::Receiver<Event>,
    writer: Writer,
    task: Option<JoinHandle<()>>,
}

/// The far end of a [`Link`] whose port is on another machine: whoever holds it tells what comes
/// from that port and brings what is written to it.
#[derive(Debug)]
pub struct Remote {
    /// What the link is to hear.
    pub events: mpsc::Sender<Event>,
    /// What is written; it ends when the link and its writers are gone.
    pub writes: mpsc::Receiver<Vec<u8>>,
}

/// Events that wait for the reader. When it is full the task stops reading, the system's buffer
/// fills, and then bytes are lost on the wire: sensors repeat.
const EVENT_QUEUE: usize = 32;

/// Frames that wait to be written; a further one is dropped and counted: sensors repeat.
const WRITE_QUEUE: usize = 64;

impl Link {
    /// Starts the task; needs a tokio runtime with I/O and time.
    #[must_use]
    pub fn spawn(settings: Settings) -> Self {
        let (event_sender, events) = mpsc::channel(EVENT_QUEUE);
        let (sender, writes) = mpsc::channel(WRITE_QUEUE);
        let dropped = Arc::new(AtomicU64::new(0));
        let writer = Writer { sender, dropped: Arc::clone(&dropped) };
        let task = Task { settings, events: event_sender, writes, dropped, said: None };
        Self { events, writer, task: Some(tokio::spawn(task.run())) }
    }

    /// A link to a port that another machine has open.
    #[must_use]
    pub fn remote() -> (Self, Remote) {
        let (event_sender, events) = mpsc::channel(EVENT_QUEUE);
        let (sender, writes) = mpsc::channel(WRITE_QUEUE);
        let writer = Writer { sender, dropped: Arc::default() };
        (Self { events, writer, task: None }, Remote { events: event_sender, writes })
    }

    /// The next event; `None` only after the task has ended, which it does not do by itself.
    /// Cancellation loses nothing.
    pub async fn next(&mut self) -> Option<Event> {
        self.events.recv().await
    }

    /// A handle to write with.
    #[must_use]
    pub fn writer(&self) -> Writer {
        self.writer.clone()
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// Writes to a [`Link`]'s port without waiting.
#[derive(Clone, Debug)]
pub struct Writer {
    sender: mpsc::Sender<Vec<u8>>,
    dropped: Arc<AtomicU64>,
}

impl Writer {
    /// Queues bytes. Returns `false`, and counts, if the queue is full or the link is gone.
    pub fn write(&self, bytes: Vec<u8>) -> bool {
        let queued = self.sender.try_send(bytes).is_ok();
        if !queued {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        queued
    }

    /// Writes that were dropped: queue full, port closed, or not taken in two seconds.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

struct Task {
    settings: Settings,
    events: mpsc::Sender<Event>,
    writes: mpsc::Receiver<Vec<u8>>,
    dropped: Arc<AtomicU64>,
    /// The last reason that was told, since the port was open.
    said: Option<LinkError>,
}

/// First wait before a port is opened again.
const FIRST_BACKOFF: Duration = Duration::from_millis(100);

/// Longest wait before a port is opened again.
const LONGEST_BACKOFF: Duration = Duration::from_secs(5);

/// A port that was open for so long was not opened in vain: the next wait is the first again.
const SETTLED: Duration = Duration::from_secs(2);

/// A write that a port has not taken in this time is given up: reading must go on.
const WRITE_TIMEOUT: Duration = Duration::from_secs(2);

impl Task {
    async fn run(mut self) {
        let mut backoff = FIRST_BACKOFF;
        while !self.events.is_closed() {
            match self.open() {
                Ok(port) => {
                    self.said = None;
                    if self.events.send(Event::Opened).await.is_err() {
                        return;
                    }
                    let opened = Instant::now();
                    let error = self.serve(port).await;
                    if opened.elapsed() >= SETTLED {
                        backoff = FIRST_BACKOFF;
                    }
                    self.say(error).await;
                }
                Err(error) => self.say(error).await,
            }
            sleep(backoff).await;
            backoff = (backoff * 2).min(LONGEST_BACKOFF);
            // What was meant for the port as it was is of no use after it comes back.
            while self.writes.try_recv().is_ok() {
                self.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn open(&self) -> Result<SerialStream, LinkError> {
        let builder = self.settings.builder()?;
        SerialStream::open(&builder).map_err(|error| match error.kind {
            ErrorKind::Io(kind) => from_io(kind),
            // `serialport` means a failed flock and EBUSY, and tells other errors by words alone.
            ErrorKind::NoDevice => LinkError::Busy,
            _ if error.description.starts_with("No such device") => LinkError::NotFound,
            _ if error.description.contains("I/O error") => LinkError::Unplugged,
            ErrorKind::InvalidInput | ErrorKind::Unknown => LinkError::NotASerialPort,
        })
    }

    async fn say(&mut self, error: LinkError) {
        if self.said != Some(error) {
            self.said = Some(error);
            // A closed channel ends the loop in `run`.
            let _closed = self.events.send(Event::Gone(error)).await;
        }
    }

    /// Until the port fails; reading and writing do not wait for each other.
    async fn serve(&mut self, port: SerialStream) -> LinkError {
        let (mut reader, mut writer) = tokio::io::split(port);
        tokio::select! {
            error = read(&mut reader, &self.events) => error,
            error = write(&mut writer, &mut self.writes, &self.dropped) => error,
        }
    }
}

async fn read(port: &mut ReadHalf<SerialStream>, events: &mpsc::Sender<Event>) -> LinkError {
    let mut buffer = [0; READ_BYTES];
    loop {
        match port.read(&mut buffer).await {
            // A port that was unplugged is at its end for ever.
            Ok(0) => return LinkError::Unplugged,
            Ok(count) => {
                if events.send(Event::Bytes(buffer[..count].to_vec())).await.is_err() {
                    return LinkError::Unplugged;
                }
            }
            Err(_) => return LinkError::Unplugged,
        }
    }
}

async fn write(
    port: &mut WriteHalf<SerialStream>,
    writes: &mut mpsc::Receiver<Vec<u8>>,
    dropped: &AtomicU64,
) -> LinkError {
    while let Some(bytes) = writes.recv().await {
        // No flush: it would wait for the wire in the thread of the runtime.
        match timeout(WRITE_TIMEOUT, port.write_all(&bytes)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return LinkError::Unplugged,
            Err(_elapsed) => {
                dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
    // All writers are gone; reading decides when the port is.
    std::future::pending().await
}

fn from_io(kind: io::ErrorKind) -> LinkError {
    match kind {
        io::ErrorKind::NotFound => LinkError::NotFound,
        io::ErrorKind::PermissionDenied => LinkError::Permission,
        io::ErrorKind::ResourceBusy => LinkError::Busy,
        io::ErrorKind::InvalidInput | io::ErrorKind::IsADirectory => LinkError::NotASerialPort,
        kind => LinkError::Io(kind),
    }
}

/// A serial port of this machine.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortInfo {
    /// The name to configure: under `/dev/serial/by-id` if it has one there.
    pub path: PathBuf,
    /// The device file behind it.
    pub device: PathBuf,
}

/// Most ports of a listing.
pub const MAX_PORTS: usize = 256;

/// The ports that something is plugged in to: all of `/dev/serial/by-id`, and the USB and ARM
/// UART device files without a name there. Built-in PC ports (`ttyS*`) exist without a device and
/// are not listed; they can be named.
#[must_use]
pub fn ports() -> Vec<PortInfo> {
    ports_in(Path::new("/dev"))
}

/// [`ports`] of another device folder.
#[must_use]
pub fn ports_in(dev: &Path) -> Vec<PortInfo> {
    let mut ports: Vec<PortInfo> = entries(&dev.join("serial/by-id"))
        .filter_map(|path| Some(PortInfo { device: fs::canonicalize(&path).ok()?, path }))
        .collect();
    let named = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or("");
        ["ttyUSB", "ttyACM", "ttyAMA"].iter().any(|prefix| name.starts_with(prefix))
    };
    for device in entries(dev).filter(named) {
        if !ports.iter().any(|port| port.device == device) {
            ports.push(PortInfo { path: device.clone(), device });
        }
    }
    ports.sort();
    ports
}

/// The lasting name of a port: the one under `/dev/serial/by-id` that leads to the same device
/// file, or else `path` as it is.
#[must_use]
pub fn lasting_path(path: &Path) -> PathBuf {
    lasting_path_in(Path::new("/dev"), path)
}

/// [`lasting_path`] in another device folder.
#[must_use]
pub fn lasting_path_in(dev: &Path, path: &Path) -> PathBuf {
    let Ok(device) = fs::canonicalize(path) else { return path.to_owned() };
    let mut names = entries(&dev.join("serial/by-id"));
    let same = |name: &PathBuf| fs::canonicalize(name).is_ok_and(|found| found == device);
    names.find(same).unwrap_or_else(|| path.to_owned())
}

fn entries(folder: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).take(MAX_PORTS)
}

#[cfg(test)]
mod tests;
