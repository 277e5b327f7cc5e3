//! Sensors as people see them: what is kept, what is on the record, what was heard.

use std::collections::{BTreeMap, HashMap};

use drivers::reading::Level;
use ledger::ids::NodeId;
use ledger::state::{LightNode, SessionRecord};
use ledger::transaction::CounterRange;

use super::candidate::Sensor;
use super::owner::Owner;
use super::settings::identity_words;
use crate::control::{Result, SensorInfo};
use crate::ingest::{Heard, leaf};
use crate::presence;
use crate::store::NodeBytes;

/// What the record says of a sensor.
type OnRecord = (LightNode, Option<SessionRecord>, Option<NodeId>);

impl Owner {
    pub(super) async fn list(&self) -> Result<Vec<SensorInfo>> {
        let nodes: Vec<_> = self.sensors.keys().copied().collect();
        let on_record = self.parts.ledger.view(move |state| {
            let look = |node: NodeBytes| {
                let id = NodeId(node);
                let known = state.light_node(&id)?.clone();
                let session = state.session(&id).cloned();
                Some((node, (known, session, state.serving_gateway(&id))))
            };
            nodes.into_iter().filter_map(look).collect::<HashMap<NodeBytes, OnRecord>>()
        });
        let on_record = on_record.await?;
        let heard = self.parts.shared.ingest.heard().await?;
        let mut links = HashMap::new();
        let mut refused: HashMap<NodeBytes, BTreeMap<String, u64>> = HashMap::new();
        let mut over = HashMap::new();
        for (path, port) in &self.ports {
            let state = port.state().await?;
            refused.extend(state.refused);
            links.insert(path.clone(), state.link);
        }
        if let Some(lora) = &self.lora {
            let state = lora.state().await?;
            refused.extend(state.refused);
            over = state.over;
            let forwarders = state.forwarders;
            links.insert("LoRaWAN".into(), format!("{forwarders} packet forwarder(s)"));
        }
        let now = self.parts.shared.clock.borrow().now().0;
        let describe = |sensor: &Sensor| {
            let place = sensor.settings.link.place();
            let link_state = links.get(&place).cloned();
            let refused = refused.get(&sensor.node).cloned().unwrap_or_default();
            let over = over.get(&sensor.node).map(|bridge| NodeId(*bridge));
            let link = Link { state: link_state, refused, over };
            describe(sensor, on_record.get(&sensor.node), &heard, now, link)
        };
        Ok(self.sensors.values().map(describe).collect())
    }
}

/// Gaps as people see them: the open end of an earlier epoch is not missing, and no counter below
/// the first one that its link uses ever comes.
fn missing(gaps: &[CounterRange], first: u64) -> Vec<(u64, u64)> {
    let known = gaps.iter().filter(|gap| gap.last != u64::MAX);
    let ranges = known.map(|gap| (gap.first.max(first), gap.last));
    ranges.filter(|(first, last)| first <= last).collect()
}

/// What its driver says of its link.
struct Link {
    state: Option<String>,
    refused: BTreeMap<String, u64>,
    /// The bridge that it was heard over last.
    over: Option<NodeId>,
}

/// What it means that frames come over a bridge.
fn bridge_words(level: Level) -> String {
    let worth = match level {
        Level::Observed => {
            "a reading of level 0 is as good as the bridge's word: whoever has the bridge can \
             invent it"
        }
        _ => "it has no key of the sensor: it can withhold frames and not make them",
    };
    format!("frames come over a bridge, which vouches for nothing; {worth}")
}

fn describe(
    sensor: &Sensor,
    on_record: Option<&OnRecord>,
    heard: &Heard,
    now: u64,
    Link { state, refused, over }: Link,
) -> SensorInfo {
    let link = &sensor.settings.link;
    let bridge = link.bridge().map(str::to_owned).or(over.map(NodeId::to_gateway_string));
    let newest = heard.newest.get(&sensor.node);
    let heard_ms = newest.map(|entry| entry.time_ms);
    let interval_s = sensor.settings.interval_s;
    let session = on_record.and_then(|record| record.1.as_ref());
    let level: Level =
        newest.and_then(|entry| Level::from_number(entry.level)).unwrap_or(link.level());
    SensorInfo {
        id: NodeId(sensor.node).to_light_node_string(),
        name: sensor.name.clone(),
        kind: link.kind(),
        identity: identity_words(&sensor.identity),
        level: level.number(),
        level_words: level.sentence(),
        presence: presence::presence(now, heard_ms, interval_s).word(),
        standing: on_record
            .map_or("not on the record", |record| record.0.standing.standing.word())
            .into(),
        label: "light node".into(),
        serving: on_record.and_then(|record| record.2).map(|id| id.to_gateway_string()),
        link: link.place(),
        bridge_words: bridge.is_some().then(|| bridge_words(level)),
        bridge,
        link_state: state.unwrap_or_else(|| "not open".into()),
        epoch: session.map_or(0, |session| session.counters.epoch),
        highest: session.and_then(|session| session.counters.highest),
        gaps: session
            .map_or_else(Vec::new, |session| missing(&session.counters.gaps, link.first_counter())),
        last_heard_ms: heard_ms,
        interval_s: (interval_s > 0).then_some(interval_s),
        last_reading: newest.map(|entry| {
            let mut reading = leaf::describe(entry, None);
            reading.sensor_name.clone_from(&sensor.name);
            reading
        }),
        refused,
        mobility: link.mobility(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_readings_that_may_have_been_are_missing() {
        let range = |epoch, first, last| CounterRange { epoch, first, last };
        let gaps = [range(1, 0, 0), range(1, 4, 6), range(1, 9, u64::MAX), range(2, 0, 3)];
        assert_eq!(missing(&gaps, 1), [(4, 6), (1, 3)]);
        assert_eq!(missing(&gaps, 0), [(0, 0), (4, 6), (0, 3)]);
    }
}
