"""The wire document says what the table says, stands in ``docs/`` as it is made, and its example is the encoder's."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from emulator.wire.codec import FrameDecoder, FrameLimits, Message, Notification, Request, Response, check_result
from emulator.wire.document import render
from emulator.wire.schema import CHANNEL_WINDOW, HELLO, METHODS, Direction, Method

ROOT = Path(__file__).resolve().parents[2]
COMMAND = "python -m emulator.wire.document > docs/wire-protocol.md"


def test_the_document_in_docs_is_up_to_date() -> None:
    stands = (ROOT / "docs" / "wire-protocol.md").read_text(encoding="utf-8")
    assert stands == render(), f"docs/wire-protocol.md is out of date; make it again with: {COMMAND}"


def test_the_module_prints_the_document() -> None:
    made = subprocess.run(
        [sys.executable, "-m", "emulator.wire.document"], cwd=ROOT, env={"LC_ALL": "C"}, capture_output=True, check=True
    )
    assert made.stdout.decode("utf-8") == render()


def test_every_method_has_a_row_and_a_section_in_number_order() -> None:
    text = render()
    rows = [int(number) for number in re.findall(r"^\| (\d+) \| \[`[a-z_.]+`\]", text, re.MULTILINE)]
    sections = [(int(number), name) for number, name in re.findall(r"^### (\d+) `([a-z_.]+)`$", text, re.MULTILINE)]
    assert rows == [method.number for method in METHODS]
    assert sections == [(method.number, method.name) for method in METHODS]


@pytest.mark.parametrize("row", METHODS, ids=lambda row: row.name)
def test_a_methods_section_lists_its_arguments_and_results_in_order(row: Method) -> None:
    section = render().split(f"### {row.number} `{row.name}`\n")[1].split("\n##")[0]
    assert re.findall(r"^\| `(\w+)` \| ([^|]*) \|", section, re.MULTILINE) == [
        (field.name, field.type.describe()) for field in (*row.params, *row.result)
    ]
    assert row.direction.value in section


def test_every_row_of_every_table_has_as_many_cells_as_its_head() -> None:
    tables = re.findall(r"(?:^\|.*\n)+", render(), re.MULTILINE)
    assert len(tables) > len(METHODS)
    for table in tables:
        cells = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(cells) == 1, table


def test_the_links_lead_to_headings() -> None:
    text = render()
    places = {
        re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in re.findall(r"^#+ (.*)$", text, re.M)
    }
    links = set(re.findall(r"\]\(#([^)]*)\)", text))
    assert len(links) > len(METHODS)
    assert links <= places


def test_the_document_names_the_limits() -> None:
    limits = FrameLimits()
    text = render()
    for number in (f"{limits.frame_bytes:,}", str(limits.elements), str(limits.depth)):
        assert f" | {number} |" in text


def test_the_worked_example_decodes_to_what_it_says() -> None:
    frames = []
    for block in re.findall(r"```text\n(.*?)```", render(), re.DOTALL):
        frames.append(bytes.fromhex("".join(line.split("  ")[0] for line in block.splitlines())))
    request, response, notification = frames

    def decode(sender: Direction, frame: bytes) -> Message:
        [message] = FrameDecoder(sender).feed(frame)
        return message

    hello = decode(Direction.TO_DAEMON, request)
    assert hello == Request(1, HELLO, (1, 1, "example"))
    answer = decode(Direction.TO_CLIENT, response)
    assert isinstance(answer, Response)
    assert check_result(HELLO, answer) == (1, "0.1.0", 7, 1_200_000, 64, 8192)
    assert decode(Direction.TO_DAEMON, notification) == Notification(CHANNEL_WINDOW, (3, 16, 65536))
