//! LoRaWAN through a packet forwarder's UDP: an independent device joins, speaks and misbehaves.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::gateway::Gateway;
use tests::lora::{BareForwarder, LoraDevice};

use crate::serial::readings;

const DEV_EUI: &str = "70B3D57ED0000001";

fn paired(options: &[&str]) -> Result<(Gateway, LoraDevice)> {
    let gateway = Gateway::with_site()?;
    let device = LoraDevice::new(&gateway, DEV_EUI)?;
    device.pair(&gateway, "weather", options)?;
    Ok((gateway, device))
}

pub(crate) fn event<'a>(events: &'a [Value], name: &str) -> Vec<&'a Value> {
    events.iter().filter(|event| event["event"] == name).collect()
}

fn strangers(gateway: &Gateway) -> u64 {
    let status = gateway.ctl_json(&["status"]).unwrap_or_default();
    status["strangers"].as_u64().unwrap_or(0)
}

fn refused(gateway: &Gateway, reason: &str) -> u64 {
    let shown = gateway.ctl_json(&["sensor", "show", "weather"]).unwrap_or_default();
    shown["refused"][reason].as_u64().unwrap_or(0)
}

/// Sorted (epoch, counter) of all readings, once there are as many as expected.
fn counters(gateway: &Gateway, expected: usize) -> Result<Vec<(u64, u64)>> {
    let key = |reading: &Value| Some((reading["epoch"].as_u64()?, reading["counter"].as_u64()?));
    let mut all: Vec<_> = readings(gateway, expected)?.iter().filter_map(key).collect();
    all.sort_unstable();
    Ok(all)
}

#[test]
fn a_device_joins_and_two_forwarders_hear_it_once() -> Result<()> {
    let (gateway, device) = paired(&["--codec", "cayenne"])?;
    let options = ["--uplinks", "4", "--forwarders", "2", "--confirmed", "--retries", "1"];
    let events = device.events(&options)?;
    assert_eq!(event(&events, "ack").len(), 4, "{events:?}");
    ensure!(event(&events, "outside_windows").is_empty(), "{events:?}");
    // Each forwarder was answered; each uplink is there once. The first came while pairing.
    let all = readings(&gateway, 5)?;
    for reading in &all {
        assert_eq!(reading["level"], 1);
        assert_eq!(reading["values"][0]["unit"], "Cel", "{reading}");
        let degrees = reading["values"][0]["value"].as_f64().context("a number")?;
        ensure!((20.0..21.0).contains(&degrees), "{reading}");
    }
    assert_eq!(counters(&gateway, 5)?, [(1, 0), (1, 1), (1, 2), (1, 3), (1, 4)]);
    // An uplink without payload is recorded too; what it asks of the network is answered.
    let asking = ["--uplinks", "1", "--payload", "none", "--confirmed", "--link-check"];
    let events = device.events(&[&asking[..], &["--retries", "1"]].concat())?;
    let answers = event(&events, "ack")[0]["fopts"].as_str().unwrap_or_default();
    ensure!(answers.starts_with("02"), "no LinkCheckAns: {events:?}");
    assert_eq!(counters(&gateway, 6)?.last(), Some(&(1, 5)));
    Ok(())
}

#[test]
fn raw_payloads_are_data_and_a_restart_needs_no_join() -> Result<()> {
    let (mut gateway, device) = paired(&[])?;
    device.events(&["--uplinks", "1", "--payload", "00FF10", "--confirmed"])?;
    let last = readings(&gateway, 2)?.pop().context("a reading")?;
    let shown = last["values"].to_string().to_lowercase();
    ensure!(shown.contains("00ff10"), "{last}");
    gateway.kill()?;
    gateway.start()?;
    let events = device.events(&["--uplinks", "2", "--confirmed", "--retries", "1"])?;
    ensure!(event(&events, "join_sent").is_empty(), "it had to join: {events:?}");
    assert_eq!(counters(&gateway, 4)?, [(1, 0), (1, 1), (1, 2), (1, 3)]);
    gateway.stop()?;
    gateway.start()?;
    // A fresh session is a new epoch; the old one's counters stay.
    let events = device.events(&["--rejoin", "--uplinks", "1", "--confirmed", "--retries", "1"])?;
    assert_eq!(event(&events, "joined").len(), 1, "{events:?}");
    assert_eq!(counters(&gateway, 5)?.last(), Some(&(2, 0)));
    Ok(())
}

