#!/usr/bin/env node
// A LoRaWAN 1.0.x device (OTAA, Class A, EU868) and the packet forwarders that hear it.
//
// Stands on the other side of gatewayd's UDP socket and shares no code with it: frames, MICs and
// keys come from npm `lora-packet`. Each event is a line of JSON on stdout; the exit status is 0
// when everything went as the options expect.

"use strict";

const dgram = require("node:dgram");
const fs = require("node:fs");
const { parseArgs } = require("node:util");

const HELP = `Usage: node device.js --app-key-file FILE [options]
  --server HOST:PORT     network server (127.0.0.1:1700)
  --dev-eui HEX          DevEUI (70B3D57ED0000001); with --devices the first one
  --join-eui HEX         JoinEUI (0000000000000001)
  --app-key-file FILE    AppKey, 32 hexadecimal digits
  --devices N            so many devices, DevEUI counting up (1)
  --state FILE           keep DevNonce, session and counters here between runs
  --rejoin               join even if the state has a session
  --join-only            join, send nothing
  --join-attempts N      give up after so many JoinRequests (3)
  --lorawan VERSION      1.0.4 (DevNonce counts up) or 1.0.3 (DevNonce is random) (1.0.4)
  --uplinks N            uplinks to send (3)
  --interval MS          from one uplink to the next (200)
  --confirmed            ask for acknowledgements and wait for each
  --retries N            send an unacknowledged confirmed uplink again so often (0)
  --port N               FPort (2)
  --payload HEX|cayenne|none   payload; cayenne is a temperature; none is a MAC-only uplink
  --fcnt-start N         FCntUp of the first uplink (from the state, or 0)
  --link-check           ask LinkCheckReq in every uplink
  --device-time          ask DeviceTimeReq in every uplink
  --fopts HEX            further MAC commands in every uplink, as they are
  --forwarders N         forwarders that hear the device (1)
  --tx-error CODE        forwarders refuse the first downlink of each uplink with this code
  --no-tx-ack            forwarders never send TX_ACK
  --no-pull              forwarders never open the way back (no PULL_DATA)
  --delay MS             hold every datagram back so long before it is sent (0)
Then, each expecting silence from the server:
  --replay               send the first uplink again
  --bad-mic              send an uplink with a wrong MIC
  --reuse-devnonce       send the last JoinRequest again
  --stranger             send a JoinRequest of an unregistered DevEUI`;

const options = {
  help: { type: "boolean" },
  server: { type: "string", default: "127.0.0.1:1700" },
  "dev-eui": { type: "string", default: "70B3D57ED0000001" },
  "join-eui": { type: "string", default: "0000000000000001" },
  "app-key-file": { type: "string" },
  devices: { type: "string", default: "1" },
  state: { type: "string" },
  rejoin: { type: "boolean" },
  "join-only": { type: "boolean" },
  "join-attempts": { type: "string", default: "3" },
  lorawan: { type: "string", default: "1.0.4" },
  uplinks: { type: "string", default: "3" },
  interval: { type: "string", default: "200" },
  confirmed: { type: "boolean" },
  retries: { type: "string", default: "0" },
  port: { type: "string", default: "2" },
  payload: { type: "string", default: "cayenne" },
  "fcnt-start": { type: "string" },
  "link-check": { type: "boolean" },
  "device-time": { type: "boolean" },
  fopts: { type: "string", default: "" },
  forwarders: { type: "string", default: "1" },
  "tx-error": { type: "string" },
  "no-tx-ack": { type: "boolean" },
  "no-pull": { type: "boolean" },
  delay: { type: "string", default: "0" },
  replay: { type: "boolean" },
  "bad-mic": { type: "boolean" },
  "reuse-devnonce": { type: "boolean" },
  stranger: { type: "boolean" },
};

// EU868 (RP002): the three join channels, then the five that a CFList may add.
const CHANNELS = [868.1, 868.3, 868.5];
const DATA_RATE = "SF7BW125";
const RX2_FREQUENCY = 869.525;
const RX2_DATA_RATE = "SF12BW125";
const JOIN_DELAY_US = 5_000_000;
const RECEIVE_DELAY_US = 1_000_000;
const RX2_AFTER_US = 1_000_000;
// A forwarder needs a downlink so long before it goes out (lora_pkt_fwd's JIT queue).
const JIT_MARGIN_US = 40_000;
// What the network and this process may add before a window counts as missed.
const PATIENCE_MS = 600;

