#!/usr/bin/env python3
"""A shared-key sensor on a serial line, written from drivers/PROTOCOL.md alone.

Python 3.9 or later, standard library only. It shares no code with the gateway, so that the demo
and the daemon tests prove the protocol and not a mirror.

  serial_sensor.py PORT --key-file FILE [--count N] [--interval S] [--value V] ...
  serial_sensor.py --new-key FILE      writes a fresh printed code
  serial_sensor.py --vectors           prints the vectors of PROTOCOL.md section 8
  serial_sensor.py --selftest FILE     checks the primitives, and the vectors in FILE

Prints one line an event: hello, joined ID, sent N, acknowledged N, lost, done.
Exit status: 0 all readings acknowledged; 1 not in time; 2 wrong use; 3 an attack was answered.
"""

import argparse
import hashlib
import hmac
import json
import os
import random
import select
import struct
import sys
import termios
import time
import tty

LABEL = b"gatewayd-serial-1"
HELLO, CHALLENGE, CONFIRM, READING, BYTES, ACK = 0x11, 0x12, 0x13, 0x14, 0x15, 0x16
MASK = (1 << 64) - 1


# --- Ascon-AEAD128, NIST SP 800-232 ---------------------------------------------------------------

def permute(s, rounds):
    """Ascon-p[rounds], section 3: constant addition, substitution, linear diffusion."""
    def rot(x, n):
        return (x >> n) | (x << (64 - n)) & MASK
    constants = (0xF0, 0xE1, 0xD2, 0xC3, 0xB4, 0xA5, 0x96, 0x87, 0x78, 0x69, 0x5A, 0x4B)
    for constant in constants[12 - rounds:]:
        x0, x1, x2, x3, x4 = s
        x2 ^= constant
        x0 ^= x4
        x4 ^= x3
        x2 ^= x1
        t0, t1, t2 = x0 ^ (~x1 & x2), x1 ^ (~x2 & x3), x2 ^ (~x3 & x4)
        t3, t4 = x3 ^ (~x4 & x0), x4 ^ (~x0 & x1)
        t1 ^= t0
        t0 ^= t4
        t3 ^= t2
        t2 = ~t2
        x0, x1, x2, x3, x4 = t0 & MASK, t1 & MASK, t2 & MASK, t3 & MASK, t4 & MASK
        s[0] = x0 ^ rot(x0, 19) ^ rot(x0, 28)
        s[1] = x1 ^ rot(x1, 61) ^ rot(x1, 39)
        s[2] = x2 ^ rot(x2, 1) ^ rot(x2, 6)
        s[3] = x3 ^ rot(x3, 10) ^ rot(x3, 17)
        s[4] = x4 ^ rot(x4, 7) ^ rot(x4, 41)


def words(block):
    """Section 2.1 and appendix A: bytes load little-endian."""
    return struct.unpack("<QQ", block)


def padded(part):
    """A last block of less than 16 bytes, with its 1 bit."""
    return part + b"\x01" + bytes(15 - len(part))


def ascon(key, nonce, ad, text, decrypt=False):
    """Section 4.1, algorithms 3 and 4, without the tag check: (output, tag)."""
    k0, k1 = words(key)
    n0, n1 = words(nonce)
    s = [0x00001000808C0001, k0, k1, n0, n1]
    permute(s, 12)
    s[3] ^= k0
    s[4] ^= k1
    if ad:
        full = len(ad) // 16 * 16
        blocks = [ad[i:i + 16] for i in range(0, full, 16)] + [padded(ad[full:])]
        for block in blocks:
            a, b = words(block)
            s[0] ^= a
            s[1] ^= b
            permute(s, 8)
    s[4] ^= 1 << 63
    out = b""
    full = len(text) // 16 * 16
    for i in range(0, full, 16):
        a, b = words(text[i:i + 16])
        out += struct.pack("<QQ", s[0] ^ a, s[1] ^ b)
        s[0], s[1] = (a, b) if decrypt else (s[0] ^ a, s[1] ^ b)
        permute(s, 8)
    rest = text[full:]
    state = struct.pack("<QQ", s[0], s[1])
    tail = bytes(x ^ y for x, y in zip(rest, state))
    out += tail
    a, b = words(padded(tail if decrypt else rest))
    s[0] ^= a
    s[1] ^= b
    s[2] ^= k0
    s[3] ^= k1
    permute(s, 12)
    return out, struct.pack("<QQ", s[3] ^ k0, s[4] ^ k1)


def seal(key, nonce, ad, plain):
    cipher, tag = ascon(key, nonce, ad, plain)
    return cipher + tag


