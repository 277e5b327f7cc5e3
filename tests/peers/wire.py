#!/usr/bin/env python3
"""A slow and lossy wire between network namespaces, for kernels with or without `netem`.

Python 3.9 or later, standard library only; needs root and /dev/net/tun.

  wire.py --delay-ms D --jitter-ms J --loss-percent P --seed S DEVICE...

Makes a TAP device of each name, prints `ready`, and carries frames from each to the others as a
switch does: after the delay, in whatever order the jitter gives, and some never. The devices may be
moved into namespaces meanwhile; they are gone when this program ends.
"""

import argparse
import fcntl
import heapq
import os
import random
import select
import struct
import time

TUNSETIFF = 0x400454CA
IFF_TAP, IFF_NO_PI = 0x0002, 0x1000
FRAME = 65536
BROADCAST_BIT = 1


def tap(name):
    """A TAP device of this name; it lives as long as the descriptor."""
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH", name.encode(), IFF_TAP | IFF_NO_PI))
    return device


def read(device):
    """The next frame that waits, if any; a device that is down has none."""
    try:
        return os.read(device, FRAME)
    except OSError:
        return None


def write(device, frame):
    """Delivers a frame; a device that is down or full loses it, as a wire does."""
    try:
        os.write(device, frame)
    except OSError:
        pass


class Wire:
    """Frames on their way, by the time they arrive."""

    def __init__(self, options):
        self.options = options
        self.devices = [tap(name) for name in options.device]
        self.random = random.Random(options.seed)
        self.under_way = []
        self.sent = 0
        self.owners = {}

    def send(self, source, frame):
        """Takes a frame in: to its owner where that is known, else to all others."""
        self.owners[frame[6:12]] = source
        owner = None if frame[0] & BROADCAST_BIT else self.owners.get(frame[0:6])
        targets = [device for device in self.devices if device != source]
        for target in targets if owner is None else [owner]:
            if self.random.random() * 100 < self.options.loss_percent:
                continue
            wait_ms = self.options.delay_ms + self.random.uniform(0, self.options.jitter_ms)
            self.sent += 1
            due = time.monotonic() + wait_ms / 1000
            heapq.heappush(self.under_way, (due, self.sent, target, frame))

    def deliver(self):
        """Delivers what is due; seconds until the next one, or None."""
        while self.under_way:
            due, _, target, frame = self.under_way[0]
            wait = due - time.monotonic()
            if wait > 0:
                return wait
            heapq.heappop(self.under_way)
            write(target, frame)
        return None

    def run(self):
        print("ready", flush=True)
        while True:
            readable, _, _ = select.select(self.devices, [], [], self.deliver())
            for device in readable:
                frame = read(device)
                if frame is not None and len(frame) >= 14:
                    self.send(device, frame)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--delay-ms", type=float, default=0)
    parser.add_argument("--jitter-ms", type=float, default=0)
    parser.add_argument("--loss-percent", type=float, default=0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("device", nargs="+")
    Wire(parser.parse_args()).run()


if __name__ == "__main__":
    main()
