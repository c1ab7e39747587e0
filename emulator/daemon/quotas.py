"""What clients together may have of one machine: each bound with its refusal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from emulator.limits_config import QuotaConfig
from emulator.memory import PAGE_SIZE
from emulator.status import NtStatus, Refused
from emulator.tdi.constants import FileKind

if TYPE_CHECKING:
    from emulator.daemon.machines import Machine
    from emulator.daemon.session import Session

_FILES = {FileKind.ADDRESS: "addresses", FileKind.CONNECTION: "connections"}


class Quotas:
    """The bounds of one machine. ``settings`` may be replaced; what is open already stays."""

    def __init__(self, machine: Machine, settings: QuotaConfig) -> None:
        self._machine = machine
        self.settings = settings

    def check_sessions(self) -> None:
        """One more session attaches. Raises Refused."""
        self._check(len(self._machine.attached_sessions), self.settings.sessions, "sessions", "attached sessions")

    def check_offers(self) -> None:
        """One more channel is offered. Raises Refused."""
        self._check(len(self._machine.offers), self.settings.offers, "offers", "offers")

    def check_channels(self) -> None:
        """One more channel opens. Raises Refused."""
        self._check(len(self._machine.channels), self.settings.channels, "channels", "open channels")

    def check_gpadls(self) -> None:
        """One more GPADL. Raises Refused."""
        self._check(self._machine.bus.gpadls.count, self.settings.gpadls, "gpadls", "GPADLs")

    def check_files(self, kind: FileKind, count: int) -> None:
        """One more file of a kind, where there are so many. Raises Refused."""
        name = _FILES.get(kind)
        if name is not None:
            self._check(count, getattr(self.settings, name), name, f"open {name}", rule="CR13")

    def limits_files(self, kind: FileKind) -> bool:
        """Whether files of a kind have to be counted at all."""
        return getattr(self.settings, _FILES.get(kind, ""), None) is not None

    def check_memory(self, session: Session, more_pages: int) -> None:
        """A session wants more of the machine's memory. Raises Refused."""
        most = self.settings.session_memory_bytes
        if most is None:
            return
        machine = self._machine
        held = machine.pages.owned_by(session) + session.channel_requests.ring_pages(machine)
        if (held + more_pages) * PAGE_SIZE > most:
            text = (
                f"this session holds {held * PAGE_SIZE} bytes of {machine}'s memory and wants {more_pages * PAGE_SIZE} "
                f"more, with {most} allowed; free some, or raise [machines.{machine.name}.quota] session_memory_bytes"
            )
            raise Refused(NtStatus.INSUFFICIENT_RESOURCES, text)

    def _check(self, count: int, most: int | None, key: str, what: str, rule: str = "") -> None:
        if most is not None and count >= most:
            text = (
                f"{self._machine} has {count} {what} and may have {most}; close one first, or raise "
                f"[machines.{self._machine.name}.quota] {key}"
            )
            raise Refused(NtStatus.INSUFFICIENT_RESOURCES, text, rule=rule)
