"""The daemon's segments: which machines are on them, their clock, their changes, and the sockets of their gateways.

A segment's work is no machine's: what comes due on it, or in through its gateway, is done here, and what that means for
a machine is handed to the machine, which is what ends when something goes wrong with it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import trio

from emulator.config import Config, MachineConfig
from emulator.daemon.gateway_sockets import GatewaySockets
from emulator.daemon.log import logger
from emulator.segment_config import SegmentConfig, changed
from emulator.status import NtStatus, Refused
from emulator.tdi.effects import SendOutside
from emulator.tdi.gateway import Gateway
from emulator.tdi.medium import Luck
from emulator.tdi.segment import Segment, SegmentPort

if TYPE_CHECKING:
    from emulator.tdi.effects import Effect


# What those on a segment rely on: it changes with a restart.
FIXED_SETTINGS = ("subnet", "connections", "gateway")


class Member(Protocol):
    """A machine, as a segment has it."""

    def perform(self, effects: Iterable[Effect]) -> None:
        """Perform what a segment has for it; whatever goes wrong is the machine's."""


def without_strangers(described: dict[str, Any], known: Collection[str]) -> dict[str, Any]:
    """A segment as somebody sees it who may know of some machines only: nothing in it names another."""
    machines = described["machines"]
    if all(name in known for name in machines):
        return described
    return described | {
        "machines": {name: host for name, host in machines.items() if name in known},
        "partition": [side for names in described["partition"] if (side := [n for n in names if n in known])],
        "gateway": None,  # its ports are of the machines' addresses
    }


def luck(seed: int) -> Luck:
    """Each impairment's own, from one seed."""
    return Luck(*(random.Random(f"{seed} {name}") for name in Luck._fields))


