#!/usr/bin/env python3
"""Answers mDNS in the name of nobody: says that gateways are where it wants them to be.

Python 3.9 or later, standard library only. Packets are written by hand (RFC 1035, RFC 6762); nothing
of the program under test is used.

  mdns_spoofer.py ADDRESS PORT...

Sends to 224.0.0.251:5353 from ADDRESS, every half second, one unasked answer for each PORT: an
instance of `_gatewayd._tcp.local` with PTR, SRV, TXT and A record that lead to ADDRESS:PORT. Also
listens at the ports that nobody has, takes connections there and says what is no TLS. Prints `ready`,
and `dialed PORT` for each connection to it.
"""

import selectors
import socket
import struct
import sys
import time

GROUP, MDNS = "224.0.0.251", 5353
SERVICE = "_gatewayd._tcp.local"
A, PTR, TXT, SRV = 1, 12, 16, 33
INTERNET, FLUSH = 1, 0x8000
LIFE = 120
EVERY = 0.5


def name(text):
    """A domain name, without compression."""
    labels = [label.encode() for label in text.rstrip(".").split(".")]
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"


def record(owner, kind, data, unique):
    """One resource record."""
    clas = INTERNET | (FLUSH if unique else 0)
    return name(owner) + struct.pack(">HHIH", kind, clas, LIFE, len(data)) + data


def answer(address, port):
    """A whole packet: four answers, no question."""
    instance, host = f"spoofed{port}.{SERVICE}", f"spoofed{port}.local"
    records = [
        record(SERVICE, PTR, name(instance), False),
        record(instance, SRV, struct.pack(">HHH", 0, 0, port) + name(host), True),
        record(instance, TXT, b"\0", True),
        record(host, A, socket.inet_aton(address), True),
    ]
    # Header: an authoritative response.
    return struct.pack(">HHHHHH", 0, 0x8400, 0, len(records), 0, 0) + b"".join(records)


def sender(address):
    """A socket that sends to the group from the port of mDNS, as a responder does."""
    out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    out.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    out.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    out.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(address))
    out.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 255)
    out.bind(("", MDNS))
    return out


def listen(address, port, waiting):
    """Listens, unless somebody does."""
    server = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        server.bind((address, port))
    except OSError:
        server.close()
        return
    server.listen()
    waiting.register(server, selectors.EVENT_READ, port)


def main():
    address, ports = sys.argv[1], [int(port) for port in sys.argv[2:]]
    out, waiting = sender(address), selectors.DefaultSelector()
    for port in ports:
        listen(address, port, waiting)
    print("ready", flush=True)
    due = time.monotonic()
    while True:
        if time.monotonic() >= due:
            due = time.monotonic() + EVERY
            for port in ports:
                try:
                    out.sendto(answer(address, port), (GROUP, MDNS))
                except OSError:
                    # A link that is down loses it.
                    pass
        for key, _ in waiting.select(max(0, due - time.monotonic())) if waiting.get_map() else []:
            stream, _ = key.fileobj.accept()
            print(f"dialed {key.data}", flush=True)
            try:
                stream.sendall(b"220 this is no gateway\r\n")
            except OSError:
                pass
            stream.close()
        if not waiting.get_map():
            time.sleep(max(0, due - time.monotonic()))


if __name__ == "__main__":
    main()
