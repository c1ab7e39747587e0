"""What a connection endpoint says about itself, as bytes."""

from __future__ import annotations

import struct

from emulator.tdi.connection import ConnectionEndpoint
from emulator.tdi.connection_states import State

_INFO = struct.Struct("<6I2q2I?7x")

STATE_NUMBERS: dict[State, int] = {state: number for number, state in enumerate(State)}
"""No header names the numbers of a connection's state: these are ours, in the order of its life."""


def pack_connection_info(endpoint: ConnectionEndpoint) -> bytes:
    """56 bytes, the last used one being the 49th: nothing is unreliable here. Windows: TDI_CONNECTION_INFO."""
    profile = endpoint.profile
    return _INFO.pack(
        STATE_NUMBERS[endpoint.state],
        0,
        endpoint.sent_count & 0xFFFFFFFF,
        endpoint.received_count & 0xFFFFFFFF,
        0,
        0,
        0,
        0,
        profile.send_buffer_bytes,
        profile.receive_buffer_bytes,
        False,
    )
