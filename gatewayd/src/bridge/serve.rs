//! One connection of a bridge to its member, from the offer to its end.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use drivers::serial::link::{Event, Link, Settings, Writer, ports};
use ledger::codec::{Decode, Encode, Text};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;

use super::frame::{FromBridge, FromMember, MAX_PORTS, WINDOW, cost};
use super::lender::Teller;
use super::lending::{Effect, Input, Lending};
use super::radio::RadioSide;
use crate::control::JoinStep;
use crate::peers::{BridgeEnd, BridgeFrame, BridgeLink, BridgeSender};

/// How often it is looked whether a port was plugged in or pulled.
const PORTS_EVERY: Duration = Duration::from_secs(2);

/// Events of ports that wait; a port that has more waits.
const QUEUE: usize = 64;

/// Why a connection is over.
#[derive(Debug)]
pub(super) enum Ended {
    /// The member has not let this bridge in, or lets it in no more.
    NotLetIn,
    /// It was lost.
    Lost {
        /// Whether the member had let it in.
        welcome: bool,
        /// Why, in words.
        why: String,
    },
}

/// Serves one connection to its end; the ports that the member had open are closed then.
pub(super) async fn serve(link: &BridgeLink, radio: &mut RadioSide, teller: &Teller) -> Ended {
    let (events_in, mut events) = mpsc::channel(QUEUE);
    let sender = link.sender();
    let mut serving = Serving {
        sender: sender.clone(),
        lending: Lending::default(),
        open: HashMap::new(),
        events: events_in,
        told: None,
        site: None,
    };
    let mut look = tokio::time::interval(PORTS_EVERY);
    let why = loop {
        let welcome = serving.site.is_some();
        tokio::select! {
            frame = link.next() => match frame {
                Ok(BridgeFrame::Radio(bytes)) => if let Err(error) = radio.down(&bytes).await {
                    break error.to_string();
                },
                Ok(BridgeFrame::Serial(bytes)) => match serving.said(&bytes) {
                    Ok(()) => if !welcome && let Some(site) = serving.site.clone() {
                        radio.reopen(&sender);
                        teller.tell(JoinStep::Done, format!("a bridge of {site}"));
                        serving.show(radio, teller);
                    },
                    Err(why) => break why,
                },
                Err(BridgeEnd::NotLetIn) => return Ended::NotLetIn,
                Err(BridgeEnd::Other(why)) => break why.to_owned(),
            },
            Some((port, event)) = events.recv() => {
                if let Err(why) = serving.step(Input::Port(port, event)) {
                    break why;
                }
            }
            () = radio.up(welcome.then_some(&sender)) => {}
            _ = look.tick(), if welcome => {
                if let Err(why) = serving.tell_ports().await {
                    break why;
                }
                serving.show(radio, teller);
            }
        }
    };
    Ended::Lost { welcome: serving.site.is_some(), why }
}

struct Serving {
    sender: BridgeSender,
    lending: Lending,
    open: HashMap<u16, Port>,
    events: mpsc::Sender<(u16, Event)>,
    /// The ports that the member was told of.
    told: Option<Vec<String>>,
    /// Name of the member's site, once it has let this bridge in.
    site: Option<String>,
}

/// A port that the member has open.
struct Port {
    writer: Writer,
    /// How much of it may be read.
    window: Arc<Semaphore>,
    reading: JoinHandle<()>,
}

impl Drop for Port {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

impl Serving {
    fn said(&mut self, bytes: &[u8]) -> Result<(), String> {
        let message = FromMember::from_bytes(bytes).map_err(|error| error.to_string())?;
        self.step(Input::Said(message))
    }

    fn step(&mut self, input: Input) -> Result<(), String> {
        for effect in self.lending.step(input) {
            match effect {
                Effect::Welcome(site) => self.site = Some(site),
                Effect::Send(message) => self.send(&message)?,
                Effect::Open { port, path, baud } => {
                    let opened = Port::open(port, &path, baud, self.events.clone());
                    self.open.insert(port, opened);
                }
                Effect::Close(port) => drop(self.open.remove(&port)),
                Effect::Write(port, bytes) => {
                    // What a port does not take is dropped: sensors repeat.
                    let _ = self.open.get(&port).map(|open| open.writer.write(bytes));
                }
                Effect::Read(port, taken) => {
                    if let Some(open) = self.open.get(&port) {
                        open.window.add_permits(taken as usize);
                    }
                }
                Effect::Misbehaved(why) => return Err(why.to_owned()),
            }
        }
        Ok(())
    }

    fn send(&self, message: &FromBridge) -> Result<(), String> {
        // All windows together have room in the queue, so a full one means a broken connection.
        self.sender.serial(message.to_bytes()).map_err(|error| error.to_string())
    }

    /// Tells the member which ports there are, when they are others than before.
    async fn tell_ports(&mut self) -> Result<(), String> {
        let found = tokio::task::spawn_blocking(ports).await.unwrap_or_default();
        let names = found.iter().filter_map(|port| port.path.to_str().map(str::to_owned));
        let names: Vec<String> = names.take(MAX_PORTS).collect();
        if self.told.as_ref() == Some(&names) {
            return Ok(());
        }
        let list = names.iter().filter_map(|name| Text::new(name.as_str()).ok()).collect();
        self.told = Some(names);
        self.send(&FromBridge::Ports(list))
    }

    fn show(&self, radio: &RadioSide, teller: &Teller) {
        teller.figures(|shown| {
            shown.forwarders = radio.forwarders.count() as u64;
            (shown.uplinks, shown.downlinks) = (radio.uplinks, radio.downlinks);
            shown.dropped = radio.lost + self.sender.dropped();
            shown.ports = self.told.clone().unwrap_or_default();
            shown.ports_open = self.lending.count() as u64;
            shown.failed.clone_from(&radio.failed);
        });
    }
}

impl Port {
    fn open(number: u16, path: &str, baud: u32, events: mpsc::Sender<(u16, Event)>) -> Self {
        let link = Link::spawn(Settings { baud, ..Settings::new(path) });
        let (writer, window) = (link.writer(), Arc::new(Semaphore::new(WINDOW as usize)));
        let reading = tokio::spawn(read(link, number, Arc::clone(&window), events));
        Self { writer, window, reading }
    }
}

/// Brings what comes from a port, no faster than the member takes it: then the system's buffer
/// fills, and what a sensor says beyond that is lost on the wire, as on any cable.
async fn read(
    mut link: Link,
    number: u16,
    window: Arc<Semaphore>,
    events: mpsc::Sender<(u16, Event)>,
) {
    while let Some(event) = link.next().await {
        if let Event::Bytes(bytes) = &event {
            let Ok(room) = window.acquire_many(cost(bytes)).await else { return };
            room.forget();
        }
        if events.send((number, event)).await.is_err() {
            return;
        }
    }
}
