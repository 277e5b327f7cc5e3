//! A private message bus: the real `dbus-daemon` on a socket of its own, open to every user.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};

/// A bus that ends when it is dropped.
pub struct PrivateBus {
    address: String,
    daemon: Child,
    folder: tempfile::TempDir,
}

impl PrivateBus {
    /// Starts a bus and waits until it listens.
    ///
    /// # Errors
    /// `dbus-daemon` is not installed or does not start.
    pub fn start() -> Result<Self> {
        Self::start_in(tempfile::tempdir()?)
    }

    fn start_in(folder: tempfile::TempDir) -> Result<Self> {
        use std::os::unix::fs::PermissionsExt;
        // Tests speak as other users too: they must reach the socket.
        let open = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(folder.path(), open)?;
        let config = folder.path().join("bus.conf");
        let socket = folder.path().join("socket").to_string_lossy().into_owned();
        std::fs::write(&config, configuration(&socket))?;
        let mut daemon = Command::new("dbus-daemon")
            .arg("--nofork")
            .arg("--print-address")
            .arg(format!("--config-file={}", config.display()))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(folder.path().join("log"))?)
            .spawn()
            .context("dbus-daemon (package dbus-daemon or dbus)")?;
        let output = daemon.stdout.take().context("its output")?;
        let mut printed = String::new();
        // The address is printed when it listens; nothing has to be waited for after that.
        BufReader::new(output).read_line(&mut printed)?;
        ensure!(
            !printed.is_empty(),
            "dbus-daemon ended without an address: {}",
            std::fs::read_to_string(folder.path().join("log")).unwrap_or_default()
        );
        // Without the GUID that is printed too: a restarted bus has another one.
        Ok(Self { address: format!("unix:path={socket}"), daemon, folder })
    }

    /// Address to connect to.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Ends the bus and starts another at the same address, as after a crash of the bus.
    ///
    /// # Errors
    /// It does not start again.
    pub fn restart(&mut self) -> Result<()> {
        self.end();
        let fresh = tempfile::tempdir()?;
        let folder = std::mem::replace(&mut self.folder, fresh);
        let new = Self::start_in(folder)?;
        // The old value's process has ended already; dropping it does nothing.
        *self = new;
        Ok(())
    }

    fn end(&mut self) {
        // It may have ended by itself: that is what is wanted.
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
        let _ = std::fs::remove_file(self.folder.path().join("socket"));
    }
}

impl Drop for PrivateBus {
    fn drop(&mut self) {
        self.end();
    }
}

/// Everyone may connect, own names and send; as on a system bus, no user is named in messages.
fn configuration(socket: &str) -> String {
    format!(
        r#"<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <listen>unix:path={socket}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/>
    <allow own="*"/>
    <allow send_type="method_call"/>
    <allow send_type="signal"/>
    <allow send_requested_reply="true" send_type="method_return"/>
    <allow send_requested_reply="true" send_type="error"/>
    <allow receive_type="method_call"/>
    <allow receive_type="method_return"/>
    <allow receive_type="error"/>
    <allow receive_type="signal"/>
  </policy>
</busconfig>
"#
    )
}