// GWMP version 2.
const PUSH_DATA = 0, PUSH_ACK = 1, PULL_DATA = 2, PULL_RESP = 3, PULL_ACK = 4, TX_ACK = 5;

const started = process.hrtime.bigint();
const elapsedUs = () => Number((process.hrtime.bigint() - started) / 1000n);
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const emit = (event, fields = {}) =>
  process.stdout.write(`${JSON.stringify({ event, at_ms: Math.round(elapsedUs() / 1000), ...fields })}\n`);

class Failure extends Error {}

// A packet forwarder: one socket up, one down, as the real one has, and a microsecond counter.
class Forwarder {
  constructor(index, settings) {
    this.settings = settings;
    this.eui = Buffer.from(`AA555A00000001${(index + 1).toString(16).padStart(2, "0")}`, "hex");
    // The first one's counter wraps around soon after the start.
    this.epochUs = index === 0 ? 4_294_967_296 - 3_000_000 : 1_000_000 * (index + 1);
    this.snr = index === 0 ? 5.5 : 9.25;
    this.rssi = index === 0 ? -71 : -60;
    this.token = 0;
    this.refused = new Set();
    this.listeners = new Set();
    this.up = dgram.createSocket("udp4");
    this.down = dgram.createSocket("udp4");
    this.up.on("message", (bytes) => {
      if (bytes.length === 4 && bytes[0] === 2 && bytes[3] === PUSH_ACK) {
        this.pushAcks = (this.pushAcks ?? 0) + 1;
      }
    });
    this.down.on("message", (bytes) => this.fromServer(bytes));
  }

  tmst() {
    return (this.epochUs + elapsedUs()) % 4_294_967_296;
  }

  header(kind) {
    this.token = (this.token + 1) & 0xffff;
    return Buffer.concat([Buffer.from([2, this.token >> 8, this.token & 0xff, kind]), this.eui]);
  }

  send(socket, bytes) {
    const { host, port } = this.settings.server;
    socket.send(bytes, port, host);
  }

  // Opens the way back and waits until the server has confirmed it.
  async open() {
    if (this.settings.noPull) return;
    for (let attempt = 0; attempt < 50 && !this.pulled; attempt += 1) {
      const acknowledged = new Promise((resolve) => (this.onPullAck = resolve));
      this.send(this.down, this.header(PULL_DATA));
      await Promise.race([acknowledged, sleep(200)]);
    }
    if (!this.pulled) throw new Failure("the server does not answer PULL_DATA");
    emit("pull_ack", { forwarder: this.eui.toString("hex") });
    this.keepAlive = setInterval(() => this.send(this.down, this.header(PULL_DATA)), 5_000);
  }

  close() {
    clearInterval(this.keepAlive);
    this.up.close();
    this.down.close();
  }

  // A frame ended on the air now.
  hear(phy, frequency) {
    const tmst = this.tmst();
    const rxpk = {
      tmst, chan: 0, rfch: 0, freq: frequency, stat: 1, modu: "LORA", datr: DATA_RATE,
      codr: "4/5", rssi: this.rssi, lsnr: this.snr, size: phy.length, data: phy.toString("base64"),
    };
    const datagram = Buffer.concat([this.header(PUSH_DATA), Buffer.from(JSON.stringify({ rxpk: [rxpk] }))]);
    setTimeout(() => this.send(this.up, datagram), this.settings.delayMs);
    return tmst;
  }

  fromServer(bytes) {
    if (bytes.length < 4 || bytes[0] !== 2) return;
    if (bytes[3] === PULL_ACK) {
      this.pulled = true;
      this.onPullAck?.();
    } else if (bytes[3] === PULL_RESP) {
      this.transmit(bytes.subarray(1, 3), JSON.parse(bytes.subarray(4).toString()).txpk);
    }
  }

