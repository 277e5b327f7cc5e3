//! `doctor`: looks at everything that a gateway needs, and says what to do about what is missing.

use std::path::Path;

use attestation::template::EkKind;
use ledger::crypto::sha256;
use ledger::ids::NodeId;

use super::{Control, DaemonState, DoctorCheck, IdentityInfo, Result};
use crate::boot_seal;
use crate::clock;
use crate::identity::Folder;
use crate::sensors::settings::hex;
use crate::status::attestation_word;

/// Free space below which the disk is a warning, bytes.
const LITTLE_SPACE: u64 = 256 << 20;

impl Control {
    /// Looks at everything the gateway needs and says what to do about what is missing.
    ///
    /// # Errors
    /// None at present; a check that cannot be made is a failed check.
    pub async fn doctor(&self) -> Result<Vec<DoctorCheck>> {
        let mut checks = vec![self.site_check(), self.tpm_check().await, clock_check()];
        checks.push(disk_check(&self.settings.data_dir));
        checks.extend(port_checks());
        checks.push(self.forwarder_check().await);
        checks.extend(self.peer_checks());
        // Whoever reads this was answered over the bus.
        checks.push(ok("bus", "the bus answers and the name is held".into()));
        Ok(checks)
    }

    fn site_check(&self) -> DoctorCheck {
        let status = self.status();
        let why = status.reasons.join("; ");
        match status.state {
            DaemonState::Running => ok("site", status.site.clone().unwrap_or_default()),
            DaemonState::Uninitialised => failed("site", why, "gatewayctl site init --name NAME"),
            DaemonState::RolledBack => failed("site", why, "gatewayctl site recover"),
            DaemonState::Joining => warning("site", why, "gatewayctl gateway progress"),
            DaemonState::Bridge if why.is_empty() => {
                ok("site", format!("a bridge of {}", status.site.clone().unwrap_or_default()))
            }
            DaemonState::Bridge => warning("site", why, "gatewayctl gateway progress"),
            _ => warning("site", why, "see the other checks"),
        }
    }

    async fn tpm_check(&self) -> DoctorCheck {
        let tpm = self.tpm.clone();
        let fix = "is the device there (ls -l /dev/tpmrm0), is the user in group tss? On a \
                   Raspberry Pi: dtoverlay=tpm-slb9670 in config.txt. Without a chip: enable \
                   gatewayd-software-tpm.service and `site init --unattested`";
        match tokio::task::spawn_blocking(move || tpm.info()).await {
            Ok(Ok(info)) if info.is_software => {
                let what = format!("software TPM ({})", info.manufacturer);
                warning("tpm", what, "it protects no keys: a hardware TPM does")
            }
            Ok(Ok(info)) if info.certified.is_empty() => {
                let what = format!("{}, without an endorsement certificate", info.manufacturer);
                warning("tpm", what, "its endorsement key has to be pinned on approval")
            }
            Ok(Ok(info)) => ok("tpm", info.manufacturer.to_string()),
            Ok(Err(error)) => failed("tpm", error.to_string(), fix),
            Err(error) => failed("tpm", error.to_string(), fix),
        }
    }

    /// Whether other gateways can be reached, and can reach this one.
    fn peer_checks(&self) -> Vec<DoctorCheck> {
        let peers = &self.settings.peers;
        let Ok(parts) = self.parts() else {
            let what = "connections begin with the site".to_owned();
            return vec![ok("peers", what), discovery_check(peers.discovery)];
        };
        let listens = match (peers.listen, parts.peers.not_listening()) {
            (_, Some(why)) => {
                failed("peers", why, "is the port free? See [peers] in gatewayd.toml(5)")
            }
            (Some(address), None) => ok("peers", format!("other gateways may dial {address}")),
            (None, None) => ok("peers", "this gateway only dials".into()),
        };
        vec![listens, self.members_check(), discovery_check(peers.discovery)]
    }

    fn members_check(&self) -> DoctorCheck {
        let status = self.status();
        let others = status.members.saturating_sub(1);
        let what = format!("{} of {others} other members connected", status.connected);
        if status.connected >= others {
            return ok("members", what);
        }
        let fix =
            "is TCP port 7447 open between the gateways? `gatewayctl gateway list` names them";
        warning("members", what, fix)
    }

    async fn forwarder_check(&self) -> DoctorCheck {
        let lora = &self.settings.lora;
        if !lora.enabled {
            return ok("forwarder", "LoRaWAN is switched off".into());
        }
        if let Some(bridge) = &self.status().bridge {
            return match bridge.forwarders {
                0 => {
                    let what = format!("no packet forwarder has spoken to {}", lora.listen);
                    warning("forwarder", what, "point its server_address there")
                }
                some => ok("forwarder", format!("{some} on {}", lora.listen)),
            };
        }
        let Ok(parts) = self.parts() else {
            return warning("forwarder", "not listening yet".into(), "found a site first");
        };
        match parts.sensors.lora().await {
            Ok(Some(state)) if state.forwarders > 0 => {
                ok("forwarder", format!("{} on {}", state.forwarders, lora.listen))
            }
            Ok(Some(_)) => {
                let what = format!("no packet forwarder has spoken to {}", lora.listen);
                warning("forwarder", what, "point its server_address there, or set lora.enabled")
            }
            Ok(None) | Err(_) => {
                let what = format!("UDP {} is not open", lora.listen);
                failed("forwarder", what, "another server has the port; see the journal")
            }
        }
    }

