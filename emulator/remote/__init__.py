"""What the daemon and its clients over UDP share: the QUIC connection, its UDP socket, and the keys of both sides.

Everything here needs the extra ``[quic]``, except this module, which says so when it is missing.

* ``engine``: one QUIC connection without I/O, with the client's certificate asked for and its windows bounded
* ``sending``: how long its bursts may be, and when its window grows
* ``packet_socket``: QUIC packets in and out of a UDP socket, several in one call where the kernel can
* ``certificates``: a small private authority; ``keyring``: its directory; ``credentials``: what a client gets of it
"""

from __future__ import annotations

import importlib.util

INSTALL = "pip install 'vmbus-emulator[quic]'"


class RemoteUnavailable(Exception):
    """What QUIC needs is not installed; the text says how to get it."""


def require_quic() -> None:
    """Raise RemoteUnavailable unless QUIC can be used here."""
    missing = [name for name in ("aioquic", "cryptography") if importlib.util.find_spec(name) is None]
    if missing:
        names = " and ".join(missing)
        raise RemoteUnavailable(f"clients over UDP need QUIC, and {names} cannot be imported here; run: {INSTALL}")