  transmit(token, txpk) {
    const phy = Buffer.from(txpk.data, "base64");
    const aheadUs = (txpk.tmst - this.tmst() + 2 ** 33) % 2 ** 32;
    const { txError, noTxAck } = this.settings;
    let error = "NONE";
    if (phy.length !== txpk.size || txpk.modu !== "LORA" || txpk.ipol !== true || txpk.imme !== false) {
      throw new Failure(`the server sent a strange txpk: ${JSON.stringify(txpk)}`);
    }
    if (aheadUs > 30_000_000 || aheadUs < JIT_MARGIN_US) error = "TOO_LATE";
    else if (txError && !this.refused.has(txpk.data)) error = txError;
    emit("pull_resp", {
      forwarder: this.eui.toString("hex"), freq: txpk.freq, datr: txpk.datr, powe: txpk.powe,
      ahead_ms: Math.round(aheadUs / 1000), tx_ack: noTxAck ? null : error,
    });
    if (!noTxAck) {
      const head = Buffer.concat([Buffer.from([2, token[0], token[1], TX_ACK]), this.eui]);
      this.send(this.down, Buffer.concat([head, Buffer.from(JSON.stringify({ txpk_ack: { error } }))]));
    }
    if (error !== "NONE") {
      this.refused.add(txpk.data);
      return;
    }
    const sent = { phy, tmst: txpk.tmst, freq: txpk.freq, datr: txpk.datr, forwarder: this };
    this.listeners.forEach((listener) => listener(sent));
  }
}

const msb = (fcnt) => Buffer.from([(fcnt >> 16) & 0xff, (fcnt >>> 24) & 0xff]);

class Device {
  constructor(lora, settings, forwarders, index) {
    Object.assign(this, { lora, settings, forwarders });
    this.devEui = Buffer.alloc(8);
    this.devEui.writeBigUInt64BE(settings.devEui.readBigUInt64BE() + BigInt(index));
    this.name = this.devEui.toString("hex").toUpperCase();
    this.saved = { devNonce: 0 };
  }

  emit(event, fields = {}) {
    emit(event, { dev_eui: this.name, ...fields });
  }

  // Sends a frame through all forwarders and gives the first downlink that comes in a receive
  // window and that `accept` understands, or null.
  async exchange(phy, rx1DelayUs, accept, timeoutMs) {
    const channel = CHANNELS[Math.floor(Math.random() * CHANNELS.length)];
    const sentUs = elapsedUs();
    const heard = new Map(this.forwarders.map((one) => [one, one.hear(phy, channel)]));
    return new Promise((resolve) => {
      const finish = (result) => {
        clearTimeout(timer);
        this.forwarders.forEach((one) => one.listeners.delete(listener));
        resolve(result);
      };
      const listener = (downlink) => {
        const afterUs = (downlink.tmst - heard.get(downlink.forwarder) + 2 ** 32) % 2 ** 32;
        const window = windowOf(afterUs, rx1DelayUs, downlink, channel);
        const content = window && accept(downlink.phy);
        if (!content) return;
        const latencyMs = Math.round((elapsedUs() - sentUs) / 1000);
        finish({ content, window, latency_ms: latencyMs, forwarder: downlink.forwarder.eui.toString("hex") });
      };
      const timer = setTimeout(() => finish(null), timeoutMs);
      this.forwarders.forEach((one) => one.listeners.add(listener));
    });
  }

  joinRequest(devEui, devNonce) {
    const DevNonce = Buffer.from([devNonce >> 8, devNonce & 0xff]);
    const fields = { MType: "Join Request", AppEUI: this.settings.joinEui, DevEUI: devEui, DevNonce };
    return this.lora.fromFields(fields, null, null, this.settings.appKey).getPHYPayload();
  }

  joinAccept(phy, devNonce) {
    const { lora } = this;
    const { appKey } = this.settings;
    const encrypted = lora.fromWire(phy);
    if (encrypted.getMType() !== "Join Accept") return null;
    const accept = lora.fromWire(lora.decryptJoinAccept(encrypted, appKey));
    if (!lora.verifyMIC(accept, null, appKey)) return null;
    const nonce = Buffer.from([devNonce >> 8, devNonce & 0xff]);
    const joinNonce = accept.AppNonce.readUIntBE(0, 3);
    // LoRaWAN 1.0.4: JoinNonce only grows.
    if (this.settings.version === "1.0.4" && joinNonce <= (this.saved.joinNonce ?? 0)) {
      this.emit("join_nonce_not_growing", { join_nonce: joinNonce });
      return null;
    }
    const { AppSKey, NwkSKey } = lora.generateSessionKeys10(appKey, accept.NetID, accept.AppNonce, nonce);
    return {
      joinNonce,
      cflist: accept.CFList.toString("hex"),
      session: {
        devAddr: accept.DevAddr.toString("hex"),
        appSKey: AppSKey.toString("hex"),
        nwkSKey: NwkSKey.toString("hex"),
        fcntUp: 0,
        fcntDown: null,
      },
    };
  }

