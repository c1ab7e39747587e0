"""The command line as text: help for newcomers, mistakes named in one line, and bytes from options and for people."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from clients.cli import exit_code, vmbusctl
from clients.commands import calling
from clients.commands.calling import CommandFailed
from clients.commands.content import contents, printable, shown
from clients.commands.output import byte_size


def command_lines(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The words of every command and group below one."""
    yield path
    if isinstance(command, click.Group):
        for name, each in command.commands.items():
            yield from command_lines(each, (*path, name))


COMMANDS = list(command_lines(vmbusctl))
READING = [("machines",), ("channels",), ("version",), ("send",), ("datagram", "send"), ("datagram", "listen")]


def test_no_command_that_scripts_may_use_has_gone() -> None:
    promised = {"", "machines", "channels", "version", "send", "serve-echo", "datagram", "datagram send"}
    promised |= {"datagram listen", "demo", "log-level", "completion", "segments", "segment"}
    assert promised <= {" ".join(words) for words in COMMANDS}


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: " ".join(words) or "vmbusctl")
def test_help_of_every_command_says_what_it_does_and_shows_an_example(words: tuple[str, ...]) -> None:
    done = CliRunner().invoke(vmbusctl, [*words, "--help"], prog_name="vmbusctl")
    assert done.exit_code == 0
    assert "Example" in done.output
    example = done.output.partition("Example")[2]
    assert " ".join(("vmbusctl", *words)) in example
    for name in (parameter.name for parameter in _command(words).params if isinstance(parameter, click.Option)):
        option = next(each for each in _command(words).params if each.name == name)
        assert isinstance(option, click.Option)
        assert option.help, f"--{name} has no help"


@pytest.mark.parametrize("words", READING, ids=" ".join)
def test_every_reading_command_has_json(words: tuple[str, ...]) -> None:
    assert "--json" in CliRunner().invoke(vmbusctl, [*words, "--help"]).output


def _command(words: tuple[str, ...]) -> click.Command:
    command: click.Command = vmbusctl
    for word in words:
        assert isinstance(command, click.Group)
        command = command.commands[word]
    return command


