//! `org.gatewayd.Gateway1.Manager`: the daemon, the site, the operator's acts. Server and proxy.

use std::sync::Arc;

use zbus::message::Header;
use zbus::object_server::SignalEmitter;
use zbus::{Connection, OwnedObjectPath};

use super::error::Error;
use super::gate::{Action, Gate, caller_name};
use super::options::{Options, bounded_text, exactly};
use super::variant::Dict;
use super::{MAX_NAME, dict, dicts, gateway, sensor};
use crate::control::{Control, InitSite, JoinSite, Status};

/// Longest operator act, bytes.
const MAX_ACT: usize = ledger::operator::MAX_ACT;

/// Longest option of an operator act, bytes: a bundle of certificates in base64.
const MAX_ACT_OPTION: usize = 2 * MAX_ACT;

/// Longest site code or address, bytes.
const MAX_ADDRESS: usize = 256;

/// Serves the interface.
pub(crate) struct Manager {
    pub(crate) control: Control,
    pub(crate) gate: Arc<Gate>,
}

#[zbus::interface(
    name = "org.gatewayd.Gateway1.Manager",
    proxy(
        default_service = "org.gatewayd.Gateway1",
        default_path = "/org/gatewayd/Gateway1",
        visibility = "pub"
    )
)]
impl Manager {
    /// Everything `gatewayctl status` shows.
    async fn status(&self) -> Result<Dict, Error> {
        let _place = self.gate.read()?;
        dict(&*self.control.status())
    }

    /// Checks of everything the gateway needs, each with what to do about it.
    async fn doctor(&self) -> Result<Vec<Dict>, Error> {
        let _place = self.gate.read()?;
        dicts(&self.control.doctor().await?)
    }

    /// The site this gateway belongs to.
    async fn site(&self) -> Result<Dict, Error> {
        let _place = self.gate.read()?;
        dict(&self.control.site().await?)
    }