  async join() {
    for (let attempt = 1; attempt <= this.settings.joinAttempts; attempt += 1) {
      const random = this.settings.version !== "1.0.4";
      this.saved.devNonce = random ? Math.floor(Math.random() * 65_536) : this.saved.devNonce + 1;
      const { devNonce } = this.saved;
      this.save();
      this.lastJoin = this.joinRequest(this.devEui, devNonce);
      this.emit("join_sent", { dev_nonce: devNonce, attempt });
      const answer = await this.exchange(
        this.lastJoin, JOIN_DELAY_US, (phy) => this.joinAccept(phy, devNonce), 6_000 + PATIENCE_MS,
      );
      if (answer) {
        const { joinNonce, cflist, session } = answer.content;
        this.saved.session = session;
        this.saved.joinNonce = joinNonce;
        this.save();
        const { window, latency_ms, forwarder } = answer;
        this.emit("joined", { dev_addr: session.devAddr, join_nonce: joinNonce, cflist, window, latency_ms, forwarder });
        return;
      }
      this.emit("join_unanswered", { attempt });
    }
    throw new Failure(`${this.name} could not join`);
  }

  payload(number) {
    const { payload } = this.settings;
    if (payload === "none") return null;
    if (payload !== "cayenne") return Buffer.from(payload, "hex");
    // Channel 1, temperature, tenths of a degree: 20.0, 20.1 …
    const tenths = 200 + (number % 100);
    return Buffer.from([1, 0x67, tenths >> 8, tenths & 0xff]);
  }

  dataUp(fcnt, payload) {
    const { lora } = this;
    const { session } = this.saved;
    const { confirmed, port, fopts } = this.settings;
    const [app, nwk] = [Buffer.from(session.appSKey, "hex"), Buffer.from(session.nwkSKey, "hex")];
    const fields = {
      MType: confirmed ? "Confirmed Data Up" : "Unconfirmed Data Up",
      DevAddr: Buffer.from(session.devAddr, "hex"),
      FCnt: Buffer.from([(fcnt >> 8) & 0xff, fcnt & 0xff]),
      FOpts: fopts,
      payload: payload ?? Buffer.alloc(0),
    };
    if (payload) fields.FPort = port;
    const packet = lora.fromFields(fields, app, nwk, null, msb(fcnt));
    // fromFields leaves the MIC out when there is no FPort.
    const mic = lora.calculateMIC(packet, nwk, null, msb(fcnt));
    return Buffer.concat([packet.getPHYPayload().subarray(0, -4), mic]);
  }

  dataDown(phy) {
    const { lora } = this;
    const { session } = this.saved;
    const packet = lora.fromWire(phy);
    if (packet.getMType() !== "Unconfirmed Data Down" && packet.getMType() !== "Confirmed Data Down") return null;
    if (packet.DevAddr.toString("hex") !== session.devAddr) return null;
    // FCntDown only grows; the next one with these 16 bits.
    const last = session.fcntDown ?? -1;
    let fcnt = (last & ~0xffff) | packet.getFCnt();
    if (last < 0) fcnt = packet.getFCnt();
    else if (fcnt <= last) fcnt += 0x10000;
    if (!lora.verifyMIC(packet, Buffer.from(session.nwkSKey, "hex"), null, msb(fcnt))) {
      this.emit("downlink_refused", { reason: "MIC or FCntDown", fcnt_16: packet.getFCnt(), last_fcnt: last });
      return null;
    }
    session.fcntDown = fcnt;
    this.save();
    return { ack: packet.getFCtrlACK(), fcnt_down: fcnt, fopts: packet.FOpts.toString("hex") };
  }

  wantsAnswer() {
    const { confirmed, fopts, linkCheck, deviceTime } = this.settings;
    return confirmed || linkCheck || deviceTime || fopts.length > 0;
  }

