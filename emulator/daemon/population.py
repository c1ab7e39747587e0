"""The machines of a daemon: those of its configuration, those made while it runs, and those that are gone but not yet
let go of.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from emulator.config import Config, MachineConfig
from emulator.daemon.log import logger
from emulator.daemon.machines import Machine
from emulator.daemon.memfile import MemoryFile
from emulator.daemon.roles import Access
from emulator.daemon.segments import Segments
from emulator.status import NtStatus, Refused


class Population:
    """Who there is. A machine has its task from the moment it is here until it is removed."""

    def __init__(self, config: Config, segments: Segments) -> None:
        self.machines: dict[str, Machine] = {}
        # Made on request; the configuration knows nothing of them, and a reload leaves them alone.
        self.made_here: dict[str, MachineConfig] = {}
        self._segments = segments
        self._removed: list[Machine] = []
        self._nursery: trio.Nursery | None = None
        self._pump: Callable[[], None] = lambda: None
        self.measures_latency = config.metrics.listen is not None
        for name, settings in config.machines.items():
            self.add(name, settings, config, memory_file(name, settings))

    async def run(
        self, pump: Callable[[], None], *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """The tasks of all machines, those to come too."""
        self._pump = pump
        async with trio.open_nursery() as nursery:
            for machine in self.machines.values():
                await nursery.start(machine.run, pump)
            self._nursery = nursery
            task_status.started()
            await trio.sleep_forever()

    def add(self, name: str, settings: MachineConfig, config: Config, file: MemoryFile) -> Machine:
        """A machine more. ``config`` was checked with it, so nothing can fail here any more."""
        machine = Machine(name, settings, config, self._segments, file)
        machine.measures_latency |= self.measures_latency
        self.machines[name] = machine
        if self._nursery is not None:
            self._nursery.start_soon(machine.run, self._pump)
        return machine

    def remove(self, name: str, reason: str) -> None:
        """A machine less: its offers are rescinded, its channels and addresses closed, its clients told."""
        machine = self.machines.pop(name)
        self.made_here.pop(name, None)
        machine.remove(reason)
        self._segments.leave(name)
        self._removed.append(machine)
        self.let_go()

    def let_go(self) -> None:
        """Close the memory of machines that are gone and that no session holds any more."""
        for machine in [each for each in self._removed if not each.attached_sessions]:
            self._removed.remove(machine)
            machine.close()

    def measure_latency(self) -> None:
        """Somebody looks at how long packets take."""
        self.measures_latency = True
        for machine in self.machines.values():
            machine.measures_latency = True

    def close(self) -> None:
        """The daemon is gone."""
        for machine in (*self.machines.values(), *self._removed):
            machine.close()


def memory_file(name: str, settings: MachineConfig) -> MemoryFile:
    """The memory of a machine to be. Raises Refused when the host has no more descriptors or address space."""
    try:
        return MemoryFile(name, settings.memory_bytes)
    except OSError as error:
        text = f"machine {name} cannot have {settings.memory_bytes} bytes of memory: {error.strerror}"
        raise Refused(NtStatus.INSUFFICIENT_RESOURCES, text) from None


class Changes:
    """Machines come and go on request, one at a time, each checked against everything there is."""

    def __init__(self, population: Population, access: Access) -> None:
        self._population = population
        self._access = access

    def create(self, name: str, settings: MachineConfig, config: Config) -> None:
        """Make a machine. ``config`` is the configuration with it. Raises Refused or UnknownName, with nothing done."""
        file = memory_file(name, settings)
        try:
            self._access.add_machine(name, settings.access)
        except ValueError:
            file.close()
            raise
        self._population.add(name, settings, config, file)
        self._population.made_here[name] = settings
        logger().info("machine.created", machine=name, memory_bytes=settings.memory_bytes)

    def remove(self, name: str, reason: str) -> None:
        """Take a machine away."""
        self._population.remove(name, reason)
        self._access.remove_machine(name)
        logger().info("machine.removed", machine=name, reason=reason)
