//! The interface on a real bus: names of errors, bounds, strangers, signals, a bus that goes away.

use std::collections::HashMap;

use zbus::{OwnedVariant, Variant, connection};

use super::client::{Arguments, Client, Signal};
use super::error::Error;
use super::variant::Dict;
use super::{BusState, NAME};
use crate::control::{DaemonState, Event, ReadingInfo};
use stage::{PATIENCE, Stage, runs_as_root, status};

#[path = "../../../../tests/src/bus.rs"]
#[allow(unreachable_pub, reason = "it is a public module of the harness, borrowed here")]
mod private_bus;
mod stage;

const MULTI: &str = "the service runs beside the test";

#[tokio::test]
async fn a_gateway_without_a_site_answers() {
    let stage = Stage::set().await;
    let client = stage.client().await;
    let manager = client.manager().await.expect(MULTI);
    let status = super::variant::dict_to_json(&manager.status().await.expect("status"));
    assert_eq!(status["state"], "uninitialised");
    assert_eq!(status["reasons"][0], "a reason");
    assert!(status.get("site").is_none(), "what is unknown is left out");
    assert_eq!(manager.state().await.expect("property"), "uninitialised");
    let pairing = client.pairing().await.expect(MULTI);
    assert_eq!(pairing.state().await.expect("property"), "idle");
    let no_site = manager.site().await.expect_err("no site");
    assert!(matches!(no_site, Error::NotInitialised(_)), "{no_site:?}");
    let no_gateway = manager.list_gateways().await.expect_err("no site");
    assert!(matches!(no_gateway, Error::NotInitialised(_)), "{no_gateway:?}");
    let no_block = client.ledger().await.expect(MULTI).head().await.expect_err("no site");
    assert!(matches!(no_block, Error::NotInitialised(_)), "{no_block:?}");
}

#[tokio::test]
async fn absurd_arguments_are_named() {
    let stage = Stage::set().await;
    let client = stage.client().await;
    let manager = client.manager().await.expect(MULTI);
    let pairing = client.pairing().await.expect(MULTI);
    let ledger = client.ledger().await.expect(MULTI);
    let none = Dict::new;
    let open = |how: &str, arguments: Arguments| pairing.open(how.into(), arguments.dict());
    let serial = || Arguments::default().text("port", "/dev/x").text("code", "secret");
    let many = (0..40).fold(serial(), |all, i| all.u32(&format!("o{i}"), 1));
    let key = vec![2; 33];
    let long = || "n".repeat(1_000_000);
    let unknown = Arguments::default().flag("attested", true).dict();
    let full = || Arguments::default().flag("full", true);
    let discover = || Arguments::default().flag("discover", true);
    let results = [
        ("short key", manager.init_site("s".into(), vec![2; 32], none()).await.err()),
        ("long key", manager.init_site("s".into(), vec![2; 100_000], none()).await.err()),
        ("long name", manager.init_site(long(), key.clone(), none()).await.err()),
        ("unknown option", manager.init_site("s".into(), key, unknown).await.err()),
        ("no signature", manager.submit_operator_act(vec![1], vec![]).await.err()),
        ("endless act", manager.submit_operator_act(vec![1; 200_000], vec![0; 64]).await.err()),
        ("long sensor", manager.find_sensor(long()).await.err()),
        ("no address", manager.join("gws1".into(), full().dict()).await.err()),
        ("no label", manager.join("gws1".into(), discover().dict()).await.err()),
        ("long site code", manager.join(long(), none()).await.err()),
        ("long gateway", manager.find_gateway(long()).await.err()),
        ("how", open("telepathy", serial()).await.err()),
        ("no port", open("serial", Arguments::default().text("code", "c")).await.err()),
        ("no code", open("serial", Arguments::default().text("port", "p")).await.err()),
        ("long code", open("serial", serial().text("code", &long())).await.err()),
        ("wrong type", open("serial", serial().text("baud", "fast")).await.err()),
        ("surplus", open("serial", serial().text("app_key", "00")).await.err()),
        ("many", open("serial", many).await.err()),
        ("short eui", open("lora", Arguments::default().bytes("dev_eui", &[1; 7])).await.err()),
        ("limit 0", ledger.readings(String::new(), 0).await.err()),
        ("limit", ledger.readings(String::new(), u32::MAX).await.err()),
    ];
    for (what, error) in results {
        let error = error.unwrap_or_else(|| panic!("{what} was accepted"));
        assert!(matches!(error, Error::InvalidArgument(_)), "{what}: {error:?}");
        assert!(!error.to_string().contains("secret"), "{what}: {error}");
    }
}

