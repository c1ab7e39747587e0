"""The daemon's segments, and which machines are on them."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from emulator.config import Config, MachineConfig
from emulator.tdi.profile import IP_AND_UDP_HEADER_BYTES, SegmentProfile
from emulator.tdi.segment import Segment, SegmentPort

if TYPE_CHECKING:
    from collections.abc import Mapping


class Segments:
    """Every virtual network of the configuration."""

    def __init__(self, config: Config) -> None:
        self._segments = {
            name: Segment(
                name,
                SegmentProfile(
                    mtu_bytes=settings.maximum_datagram_bytes + IP_AND_UDP_HEADER_BYTES,
                    loss=settings.loss,
                    duplicate=settings.duplication,
                    connections=settings.connection_profile,
                ),
                random.Random(settings.seed),
                settings.subnet,
            )
            for name, settings in config.segments.items()
        }

    def ports_of(self, machine: str, settings: MachineConfig) -> Mapping[str, SegmentPort]:
        """Attach a machine to the segments it is on."""
        return {name: self._segments[name].attach(machine, address) for name, address in settings.segments.items()}
