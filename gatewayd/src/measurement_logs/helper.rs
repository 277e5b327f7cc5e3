//! The root side: answers one request per connection, reads nothing but the two logs, changes
//! nothing. It ends when nobody has asked for a while; systemd starts it again.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt::socket_peercred;

use super::{MAX_SENTENCE, Outcome, Request, limit};

/// Where the kernel shows the logs.
pub const SECURITYFS: &str = "/sys/kernel/security";

/// Idle time after which the helper ends.
pub const IDLE: Duration = Duration::from_secs(30);

/// What the helper reads, and for whom.
#[derive(Debug, Clone)]
pub struct Helper {
    event_log: PathBuf,
    ima: PathBuf,
    user: u32,
}

impl Helper {
    /// The logs under `securityfs`, for root and the user with this number.
    pub fn new(securityfs: &Path, user: u32) -> Self {
        Self {
            event_log: securityfs.join("tpm0/binary_bios_measurements"),
            ima: securityfs.join("ima/binary_runtime_measurements"),
            user,
        }
    }

    /// Answers connections of a listening socket, one after another, until nobody has come for
    /// `idle`. What goes wrong with one connection is said and is no reason to end.
    ///
    /// # Errors
    /// The socket itself fails.
    pub fn serve(&self, socket: OwnedFd, idle: Duration) -> io::Result<()> {
        let listener = UnixListener::from(socket);
        let idle = Timespec { tv_sec: idle.as_secs() as i64, tv_nsec: idle.subsec_nanos().into() };
        loop {
            let mut waiting = [PollFd::new(&listener, PollFlags::IN)];
            if poll(&mut waiting, Some(&idle))? == 0 {
                return Ok(());
            }
            let (stream, _) = listener.accept()?;
            if let Err(error) = self.answer(&stream) {
                eprintln!("gatewayd-logs: a request was not answered: {error}");
            }
        }
    }

    /// Reads one request and answers it.
    fn answer(&self, mut stream: &UnixStream) -> io::Result<()> {
        limit(stream)?;
        // Read before anything is said: closing on unread bytes would take the answer back.
        let mut request = [0; Request::LEN];
        stream.read_exact(&mut request)?;
        let peer = socket_peercred(stream.as_fd())?.uid.as_raw();
        if peer != 0 && peer != self.user {
            eprintln!("gatewayd-logs: user {peer} was refused");
            return send(stream, Outcome::Failed, b"the measurement logs are for gatewayd alone");
        }
        let Some(request) = Request::from_bytes(request) else {
            return send(stream, Outcome::Failed, b"no such request");
        };
        match self.read(request) {
            Ok(log) => send(stream, Outcome::Log, &log),
            Err((outcome, sentence)) => send(stream, outcome, sentence.as_bytes()),
        }
    }

    fn read(&self, request: Request) -> Result<Vec<u8>, (Outcome, String)> {
        let (path, from) = match request {
            Request::EventLog => (&self.event_log, 0),
            Request::Ima { from } => (&self.ima, from),
        };
        let (what, max) = (request.what(), request.max_len());
        let mut log = Vec::new();
        let taken = File::open(path).and_then(|mut file| {
            file.seek(SeekFrom::Start(from))?;
            // The kernel's files say no length: reading on is the only way to know.
            file.take(max as u64 + 1).read_to_end(&mut log)
        });
        match taken {
            Ok(_) if log.len() <= max => Ok(log),
            Ok(_) => Err((Outcome::Failed, format!("the {what} is longer than {max} bytes"))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err((Outcome::Missing, missing(request, path)))
            }
            Err(error) => Err((
                Outcome::Failed,
                format!("the {what} {} cannot be read: {error}", path.display()),
            )),
        }
    }
}

/// Why a machine has no such log.
fn missing(request: Request, path: &Path) -> String {
    let path = path.display();
    match request {
        Request::EventLog => format!(
            "this machine has no event log ({path} is missing): its firmware does not measure the \
             boot, or the kernel has no driver for the TPM"
        ),
        Request::Ima { .. } => format!(
            "this machine has no IMA log ({path} is missing): its kernel is built without IMA"
        ),
    }
}

fn send(mut stream: &UnixStream, outcome: Outcome, bytes: &[u8]) -> io::Result<()> {
    let most = if outcome == Outcome::Log { bytes.len() } else { MAX_SENTENCE };
    let bytes = &bytes[..bytes.len().min(most)];
    let len = u32::try_from(bytes.len()).map_err(io::Error::other)?;
    stream.write_all(&[outcome as u8])?;
    stream.write_all(&len.to_be_bytes())?;
    stream.write_all(bytes)
}

/// The number of a user: a number, or a name in the system's list.
///
/// # Errors
/// The list cannot be read, or has no such user.
pub fn user_number(name: &str) -> io::Result<u32> {
    if let Ok(number) = name.parse() {
        return Ok(number);
    }
    let list = fs::read_to_string("/etc/passwd")?;
    find_user(&list, name)
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("there is no user {name}")))
}

/// In a list in the form of passwd(5): `name:password:number:...`.
pub(super) fn find_user(list: &str, name: &str) -> Option<u32> {
    list.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok())?
    })
}