def unseal(key, nonce, ad, sealed):
    plain, tag = ascon(key, nonce, ad, sealed[:-16], decrypt=True)
    return plain if hmac.compare_digest(tag, sealed[-16:]) else None


# --- COBS, HKDF, bech32m, SenML -------------------------------------------------------------------

def cobs(data):
    out, block = b"", b""
    for byte in data + b"\x00":
        if byte == 0:
            out += bytes([len(block) + 1]) + block
            block = b""
        else:
            block += bytes([byte])
            if len(block) == 254:
                out += b"\xff" + block
                block = b""
    # A full last block already ends the data: no empty block after it.
    return out[:-1] if len(data) % 254 == 0 and data and 0 not in data[-254:] else out


def uncobs(data):
    out, i = b"", 0
    while i < len(data):
        code = data[i]
        if code == 0 or i + code > len(data):
            return None
        out += data[i + 1:i + code]
        i += code
        if code < 255 and i < len(data):
            out += b"\x00"
    return out


def hkdf(salt, ikm, info, length):
    prk = hmac.new(salt, ikm, hashlib.sha256).digest()
    out, block = b"", b""
    for i in range(1, 256):
        if len(out) >= length:
            break
        block = hmac.new(prk, block + info + bytes([i]), hashlib.sha256).digest()
        out += block
    return out[:length]


CHARSET = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"


def polymod(values):
    check = 1
    for value in values:
        top = check >> 25
        check = (check & 0x1FFFFFF) << 5 ^ value
        for i, generator in enumerate((0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)):
            check ^= generator if top >> i & 1 else 0
    return check


def expand(hrp):
    return [ord(c) >> 5 for c in hrp] + [0] + [ord(c) & 31 for c in hrp]


def regroup(values, have, want, pad):
    """BIP 173: bits in groups of another size."""
    bits = count = 0
    out = []
    for value in values:
        bits, count = bits << have | value, count + have
        while count >= want:
            count -= want
            out.append(bits >> count & (1 << want) - 1)
    if pad and count:
        out.append(bits << want - count & (1 << want) - 1)
    elif not pad and (count >= have or bits & (1 << count) - 1):
        raise ValueError("padding")
    return out


def code_format(device, psk, hrp="gwk"):
    data = regroup(device + psk, 8, 5, True)
    check = polymod(expand(hrp) + data + [0] * 6) ^ 0x2BC830A3
    data += [check >> 5 * (5 - i) & 31 for i in range(6)]
    return hrp + "1" + "".join(CHARSET[d] for d in data)


def code_parse(text, hrp="gwk"):
    text = "".join(text.split()).replace("-", "").lower()
    if not text.startswith(hrp + "1"):
        raise ValueError("not a printed code")
    data = [CHARSET.index(c) for c in text[len(hrp) + 1:]]
    if polymod(expand(hrp) + data) != 0x2BC830A3:
        raise ValueError("the checksum of the printed code is wrong")
    raw = bytes(regroup(data[:-6], 5, 8, False))
    if len(raw) != 24:
        raise ValueError("a printed code has 24 bytes")
    return raw[:8], raw[8:]


def cbor_text(text):
    raw = text.encode()
    return bytes([0x60 + len(raw)] if len(raw) < 24 else [0x78, len(raw)]) + raw


def senml(name, unit, value):
    """[{n: name, u: unit, v: value}], the value as the shortest float that holds it."""
    for head, form in ((0xF9, ">e"), (0xFA, ">f"), (0xFB, ">d")):
        try:
            raw = struct.pack(form, value)
        except OverflowError:
            continue
        if struct.unpack(form, raw)[0] == value:
            break
    fields = [b"\x00" + cbor_text(name)]
    fields += [b"\x01" + cbor_text(unit)] if unit else []
    fields += [b"\x02" + bytes([head]) + raw]
    return b"\x81" + bytes([0xA0 + len(fields)]) + b"".join(fields)


# --- the protocol ---------------------------------------------------------------------------------

def mac(device, psk, *parts):
    key = hkdf(LABEL, psk, b"mac" + device, 32)
    return hmac.new(key, b"".join(parts), hashlib.sha256).digest()[:16]


def make_hello(device, psk, nonce):
    body = bytes([HELLO]) + device + nonce
    return body + mac(device, psk, body)


def make_challenge(device, psk, hello, nonce, last_session, last_counter):
    body = bytes([CHALLENGE]) + device + nonce + last_session + struct.pack(">Q", last_counter)
    return body + mac(device, psk, hello, body)


