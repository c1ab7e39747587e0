"""Settings of an address object, submitted one after the other, and answered when the last is done or one is not."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeAlias

from emulator.status import Refused
from emulator.tdi.address_settings import MembershipSetting, OptionSetting
from emulator.tdi.constants import MajorFunction
from emulator.tdi.irp import Irp
from emulator.wire.codec import encode_error, encode_response

if TYPE_CHECKING:
    from emulator.daemon.address_requests import AddressEnd
    from emulator.tdi.effects import Complete

Setting: TypeAlias = MembershipSetting | OptionSetting


class PendingSettings:
    """A request that makes settings: the context of their IRPs. It waits only where a filter has one of them."""

    def __init__(
        self, end: AddressEnd, msgid: int, settings: Iterable[Setting], answer: Callable[[], tuple[Any, ...]]
    ) -> None:
        self._end = end
        self._session = end.session
        self._msgid = msgid
        self._settings = list(settings)
        self._answer = answer
        self.irp: Irp | None = None

    def go_on(self) -> None:
        """Submit the next, or answer."""
        if self._settings:
            asked = self._settings.pop(0)
            self.irp = Irp(self._end.handle, asked, self, major=MajorFunction.DEVICE_CONTROL, minor=0)
            self._end.machine.datagrams.submit(self.irp)
        elif self._session.settle(self._msgid, self):
            try:
                self._session.put(encode_response(self._msgid, *self._answer()))
            except Refused as refusal:
                self._session.put(encode_error(self._msgid, refusal.status, refusal.text))

    def finish(self, complete: Complete) -> None:
        """One is over; those behind one that failed are not made."""
        if self._session.pending.get(self._msgid) is not self:
            return
        if not complete.status.is_error:
            self.go_on()
        elif self._session.settle(self._msgid, self):
            message = f"{complete.message} [{complete.rule}]" if complete.rule else complete.message
            text = message or "refused by a filter"
            self._session.put(encode_error(self._msgid, complete.status, text[:1024]))

    def cancel(self) -> None:
        if self.irp is not None:
            self._end.machine.datagrams.cancel(self.irp)
