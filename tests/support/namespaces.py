"""Hosts in network namespaces of this machine, joined to a hub by cables (veth pairs) that a test can cut. Needs root.

Each place has a /30 of 198.18.0.0/15, the range of benchmarks: .1 is the hub's end, .2 the place's own.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=20)


@dataclass(frozen=True)
class Place:
    """A namespace, or (inside == ()) this test's own, with a cable to the hub."""

    namespace: str
    cable: str  #: the hub's end of it
    hub: str  #: address of the hub as seen from here

    @property
    def inside(self) -> tuple[str, ...]:
        """Words before a command that run it here."""
        return ("ip", "netns", "exec", self.namespace) if self.namespace else ()


@dataclass(frozen=True)
class Lab:
    """A hub and the places around it."""

    hub: str  #: namespace
    outside: Place
    places: Sequence[Place]

    @property
    def inside_hub(self) -> tuple[str, ...]:
        return ("ip", "netns", "exec", self.hub)

    def cut(self, place: Place) -> None:
        """Pull the cable: packets are lost, nobody is told."""
        _ip("-n", self.hub, "link", "set", place.cable, "down")

    def mend(self, place: Place) -> None:
        """Plug it in again."""
        _ip("-n", self.hub, "link", "set", place.cable, "up")


@contextmanager
def lab(count: int) -> Iterator[Lab | None]:
    """Make a hub and `count` places; None where this user may not. All of it goes with the block."""
    mark = f"tl{os.getpid() % 100000}"
    hub, names = f"{mark}-hub", [f"{mark}-{number}" for number in range(count)]
    made: list[str] = []
    try:
        try:
            for name in (hub, *names):
                _ip("netns", "add", name)
                made.append(name)
                _ip("-n", name, "link", "set", "lo", "up")
            places = [_cable(hub, name, f"{mark}c{number}", number + 1) for number, name in enumerate(names)]
            outside = _cable(hub, "", f"{mark}co", 0)
        except (subprocess.CalledProcessError, FileNotFoundError):
            yield None
            return
        yield Lab(hub, outside, places)
    finally:
        with suppress(subprocess.CalledProcessError):
            _ip("link", "del", f"{mark}cop")  # else it goes some time later: a next lab takes its name
        for name in made:
            with suppress(subprocess.CalledProcessError):
                _ip("netns", "del", name)  # its ends of cables go with it, and so the other ends


def _cable(hub: str, namespace: str, name: str, number: int) -> Place:
    """Lay a cable; its ends are `name` in the hub and `name`p in the place."""
    _ip("link", "add", name, "type", "veth", "peer", "name", f"{name}p")
    _ip("link", "set", name, "netns", hub)
    _ip("-n", hub, "addr", "add", f"198.18.{number}.1/30", "dev", name)
    _ip("-n", hub, "link", "set", name, "up")
    here: tuple[str, ...] = ()
    if namespace:
        _ip("link", "set", f"{name}p", "netns", namespace)
        here = ("-n", namespace)
    _ip(*here, "addr", "add", f"198.18.{number}.2/30", "dev", f"{name}p")
    _ip(*here, "link", "set", f"{name}p", "up")
    return Place(namespace, name, f"198.18.{number}.1")