class Session:
    """Section 3: the keys of one handshake."""

    def __init__(self, device, psk, hello, challenge):
        self.device = device
        self.transcript = hashlib.sha256(LABEL + hello + challenge).digest()
        okm = hkdf(self.transcript, psk, b"session" + device, 36)
        self.sensor_key, self.gateway_key, self.id = okm[:16], okm[16:32], okm[32:]
        self.counter = 0

    def seal(self, kind, counter, payload=b""):
        key = self.gateway_key if kind == ACK else self.sensor_key
        head = bytes([kind]) + self.device + self.id + struct.pack(">Q", counter)
        nonce = bytes([kind]) + bytes(7) + struct.pack(">Q", counter)
        return head + seal(key, nonce, head, payload)

    def is_ack(self, frame, counter):
        head = bytes([ACK]) + self.device + self.id + struct.pack(">Q", counter)
        nonce = bytes([ACK]) + bytes(7) + struct.pack(">Q", counter)
        return (len(frame) == 37 and frame[:21] == head
                and unseal(self.gateway_key, nonce, head, frame[21:]) is not None)


def wire(frame):
    return b"\x00" + cobs(frame) + b"\x00"


class Line:
    """The serial line: raw bytes in both directions, opened again when it vanishes."""

    def __init__(self, path):
        self.path, self.fd, self.piece = path, None, b""

    def open(self):
        self.fd = os.open(self.path, os.O_RDWR | os.O_NOCTTY)
        try:
            tty.setraw(self.fd, termios.TCSANOW)
            settings = termios.tcgetattr(self.fd)
            settings[4] = settings[5] = termios.B115200
            termios.tcsetattr(self.fd, termios.TCSANOW, settings)
        except termios.error:
            pass  # not a terminal, for example a fifo
        self.piece = b""

    def close(self):
        if self.fd is not None:
            os.close(self.fd)
            self.fd = None

    def write(self, data):
        while data:
            data = data[os.write(self.fd, data):]

    def frames(self, seconds):
        """Frames that arrive within so many seconds."""
        until = time.monotonic() + seconds
        while True:
            left = until - time.monotonic()
            if left <= 0 or not select.select([self.fd], [], [], left)[0]:
                return
            data = os.read(self.fd, 4096)
            if not data:
                raise OSError("the line is gone")
            *pieces, self.piece = (self.piece + data).split(b"\x00")
            self.piece = self.piece[-256:]
            for piece in pieces:
                frame = uncobs(piece) if 0 < len(piece) <= 255 else None
                if frame:
                    yield frame


class Sensor:
    """Section 5."""

    def __init__(self, line, device, psk, patience):
        self.line, self.device, self.psk = line, device, psk
        self.session = self.under_way = None
        self.deadline = time.monotonic() + patience

    def ask(self, frame, accept, attempts):
        """Sends a frame until an answer is accepted; None when nobody answers."""
        wait, count = 0.5, 0
        while attempts is None or count < attempts:
            if time.monotonic() > self.deadline:
                raise TimeoutError
            self.line.write(wire(frame))
            for answer in self.line.frames(wait):
                if accept(answer):
                    return answer
            wait, count = min(wait * 2, 4), count + 1
        return None

    def join(self):
        while True:
            hello = make_hello(self.device, self.psk, os.urandom(16))
            say("hello")
            challenge = self.ask(hello, lambda f: self.is_challenge(hello, f), None)
            session = Session(self.device, self.psk, hello, challenge)
            last = challenge[25:29], struct.unpack(">Q", challenge[29:37])[0]
            if self.under_way and self.under_way[0] == last[0] and self.under_way[1] <= last[1]:
                self.under_way = None
                say("settled")
            if self.ask(session.seal(CONFIRM, 0), lambda f: session.is_ack(f, 0), 5):
                self.session = session
                say("joined", session.id.hex())
                return

    def is_challenge(self, hello, frame):
        return (len(frame) == 53 and frame[0] == CHALLENGE and frame[1:9] == self.device
                and hmac.compare_digest(frame[37:], mac(self.device, self.psk, hello, frame[:37])))

    def send(self, kind, payload, save, skip=0, again=False):
        """Until it is acknowledged, over as many sessions as that takes. Returns the frame."""
        frame = None
        if not again:
            self.under_way = None
        while True:
            if self.session is None:
                stored_before = self.under_way is not None
                self.join()
                if stored_before and self.under_way is None:
                    return frame
            session = self.session
            session.counter += 1 + skip
            self.under_way = session.id, session.counter
            save(session)
            frame = session.seal(kind, session.counter, payload)
            say("sent", session.counter)
            if self.ask(frame, lambda f: session.is_ack(f, session.counter), 5):
                say("acknowledged", session.counter)
                return frame
            say("lost")
            self.session = None