#[test]
fn replays_wrong_keys_and_strangers_are_counted_and_not_recorded() -> Result<()> {
    let (gateway, device) = paired(&[])?;
    let before = strangers(&gateway);
    let provocations = ["--replay", "--bad-mic", "--reuse-devnonce", "--stranger"];
    // Long enough apart that a replay is no second forwarder's copy.
    let options = [&["--uplinks", "2", "--interval", "3000"], &provocations[..]].concat();
    let events = device.events(&options)?;
    assert_eq!(event(&events, "refused").len(), 4, "{events:?}");
    gateway.wait_for("the strangers", |gateway| strangers(gateway) >= before + 2)?;
    gateway.wait_for("the refusals", |gateway| {
        refused(gateway, "Replayed") == 1 && refused(gateway, "DevNonceReused") == 1
    })?;
    assert_eq!(counters(&gateway, 3)?, [(1, 0), (1, 1), (1, 2)]);
    let listed = gateway.ctl_json(&["sensor", "list"])?;
    assert_eq!(listed.as_array().map(Vec::len), Some(1), "no stranger is listed");
    Ok(())
}

#[test]
fn the_frame_counter_goes_on_after_sixteen_bits() -> Result<()> {
    let (gateway, device) = paired(&[])?;
    // In steps, as after hours of silence: a jump is not a replay.
    for start in ["16000", "32000", "48000", "65000"] {
        device.events(&["--uplinks", "1", "--fcnt-start", start])?;
    }
    let options = ["--uplinks", "4", "--fcnt-start", "65534", "--confirmed", "--retries", "1"];
    let events = device.events(&options)?;
    assert_eq!(event(&events, "ack").len(), 4, "{events:?}");
    let all = counters(&gateway, 9)?;
    assert_eq!(all[5..], [(1, 65_534), (1, 65_535), (1, 65_536), (1, 65_537)]);
    Ok(())
}

#[test]
fn datagrams_that_are_none_are_survived() -> Result<()> {
    let (gateway, device) = paired(&[])?;
    let forwarder = BareForwarder::new(&gateway)?;
    forwarder.pull()?;
    let deep = [vec![b'['; 10_000], vec![b']'; 10_000]].concat();
    let datagrams: [&[u8]; 9] = [
        b"",
        b"\xff",
        b"{",
        b"{\"rxpk\":7}",
        b"{\"rxpk\":[{\"data\":\"####\",\"size\":4}]}",
        b"{\"rxpk\":[{\"tmst\":1,\"freq\":868.1,\"stat\":1,\"modu\":\"LORA\",\"datr\":\"SF7BW125\",\
          \"codr\":\"4/5\",\"rssi\":-1,\"lsnr\":1,\"size\":3,\"data\":\"QAEC\"}]}",
        b"{\"rxpk\":[{\"tmst\":1,\"freq\":1e999,\"stat\":1,\"modu\":\"LORA\",\"datr\":\"SF99BW1\",\
          \"rssi\":\"x\",\"size\":-1,\"data\":null}]}",
        b"{\"stat\":{\"time\":\"never\",\"lati\":\"north\"}}",
        &deep,
    ];
    for datagram in datagrams {
        forwarder.push(datagram)?;
    }
    for bytes in [&b""[..], b"\x02", b"\x02\x00\x00", b"\x01\x00\x00\x00\x00", &[0xFF; 12]] {
        forwarder.send(bytes)?;
    }
    // As long as UDP allows.
    let mut longest = vec![b' '; 65_507 - 12];
    longest[0] = b'{';
    forwarder.push(&longest)?;
    forwarder.pull()?;
    // MAC commands that are cut off, and unknown ones.
    for commands in ["03", "0306", "05FF", "80FF", "060606060606"] {
        // Whether they are answered is the server's choice.
        device.run(&["--uplinks", "1", "--fopts", commands, "--payload", "01"])?.finish()?;
    }
    let events = device.events(&["--uplinks", "1", "--confirmed", "--retries", "2"])?;
    assert_eq!(event(&events, "ack").len(), 1, "{events:?}");
    assert_eq!(gateway.ctl_json(&["status"])?["state"], "running");
    ensure!(!gateway.log().contains("panicked"), "{}", gateway.log());
    Ok(())
}