/// Changing methods with arguments that are right in form, as `busctl` writes them.
const CHANGES: [(&str, &[&str]); 14] = [
    ("Manager.InitSite", &["saya{sv}", "s", "1", "2", "0"]),
    ("Manager.Join", &["sa{sv}", "gws1", "0"]),
    ("Manager.AbandonJoin", &[]),
    ("Manager.LetBridgeIn", &["sa{sv}", "gw1", "0"]),
    ("Manager.ForgetBridge", &["s", "gw1"]),
    ("Attestation.Renew", &[]),
    ("Attestation.RotateVoteKey", &[]),
    ("Attestation.PrepareUpgrade", &["s", "device:/dev/tpmrm0"]),
    ("Attestation.PrepareBoot", &["a{sv}", "0"]),
    ("Manager.PrepareOperatorAct", &["sa{sv}", "policy", "0"]),
    ("Manager.SubmitOperatorAct", &["ayay", "1", "1", "1", "1"]),
    ("Pairing.Open", &["sa{sv}", "serial", "0"]),
    ("Pairing.Confirm", &["t", "1"]),
    ("Pairing.Close", &["t", "1"]),
];

/// What a refused caller hears.
const MAY_NOT: &str = "may not do this; polkit action org.gatewayd.gateway1.";

#[tokio::test]
async fn without_polkit_strangers_may_look_and_change_nothing() {
    let stage = Stage::set().await;
    let look = stage.call_as_stranger("Manager.Status", &[]).await;
    assert_eq!(look, None);
    for (member, arguments) in CHANGES {
        let words = stage.call_as_stranger(member, arguments).await.expect("an error");
        // Without root the caller is the daemon's own user, who may, and hears what is wrong.
        assert_eq!(words.contains(MAY_NOT), runs_as_root(), "{member}: {words}");
    }
}

/// polkit that knows one answer, and remembers what it was asked.
struct Polkit {
    answer: bool,
    asked: tokio::sync::mpsc::UnboundedSender<String>,
}

#[zbus::interface(name = "org.freedesktop.PolicyKit1.Authority")]
impl Polkit {
    async fn check_authorization(
        &self,
        _subject: (String, HashMap<String, OwnedVariant>),
        action: String,
        _details: HashMap<String, String>,
        _flags: u32,
        _cancellation: String,
    ) -> (bool, bool, HashMap<String, String>) {
        self.asked.send(action).expect("the test listens");
        (self.answer, false, HashMap::new())
    }
}

#[tokio::test]
async fn polkit_decides_about_each_change_by_its_action() {
    let actions = [
        "org.gatewayd.gateway1.manage-site",
        "org.gatewayd.gateway1.join-site",
        "org.gatewayd.gateway1.join-site",
        "org.gatewayd.gateway1.manage-bridges",
        "org.gatewayd.gateway1.manage-bridges",
        "org.gatewayd.gateway1.manage-identity",
        "org.gatewayd.gateway1.manage-identity",
        "org.gatewayd.gateway1.manage-identity",
        "org.gatewayd.gateway1.operator-act",
        "org.gatewayd.gateway1.operator-act",
        "org.gatewayd.gateway1.operator-act",
        "org.gatewayd.gateway1.pair",
        "org.gatewayd.gateway1.pair",
        "org.gatewayd.gateway1.pair",
    ];
    for answer in [false, true] {
        let stage = Stage::set().await;
        let (asked, mut questions) = tokio::sync::mpsc::unbounded_channel();
        let _polkit = connection::Builder::address(stage.bus.address())
            .serve_at("/org/freedesktop/PolicyKit1/Authority", Polkit { answer, asked })
            .name("org.freedesktop.PolicyKit1")
            .build()
            .await
            .expect("polkit's name is free");
        for ((member, arguments), action) in CHANGES.iter().zip(actions) {
            let words = stage.call_as_stranger(member, arguments).await.expect("an error");
            assert_eq!(words.contains(MAY_NOT), !answer, "{member}: {words}");
            assert_eq!(questions.try_recv().as_deref(), Ok(action), "{member}");
        }
        assert!(questions.try_recv().is_err(), "polkit was asked once for each change");
    }
}

fn reading(counter: u64) -> ReadingInfo {
    ReadingInfo {
        sensor: "ln1qqq".into(),
        sensor_name: "door".into(),
        epoch: 1,
        counter,
        time_ms: 1,
        time_quality: "synced",
        level: 1,
        values: vec![],
        status: "durable",
        height: None,
    }
}