    /// Founds a site. `operator_key`: SEC1 compressed public key. Option `unattested` (b).
    #[zbus(proxy(allow_interactive_auth))]
    async fn init_site(
        &self,
        name: String,
        operator_key: Vec<u8>,
        options: Dict,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<Dict, Error> {
        let _caller = self.gate.change(connection, &header, Action::ManageSite).await?;
        let name = bounded_text("name", name, MAX_NAME)?;
        let operator_key = exactly("operator_key", &operator_key)?;
        let mut options = Options::new(options)?;
        let unattested = options.flag("unattested")?;
        options.finish()?;
        dict(&self.control.init_site(InitSite { name, operator_key, unattested }).await?)
    }

    /// Begins to join a site; the daemon goes on by itself. `site_code`: what members are checked
    /// against. Options: `address` (s) of a member, `discover` (b), `full` (b), `coordinator` (b);
    /// or `bridge` (b): be no member, and lend ports and packet forwarder to one.
    #[zbus(proxy(allow_interactive_auth))]
    async fn join(
        &self,
        site_code: String,
        options: Dict,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<Dict, Error> {
        let _caller = self.gate.change(connection, &header, Action::JoinSite).await?;
        let site_code = bounded_text("site_code", site_code, MAX_ADDRESS)?;
        let mut options = Options::new(options)?;
        let request = JoinSite {
            address: options.text("address", MAX_ADDRESS)?,
            discover: options.flag("discover")?,
            full: options.flag("full")?,
            coordinator: options.flag("coordinator")?,
            bridge: options.flag("bridge")?,
            site_code,
        };
        options.finish()?;
        if request.address.is_none() && !request.discover {
            return Err(Error::InvalidArgument("`address` or `discover` is needed".into()));
        }
        match (request.bridge, request.full || request.coordinator) {
            (false, false) => {
                let why = "`full`, `coordinator` or both are needed, or `bridge`";
                return Err(Error::InvalidArgument(why.into()));
            }
            (true, true) => {
                let why = "a bridge is neither a full node nor a coordinator";
                return Err(Error::InvalidArgument(why.into()));
            }
            _ => {}
        }
        dict(&self.control.join_site(request).await?)
    }

    /// Gives up a join that is not done.
    #[zbus(proxy(allow_interactive_auth))]
    async fn abandon_join(
        &self,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<(), Error> {
        let _caller = self.gate.change(connection, &header, Action::JoinSite).await?;
        Ok(self.control.abandon_join().await?)
    }

    /// Where the join of this gateway stands, and what each voter said.
    async fn join_progress(&self) -> Result<Dict, Error> {
        let _place = self.gate.read()?;
        dict(&self.control.join_progress())
    }

    /// Newcomers that asked here to become members, as this gateway appraised them.
    async fn list_admissions(&self) -> Result<Vec<Dict>, Error> {
        let _place = self.gate.read()?;
        dicts(&self.control.admissions().await?)
    }

    /// Bridges of this gateway, and those that ask to be.
    async fn list_bridges(&self) -> Result<Vec<Dict>, Error> {
        let _place = self.gate.read()?;
        dicts(&self.control.bridges().await?)
    }

    /// Lets a bridge in that asks here, by `gw1…` or an unambiguous beginning of it. Option: `name`
    /// (s). One that was let in gets the name.
    #[zbus(proxy(allow_interactive_auth))]
    async fn let_bridge_in(
        &self,
        id: String,
        options: Dict,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<Dict, Error> {
        let _caller = self.gate.change(connection, &header, Action::ManageBridges).await?;
        let id = bounded_text("id", id, MAX_NAME)?;
        let mut options = Options::new(options)?;
        let name = options.text("name", MAX_NAME)?;
        options.finish()?;
        dict(&self.control.let_bridge_in(&id, name.as_deref()).await?)
    }

    /// Lets a bridge in no more, by its name, `gw1…` or an unambiguous beginning of it; its
    /// connection ends at once.
    #[zbus(proxy(allow_interactive_auth))]
    async fn forget_bridge(
        &self,
        id: String,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<(), Error> {
        let _caller = self.gate.change(connection, &header, Action::ManageBridges).await?;
        let id = bounded_text("id", id, MAX_NAME)?;
        Ok(self.control.forget_bridge(&id).await?)
    }

    /// Documents that the policy names: EK anchors and reference values.
    async fn list_policy_documents(&self) -> Result<Vec<Dict>, Error> {
        let _place = self.gate.read()?;
        dicts(&self.control.policy_documents().await?)
    }

    /// Documents of reference values that accept what a gateway has booted, for the operator to
    /// add. `gateway`: the ID of a connected member, or `self`; `profile`: `measured` or
    /// `measured+ima`.
    #[zbus(proxy(allow_interactive_auth))]
    async fn propose_reference_values(
        &self,
        gateway: String,
        profile: String,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<Vec<Vec<u8>>, Error> {
        let _caller = self.gate.change(connection, &header, Action::OperatorAct).await?;
        let gateway = bounded_text("gateway", gateway, MAX_NAME)?;
        let profile = bounded_text("profile", profile, MAX_NAME)?;
        Ok(self.control.propose_reference_values(&gateway, &profile).await?)
    }

    /// Bytes of an operator act with the caller's name inside, for the operator key to sign.
    #[zbus(proxy(allow_interactive_auth))]
    async fn prepare_operator_act(
        &self,
        kind: String,
        options: Dict,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<Vec<u8>, Error> {
        let caller = self.gate.change(connection, &header, Action::OperatorAct).await?;
        let kind = bounded_text("kind", kind, MAX_NAME)?;
        let options = Options::new(options)?.all_text(MAX_ACT_OPTION)?;
        let name = caller_name(caller.uid);
        Ok(self.control.prepare_operator_act(&kind, options, &name).await?)
    }

    /// Submits a signed operator act; returns when it is committed.
    #[zbus(proxy(allow_interactive_auth))]
    async fn submit_operator_act(
        &self,
        act: Vec<u8>,
        signature: Vec<u8>,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<Dict, Error> {
        let _caller = self.gate.change(connection, &header, Action::OperatorAct).await?;
        if act.len() > MAX_ACT {
            return Err(Error::InvalidArgument(format!("`act` is longer than {MAX_ACT} bytes")));
        }
        let signature = exactly("signature", &signature)?;
        dict(&self.control.submit_operator_act(act, signature).await?)
    }

    /// All sensors, each as its `Describe` says.
    async fn list_sensors(&self) -> Result<Vec<Dict>, Error> {
        let _place = self.gate.read()?;
        dicts(&self.control.sensors().await?)
    }

    /// Object of a sensor, by `ln1…` or by its name.
    async fn find_sensor(&self, name: String) -> Result<OwnedObjectPath, Error> {
        let _place = self.gate.read()?;
        let name = bounded_text("name", name, MAX_NAME)?;
        sensor::object_path(&self.control.sensor(&name).await?.id)
    }

    /// All gateways of the site, each as its `Describe` says; voters first.
    async fn list_gateways(&self) -> Result<Vec<Dict>, Error> {
        let _place = self.gate.read()?;
        dicts(&self.control.gateways().await?)
    }

    /// Object of a gateway, by `gw1…`, by an unambiguous beginning of it, or `self`.
    async fn find_gateway(&self, id: String) -> Result<OwnedObjectPath, Error> {
        let _place = self.gate.read()?;
        let id = bounded_text("id", id, MAX_NAME)?;
        gateway::object_path(&self.control.gateway(&id).await?.id)
    }

    /// Version of the daemon.
    #[zbus(property(emits_changed_signal = "const"))]
    fn version(&self) -> String {
        self.control.status().version.into()
    }

    /// `starting`, `uninitialised`, `joining`, `bridge`, `no-tpm`, `degraded`, `rolled-back` or
    /// `running`.
    #[zbus(property)]
    fn state(&self) -> String {
        state(&self.control.status())
    }

    /// Why the state is not `running`, in sentences.
    #[zbus(property)]
    fn reasons(&self) -> Vec<String> {
        self.control.status().reasons.clone()
    }

    /// What always has to be said, such as an unattested site.
    #[zbus(property)]
    fn warnings(&self) -> Vec<String> {
        self.control.status().warnings.clone()
    }

    /// Name of the site; empty when there is none.
    #[zbus(property, name = "SiteName")]
    fn site_name(&self) -> String {
        self.control.status().site.clone().unwrap_or_default()
    }

    /// `gw1…` of this gateway; empty when there is no site.
    #[zbus(property)]
    fn gateway(&self) -> String {
        self.control.status().gateway.clone().unwrap_or_default()
    }

    /// Something happened that is neither a reading nor a block: see its key `event`.
    #[zbus(signal)]
    pub(crate) async fn event(emitter: &SignalEmitter<'_>, details: Dict) -> zbus::Result<()>;
}

impl Manager {
    /// Announces what differs between two snapshots.
    pub(crate) async fn announce(
        &self,
        emitter: &SignalEmitter<'_>,
        old: &Status,
        new: &Status,
    ) -> zbus::Result<()> {
        if old.state != new.state {
            self.state_changed(emitter).await?;
        }
        if old.reasons != new.reasons {
            self.reasons_changed(emitter).await?;
        }
        if old.warnings != new.warnings {
            self.warnings_changed(emitter).await?;
        }
        if old.site != new.site {
            self.site_name_changed(emitter).await?;
        }
        if old.gateway != new.gateway {
            self.gateway_changed(emitter).await?;
        }
        Ok(())
    }
}

/// Name of a state: that of its serialised form.
fn state(status: &Status) -> String {
    match serde_json::to_value(status.state) {
        Ok(serde_json::Value::String(name)) => name,
        _ => "unknown".into(),
    }
}
