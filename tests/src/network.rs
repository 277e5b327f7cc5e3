//! Where the gateways of a test stand: all on this machine's loopback, or each in a network
//! namespace of its own on one bridge, with links that can be cut and healed.
//!
//! ```text
//! namespace 0  10.77.0.1 ──veth──┐
//! namespace 1  10.77.0.2 ──veth──┤ bridge 0        a split moves ports to bridges of their own:
//! namespace 2  10.77.0.3 ──veth──┤                 nobody hears an answer, as when a cable is cut
//! namespace 3  10.77.0.4 ──veth──┘
//! ```
//!
//! Or on a wire that delays and loses frames: `peers/wire.py` in place of the bridge, since not
//! every kernel has `netem`.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, bail};

use crate::peer::Peer;

/// How names of ours begin; the process ID follows, so that what a killed run left can be found.
const PREFIX: &str = "gwt";

/// What is missing where it cannot be done.
const NEEDS: &str = "several gateways need network namespaces: run as root, with the package \
    iproute2, on a kernel with network namespaces, veth, bridges and TUN";

/// Where the processes of one gateway run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Beside the test, on this machine's loopback.
    Here,
    /// In the network namespace of this name.
    Namespace(String),
}

impl Place {
    /// A command that will run there.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        match self {
            Self::Here => Command::new(program),
            Self::Namespace(name) => {
                // `ip` becomes the program: its process ID is the program's.
                let mut command = Command::new("ip");
                command.args(["netns", "exec", name]).arg(program);
                command
            }
        }
    }
}

/// Hosts that reach each other; taken down when dropped.
pub struct Network {
    name: String,
    hosts: usize,
    wire: Option<Peer>,
}

/// What a bad wire does to frames.
#[derive(Debug, Clone, Copy)]
pub struct Wire {
    /// Each is delayed by so much, and by up to half as much again.
    pub delay_ms: u32,
    /// So many of a hundred never arrive.
    pub loss_percent: u32,
}

impl Network {
    /// Makes so many hosts with addresses, joined by one bridge.
    ///
    /// # Errors
    /// Not root, `ip` is missing, or the kernel has no namespaces.
    pub fn build(hosts: usize) -> Result<Self> {
        let network = Self::unconnected(hosts);
        network.bridge(0).and_then(|()| network.raise()).context(NEEDS)?;
        Ok(network)
    }

    /// Makes so many hosts with addresses, joined by a bad wire. Its links cannot be cut.
    ///
    /// # Errors
    /// As [`Network::build`]; `/dev/net/tun` is missing.
    pub fn build_on(wire: Wire, hosts: usize) -> Result<Self> {
        let mut network = Self::unconnected(hosts);
        let (delay, jitter) = (wire.delay_ms.to_string(), (wire.delay_ms / 2).to_string());
        let mut switch = Command::new("python3");
        switch
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("peers/wire.py"))
            .args(["--delay-ms", &delay, "--jitter-ms", &jitter])
            .args(["--loss-percent", &wire.loss_percent.to_string()])
            .args((0..hosts).map(|host| network.port(host)));
        let switch = Peer::start(&mut switch, "python3 (package python3)")?;
        switch.wait_line("ready").context(NEEDS)?;
        network.wire = Some(switch);
        network.raise().context(NEEDS)?;
        Ok(network)
    }

    fn unconnected(hosts: usize) -> Self {
        static BUILT: AtomicUsize = AtomicUsize::new(0);
        sweep();
        let number = BUILT.fetch_add(1, Ordering::Relaxed);
        Self { name: format!("{PREFIX}{}x{number}", std::process::id()), hosts, wire: None }
    }

    fn raise(&self) -> Result<()> {
        for host in 0..self.hosts {
            let (namespace, port) = (self.namespace(host), self.port(host));
            ip(&["netns", "add", &namespace])?;
            if self.wire.is_some() {
                ip(&["link", "set", &port, "netns", &namespace, "name", "eth0"])?;
            } else {
                let ends = ["link", "add", &port, "type", "veth", "peer", "name", "eth0"];
                ip(&[&ends[..], &["netns", &namespace]].concat())?;
                ip(&["link", "set", &port, "master", &self.bridge_name(0), "up"])?;
            }
            let address = format!("{}/24", Self::address(host));
            ip(&["-n", &namespace, "address", "add", &address, "dev", "eth0"])?;
            ip(&["-n", &namespace, "link", "set", "lo", "up"])?;
            ip(&["-n", &namespace, "link", "set", "eth0", "up"])?;
            // Multicast has to find a way out without a router.
            ip(&["-n", &namespace, "route", "add", "224.0.0.0/4", "dev", "eth0"])?;
        }
        Ok(())
    }

    /// Where the processes of a host run.
    pub fn place(&self, host: usize) -> Place {
        Place::Namespace(self.namespace(host))
    }

    /// Address of a host.
    pub fn address(host: usize) -> String {
        format!("10.77.0.{}", host + 1)
    }

    /// Cuts the links between these groups; a host in none of them is alone.
    ///
    /// # Errors
    /// `ip` says no.
    pub fn split(&self, groups: &[&[usize]]) -> Result<()> {
        let alone: Vec<usize> = (0..self.hosts)
            .filter(|host| !groups.iter().any(|group| group.contains(host)))
            .collect();
        let alone = alone.iter().map(std::slice::from_ref);
        for (number, group) in groups.iter().copied().chain(alone).enumerate() {
            self.bridge(number)?;
            for &host in group {
                self.plug(host, number)?;
            }
        }
        Ok(())
    }

    /// Joins all of them again.
    ///
    /// # Errors
    /// `ip` says no.
    pub fn heal(&self) -> Result<()> {
        (0..self.hosts).try_for_each(|host| self.plug(host, 0))
    }

    fn plug(&self, host: usize, bridge: usize) -> Result<()> {
        ip(&["link", "set", &self.port(host), "master", &self.bridge_name(bridge)])
    }

    /// Makes a bridge unless it is there.
    fn bridge(&self, number: usize) -> Result<()> {
        let name = self.bridge_name(number);
        if Path::new("/sys/class/net").join(&name).exists() {
            return Ok(());
        }
        // Without snooping every group hears multicast, as on a small unmanaged switch.
        ip(&["link", "add", &name, "type", "bridge", "mcast_snooping", "0"])?;
        ip(&["link", "set", &name, "up"])
    }

    fn namespace(&self, host: usize) -> String {
        format!("{}-{host}", self.name)
    }

    fn port(&self, host: usize) -> String {
        format!("{}p{host}", self.name)
    }

    fn bridge_name(&self, number: usize) -> String {
        format!("{}b{number}", self.name)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.wire.take();
        take_down(&self.name);
    }
}

