"""Chained datagrams that clients keep: a loan for each, and the buffer behind it until the last loan is returned.

A chained handler gets the whole datagram without a copy being made for it, and may keep it by returning STATUS_PENDING
(R37). Several address objects may hold loans of one buffer (R38). A provider lends only so much; beyond that a client
is served by its normal handler (R40).
"""

from __future__ import annotations

from collections import Counter

from emulator.status import NtStatus, Refused


class Lent:
    """One datagram's buffer, and how many loans of it are out."""

    __slots__ = ("byte_count", "loans")

    def __init__(self, byte_count: int) -> None:
        self.byte_count = byte_count
        self.loans = 0


class Loan:
    """One client's hold on a buffer. ``kept`` once its handler has returned PENDING."""

    __slots__ = ("descriptor", "kept", "lent", "owner", "returned")

    def __init__(self, descriptor: int, lent: Lent, owner: object) -> None:
        self.descriptor = descriptor
        self.lent = lent
        self.owner = owner
        self.kept = False
        self.returned = False


class Loans:
    """Every loan of one machine's transport, by TsduDescriptor: a number that is never used again (R39)."""

    def __init__(self, most_for_one_owner: int, most_bytes: int) -> None:
        self._most_for_one_owner = most_for_one_owner
        self._most_bytes = most_bytes
        self._loans: dict[int, Loan] = {}
        self._held: Counter[object] = Counter()
        self._last_descriptor = 0
        self.byte_count = 0
        """Bytes of the buffers that are out, each counted once."""

    def __len__(self) -> int:
        return len(self._loans)

    def lend(self, lent: Lent, owner: object) -> Loan | None:
        """A loan of this buffer for one handler call; None when the owner or the machine has enough out."""
        more = 0 if lent.loans else lent.byte_count
        if self._held[owner] >= self._most_for_one_owner or self.byte_count + more > self._most_bytes:
            return None
        self._last_descriptor += 1
        loan = Loan(self._last_descriptor, lent, owner)
        self._loans[loan.descriptor] = loan
        self._held[owner] += 1
        lent.loans += 1
        self.byte_count += more
        return loan

    def answered(self, loan: Loan, *, keep: bool) -> None:
        """The handler has returned: it keeps the buffer until it returns the loan, or has no more use for it."""
        if keep and not loan.returned:
            loan.kept = True
        else:
            self._take_back(loan)

    def owner_of(self, descriptor: int) -> object:
        """Whose loan it is; Refused for one that was never made, or has been returned already (R39)."""
        return self._find(descriptor).owner

    def give_back(self, descriptor: int) -> None:
        """A client returns a loan. Refused when it has done so before, or never had it (R39).

        Before its handler has returned it may do so too; then PENDING keeps nothing.
        """
        loan = self._find(descriptor)
        if loan.kept:
            self._take_back(loan)
        else:
            loan.returned = True

    def owners(self) -> list[object]:
        """Everybody who has a loan out."""
        return list(self._held)

    def forget(self, owner: object) -> None:
        """An owner is gone: what it never returned is free."""
        for loan in [loan for loan in self._loans.values() if loan.owner == owner]:
            self._take_back(loan)

    def _find(self, descriptor: int) -> Loan:
        loan = self._loans.get(descriptor)
        if loan is None or loan.returned:
            was = 0 < descriptor <= self._last_descriptor
            reason = "has been returned already, or was not kept" if was else "was never lent"
            raise Refused(
                NtStatus.INVALID_PARAMETER,
                f"the chained datagram {descriptor} {reason}: return each one once, after keeping it",
                rule="R39",
            )
        return loan

    def _take_back(self, loan: Loan) -> None:
        if self._loans.pop(loan.descriptor, None) is None:
            return
        self._held[loan.owner] -= 1
        if not self._held[loan.owner]:
            del self._held[loan.owner]
        loan.lent.loans -= 1
        if not loan.lent.loans:
            self.byte_count -= loan.lent.byte_count
