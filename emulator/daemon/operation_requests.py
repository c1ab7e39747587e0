"""What those who operate the daemon may ask of it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from emulator.config import MachineConfig, Name
from emulator.config_file import ConfigError, sentences
from emulator.daemon.log import LEVELS, logger, set_level
from emulator.daemon.quic_keys import KeysUnreadable
from emulator.daemon.reload import with_machines
from emulator.daemon.roles import UnknownName
from emulator.status import NtStatus, Refused

if TYPE_CHECKING:
    from emulator.daemon.session import Session


# A refusal fits a sentence of the wire, whatever was wrong with however much.
MOST_TEXT = 900


class OperationRequests:
    """One session's requests about the daemon as a whole."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def close_all(self, reason: str) -> None:
        """Nothing here outlives its request."""

    def machine_create(self, msgid: int, name: str, settings: str) -> tuple[Any, ...]:
        server = self._session.server
        if name in server.machines:
            raise Refused(NtStatus.OBJECT_NAME_COLLISION, f"there is a machine {name!r} already; remove it first")
        if len(server.machines) >= server.config.limits.machines:
            text = f"the daemon already has {len(server.machines)} machines; limits.machines allows no more"
            raise Refused(NtStatus.INSUFFICIENT_RESOURCES, text)
        wanted = _settings_untrusted(name, settings)
        try:
            whole = with_machines(server.config, {**server.population.made_here, name: wanted})
            server.changes.create(name, wanted, whole)
        except (ConfigError, UnknownName) as error:
            raise Refused(NtStatus.INVALID_PARAMETER, str(error)[:MOST_TEXT]) from None
        return ()

    def machine_remove(self, msgid: int, name: str, force: bool) -> tuple[Any, ...]:
        server = self._session.server
        machine = server.find_machine(name, self._session.identity)
        if machine.channels and not force:
            text = f"{machine} has {len(machine.channels)} open channels; close them, or remove it with force"
            raise Refused(NtStatus.INVALID_DEVICE_STATE, text)
        server.changes.remove(name, f"{self._session} removed it")
        return ()

    def keys_reload(self, msgid: int) -> tuple[Any, ...]:
        try:
            return self._session.server.reload_keys()
        except KeysUnreadable as error:
            raise Refused(NtStatus.UNSUCCESSFUL, str(error)[:MOST_TEXT]) from None

    def daemon_log_level(self, msgid: int, level: str) -> tuple[Any, ...]:
        if level not in LEVELS:
            raise Refused(NtStatus.INVALID_PARAMETER, f"there is no log level {level!r}; levels: {', '.join(LEVELS)}")
        before = set_level(level)
        # Said at a level that both thresholds let through, so that the log itself shows where it thins out.
        logger().error("daemon.log_level", before=before, now=level, session=self._session.number)
        return (before,)


def _settings_untrusted(name: str, text: str) -> MachineConfig:
    """The settings of a machine to be. Raises Refused with every mistake."""
    try:
        TypeAdapter(Name).validate_python(name)
    except ValidationError:
        text = f"{name!r} is no name for a machine; letters, digits, '.', '_' and '-' make one"
        raise Refused(NtStatus.INVALID_PARAMETER, text) from None
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Refused(NtStatus.INVALID_PARAMETER, f"the settings are not JSON: {error}") from None
    try:
        return MachineConfig.model_validate(document)
    except ValidationError as error:
        raise Refused(NtStatus.INVALID_PARAMETER, "; ".join(sentences(error, ("machines", name)))[:MOST_TEXT]) from None