/// Takes down what killed runs have left.
fn sweep() {
    let running = |name: &str| {
        let process = name.strip_prefix(PREFIX).and_then(|rest| rest.split_once('x'));
        process.is_none_or(|(process, _)| Path::new("/proc").join(process).exists())
    };
    let mut stale = BTreeSet::new();
    for name in interfaces().into_iter().chain(namespaces()) {
        if !running(&name) {
            let end = name.find(['-', 'b', 'p']).unwrap_or(name.len());
            stale.insert(name[..end].to_owned());
        }
    }
    stale.iter().for_each(|name| take_down(name));
}

/// Removes the namespaces and interfaces of one network. What is gone already is no error.
fn take_down(network: &str) {
    let ours = |name: &String| {
        name.strip_prefix(network).is_some_and(|rest| rest.starts_with(['-', 'b', 'p']))
    };
    for namespace in namespaces().iter().filter(|name| ours(name)) {
        let _ = ip(&["netns", "delete", namespace]);
    }
    // A port goes with its namespace, but not at once.
    for interface in interfaces().iter().filter(|name| ours(name)) {
        let _ = ip(&["link", "delete", interface]);
    }
}

fn interfaces() -> Vec<String> {
    names(Path::new("/sys/class/net"))
}

fn namespaces() -> Vec<String> {
    names(Path::new("/run/netns"))
}

/// Names of ours in a folder, which need not be there.
fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with(PREFIX)).collect()
}

fn ip(arguments: &[&str]) -> Result<()> {
    let output = Command::new("ip").args(arguments).output().context("ip (package iproute2)")?;
    if !output.status.success() {
        bail!("ip {arguments:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Stdio};
    use std::time::{Duration, Instant};

    use super::*;

    /// Answers whoever connects, until it is dropped.
    struct Listener(Child);

    impl Listener {
        fn start(place: &Place) -> Result<Self> {
            let mut socat = place.command("socat");
            socat.args(["TCP-LISTEN:7447,fork,reuseaddr", "SYSTEM:echo here"]);
            Ok(Self(socat.stdin(Stdio::null()).spawn()?))
        }
    }

    impl Drop for Listener {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    /// Whether host `from` gets an answer of host `to`.
    fn reaches(network: &Network, from: usize, to: usize) -> bool {
        let address = format!("TCP:{}:7447,connect-timeout=2", Network::address(to));
        let said = network.place(from).command("socat").args(["-", &address]).output();
        said.is_ok_and(|said| said.stdout.starts_with(b"here"))
    }

    fn until(what: &str, mut done: impl FnMut() -> bool) {
        let begun = Instant::now();
        while !done() {
            assert!(begun.elapsed() < Duration::from_secs(30), "waited in vain: {what}");
        }
    }

    #[test]
    fn links_are_cut_and_healed() -> Result<()> {
        let network = Network::build(4)?;
        let _listeners: Vec<Listener> =
            (0..4).map(|host| Listener::start(&network.place(host))).collect::<Result<_>>()?;
        for host in 1..4 {
            until("all are joined", || reaches(&network, 0, host));
        }
        network.split(&[&[0, 1], &[2, 3]])?;
        until("the other half is cut off", || !reaches(&network, 0, 2));
        assert!(reaches(&network, 0, 1) && reaches(&network, 3, 2) && !reaches(&network, 3, 1));
        network.split(&[&[0, 1, 2]])?;
        until("one is alone", || !reaches(&network, 2, 3));
        assert!(reaches(&network, 2, 0));
        network.heal()?;
        for host in 1..4 {
            until("all are joined again", || reaches(&network, 0, host));
        }
        Ok(())
    }

    #[test]
    fn a_bad_wire_delays_and_loses() -> Result<()> {
        let network = Network::build_on(Wire { delay_ms: 100, loss_percent: 10 }, 2)?;
        let _listener = Listener::start(&network.place(1))?;
        until("it is joined", || reaches(&network, 0, 1));
        let begun = Instant::now();
        until("it answers", || reaches(&network, 0, 1));
        assert!(begun.elapsed() > Duration::from_millis(300), "three ways there and back at least");
        Ok(())
    }

    #[test]
    fn what_a_killed_run_left_is_swept_away() -> Result<()> {
        // No process has this number: the kernel's largest is 4194304.
        let stale = Network { name: format!("{PREFIX}9999999x0"), hosts: 1, wire: None };
        let namespace = stale.namespace(0);
        ip(&["netns", "add", &namespace])?;
        std::mem::forget(stale);
        sweep();
        assert!(!namespaces().contains(&namespace));
        Ok(())
    }
}
