//! Finding gateways in the same network by mDNS (RFC 6762, RFC 6763): addresses alone. Anybody in
//! the network can answer; nothing that is heard here is believed, it is only dialed.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use mdns_sd::{IfKind, ResolvedService, ServiceDaemon, ServiceEvent, ServiceInfo};
use tokio::time::{Instant, timeout_at};

use super::address_book::Address;
use super::shared::Shared;

/// Service type of gateways.
pub const SERVICE: &str = "_gatewayd._tcp.local.";

/// Addresses that are kept from what is heard.
const MAX_HEARD: usize = 64;
/// Addresses of one answer that are looked at.
const MAX_OF_ANSWER: usize = 8;

/// Listens to mDNS, and answers if this gateway listens, until the transport ends.
pub(super) async fn discover(shared: Arc<Shared>, interface: Option<String>) {
    let port = shared.port.load(std::sync::atomic::Ordering::Relaxed);
    let daemon = match open(interface.as_deref(), port, &shared.instance) {
        Ok(daemon) => daemon,
        Err(error) => {
            tracing::warn!(%error, "gateways in this network are not found by themselves");
            return;
        }
    };
    let mut stop = shared.stop.subscribe();
    tokio::select! {
        // A closed channel means the same.
        _ = stop.wait_for(|stop| *stop) => {}
        () = hear(&daemon, |address| heard(&shared, address)) => {}
    }
    // Its thread ends by itself when there is nobody to tell.
    let _ = daemon.shutdown();
}

/// Listens for a while: for a machine that does not belong to a site. Addresses in the order in
/// which they were heard.
///
/// # Errors
/// The system gives no socket.
pub async fn browse(
    interface: Option<&str>,
    limit: Duration,
) -> Result<Vec<String>, mdns_sd::Error> {
    let daemon = open(interface, 0, &[0; 16])?;
    let mut found: Vec<String> = Vec::new();
    let listening = hear(&daemon, |address| {
        let address = Address::of(address).as_str().to_owned();
        if found.len() < MAX_HEARD && !found.contains(&address) {
            found.push(address);
        }
    });
    // It listens for as long as it is let.
    let _ = timeout_at(Instant::now() + limit, listening).await;
    // Its thread ends by itself when there is nobody to tell.
    let _ = daemon.shutdown();
    Ok(found)
}

fn open(
    interface: Option<&str>,
    port: u16,
    instance: &[u8; 16],
) -> Result<ServiceDaemon, mdns_sd::Error> {
    let daemon = ServiceDaemon::new()?;
    if let Some(interface) = interface {
        daemon.disable_interface(IfKind::All)?;
        daemon.enable_interface(interface)?;
    }
    if port != 0 {
        // A name that says nothing: who it is, is proven in the handshake.
        let name: String = instance.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
        let host = format!("gatewayd-{name}.local.");
        let none: &[(&str, &str)] = &[];
        let service = ServiceInfo::new(SERVICE, &name, &host, "", port, none)?.enable_addr_auto();
        daemon.register(service)?;
    }
    Ok(daemon)
}

/// Hands over every address that is heard; returns when mDNS has ended.
async fn hear(daemon: &ServiceDaemon, mut tell: impl FnMut(SocketAddr)) {
    let events = match daemon.browse(SERVICE) {
        Ok(events) => events,
        Err(error) => {
            tracing::warn!(%error, "gateways in this network are not looked for");
            return std::future::pending().await;
        }
    };
    while let Ok(event) = events.recv_async().await {
        if let ServiceEvent::ServiceResolved(service) = event {
            addresses(&service).into_iter().for_each(&mut tell);
        }
    }
}

/// Addresses of an answer that can be dialed without naming an interface.
fn addresses(service: &ResolvedService) -> BTreeSet<SocketAddr> {
    let ips = service.get_addresses().iter().map(mdns_sd::ScopedIp::to_ip_addr);
    ips.filter(|ip| is_dialable(*ip) && service.get_port() != 0)
        .take(MAX_OF_ANSWER)
        .map(|ip| SocketAddr::new(ip, service.get_port()))
        .collect()
}

fn is_dialable(ip: IpAddr) -> bool {
    let link_local = matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
    !link_local && !ip.is_unspecified() && !ip.is_multicast()
}

fn heard(shared: &Shared, address: SocketAddr) {
    let news = shared.book().found(address);
    let text = Address::of(address).as_str().to_owned();
    shared.discovered.send_if_modified(|list| {
        let new = list.len() < MAX_HEARD && !list.contains(&text);
        if new {
            list.push(text);
        }
        new
    });
    if news {
        shared.dial.notify_one();
    }
}