@pytest.mark.parametrize("words", [[], ["datagram"]])
def test_a_group_alone_shows_its_help(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(words) == 0
    assert "Example" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("nonsense", "No such command 'nonsense'"),
        ("machines --jsn", "No such option '--jsn'"),
        ("send", "Missing argument 'MACHINE'"),
        ("send vm1 --interface 12", "'12' is not a GUID, such as 5c0e3ab1"),
        ("send vm1 --text a --hex 61", "--text, --file and --hex exclude each other"),
        ("send vm1 --hex 6", "--hex takes pairs of hex digits, such as 'de ad be ef', not '6'"),
        ("send vm1 --offset 8", "--offset and --length choose a part of the external data; add --external FILE"),
        ("send vm1 --count 0", "0 is not in the range x>=1"),
        ("datagram send vm1 localhost 53", "'localhost' is not an IP address; names are not looked up"),
        ("datagram send vm1 127.0.0.1 70000", "70000 is not in the range"),
        ("datagram send vm1 127.0.0.1 53 --from 127.0.0.1", "does not end in a port from 0 to 65535"),
        ("datagram listen vm1 --bind 127.0.0.1:70000", "does not end in a port from 0 to 65535"),
        ("datagram listen vm1 --bind ::1:x", "does not end in a port from 0 to 65535"),
        ("demo --file /nowhere/at/all", "File '/nowhere/at/all' does not exist"),
        ("demo --file /dev/null", "/dev/null is not a regular file"),
        ("demo --packets many", "'many' is not a valid integer"),
    ],
)
def test_a_wrong_command_line_is_named_in_one_line(
    line: str, complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(line.split()) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("vmbusctl: ")
    assert complaint in said.err
    assert said.err.count("\n") == 1
    assert said.err.rstrip().endswith("--help")


def test_without_a_daemon_the_line_says_how_to_start_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "vmbusd.sock"
    assert exit_code(["--socket", str(path), "machines"]) == 1
    expected = (
        f"vmbusctl: no daemon answers at {path} (No such file or directory); start one with: vmbusd --socket {path}"
    )
    assert capsys.readouterr() == ("", expected + "\n")


def test_a_socket_path_that_cannot_be_one_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(["--socket", "/" + "x" * 200, "machines"]) == 1
    assert "(AF_UNIX path too long)" in capsys.readouterr().err


def test_version_without_a_daemon_still_shows_the_client(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(["--socket", str(tmp_path / "none"), "version"]) == 1
    out, err = capsys.readouterr()
    assert out.startswith("vmbusctl ")
    assert err.startswith("vmbusctl: no daemon answers")


def test_a_daemon_that_never_answers_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(calling, "HELLO_SECONDS", 0.2)
    path = tmp_path / "silent.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        assert exit_code(["--socket", str(path), "machines"]) == 1
    assert f"something listens at {path} but did not answer in 0.2 s" in capsys.readouterr().err


def test_something_else_that_answers_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "other.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def answer() -> None:
            with listener.accept()[0] as sock:
                sock.sendall(b"SSH-2.0-Other\r\n")
                sock.recv(65536)

        thread = threading.Thread(target=answer)
        thread.start()
        assert exit_code(["--socket", str(path), "machines"]) == 1
        thread.join()
    assert capsys.readouterr().err.startswith("vmbusctl: the daemon broke the protocol: ")


def test_an_error_nobody_foresaw_is_a_line_and_a_traceback_only_where_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken() -> Path:
        raise ZeroDivisionError("by nothing")

    monkeypatch.setattr("clients.commands.look.socket_path", broken)
    assert exit_code(["machines"]) == 1
    line = "vmbusctl: unexpected ZeroDivisionError: by nothing; set VMBUSCTL_TRACEBACK=1 and try again to see where\n"
    assert capsys.readouterr() == ("", line)
    monkeypatch.setenv("VMBUSCTL_TRACEBACK", "1")
    assert exit_code(["machines"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_contents_come_from_text_file_hex_or_nothing(tmp_path: Path) -> None:
    path = tmp_path / "payload"
    path.write_bytes(b"\0\xff")
    assert contents("häh", None, None, 100) == "häh".encode()
    assert contents(None, path, None, 100) == b"\0\xff"
    assert contents(None, None, "de ad BEEF", 100) == b"\xde\xad\xbe\xef"
    assert contents(None, None, None, 100) == b""


def test_contents_that_are_too_long_are_refused_without_reading_them_all() -> None:
    with pytest.raises(CommandFailed, match=r"at most 1,000 bytes can be sent at once, and /dev/zero is longer"):
        contents(None, Path("/dev/zero"), None, 1000)
    with pytest.raises(CommandFailed, match="longer; send less"):
        contents("abc", None, None, 2)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match="nothing cannot be read: No such file or directory"):
        contents(None, tmp_path / "nothing", None, 100)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "empty"),
        (b"hello", '"hello"'),
        (b"hello\0\0\0", '"hello" and 3 zero bytes of padding'),
        (b"12345678", '"12345678"'),
        (b"h" + bytes(8), "hex 68 00 00 00 00 00 00 00 00"),
        (bytes(8), "hex 00 00 00 00 00 00 00 00"),
        (b"\x1b[2J", "hex 1b 5b 32 4a"),
        (b"\xff\xfe", "hex ff fe"),
        (bytes(300), f"hex {bytes(256).hex(' ')} ... (300 bytes)"),
    ],
)
def test_bytes_are_shown_as_text_only_where_that_is_safe(data: bytes, expected: str) -> None:
    assert shown(data) == expected


@given(st.binary(max_size=400))
def test_nothing_shown_can_control_a_terminal(data: bytes) -> None:
    assert shown(data).isprintable()
    text = printable(data)
    assert text is None or text.encode() == data


@pytest.mark.parametrize(
    ("byte_count", "expected"),
    [(0, "0 B"), (1023, "1,023 B"), (1024, "1.0 KiB"), (1 << 20, "1.0 MiB"), (5 << 30, "5.0 GiB")],
)
def test_sizes_are_for_people(byte_count: int, expected: str) -> None:
    assert byte_size(byte_count) == expected