    /// Keys and TPM of this gateway.
    ///
    /// # Errors
    /// The TPM does not answer and no site runs.
    pub async fn identity(&self) -> Result<IdentityInfo> {
        let Ok(parts) = self.parts() else {
            let tpm = self.tpm.clone();
            let info = super::blocking(move || {
                tpm.info().map_err(|error| super::ControlError::Tpm(error.to_string()))
            });
            let info = info.await?;
            // A newcomer and a bridge have a key before there is a record.
            let folder = crate::identity::Folder::at(&self.settings.data_dir);
            let own = folder.and_then(|folder| folder.identity()).ok().flatten();
            return Ok(IdentityInfo {
                gateway: own.as_ref().map(|key| NodeId::of_key(key).to_gateway_string()),
                key_digest: own.as_ref().map(|key| hex(&sha256(&[key.as_bytes()]).0)),
                tpm: info.manufacturer.to_string(),
                software: info.is_software,
                ek_digest: None,
                ek_type: None,
                ek_certificate: !info.certified.is_empty(),
                ak_name: None,
                identity_key: own.map(|key| hex(key.as_bytes())),
                vote_key: None,
                attestation: None,
                start_counter: None,
                storage_key: None,
            });
        };
        let gateway = parts.gateway;
        let attestation = parts.ledger.view(move |state| {
            state.gateway(&gateway).map(|own| attestation_word(&own.attestation).to_owned())
        });
        let info = &parts.identity;
        Ok(IdentityInfo {
            gateway: Some(gateway.to_gateway_string()),
            tpm: info.manufacturer.to_string(),
            software: info.is_software,
            ek_digest: Some(hex(&info.ek_digest)),
            ek_type: Some(ek_type(info.ek_kind).into()),
            ek_certificate: info.endorsements.ek_certificate.is_some(),
            ak_name: Some(hex(info.ak_name.as_bytes())),
            identity_key: Some(hex(&info.identity)),
            key_digest: Some(hex(&sha256(&[&info.identity]).0)),
            vote_key: parts.vote_key.map(|key| hex(key.as_bytes())),
            attestation: attestation.await?,
            start_counter: Some(parts.counter),
            storage_key: boot_seal::words(&Folder::at(&self.settings.data_dir)?),
        })
    }
}

fn ek_type(kind: EkKind) -> &'static str {
    match kind {
        EkKind::Rsa2048 => "rsa-2048",
        EkKind::P256 => "p256",
        EkKind::P384 => "p384",
    }
}

fn discovery_check(on: bool) -> DoctorCheck {
    match on {
        true => ok("discovery", "members are looked for by mDNS".into()),
        false => ok("discovery", "mDNS is off: members are found by address alone".into()),
    }
}

fn clock_check() -> DoctorCheck {
    if clock::synchronised() {
        return ok("clock", "the kernel says it is synchronised".into());
    }
    let what = "not synchronised: readings carry the record's time".to_owned();
    warning("clock", what, "timedatectl set-ntp true, or a GNSS or RTC clock")
}

fn disk_check(data_dir: &Path) -> DoctorCheck {
    match rustix::fs::statvfs(data_dir) {
        Ok(disk) => {
            let free = disk.f_bavail.saturating_mul(disk.f_frsize);
            let what = format!("{} MiB free under {}", free >> 20, data_dir.display());
            if free < LITTLE_SPACE {
                return warning("disk", what, "make room, or lower storage.disk_budget_mib");
            }
            ok("disk", what)
        }
        Err(error) => failed("disk", format!("{}: {error}", data_dir.display()), "mount it"),
    }
}

fn port_checks() -> Vec<DoctorCheck> {
    let ports = drivers::serial::link::ports();
    if ports.is_empty() {
        return vec![ok("ports", "no serial adapter is plugged in".into())];
    }
    let check = |port: drivers::serial::link::PortInfo| {
        let what = port.path.display().to_string();
        if std::fs::OpenOptions::new().read(true).open(&port.path).is_ok() {
            return ok("ports", what);
        }
        failed("ports", what, "is the user in group dialout? Does another program hold it?")
    };
    ports.into_iter().map(check).collect()
}

fn ok(check: &'static str, detail: String) -> DoctorCheck {
    DoctorCheck { check, result: "ok", detail, fix: String::new() }
}

fn warning(check: &'static str, detail: String, fix: &str) -> DoctorCheck {
    DoctorCheck { check, result: "warning", detail, fix: fix.into() }
}

fn failed(check: &'static str, detail: String, fix: &str) -> DoctorCheck {
    DoctorCheck { check, result: "failed", detail, fix: fix.into() }
}