async fn next(signals: &mut super::client::Signals) -> Signal {
    let next = tokio::time::timeout(PATIENCE, signals.next()).await;
    next.expect("in time").expect("a signal")
}

#[tokio::test]
async fn events_become_signals_in_their_order() {
    let mut stage = Stage::set().await;
    let mut signals = stage.client().await.signals().await.expect("the daemon is there");
    let send = |event| stage.events.send(event).expect("the service listens");
    send(Event::Reading(reading(7)));
    send(Event::Committed { height: 3, transactions: 2, readings: 1 });
    send(Event::Alert { kind: "disk", message: "full".into() });
    let Signal::Reading(first) = next(&mut signals).await else { panic!("no reading") };
    assert_eq!(super::variant::dict_to_json(&first)["counter"], 7);
    assert!(matches!(next(&mut signals).await, Signal::Committed(3, 2, 1)));
    let Signal::Event(alert) = next(&mut signals).await else { panic!("no alert") };
    assert_eq!(super::variant::dict_to_json(&alert)["kind"], "disk");
    stage.stop().await;
    assert!(matches!(next(&mut signals).await, Signal::Gone));
}

#[tokio::test]
async fn a_new_state_changes_the_property() {
    use std::pin::Pin;
    use zbus::proxy::CacheProperties;

    let stage = Stage::set().await;
    let connection =
        connection::Builder::address(stage.bus.address()).build().await.expect("the bus");
    let manager = super::manager::ManagerProxy::builder(&connection)
        .cache_properties(CacheProperties::Yes)
        .build()
        .await
        .expect("proxy");
    let mut changes = manager.receive_state_changed().await;
    stage.status.send_replace(std::sync::Arc::new(status(DaemonState::Running)));
    let seen = async {
        loop {
            let change = std::future::poll_fn(|context| {
                futures_core::Stream::poll_next(Pin::new(&mut changes), context)
            });
            let change = change.await.expect("a change");
            // The first one is the value at the beginning.
            if change.get().await.expect("a value") == "running" {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, seen).await.expect("in time");
}

#[tokio::test]
async fn it_comes_back_when_the_bus_does() {
    let mut stage = Stage::set().await;
    stage.bus.restart().expect("the bus starts again");
    stage.wait(|state| matches!(state, BusState::Lost(_))).await;
    stage.wait(|state| *state == BusState::Held).await;
    let status = stage.client().await.manager().await.expect(MULTI).status().await;
    assert!(status.is_ok(), "{status:?}");
}

#[tokio::test]
async fn two_daemons_do_not_share_a_name() {
    let mut stage = Stage::set().await;
    let (mut rival, _stop) = stage.rival();
    let lost = rival.wait_for(
        |state| matches!(state, BusState::Lost(reason) if reason.contains("another process holds")),
    );
    tokio::time::timeout(PATIENCE, lost).await.expect("in time").expect("it lives");
    stage.stop().await;
    let held = rival.wait_for(|state| *state == BusState::Held);
    tokio::time::timeout(PATIENCE, held).await.expect("in time").expect("it lives");
}

#[tokio::test]
async fn objects_are_listed_at_the_root() {
    let stage = Stage::set().await;
    let connection =
        connection::Builder::address(stage.bus.address()).build().await.expect("the bus");
    let proxy = zbus::fdo::ObjectManagerProxy::new(&connection, NAME, super::PATH)
        .await
        .expect("ObjectManager");
    assert!(proxy.get_managed_objects().await.expect("a listing").is_empty(), "no sensors yet");
    let properties =
        zbus::fdo::PropertiesProxy::new(&connection, NAME, super::PATH).await.expect("Properties");
    for (interface, property) in
        [("Manager", "Version"), ("Ledger", "Height"), ("Pairing", "State")]
    {
        let interface = format!("org.gatewayd.Gateway1.{interface}");
        let name = zbus::names::InterfaceName::try_from(interface.as_str()).expect("a name");
        let all = properties.get_all(name).await.expect("properties");
        assert!(all.contains_key(property), "{interface}");
        assert!(all.values().all(|value| !matches!(**value, Variant::Fd(_))));
    }
    let missing = Client::connect(&stage.address(), PATIENCE).await.expect("the bus");
    let unknown = missing.sensor("ln1nobody").await.map(drop).expect_err("no such sensor");
    assert!(matches!(unknown, Error::NotInitialised(_)), "{unknown:?}");
}
