"""What a driver channel of either face sends: packets that are checked now, and sent now or when it is open."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf
from typing import Any

from clients import requests
from clients.calls import RequestFailed
from clients.driver import ChannelCallbacks, DriverSend, DriverState
from clients.driver_limits import CurrentRules
from clients.driver_running import running_callback
from clients.inbox import EndState
from clients.memory import MachineMemory
from clients.protocol import ClientProtocol
from clients.verifier import Verifier, function_site
from emulator.memory import PAGE_SIZE, Mdl
from emulator.status import NtStatus, Refused
from emulator.vmbus.channel_setup import ChannelSetup
from emulator.vmbus.life_cycle import Callback
from emulator.vmbus.profile import Side
from emulator.vmbus.send_rules import SendFlags
from emulator.vmbus.synchronous import check_synchronous, fit_completion

Payload = bytes | bytearray | memoryview
# While these run, no packet of the channel's own comes to its end.
_NOTHING_ENDS = frozenset({Callback.OPENED, Callback.CLOSED, Callback.STARTED, Callback.SUSPEND})


class DriverSends:
    """The sending half of a ``DriverCore``, with what both halves use."""

    def __init__(
        self,
        protocol: ClientProtocol,
        machine: tuple[int, MachineMemory],
        side: Side,
        callbacks: ChannelCallbacks,
        channel: Any,
    ) -> None:
        self.protocol = protocol
        self.setup = ChannelSetup(side)
        self.state = DriverState(side, callbacks, channel, Verifier())
        self.state.machine, self._memory = machine
        self._rules = CurrentRules(protocol, self.state, self.setup, self._memory.byte_count // PAGE_SIZE)
        self._is_disposed = False

    def in_callback(self) -> int | None:
        """The callback of this channel that the calling code runs in."""
        due = running_callback.get()
        runs = due is not None and due.state is self.state and self.state.running is due
        return due.kind if due is not None and runs else None

    @property
    def verifier(self) -> Verifier:
        """Who reports misuse, where the machine has that."""
        verifier: Verifier = self.state.verifier
        return verifier

    def _require_not_disposed(self) -> None:
        if self._is_disposed:
            text = "the channel has been cleaned up; allocate another"
            raise Refused(NtStatus.INVALID_DEVICE_STATE, text, rule="4.3")

    def _submit(self, attempt: Callable[[EndState], Any]) -> DriverSend:
        return self.state.submit(attempt, self.protocol.abandon)

    def _lent(self, send: DriverSend, buffer: Payload, flags: int) -> DriverSend:
        if not int(flags) & SendFlags.PAGED_BUFFER:
            self.verifier.lend(send, buffer)
        return send

    def check_wait(self, sent: DriverSend) -> None:
        """Before the end of a packet is waited for. Raises VerifierReport where that end never comes (4.2)."""
        due = running_callback.get()
        if self.in_callback() in _NOTHING_ENDS and due is not None and not sent.done:
            what = f"{Callback(due.kind).name} waits for a packet, and none is completed before it has returned"
            rule = "Y5" if due.kind == Callback.STARTED else "4.2"
            self.verifier.report(rule, what, function_site(self.state.callbacks.of(due.kind)))

    def finished(self, sent: DriverSend) -> requests.Completion:
        """The end of a packet that was waited for."""
        self.verifier.take_back(sent)
        return requests.completion(sent)

    def submit(self, buffer: Payload, mdl: Mdl | None, flags: int, *, may_queue: bool = True) -> DriverSend:
        """Windows: VmbPacketSend. Raises Refused."""
        self._require_not_disposed()
        self._rules.current().packet(len(buffer), mdl, int(flags))
        data = bytes(buffer)
        if not may_queue and (self.state.held or not self.state.sends or self.state.opening is None):
            text = "the channel is not open, and the packet may not wait until it is"
            raise Refused(NtStatus.BUFFER_OVERFLOW, text, rule="Y1")
        send = requests.send
        submitted = self._submit(lambda end: send(self.protocol, end, data, mdl, flags, may_queue=may_queue))
        return self._lent(submitted, buffer, flags)

    def submit_external_mdl(self, buffer: Payload, mdl: Mdl | None, span: tuple[int, int], flags: int) -> DriverSend:
        """Windows: VmbPacketSendWithExternalMdl. Raises Refused."""
        self._require_not_disposed()
        self._rules.current().external_mdl(len(buffer), mdl, *span, int(flags))
        data = bytes(buffer)
        send = requests.send_with_external_mdl
        return self._lent(self._submit(lambda end: send(self.protocol, end, data, mdl, span, flags)), buffer, flags)

    def submit_external_pfns(self, buffer: Payload, pfns: Sequence[int] | None, flags: int) -> DriverSend:
        """Windows: VmbPacketSendWithExternalPfns. Raises Refused."""
        self._require_not_disposed()
        self._rules.current().external_pfns(len(buffer), pfns, int(flags))
        data = bytes(buffer)
        send = requests.send_with_external_pfns
        return self._lent(self._submit(lambda end: send(self.protocol, end, data, pfns, flags)), buffer, flags)

    def submit_synchronous(
        self, buffer: Payload, mdl: Mdl | None, flags: int, completion_bytes: int, timeout_seconds: float | None
    ) -> tuple[DriverSend, float]:
        """The packet of a VmbChannelSendSynchronousRequest, and how long to wait for its end.

        Raises Refused (Y1 to Y3, Y5).
        """
        profile = self.protocol.profile_of(self.state.machine).kmcl
        may_queue = check_synchronous(self.state.side, profile, int(flags), timeout_seconds, completion_bytes)
        if may_queue and self.in_callback() == Callback.STARTED:
            first = function_site(self.state.callbacks.started)
            self.verifier.report(
                "Y5", "Started waits for a packet, and none is completed before it has returned", first
            )
            text = "Started runs before anything is received, so what it waits for never comes; wait in PostStarted"
            raise Refused(NtStatus.INVALID_DEVICE_STATE, text, rule="Y5")
        # One that may not queue is in the ring or refused at once; only the daemon's word for that is waited for.
        seconds = inf if timeout_seconds is None or not may_queue else timeout_seconds
        try:
            return self.submit(buffer, mdl, flags, may_queue=may_queue), seconds
        except RequestFailed as error:
            raise Refused(error.status, error.message) from None

    @staticmethod
    def timed_out(seconds: float) -> RequestFailed:
        """The end of a synchronous request whose time ran out; a late completion is swallowed (Y4)."""
        return RequestFailed(NtStatus.CANCELLED, f"no completion came within {seconds:g} seconds [Y4]")

    def fitted(self, completion: requests.Completion, completion_bytes: int) -> requests.Completion:
        """What of a completion fits the caller's buffer (Y3)."""
        profile = self.protocol.profile_of(self.state.machine).kmcl
        status, written = fit_completion(profile, completion, completion_bytes)
        fitted = requests.Completion(written)
        fitted.status = status
        return fitted

    def synchronous_failure(self, error: RequestFailed) -> RequestFailed:
        """Its error as the call returns it: the channel went away is DEVICE_REMOVED (Y4)."""
        if error.status is NtStatus.CANCELLED:
            return RequestFailed(NtStatus.DEVICE_REMOVED, error.message)
        return error