# --- the program ----------------------------------------------------------------------------------

def say(*what):
    print(*what, flush=True)


def vectors():
    device, psk = bytes(range(0xA0, 0xA8)), bytes(range(0x10, 0x20))
    hello = make_hello(device, psk, b"\x20" * 16)
    challenge = make_challenge(device, psk, hello, b"\x30" * 16, b"\x01\x02\x03\x04", 5)
    session = Session(device, psk, hello, challenge)
    pack = senml("temperature", "Cel", 21.5)
    reading = session.seal(READING, 1, pack)
    rows = [("device", device), ("psk", psk), ("sensor_nonce", b"\x20" * 16),
            ("gateway_nonce", b"\x30" * 16), ("hello", hello), ("challenge", challenge),
            ("transcript", session.transcript), ("sensor_key", session.sensor_key),
            ("gateway_key", session.gateway_key), ("session", session.id),
            ("confirm", session.seal(CONFIRM, 0)), ("senml", pack), ("reading", reading),
            ("reading_wire", wire(reading)), ("bytes", session.seal(BYTES, 2, bytes([0, 1, 2, 0]))),
            ("acknowledge", session.seal(ACK, 1))]
    return [f"{name} = {value.hex()}" for name, value in rows] + \
        [f"code = {code_format(device, psk)}"]


def selftest(protocol):
    count = bytes(range(256))
    assert seal(count[:16], count[16:32], count[0x30:0x31], count[0x20:0x21]).hex() == \
        "962b8016836c75a7d86866588ca245d886", "ascon-c KAT"
    assert seal(count[:16], count[16:32], count[0x30:0x50], count[0x20:0x40]).hex() == (
        "cb34d04660a66dbfbe9c856601f5b8aa51a499b55ac8f7fbefbc331a613ee9cd"
        "fd191750a47f211c0a15ed28173d7caa"), "ascon-c KAT"
    for length in range(40):
        sealed = seal(count[:16], count[16:32], count[:length], count[:length])
        assert unseal(count[:16], count[16:32], count[:length], sealed) == count[:length]
    packet = bytes.fromhex("4500002c4c79000040064f37")
    assert cobs(packet).hex() == "024501042c4c7901054006" "4f37", "COBS paper, figure 3"
    for length in range(255):
        for data in (bytes(length), b"\x01" * length, count[:length]):
            assert not data or uncobs(cobs(data)) == data and 0 not in cobs(data)
            assert not data or len(cobs(data)) == length + 1
    assert hkdf(bytes(range(13)), b"\x0b" * 22, bytes(range(0xF0, 0xFA)), 42).hex() == (
        "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf"
        "34007208d5b887185865"), "RFC 5869 A.1"
    device, psk = bytes(8), bytes(range(16))
    assert code_parse(code_format(device, psk).upper()) == (device, psk)
    text = open(protocol, encoding="utf-8").read()
    for line in vectors():
        assert f"\n{line}\n" in text, f"not in {protocol}: {line}"
    say("selftest passed:", len(vectors()), "vectors")


def arguments():
    parser = argparse.ArgumentParser(description="a shared-key sensor on a serial line")
    parser.add_argument("port", nargs="?", help="serial device or pty")
    parser.add_argument("--key-file", help="file with the printed code on its first line")
    parser.add_argument("--device-id", help="16 hexadecimal digits, instead of the code's own")
    parser.add_argument("--count", type=int, default=1, help="readings to send (0: for ever)")
    parser.add_argument("--interval", type=float, default=1.0, help="seconds between readings")
    parser.add_argument("--value", type=float, default=21.5, help="first value")
    parser.add_argument("--step", type=float, default=0.5, help="added to the value each time")
    parser.add_argument("--name", default="temperature", help="SenML name")
    parser.add_argument("--unit", default="Cel", help="SenML unit")
    parser.add_argument("--payload", help="send these hexadecimal bytes instead of SenML")
    parser.add_argument("--patience", type=float, default=30.0, help="seconds for it all, or for "
                        "one reading when --count is 0")
    parser.add_argument("--reopen", action="store_true", help="survive a line that vanishes")
    parser.add_argument("--state", help="file that keeps the session over a restart")
    parser.add_argument("--jump", type=int, default=0, help="leave out so many counters first")
    parser.add_argument("--garbage", action="store_true", help="noise before each reading")
    parser.add_argument("--truncate", action="store_true", help="half a frame before each reading")
    parser.add_argument("--oversize", action="store_true", help="2,000 bytes without a delimiter")
    parser.add_argument("--replay", action="store_true", help="send the first frame again at the "
                        "end; an answer is a failure")
    parser.add_argument("--wrong-key", action="store_true", help="use a key that is not the code's;"
                        " an answer is a failure")
    parser.add_argument("--seed", type=int, help="seed of the noise, for a repeatable run")
    parser.add_argument("--new-key", metavar="FILE", help="write a fresh printed code and stop")
    parser.add_argument("--vectors", action="store_true", help="print the vectors and stop")
    parser.add_argument("--selftest", metavar="FILE", help="check against PROTOCOL.md and stop")
    return parser, parser.parse_args()