#[test]
fn a_forwarder_without_a_way_back_delivers_all_the_same() -> Result<()> {
    let (gateway, device) = paired(&[])?;
    device.events(&["--uplinks", "2", "--no-pull"])?;
    assert_eq!(counters(&gateway, 3)?.len(), 3);
    // Answers that come too late for a window are not sent after it.
    let late = device.run(&["--uplinks", "1", "--confirmed", "--delay", "1400"])?;
    let (_, lines) = late.finish()?;
    ensure!(!lines.iter().any(|line| line.contains("\"outside_windows\"")), "{lines:?}");
    // A forwarder that never says whether it sends loses nothing.
    device.events(&["--uplinks", "1", "--confirmed", "--retries", "2", "--no-tx-ack"])?;
    // One that refuses the first window is asked for the second.
    let refusing = ["--uplinks", "1", "--confirmed", "--tx-error", "COLLISION_PACKET"];
    let events = device.events(&[&refusing[..], &["--retries", "2"]].concat())?;
    assert_eq!(event(&events, "ack").len(), 1, "{events:?}");
    assert_eq!(event(&events, "ack")[0]["window"], "RX2", "{events:?}");
    assert_eq!(counters(&gateway, 6)?.len(), 6);
    Ok(())
}

#[test]
fn a_join_with_another_key_is_named_and_nothing_stays() -> Result<()> {
    let gateway = Gateway::with_site()?;
    let device = LoraDevice::new(&gateway, DEV_EUI)?;
    let other = gateway.dir.path().join("other.key");
    std::fs::write(&other, "00112233445566778899AABBCCDDEEFF\n")?;
    let other = tests::gateway::text(&other)?;
    let command = gateway.ctl_peer(&[
        "pair",
        "lora",
        "--dev-eui",
        DEV_EUI,
        "--join-eui",
        "0000000000000001",
        "--app-key-file",
        other,
        "--window",
        "10",
    ])?;
    command.wait_line("waiting:")?;
    let (code, _) = device.run(&["--join-only", "--join-attempts", "1"])?.finish()?;
    assert_eq!(code, Some(1), "it was answered under another key");
    let (code, lines) = command.finish()?;
    let said = lines.join("\n");
    ensure!(code == Some(1) && said.contains("pairing failed (wrong-key)"), "{code:?} {said}");
    assert_eq!(gateway.ctl_json(&["sensor", "list"])?, json!([]));
    ensure!(strangers(&gateway) > 0, "it is not counted");
    Ok(())
}

#[test]
fn a_device_is_paired_once_and_a_stranger_after_it_was_forgotten() -> Result<()> {
    let (gateway, device) = paired(&[])?;
    let (code, lines) = device.pairing(&gateway, "again", &[])?.finish()?;
    let said = lines.join("\n");
    ensure!(code == Some(4) && said.contains("(already-registered)"), "{code:?} {said}");
    device.events(&["--uplinks", "1", "--confirmed", "--retries", "1"])?;
    gateway.ctl_code(0, &["sensor", "forget", "weather", "--yes"])?;
    assert_eq!(gateway.ctl_json(&["sensor", "list"])?, json!([]));
    let before = strangers(&gateway);
    device.events(&["--uplinks", "2"])?;
    gateway.wait_for("the strangers", |gateway| strangers(gateway) >= before + 2)?;
    assert_eq!(crate::serial::listed(&gateway)?.len(), 2, "a forgotten device was recorded");
    Ok(())
}

#[test]
fn a_port_that_is_taken_is_named() -> Result<()> {
    let mut gateway = Gateway::prepare()?;
    let _taken = std::net::UdpSocket::bind(("127.0.0.1", gateway.lora_port))?;
    gateway.start()?;
    gateway.init_site()?;
    let device = LoraDevice::new(&gateway, DEV_EUI)?;
    let (code, lines) = device.pairing(&gateway, "weather", &[])?.finish()?;
    let said = lines.join("\n");
    ensure!(code == Some(1) && said.contains("UDP port is taken"), "{code:?} {said}");
    let log = gateway.log();
    ensure!(log.contains("LoRaWAN is off"), "{log}");
    Ok(())
}
