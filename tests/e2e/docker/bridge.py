"""A network bridge made with the kernel's own calls: a Docker Engine beside another one needs its own."""

import fcntl
import socket
import struct
from pathlib import Path

ADD_BRIDGE, REMOVE_BRIDGE = 0x89A0, 0x89A1
SET_FLAGS, SET_ADDRESS, SET_NETMASK = 0x8914, 0x8916, 0x891C
UP = 0x1
# For benchmarks of networks, so nobody's: 198.18.0.0/15.
SUBNETS = [f"198.{second}.{third}" for second in (18, 19) for third in range(256)]


class Bridge:
    """Is there until `remove`; its name has at most 15 letters."""

    def __init__(self, name):
        self.name = name
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as self.socket:
            fcntl.ioctl(self.socket, ADD_BRIDGE, name.encode() + b"\0")
            try:
                self.set(SET_ADDRESS, internet_address(f"{free_subnet()}.1"))
                self.set(SET_NETMASK, internet_address("255.255.255.0"))
                self.set(SET_FLAGS, struct.pack("H", UP))
            except OSError:
                self.remove()
                raise

    def set(self, request, value):
        fcntl.ioctl(self.socket, request, struct.pack("16s", self.name.encode()) + value.ljust(24, b"\0"))

    def remove(self):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as self.socket:
            self.set(SET_FLAGS, struct.pack("H", 0))
            fcntl.ioctl(self.socket, REMOVE_BRIDGE, self.name.encode() + b"\0")


def internet_address(text):
    return struct.pack("HH4s8x", socket.AF_INET, 0, socket.inet_aton(text))


def free_subnet():
    """The first three numbers of a network to which nothing here leads."""
    lines = Path("/proc/net/route").read_text().splitlines()[1:]
    taken = {socket.inet_ntoa(struct.pack("<I", int(line.split()[1], 16))) for line in lines}
    return next(subnet for subnet in SUBNETS if f"{subnet}.0" not in taken)
