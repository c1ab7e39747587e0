"""What becomes of a datagram that matched an address object: a posted receive, a handler, a buffer, or its owner.

The order of preference is fixed (section 5.2): the first posted receive whose filter matches; else the chained handler,
while there is something left to lend; else the normal handler; else the provider's own buffer, where it has one; else
``Deliver``, by which the owner's stream of datagrams takes what nobody else did.

A handler answers from another process, so a datagram may still be with it when the next one comes. Calls for one
address object go one after the other, and what comes meanwhile waits in a backlog, bounded, the newest dropped and
counted. Posted receives are not held up: they take what waits too. No other address object notices.

    arrives ─▶ posted ─▶ Complete
       │─▶ a handler is busy ─▶ backlog ─▶ (its answer) ─┐
       │◀───────────────────────────────────────────────┘
       │─▶ chained ─▶ Ask ─▶ PENDING: lent │ anything else: taken back
       │─▶ normal ──▶ Ask ─▶ SUCCESS: done │ MORE_PROCESSING_REQUIRED: the rest into a request │ NOT_ACCEPTED: gone
       └─▶ buffer │ Deliver
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from emulator.status import NtStatus, Refused
from emulator.tdi.constants import EventType, ReceiveFlags
from emulator.tdi.effects import Deliver, Effect, Event, Violation
from emulator.tdi.handlers import Answer, give_back
from emulator.tdi.irp import Irp
from emulator.tdi.loans import Lent, Loan
from emulator.tdi.receives import Arrived, PostedReceive, check_receive

if TYPE_CHECKING:
    from emulator.tdi.address import AddressObject
    from emulator.tdi.effects import Ask, Handler
    from emulator.tdi.handlers import HandlerCalls
    from emulator.tdi.loans import Loans
    from emulator.tdi.profile import ProviderProfile

SHOWN_AT_LEAST = 128
"""Bytes a normal handler sees of any datagram that has them, whatever the profile says (R27)."""
OVERHEAD_BYTES = 64
"""What a datagram that waits counts for besides its data."""


class Waiting:
    """Datagrams that wait at one address object, oldest first, bounded by their bytes."""

    __slots__ = ("_bytes", "_queue")

    def __init__(self) -> None:
        self._queue: deque[Arrived] = deque()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._queue)

    def put(self, arrived: Arrived, most_bytes: int) -> bool:
        """Take it in; False, and nothing kept, when it would pass the bound."""
        cost = len(arrived.data) + OVERHEAD_BYTES
        if self._bytes + cost > most_bytes:
            return False
        self._bytes += cost
        self._queue.append(arrived)
        return True

    def find(self, posted: PostedReceive) -> Arrived | None:
        """The oldest that passes a receive's filter."""
        return next((arrived for arrived in self._queue if posted.filter.matches(arrived.source)), None)

    def remove(self, arrived: Arrived) -> None:
        """It found a taker."""
        self._bytes -= len(arrived.data) + OVERHEAD_BYTES
        if self._queue[0] is arrived:
            self._queue.popleft()
        else:
            self._queue.remove(arrived)

    def pop(self) -> Arrived:
        """Take the oldest out."""
        arrived = self._queue[0]
        self.remove(arrived)
        return arrived

    def clear(self) -> int:
        """Forget them all; how many they were."""
        count = len(self._queue)
        self._queue.clear()
        self._bytes = 0
        return count


class Intake:
    """The receive side of one address object: its posted receives, and what waits for a handler or a receive."""

    __slots__ = ("backlog", "buffered", "busy", "posted")

    def __init__(self) -> None:
        self.posted: dict[Irp, PostedReceive] = {}
        self.busy = False
        """Whether a handler of it is being called."""
        self.backlog = Waiting()
        self.buffered = Waiting()

    def take_match(self, arrived: Arrived) -> PostedReceive | None:
        """The first posted receive whose filter matches, taken out (R8)."""
        for posted in self.posted.values():
            if posted.filter.matches(arrived.source):
                del self.posted[posted.irp]
                return posted
        return None


class DatagramCall:
    """One call of a datagram handler: what it is about, and who wants the answer."""

    __slots__ = ("_address", "_arrived", "_indications", "_loan", "_shown")

    def __init__(
        self, indications: Indications, address: AddressObject, arrived: Arrived, shown: int, loan: Loan | None
    ) -> None:
        self._indications = indications
        self._address = address
        self._arrived = arrived
        self._shown = shown
        self._loan = loan

    def answered(self, answer: Answer, now: float) -> list[Effect]:
        """The handler has returned, or its time is over."""
        indications, address = self._indications, self._address
        if self._loan is not None:
            effects = indications.chained_answered(address, self._loan, answer)
        else:
            effects = indications.normal_answered(address, self._arrived, self._shown, answer)
        return effects + indications.go_on(address, now)


