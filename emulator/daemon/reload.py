"""A new configuration for a daemon that runs: read and checked whole, then in force, or the old one stays as it is.

What can fail (names of users, memory, host ports) is done first and undone when something fails; from then on nothing
can. What cannot change under those who use it stays as it is, and the log says that it waits for a restart.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from emulator.config import Config, MachineConfig
from emulator.config_file import ConfigError, load, sentences
from emulator.daemon.gateway_sockets import GatewayUnusable
from emulator.daemon.log import logger
from emulator.daemon.population import memory_file
from emulator.daemon.roles import Access, UnknownName
from emulator.status import Refused

if TYPE_CHECKING:
    from emulator.daemon.memfile import MemoryFile
    from emulator.daemon.server import Server

REMOVED = "it is no longer in the configuration"
# Opened once, at the start.
FIXED = ("listen", "metrics")


class Differences:
    """What is not the same in two configurations, by dotted names."""

    def __init__(self, old: Config, new: Config) -> None:
        before, after = old.model_dump(mode="json"), new.model_dump(mode="json")
        self.all = dict(_differences(before, after))
        self.added = [name for name in new.machines if name not in old.machines]
        self.gone = [name for name in old.machines if name not in new.machines]
        self.new_segments = [name for name in new.segments if name not in old.segments]
        self.changed_segments = {
            name: changes
            for name in new.segments
            if name in old.segments
            and (changes := _changed_keys(old.segments[name].model_dump(), new.segments[name].model_dump()))
        }

    def waiting(self) -> list[str]:
        """Names of what takes a restart: of the daemon, or (below machines.NAME) to remove and create the machine."""
        come_and_gone = {*self.added, *self.gone}
        return [
            name
            for name in self.all
            if name.split(".")[0] in FIXED
            or (name.startswith("machines.") and not self._is_applied(name, come_and_gone))
            or (name.startswith("segments.") and name.count(".") == 1 and name.split(".")[1] not in self.new_segments)
            or (name.startswith("segments.") and name.split(".")[-1] in ("subnet", "connections", "gateway"))
        ]

    @staticmethod
    def _is_applied(name: str, come_and_gone: set[str]) -> bool:
        rest = name.removeprefix("machines.")
        return any(rest == each or rest.startswith((f"{each}.access", f"{each}.")) for each in come_and_gone) or (
            ".access" in rest or ".quota" in rest
        )


def _changed_keys(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in after.items() if before.get(key) != value}


def _differences(before: Any, after: Any, name: str = "") -> Iterator[tuple[str, tuple[Any, Any]]]:
    """Each name with what stood there and what stands there now; None where there was or is nothing."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in sorted({*before, *after}):
            yield from _differences(before.get(key), after.get(key), f"{name}.{key}" if name else key)
    elif before != after:
        yield name, (before, after)


class Reloader:
    """Reads the configuration file again, on request."""

    def __init__(self, server: Server, path: Path | None) -> None:
        self._server = server
        self._path = path
        self._log = logger()

    def reload(self) -> bool:
        """Whether the file is in force now. If not, the log says why, and everything is as it was."""
        if self._path is None:
            self._log.warning("config.no_file", hint="start vmbusd with --config to have something to read again")
            return False
        try:
            new = load(self._path)
            self._apply(new)
        except ConfigError as error:
            self._log.error("config.refused", mistakes=str(error).splitlines())
        except (GatewayUnusable, Refused, UnknownName) as error:
            self._log.error("config.refused", mistakes=[f"{self._path}: {error}"])
        else:
            return True
        return False

    def _apply(self, new: Config) -> None:
        server, old = self._server, self._server.config
        differences = Differences(old, new)
        whole = with_machines(new, server.population.made_here)
        access = Access(whole)
        files: dict[str, MemoryFile] = {}
        opened: list[str] = []
        try:
            for name in differences.added:
                files[name] = memory_file(name, new.machines[name])
            for name in differences.new_segments:
                server.segments.add(name, new.segments[name], new)
                opened.append(name)
        except BaseException:
            for file in files.values():
                file.close()
            for name in opened:
                server.segments.remove(name)
            raise
        # Nothing fails from here on.
        for name in differences.gone:
            server.population.remove(name, REMOVED)
        for name, file in files.items():
            server.population.add(name, new.machines[name], new, file)
        server.segments.adopt(new, differences.changed_segments)
        server.config = new
        for name in new.machines:
            server.machines[name].quotas.settings = new.machines[name].quota
        server.replace_access(access)
        server.pump()
        waiting = differences.waiting()
        changed = {name: list(pair) for name, pair in differences.all.items() if name not in waiting}
        self._log.info("config.reloaded", changed=changed, after_restart=waiting)


def with_machines(config: Config, machines: Mapping[str, MachineConfig]) -> Config:
    """A configuration with machines more, checked as one. Raises ConfigError."""
    if not machines:
        return config
    document = config.model_dump(mode="python")
    document["machines"] |= {name: settings.model_dump(mode="python") for name, settings in machines.items()}
    try:
        return Config.model_validate(document)
    except ValidationError as error:
        raise ConfigError("\n".join(sentences(error))) from None