class Segments:
    """Every virtual network of the configuration."""

    def __init__(self, config: Config) -> None:
        self._settings = dict(config.segments)
        self._segments = {name: _made(name, settings, config) for name, settings in config.segments.items()}
        self._members: dict[str, Member] = {}
        self._failed: set[str] = set()
        self._gateways = GatewaySockets(config.udp.receive_buffer_bytes, self._work)
        self._nearest: float | None = None
        self._nearer = trio.Event()
        self._pump: Callable[[], None] = lambda: None
        self._log = logger()

    # ---- machines

    def ports_of(self, machine: str, settings: MachineConfig) -> Mapping[str, SegmentPort]:
        """Attach a machine to the segments it is on."""
        return {name: self._segments[name].attach(machine, address) for name, address in settings.segments.items()}

    def leave(self, machine: str) -> None:
        """A machine is gone, its addresses closed."""
        self._members.pop(machine, None)
        for segment in self._segments.values():
            for port in segment.ports_of(machine):
                segment.detach(port)

    def add(self, name: str, settings: SegmentConfig, config: Config) -> None:
        """A segment more. Raises GatewayUnusable, with nothing done."""
        segment = _made(name, settings, config)
        if segment.gateway is not None:
            self._gateways.open(name, segment.gateway)
        self._segments[name], self._settings[name] = segment, settings

    def remove(self, name: str) -> None:
        """A segment less, on which there is no machine."""
        del self._segments[name], self._settings[name]
        self._gateways.close_segment(name)

    def adopt(self, config: Config, changes: Mapping[str, dict[str, Any]]) -> None:
        """What a new configuration changes of segments there are, as far as that goes while they are used."""
        for name, changed_keys in changes.items():
            wanted = {key: value for key, value in changed_keys.items() if key not in FIXED_SETTINGS}
            if wanted:
                self._adopt(name, self._settings[name].model_copy(update=wanted), reseed="seed" in wanted)
        for name in [name for name in self._segments if name not in config.segments]:
            if not self._segments[name].describe()["machines"]:
                self.remove(name)

    def serve(self, machine: str, member: Member) -> None:
        """What is for that machine goes there."""
        self._members[machine] = member

    def send(self, wanted: SendOutside) -> None:
        """A gateway has a datagram for a program outside; it leaves with the next ``sent_on``."""
        self._gateways.send(wanted)

    def sent_on(self, ports: Iterable[SegmentPort]) -> None:
        """Something was done on these attachments: datagrams leave, and the segments may have a nearer deadline."""
        self._gateways.flush()
        for port in ports:
            self._look(port.segment)

    def _look(self, segment: Segment) -> None:
        if segment.name in self._failed:
            return
        due = segment.next_deadline()
        if due is not None and (self._nearest is None or due < self._nearest):
            self._nearest = due
            self._nearer.set()

    def _hand_out(self, effects: Iterable[Effect]) -> None:
        """Give every machine what is for it, and send on what leaves."""
        work: list[tuple[Member | None, list[Effect]]] = []
        for effect in effects:
            if isinstance(effect, SendOutside):
                self._gateways.send(effect)
                continue
            member = self._members.get(getattr(effect, "machine", ""))
            if not work or (member is not None and member is not work[-1][0]):
                work.append((member, []))
            # What names no machine any machine can do, in its place among the others.
            work[-1][1].append(effect)
        for member, portion in work:
            anyone = member or next(iter(self._members.values()), None)
            if anyone is not None:
                anyone.perform(portion)
        self._gateways.flush()
        for segment in self._segments.values():
            self._look(segment)

    def _work(self, name: str, work: Callable[[], list[Effect]]) -> None:
        """Do what a segment has to do, and what that means.

        A fault in it ends the segment, and with it the machines on it: none of them would be what it was.
        """
        if name in self._failed:
            return
        try:
            effects = work()
        except Exception as error:  # noqa: BLE001 -- the daemon and its other machines go on
            self._failed.add(name)
            self._log.error("segment.failed", segment=name, exc_info=error)
            for machine in self._segments[name].describe()["machines"]:
                if machine in self._members:
                    self._members[machine].perform(_raising(error))
        else:
            self._hand_out(effects)

    # ---- tasks

    def open_gateways(self) -> None:
        """Bind what the gateways need. Raises GatewayUnusable."""
        for name, segment in self._segments.items():
            if segment.gateway is not None:
                self._gateways.open(name, segment.gateway)

    async def run(
        self, pump: Callable[[], None], *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Everything of the segments that waits: deadlines, while there are any, and gateways."""
        self._pump = pump
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._gateways.run, pump)
            nursery.start_soon(self._keep_deadlines)
            task_status.started()

    async def _keep_deadlines(self) -> None:
        while True:
            self._nearer = trio.Event()
            if self._nearest is None:
                await self._nearer.wait()
                continue
            with trio.move_on_at(self._nearest) as waiting:
                await self._nearer.wait()
            if not waiting.cancelled_caught and self._nearest > trio.current_time():
                continue
            self._nearest = None
            self._poll()
            self._pump()

    def _poll(self) -> None:
        now = trio.current_time()
        for name, segment in self._segments.items():
            self._work(name, partial(segment.poll, now))

    def close(self) -> None:
        """The daemon stops."""
        self._gateways.close()

    # ---- looking in, and changing

    def describe(self) -> list[dict[str, Any]]:
        """What ``vmbusctl segments`` shows."""
        return [segment.describe() | {"seed": self._settings[name].seed} for name, segment in self._segments.items()]

    def change(self, name: str, changes: dict[str, Any]) -> dict[str, Any]:
        """Change settings of a segment, by their names in the configuration; what it is like then. Raises Refused."""
        segment = self._segments.get(name)
        if segment is None:
            known = ", ".join(sorted(self._segments)) or "none; add [segments.NAME] to the configuration"
            raise Refused(NtStatus.OBJECT_NAME_NOT_FOUND, f"there is no segment {name!r}; there are: {known}")
        settings = self._checked(name, segment, changes)
        self._adopt(name, settings, reseed="seed" in changes)
        self._log.info("segment.changed", segment=name, **{key: str(value)[:200] for key, value in changes.items()})
        return segment.describe() | {"seed": settings.seed}

    def _adopt(self, name: str, settings: SegmentConfig, *, reseed: bool) -> None:
        segment = self._segments[name]
        self._settings[name] = settings
        now = trio.current_time()
        effects = segment.change(settings.profile(), now)
        if reseed:
            segment.reseed(luck(settings.seed))
        if settings.stalled:
            segment.stall()
        effects += segment.pump_links(now) if settings.stalled else segment.resume(now)
        self._hand_out(effects)
        self._look(segment)

    def _checked(self, name: str, segment: Segment, changes: dict[str, Any]) -> SegmentConfig:
        settings = changed(self._settings[name], changes)
        problems = settings.partition_problems(set(segment.describe()["machines"]))
        if problems:
            raise Refused(NtStatus.INVALID_PARAMETER, f"segment {name}: {'; '.join(problems)}"[:900])
        return settings


def _raising(error: Exception) -> Iterator[Effect]:
    """Effects that cannot be had, for a machine to fail with as with a fault of its own."""

    def fail() -> Effect:
        raise error

    return iter(fail, None)


def _made(name: str, settings: SegmentConfig, config: Config) -> Segment:
    segment = Segment(name, settings.profile(), luck(settings.seed), settings.subnet)
    if settings.gateway is not None:
        ports = [port.port() for port in settings.gateway.ports]
        segment.gateway = Gateway(segment, ports, config.udp.reach)
    if settings.stalled:
        segment.stall()
    return segment
