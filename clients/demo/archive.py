"""A file to send: an uncompressed archive of the interpreter's own standard library, and the checksum of any file."""

from __future__ import annotations

import hashlib
import os
import sysconfig
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

from clients.demo.failure import DemoFailed

LEAST_BYTES = 32 * 1024 * 1024
# What others have installed, and what the interpreter can make again.
LEFT_OUT = frozenset({"site-packages", "dist-packages", "__pycache__"})
READ_BYTES = 1024 * 1024

Progress = Callable[[int], None]


def standard_library() -> Path:
    """Where the interpreter keeps it."""
    return Path(sysconfig.get_path("stdlib"))


def archive_bytes(source: Path, least_bytes: int = LEAST_BYTES) -> int:
    """About how much ``write_archive`` will add, for whoever shows its progress."""
    once = sum(path.stat().st_size for path in _regular_files(source))
    return once * -(-least_bytes // once) if once else 0


def write_archive(target: Path, source: Path, advance: Progress, *, least_bytes: int = LEAST_BYTES) -> None:
    """Write a tar of ``source`` to ``target``; again under another name until it has ``least_bytes``.

    ``advance`` gets the bytes of each file added, and may raise to stop it.
    """
    files = sorted(_regular_files(source))
    round_number = 1
    with tarfile.open(target, "w") as archive:
        while archive.offset < least_bytes:
            before = archive.offset
            for path in files:
                try:
                    archive.add(path, f"copy-{round_number}/{path.relative_to(source)}", recursive=False)
                except PermissionError:
                    continue
                advance(path.stat().st_size)
            if archive.offset == before:
                raise DemoFailed(f"there is no standard library to read at {source}; name a file with --file")
            round_number += 1


def _regular_files(source: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(source):
        folders[:] = [name for name in folders if name not in LEFT_OUT]
        for name in names:
            path = Path(folder, name)
            if path.is_file() and not path.is_symlink():
                yield path


def sha256_of(path: Path, advance: Progress) -> str:
    """The SHA-256 of a file, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as source:
        while chunk := source.read(READ_BYTES):
            digest.update(chunk)
            advance(len(chunk))
    return digest.hexdigest()