  async uplink(number) {
    const { session } = this.saved;
    const fcnt = session.fcntUp;
    const phy = this.dataUp(fcnt, this.payload(number));
    session.fcntUp = fcnt + 1;
    this.save();
    this.firstUplink ??= { phy, fcnt };
    for (let attempt = 0; attempt <= this.settings.retries; attempt += 1) {
      this.emit("uplink_sent", { fcnt, bytes: phy.length, attempt });
      if (!this.wantsAnswer()) {
        this.forwarders.forEach((one) => one.hear(phy, CHANNELS[0]));
        return true;
      }
      const answer = await this.exchange(phy, RECEIVE_DELAY_US, (down) => this.dataDown(down), 2_000 + PATIENCE_MS);
      if (answer && (answer.content.ack || !this.settings.confirmed)) {
        const { window, latency_ms, forwarder } = answer;
        this.emit("ack", { fcnt, ...answer.content, window, latency_ms, forwarder });
        return true;
      }
      this.emit("no_ack", { fcnt, attempt });
    }
    return !this.settings.confirmed;
  }

  // Sends what the server must not answer.
  async expectSilence(what, phy, rx1DelayUs, accept) {
    this.emit("provoking", { what });
    const answer = await this.exchange(phy, rx1DelayUs, accept, rx1DelayUs / 1_000 + 1_000 + PATIENCE_MS);
    if (answer) throw new Failure(`the server answered: ${what}`);
    this.emit("refused", { what });
  }

  async provoke() {
    const { replay, badMic, reuseDevNonce, stranger } = this.settings;
    const anyJoin = (phy) => this.lora.fromWire(phy).getMType() === "Join Accept";
    if (replay && this.firstUplink) {
      await this.expectSilence("replay", this.firstUplink.phy, RECEIVE_DELAY_US, (phy) => this.dataDown(phy));
    }
    if (badMic) {
      const phy = this.dataUp(this.saved.session.fcntUp, this.payload(0));
      phy[phy.length - 1] ^= 0x55;
      await this.expectSilence("bad_mic", phy, RECEIVE_DELAY_US, (down) => this.dataDown(down));
    }
    if (reuseDevNonce) {
      const phy = this.lastJoin ?? this.joinRequest(this.devEui, this.saved.devNonce);
      await this.expectSilence("reuse_devnonce", phy, JOIN_DELAY_US, anyJoin);
    }
    if (stranger) {
      const devEui = Buffer.from("DEADDEADDEADDEAD", "hex");
      await this.expectSilence("stranger", this.joinRequest(devEui, 1), JOIN_DELAY_US, anyJoin);
    }
  }

  save() {
    this.settings.save?.(this.name, this.saved);
  }

  async run() {
    const { settings } = this;
    if (!this.saved.session || settings.rejoin || settings.joinOnly) await this.join();
    if (settings.joinOnly) return { acknowledged: 0, sent: 0 };
    if (settings.fcntStart !== undefined) this.saved.session.fcntUp = settings.fcntStart;
    let acknowledged = 0;
    for (let number = 0; number < settings.uplinks; number += 1) {
      if (number > 0) await sleep(settings.interval);
      if (await this.uplink(number)) acknowledged += 1;
    }
    await this.provoke();
    return { acknowledged, sent: settings.uplinks };
  }
}

// RX1 or RX2 when the downlink is sent exactly there, on that window's frequency and data rate.
function windowOf(afterUs, rx1DelayUs, { freq, datr }, uplinkFrequency) {
  if (afterUs === rx1DelayUs && freq === uplinkFrequency && datr === DATA_RATE) return "RX1";
  const rx2 = afterUs === rx1DelayUs + RX2_AFTER_US;
  if (rx2 && freq === RX2_FREQUENCY && datr === RX2_DATA_RATE) return "RX2";
  emit("outside_windows", { after_ms: Math.round(afterUs / 1000), freq, datr });
  return null;
}

function hex(text, bytes, what) {
  const clean = (text ?? "").trim().replace(/[:-]/g, "");
  if (!new RegExp(`^[0-9a-fA-F]{${bytes * 2}}$`).test(clean)) throw new Failure(`${what} is not ${bytes * 2} hexadecimal digits`);
  return Buffer.from(clean, "hex");
}

