"""How a call under a Windows name ends: a status instead of an exception, and where a driver's mistake is raised.

A refusal with a documented status is returned; ``LastRefusal`` has its sentence. What the documents forbid without
naming a status (a packet sent while in flight, a channel cleaned up while enabled) is ``Misuse``, raised: a kernel
would stop there.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec

from clients.calls import ConnectionLost, RequestFailed
from clients.kmcl_types import DISPATCH_LEVEL, PASSIVE_LEVEL
from emulator.status import Misuse, NtStatus, Refused

P = ParamSpec("P")
Bytes = bytes | bytearray | memoryview


class _Processor:
    """What a kernel keeps for each processor, and C code asks of it. One thread runs all callbacks."""

    irql = PASSIVE_LEVEL
    refusal = ""


def KeGetCurrentIrql() -> int:
    """PASSIVE_LEVEL, or DISPATCH_LEVEL inside a plain receive callback that was not asked for at PASSIVE."""
    return _Processor.irql


def LastRefusal() -> str:
    """Why the last call that returned a failure did so, in words. Not a Windows name."""
    return _Processor.refusal


def require_passive(what: str) -> None:
    """Raise Misuse for a call that C may make at PASSIVE_LEVEL only."""
    if _Processor.irql != PASSIVE_LEVEL:
        raise Misuse(f"{what} is for PASSIVE_LEVEL; defer the packet to passive first (VmbChannelPacketDeferToPassive)")


def refused(status: NtStatus, text: str) -> NtStatus:
    """A status to return, and the sentence for ``LastRefusal``."""
    _Processor.refusal = f"{status}: {text}"
    return status


def status_of(error: Exception) -> NtStatus:
    """The status an exception of the client library stands for. Raises what stands for none."""
    if isinstance(error, Refused):
        return refused(error.status, error.text)
    if isinstance(error, RequestFailed):
        return refused(error.status, error.message)
    if isinstance(error, ConnectionLost):
        return refused(NtStatus.DEVICE_REMOVED, str(error))
    raise error


def returns_status(function: Callable[P, NtStatus | None]) -> Callable[P, NtStatus]:
    """A function that returns NTSTATUS: what is refused becomes its status, and coming to the end is success."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> NtStatus:
        try:
            status = function(*args, **kwargs)
        except (Refused, RequestFailed, ConnectionLost) as error:
            return status_of(error)
        return NtStatus.SUCCESS if status is None else status

    return call


def awaits_status(
    function: Callable[P, Coroutine[Any, Any, NtStatus | None]],
) -> Callable[P, Coroutine[Any, Any, NtStatus]]:
    """The same, of a function that waits for something."""

    @functools.wraps(function)
    async def call(*args: P.args, **kwargs: P.kwargs) -> NtStatus:
        try:
            status = await function(*args, **kwargs)
        except (Refused, RequestFailed, ConnectionLost) as error:
            return status_of(error)
        return NtStatus.SUCCESS if status is None else status

    return call


def awaits_nothing(function: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, Coroutine[Any, Any, None]]:
    """A function without a result, which waits: a refusal is the driver's mistake, and a lost daemon is no news."""

    @functools.wraps(function)
    async def call(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            await function(*args, **kwargs)
        except (Refused, RequestFailed) as error:
            status_of(error)
            raise Misuse(f"{function.__name__}: {LastRefusal()}") from None
        except ConnectionLost as error:
            status_of(error)

    return call


async def call_back(callback: Callable[..., Any], *args: object, at_dispatch: bool = False) -> Any:
    """Run a driver's callback: a plain one here and now, an async one to its end."""
    _Processor.irql = DISPATCH_LEVEL if at_dispatch else PASSIVE_LEVEL
    try:
        result = callback(*args)
    finally:
        _Processor.irql = PASSIVE_LEVEL
    return await result if inspect.isawaitable(result) else result


def cut(Buffer: Bytes | None, BufferLength: int) -> Bytes:
    """The first ``BufferLength`` bytes of a buffer; NULL has none. Raises Misuse for more than there are.

    All of a buffer is the buffer itself, so that the verifier can see it change.
    """
    have = 0 if Buffer is None else len(Buffer)
    if BufferLength > have or BufferLength < 0:
        raise Misuse(f"a buffer of {have} bytes was passed with length {BufferLength}")
    if Buffer is not None and BufferLength == have:
        return Buffer
    return b"" if Buffer is None else bytes(Buffer[:BufferLength])
