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
        for (path, port) in &self.ports {
            let state = port.state().await?;
            refused.extend(state.refused);
            links.insert(path.clone(), state.link);
        }
        if let Some(lora) = &self.lora {
            let state = lora.state().await?;
            refused.extend(state.refused);
            let forwarders = state.forwarders;
            links.insert("LoRaWAN".into(), format!("{forwarders} packet forwarder(s)"));
        }
        let now = self.parts.shared.clock.borrow().now().0;
        let describe = |sensor: &Sensor| {
            let place = sensor.settings.link.place();
            let link_state = links.get(&place).cloned();
            let refused = refused.get(&sensor.node).cloned().unwrap_or_default();
            describe(sensor, on_record.get(&sensor.node), &heard, now, link_state, refused)
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

fn describe(
    sensor: &Sensor,
    on_record: Option<&OnRecord>,
    heard: &Heard,
    now: u64,
    link_state: Option<String>,
    refused: BTreeMap<String, u64>,
) -> SensorInfo {
    let link = &sensor.settings.link;
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
        link_state: link_state.unwrap_or_else(|| "not open".into()),
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