class Indications:
    """The receive side of one device. ``calls`` and ``loans`` are its machine's, for all devices together."""

    def __init__(self, machine: str, profile: ProviderProfile, calls: HandlerCalls, loans: Loans) -> None:
        self._machine = machine
        self._profile = profile
        self._calls = calls
        self._loans = loans
        self.dropped = 0
        """Datagrams lost because a handler was slow, a buffer full, or nobody wanted them."""
        self.not_accepted = 0
        """Datagrams a handler did not accept."""

    # ---- posted receives

    def post(self, address: AddressObject, irp: Irp) -> list[Effect]:
        """Check a receive; complete it with what waits already, or keep it (R11 to R15)."""
        intake = address.receive_side()
        try:
            posted = check_receive(irp, self._profile)
            if len(intake.posted) >= self._profile.max_posted_receives:
                raise Refused(
                    NtStatus.INSUFFICIENT_RESOURCES,
                    f"{len(intake.posted)} receives are posted on this address, which is its limit: "
                    "wait for one to complete before posting more",
                    rule="R15",
                )
        except Refused as refusal:
            return [irp.refuse(refusal)]
        for waiting in (intake.buffered, intake.backlog):
            arrived = waiting.find(posted)
            if arrived is not None:
                if waiting is intake.backlog or not posted.peeks:
                    waiting.remove(arrived)
                return [posted.fill(arrived)]
        irp.mark_pending()
        intake.posted[irp] = posted
        return []

    def cancel(self, address: AddressObject, irp: Irp) -> list[Effect]:
        """End a posted receive with CANCELLED; nothing of what it would have returned is written (R24)."""
        if address.intake is None or address.intake.posted.pop(irp, None) is None:
            return []
        return [irp.complete(NtStatus.CANCELLED, 0, "cancelled before a datagram came", "R24")]

    def cleanup(self, address: AddressObject) -> list[Effect]:
        """The object gets nothing more: receives end, handlers are forgotten, what waits is dropped (CL2, CL3)."""
        address.handlers.clear()
        intake = address.intake
        if intake is None:
            return []
        posted, intake.posted = intake.posted, {}
        self.dropped += intake.backlog.clear() + intake.buffered.clear()
        text = "its address object was cleaned up before a datagram came"
        return [irp.complete(NtStatus.CANCELLED, 0, text, "R24") for irp in posted]

    # ---- what arrives

    def deliver(self, address: AddressObject, arrived: Arrived, now: float) -> list[Effect]:
        """One datagram for one address object."""
        intake = address.intake
        if intake is None:
            return [self._to_owner(address, arrived)]
        effects: list[Effect] = []
        buffers = self._profile.buffers_internally
        while intake.posted:
            posted = intake.take_match(arrived)
            if posted is None:
                if not self._profile.indicates_past_filters:
                    self.dropped += 1
                    return effects
                break
            effects.append(posted.fill(arrived))
            if not (buffers and posted.peeks):
                return effects
        if intake.busy:
            if not intake.backlog.put(arrived, self._profile.max_backlog_bytes):
                self.dropped += 1
            return effects
        return effects + self._indicate(address, intake, arrived, now)

    def go_on(self, address: AddressObject, now: float) -> list[Effect]:
        """A handler is free again: what waited for it comes next, in order."""
        intake = address.receive_side()
        intake.busy = False
        effects: list[Effect] = []
        while len(intake.backlog) and not intake.busy:
            effects += self._indicate(address, intake, intake.backlog.pop(), now)
        return effects

    def _indicate(self, address: AddressObject, intake: Intake, arrived: Arrived, now: float) -> list[Effect]:
        """To a handler, to the buffer, or to the owner (5.2, R40, R47)."""
        chained = address.handlers.get(EventType.CHAINED_RECEIVE_DATAGRAM)
        if chained is not None and self._profile.lends_buffers:
            loan = self._lend(address, arrived)
            if loan is not None:
                intake.busy = True
                return [self._ask_chained(address, chained, arrived, loan, now)]
        normal = address.handlers.get(EventType.RECEIVE_DATAGRAM)
        if normal is not None:
            intake.busy = True
            return [self._ask_normal(address, normal, arrived, now)]
        if chained is not None:
            self.dropped += 1
            return []
        if not self._profile.buffers_internally:
            return [self._to_owner(address, arrived)]
        self._keep(intake, arrived)
        return []

    def _keep(self, intake: Intake, arrived: Arrived) -> None:
        if not intake.buffered.put(arrived, self._profile.max_backlog_bytes):
            self.dropped += 1

    def _to_owner(self, address: AddressObject, arrived: Arrived) -> Deliver:
        flags = arrived.flags | ReceiveFlags.ENTIRE_MESSAGE
        return Deliver(self._machine, address.handle, address.owner, arrived.source, arrived.data, flags)

    # ---- the chained handler

    def _lend(self, address: AddressObject, arrived: Arrived) -> Loan | None:
        if arrived.lent is None:
            arrived.lent = Lent(len(arrived.data))
        return self._loans.lend(arrived.lent, address.owner)

    def _ask_chained(self, address: AddressObject, handler: Handler, arrived: Arrived, loan: Loan, now: float) -> Ask:
        event = Event(
            remote=arrived.source,
            data=arrived.data,
            available=len(arrived.data),
            flags=arrived.flags | self._profile.handler_flags | ReceiveFlags.ENTIRE_MESSAGE,
            options=arrived.options,
            descriptor=loan.descriptor,
        )
        call = DatagramCall(self, address, arrived, len(arrived.data), loan)
        return self._calls.ask(call, address, handler, event, now)

    def chained_answered(self, address: AddressObject, loan: Loan, answer: Answer) -> list[Effect]:
        """PENDING keeps the buffer until it is returned; anything else gives it back at once (R37, R9)."""
        self._loans.answered(loan, keep=answer.status == NtStatus.PENDING)
        if answer.irp is not None:
            return self._broken(address, answer, "a chained handler returns no request", "R37")
        if answer.status == NtStatus.DATA_NOT_ACCEPTED:
            self.not_accepted += 1
        elif answer.status not in (NtStatus.SUCCESS, NtStatus.PENDING):
            return self._broken(address, answer, f"a chained handler does not return 0x{answer.status:08X}", "R37")
        return []

    # ---- the normal handler

    def _ask_normal(self, address: AddressObject, handler: Handler, arrived: Arrived, now: float) -> Ask:
        size, profile = len(arrived.data), self._profile
        shown = size
        if profile.maximum_lookahead_bytes is not None:
            shown = min(size, max(profile.maximum_lookahead_bytes, profile.minimum_lookahead_bytes, SHOWN_AT_LEAST))
        flags = arrived.flags | profile.handler_flags
        if profile.copies_lookahead:
            flags |= ReceiveFlags.COPY_LOOKAHEAD
        if shown == size:
            flags |= ReceiveFlags.ENTIRE_MESSAGE
        elif profile.flags_partial:
            flags |= ReceiveFlags.PARTIAL
        event = Event(
            remote=arrived.source,
            data=arrived.data[:shown],
            available=size,
            flags=flags,
            options=arrived.options,
        )
        return self._calls.ask(DatagramCall(self, address, arrived, shown, None), address, handler, event, now)

    def normal_answered(self, address: AddressObject, arrived: Arrived, shown: int, answer: Answer) -> list[Effect]:
        """What the handler took is its own; the rest goes where it said, or nowhere (R25 to R33)."""
        effects: list[Effect] = []
        taken = answer.bytes_taken
        if taken > shown:
            text = f"a handler took {taken} bytes of the {shown} it was shown: counted as all of them"
            effects.append(self._violation(address, text, "R33"))
            taken = shown
        if answer.status == NtStatus.MORE_PROCESSING_REQUIRED and answer.irp is not None:
            return effects + self._fill_returned(address, arrived, taken, answer.irp)
        if answer.irp is not None:
            text = "a handler returned a request without STATUS_MORE_PROCESSING_REQUIRED"
            return effects + self._broken(address, answer, text, "R30")
        if answer.status == NtStatus.SUCCESS:
            return effects
        self.not_accepted += 1
        if self._profile.buffers_internally and not address.closing:
            self._keep(address.receive_side(), arrived)
        if answer.status == NtStatus.MORE_PROCESSING_REQUIRED:
            text = "a handler returned STATUS_MORE_PROCESSING_REQUIRED without a request: taken as not accepted"
            effects.append(self._violation(address, text, "R30"))
        elif answer.status != NtStatus.DATA_NOT_ACCEPTED:
            text = f"a datagram handler does not return 0x{answer.status:08X}: taken as not accepted"
            effects.append(self._violation(address, text, "R30"))
        return effects

    def _fill_returned(self, address: AddressObject, arrived: Arrived, taken: int, irp: Irp) -> list[Effect]:
        """The rest of a datagram into a request the handler handed over, at once (R10, R31, R32)."""
        if address.closing:
            return give_back(irp, "its address object was cleaned up while the handler ran", "R24")
        if not irp.is_new or irp.handle != address.handle:
            text = "a handler returned a request that is under way already, or another address object's"
            return [self._violation(address, text, "R32"), *give_back(irp, text, "R32")]
        if irp.cancelled:
            return give_back(irp, "cancelled before it was handed over", "R24")
        try:
            return [check_receive(irp, self._profile).fill(arrived, taken)]
        except Refused as refusal:
            return [irp.refuse(refusal)]

    # ---- what clients do wrong

    def _broken(self, address: AddressObject, answer: Answer, text: str, rule: str) -> list[Effect]:
        return [self._violation(address, text, rule), *give_back(answer.irp, text, rule)]

    def _violation(self, address: AddressObject, text: str, rule: str) -> Violation:
        return Violation(self._machine, address.handle, address.owner, rule, text)