function count(text, what) {
  if (!/^\d+$/.test(text)) throw new Failure(`${what} is not a number`);
  return Number(text);
}

function stateFile(path) {
  if (!path) return { read: () => undefined };
  const all = fs.existsSync(path) ? JSON.parse(fs.readFileSync(path, "utf8")) : {};
  return {
    read: (name) => all[name],
    save: (name, saved) => {
      all[name] = saved;
      fs.writeFileSync(`${path}.new`, JSON.stringify(all), { mode: 0o600 });
      fs.renameSync(`${path}.new`, path);
    },
  };
}

function settingsFrom(values) {
  const [, host, port] = /^(.+):(\d+)$/.exec(values.server) ?? [];
  if (!host) throw new Failure("--server is not HOST:PORT");
  if (!values["app-key-file"]) throw new Failure("--app-key-file is needed; see --help");
  const payload = values.payload;
  if (!["cayenne", "none"].includes(payload)) hex(payload, payload.length / 2, "--payload");
  const fopts = (values["link-check"] ? "02" : "") + (values["device-time"] ? "0d" : "") + values.fopts;
  return {
    server: { host, port: Number(port) },
    devEui: hex(values["dev-eui"], 8, "--dev-eui"),
    joinEui: hex(values["join-eui"], 8, "--join-eui"),
    appKey: hex(fs.readFileSync(values["app-key-file"], "utf8"), 16, "the AppKey"),
    devices: count(values.devices, "--devices"),
    rejoin: values.rejoin,
    joinOnly: values["join-only"],
    joinAttempts: count(values["join-attempts"], "--join-attempts"),
    version: values.lorawan,
    uplinks: count(values.uplinks, "--uplinks"),
    interval: count(values.interval, "--interval"),
    confirmed: values.confirmed,
    retries: count(values.retries, "--retries"),
    port: count(values.port, "--port"),
    payload,
    fcntStart: values["fcnt-start"] === undefined ? undefined : count(values["fcnt-start"], "--fcnt-start"),
    linkCheck: values["link-check"],
    deviceTime: values["device-time"],
    fopts,
    forwarders: count(values.forwarders, "--forwarders"),
    txError: values["tx-error"],
    noTxAck: values["no-tx-ack"],
    noPull: values["no-pull"],
    delayMs: count(values.delay, "--delay"),
    replay: values.replay,
    badMic: values["bad-mic"],
    reuseDevNonce: values["reuse-devnonce"],
    stranger: values.stranger,
  };
}

async function main() {
  const { values } = parseArgs({ options });
  if (values.help) {
    console.log(HELP);
    return;
  }
  let lora;
  try {
    lora = require("lora-packet");
  } catch {
    throw new Failure("npm package lora-packet is missing: run `npm ci` in the folder of this script");
  }
  const settings = settingsFrom(values);
  const state = stateFile(values.state);
  settings.save = state.save;
  const forwarders = Array.from({ length: settings.forwarders }, (_, index) => new Forwarder(index, settings));
  try {
    await Promise.all(forwarders.map((one) => one.open()));
    const devices = Array.from({ length: settings.devices }, (_, index) => {
      const device = new Device(lora.default ?? lora, settings, forwarders, index);
      device.saved = state.read(device.name) ?? device.saved;
      return device;
    });
    const results = await Promise.all(devices.map((device) => device.run()));
    // The last PUSH_ACKs are under way.
    await sleep(settings.delayMs + 100);
    const total = (field) => results.reduce((sum, result) => sum + result[field], 0);
    const pushAcks = forwarders.reduce((sum, one) => sum + (one.pushAcks ?? 0), 0);
    emit("done", { sent: total("sent"), answered: total("acknowledged"), push_acks: pushAcks });
    if (total("sent") !== total("acknowledged")) throw new Failure("not every uplink was acknowledged");
  } finally {
    forwarders.forEach((one) => one.close());
  }
}

function fail(error) {
  emit("failed", { reason: error instanceof Failure ? error.message : String(error.stack ?? error) });
  process.exitCode = 1;
}

// What is thrown inside a socket's callback ends the run too.
process.on("uncaughtException", (error) => {
  fail(error);
  process.exit();
});
main().catch(fail);
