"""A UDP program that sends every datagram back to where it came from. It says its port, and runs until killed."""

from __future__ import annotations

import socket


def main() -> None:
    """Bind, say where, echo."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        print(sock.getsockname()[1], flush=True)
        while True:
            data, source = sock.recvfrom(65536)
            sock.sendto(data, source)


if __name__ == "__main__":
    main()