def new_key(path):
    device, psk = os.urandom(8), os.urandom(16)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
        out.write(code_format(device, psk) + "\n")
    say("device", device.hex())


def load_state(path, device):
    """A session kept by an earlier run of the same device, or None."""
    if not path or not os.path.exists(path):
        return None
    with open(path, encoding="utf-8") as saved:
        state = json.load(saved)
    if state["device"] != device.hex():
        return None
    session = Session.__new__(Session)
    session.device, session.counter = device, state["counter"]
    session.sensor_key, session.gateway_key, session.id = (
        bytes.fromhex(state[name]) for name in ("sensor_key", "gateway_key", "session"))
    return session


def save_state(path, session):
    """Before the counter is used, so that no crash can use it twice."""
    if not path:
        return
    state = {"device": session.device.hex(), "session": session.id.hex(),
             "sensor_key": session.sensor_key.hex(), "gateway_key": session.gateway_key.hex(),
             "counter": session.counter}
    temporary = path + ".new"
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as out:
        json.dump(state, out)
        out.flush()
        os.fsync(out.fileno())
    os.replace(temporary, path)


def noise(line, options, chance):
    if options.garbage:
        line.write(bytes(chance.randrange(256) for _ in range(chance.randrange(1, 600))))
    if options.truncate:
        frame = bytes([READING]) + bytes(chance.randrange(256) for _ in range(60))
        line.write(wire(frame)[:30])
    if options.oversize:
        line.write(b"\x00" + b"\xaa" * 2000)


def open_line(line, options, deadline):
    while True:
        try:
            line.open()
            return
        except OSError:
            if not options.reopen or time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def run(options):
    with open(options.key_file, encoding="ascii") as key_file:
        device, psk = code_parse(key_file.readline())
    if options.device_id:
        device = bytes.fromhex(options.device_id)
    if options.wrong_key:
        psk = bytes(byte ^ 0xFF for byte in psk)
    chance = random.Random(options.seed)
    line = Line(options.port)
    sensor = Sensor(line, device, psk, options.patience)
    sensor.session = load_state(options.state, device)
    open_line(line, options, sensor.deadline)
    first, done, again = None, 0, False
    while options.count == 0 or done < options.count:
        if options.count == 0:
            sensor.deadline = time.monotonic() + options.patience
        if options.payload is not None:
            kind, payload = BYTES, bytes.fromhex(options.payload)
        else:
            value = options.value + options.step * done
            kind, payload = READING, senml(options.name, options.unit, value)
        try:
            noise(line, options, chance)
            skip = options.jump if done == 1 else 0
            frame = sensor.send(kind, payload, lambda s: save_state(options.state, s), skip, again)
            again = False
        except OSError as error:
            if isinstance(error, TimeoutError) or not options.reopen:
                raise
            # A frame cut in the middle may have arrived: the next CHALLENGE says.
            say("gone")
            line.close()
            open_line(line, options, sensor.deadline)
            sensor.session, again = None, True
            continue
        first = first or frame
        done += 1
        if options.wrong_key:
            say("answered")
            return 3
        if options.count == 0 or done < options.count:
            time.sleep(options.interval)
    if options.replay and done > 1:
        line.write(wire(first))
        if any(frame[0] == ACK for frame in line.frames(2.0)):
            say("answered")
            return 3
        say("replay refused")
    say("done")
    return 0


def main():
    parser, options = arguments()
    if options.vectors:
        say("\n".join(vectors()))
        return 0
    if options.selftest:
        selftest(options.selftest)
        return 0
    if options.new_key:
        new_key(options.new_key)
        return 0
    # A terminal's other end, inherited by accident, would keep it alive after it was unplugged.
    os.closerange(3, 1024)
    if not options.port or not options.key_file:
        parser.print_usage(sys.stderr)
        return 2
    try:
        return run(options)
    except TimeoutError:
        say("not answered in time")
        return 0 if options.wrong_key else 1
    except (OSError, ValueError) as error:
        print(f"serial_sensor: {error}", file=sys.stderr)
        return 2 if isinstance(error, ValueError) else 1


if __name__ == "__main__":
    sys.exit(main())
