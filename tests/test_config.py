"""Configuration files: mistakes come with their places and what would be right; documents made from the models."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from emulator.config import Config, ProfileConfig
from emulator.config_file import ConfigError, load
from emulator.config_section import Section, plain_types
from emulator.config_text import comments_of, default_document, json_schema, models_below
from emulator.toml_positions import find_positions
from tests.support.processes import ROOT, run_client

EXAMPLE = ROOT / "examples" / "vmbusd.toml"
SCHEMA = ROOT / "docs" / "vmbusd.schema.json"


def refusal(tmp_path: Path, text: str) -> list[str]:
    """The lines with which a configuration is refused, without the file's name."""
    file = tmp_path / "c.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as refused:
        load(file)
    return [line.removeprefix(f"{file}:").strip() for line in str(refused.value).splitlines()]


def test_the_example_is_the_default_written_out() -> None:
    assert load(EXAMPLE) == Config()


MISTAKES = """
[machines.vm1]
memory_bytes = 4096
memroy = 1
segments = { wan = "10.0.0.1", lan = "10.9.0.1" }
[limits]
sessions = 0
"hello seconds" = 1
[udp]
  bind = ["127.0.0.1", "not an address"]
[segments.lan]
loss = 2
[machines.vm2]
profile = "strict"
"""


def test_all_mistakes_come_at_once_each_with_its_place_and_what_would_be_right(tmp_path: Path) -> None:
    assert refusal(tmp_path, MISTAKES) == [
        "3:1: machines.vm1.memory_bytes: must be greater than or equal to 262144, not 4096",
        "4:1: machines.vm1.memroy: unknown key 'memroy' in machines.vm1; did you mean 'memory_bytes'?",
        "5:14: machines.vm1.segments.wan: there is no segment 'wan'; defined are: lan",
        "5:32: machines.vm1.segments.lan: 10.9.0.1 is not in the segment's subnet 10.0.0.0/24",
        "7:1: limits.sessions: must be greater than or equal to 1, not 0",
        "8:1: limits.hello seconds: unknown key 'hello seconds' in limits; did you mean 'hello_seconds'?",
        "10:3: udp.bind: 'not an address' does not appear to be an IPv4 or IPv6 address",
        "12:1: segments.lan.loss: must be less than or equal to 1, not 2",
        "14:1: machines.vm2.profile: there is no profile 'strict'; defined are: none",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            '[machines.a.segments]\nlan = "10.0.0.1"\n[machines.b.segments]\nlan = "10.0.0.1"\n[segments.lan]',
            "4:1: machines.b.segments.lan: 10.0.0.1 already belongs to machine 'a'",
        ),
        ("[segments.udp]\n[machines.a]", "1:2: segments.udp: the name 'udp' stands for real UDP sockets"),
        ('[machines."a b"]', "1:2: machines.a b: 'a b' is no name; letters, digits, '.', '_' and '-' make one"),
        ('["machines"."b.c"]\nmemory_bytes = "x"', "2:1: machines.b.c.memory_bytes: must be a"),
        ("limits = 3", "1:1: limits: must be a"),
        ("nonsense = 1", "1:1: nonsense: unknown key 'nonsense' at the top; known keys are: access, channels, limits,"),
        ("x = ", "1:5: is not TOML: invalid value"),
        ("a = 1\na = 2", "2:6: is not TOML: cannot overwrite a value"),
        ("a = [\n", "2:1: is not TOML"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, text: str, expected: str) -> None:
    (line,) = refusal(tmp_path, text)
    assert expected in line


def test_a_file_in_another_encoding(tmp_path: Path) -> None:
    path = tmp_path / "latin.toml"
    path.write_bytes("# good\n# sch\xf6n\n".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"latin.toml:2:1: is not UTF-8"):
        load(path)


# ---- places

KEYS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=6)
DOCUMENTS = st.recursive(
    st.integers(-9, 9) | st.booleans() | KEYS,
    lambda below: st.lists(below, max_size=3) | st.dictionaries(KEYS, below, max_size=3),
    max_leaves=12,
)


def _written(value: Any) -> str:
    """A value as TOML has it, tables inline."""
    if isinstance(value, dict):
        return (
            "{"
            + ", ".join(f"{json.dumps(key, ensure_ascii=False)} = {_written(each)}" for key, each in value.items())
            + "}"
        )
    if isinstance(value, list):
        return "[" + ", ".join(_written(each) for each in value) + "]"
    return json.dumps(value, ensure_ascii=False)


def _places(value: Any, place: tuple[str | int, ...] = ()) -> set[tuple[str | int, ...]]:
    found = {place} if place else set()
    if isinstance(value, dict):
        for key, each in value.items():
            found |= _places(each, (*place, key))
    elif isinstance(value, list):
        for index, each in enumerate(value):
            found |= _places(each, (*place, index))
    return found


@given(st.dictionaries(KEYS, DOCUMENTS, max_size=4))
def test_every_key_and_element_of_a_document_has_its_place(document: dict[str, Any]) -> None:
    lines = [f"{json.dumps(key, ensure_ascii=False)} = {_written(value)}" for key, value in document.items()]
    source = "\n".join(lines)
    assert tomllib.loads(source) == document
    positions = find_positions(source.encode())
    assert set(positions) == _places(document)
    for number, key in enumerate(document, 1):
        assert positions[key,] == (number, 1)


def test_tables_dotted_keys_and_arrays_of_tables() -> None:
    source = '[a.b]\nc.d = 1\n[[list]]\nx = 1\n[[list]]\n  y = { "\\u0041" = [1, [2]] }\n[list.z]\nw = 0\n'
    found = find_positions(source.encode())
    assert found["a", "b", "c", "d"] == (2, 1)
    assert found["list", 0, "x"] == (4, 1)
    assert found["list", 1, "y"] == (6, 3)
    assert found["list", 1, "y", "A", 1, 0] == (6, 25)
    assert found["list", 1, "z", "w"] == (8, 1)


# ---- documents


def test_the_printed_default_is_the_default(tmp_path: Path) -> None:
    path = tmp_path / "default.toml"
    path.write_text(default_document())
    assert load(path) == Config()


def test_what_is_off_by_default_is_shown_and_commented_out() -> None:
    text = default_document()
    assert "#profile =" in text
    assert "#[profiles.NAME]" in text
    assert "# A client that reads its socket holds a few KiB here; this much means it has stopped reading.\n" in text


def test_the_published_schema_is_the_schema_of_the_models() -> None:
    assert SCHEMA.read_text() == json_schema(), "make it again: vmbusd --print-config-schema > docs/vmbusd.schema.json"
    limits = json.loads(json_schema())["$defs"]["LimitsConfig"]
    assert limits["properties"]["drain_seconds"]["description"].startswith("After SIGTERM")
    assert limits["additionalProperties"] is False
    assert "machines" not in comments_of(Config)


async def test_vmbusd_checks_and_prints(tmp_path: Path) -> None:
    good = tmp_path / "good.toml"
    good.write_text((await run_client("emulator", "--print-default-config")).stdout)
    fine = await run_client("emulator", "--check-config", str(good))
    assert fine.stdout == f"{good}: fine: 2 machines, 1 segments\n"
    bad = tmp_path / "bad.toml"
    bad.write_text("[limit]\n")
    for arguments in (["--check-config", str(bad)], ["--config", str(bad), "--socket", str(tmp_path / "s")]):
        refused = await run_client("emulator", *arguments, expect_exit=2)
        assert refused.stderr == f"{bad}:1:2: limit: unknown key 'limit' at the top; did you mean 'limits'?\n"
    assert json.loads((await run_client("emulator", "--print-config-schema")).stdout)["title"]


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        load(tmp_path / "missing.toml")


def test_the_configuration_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Config().limits.sessions = 5


@pytest.mark.parametrize("setting", ["interrupt_page", "event_flags_page"])
def test_shared_bits_without_the_compiled_ring_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    text = f"[machines.vm1]\n{setting} = true\n[segments.lan]\n"
    (tmp_path / "good.toml").write_text(text.replace("true", "false"))
    monkeypatch.setattr("emulator.vmbus.shared_bits.BITS_ARE_ATOMIC", False)
    (line,) = refusal(tmp_path, text)
    assert line.startswith(
        f"2:1: machines.vm1.{setting}: bits that daemon and guest change at once need the compiled ring"
    )
    assert load(tmp_path / "good.toml").machines["vm1"].interrupt_page is False


TRUTHS = """
segments = { lan = { loss = true, latency_seconds = false, seed = true, rate_bytes_per_second = true } }
[access]
admin = ["root", true]
[listen]
socket_group = true
quic.port = true
[limits]
sessions = true
bytes_per_second = true
[machines.vm1]
memory_bytes = true
verifier = true
quota.offers = false
[profiles.odd]
kmcl = { packet_slots_of_no_such_name = 1 }
tdi = { max_datagram_bytes = true, unreachable_status = true }
connections = { connect_timeout_seconds = true, stall_timeout_seconds = nan, release_timeout_seconds = 1%s }
"""


def test_true_is_no_number_and_no_text_anywhere(tmp_path: Path) -> None:
    lines = refusal(tmp_path, TRUTHS % ("0" * 400))
    told = sorted(re.sub(r"^[0-9:]+ ", "", line) for line in lines if "such choice" not in line)
    assert told == [
        "access.admin: must be text or a number",
        "limits.bytes_per_second: must be a number, not true",
        "limits.sessions: must be a number, not true",
        "listen.quic.port: must be a number, not true",
        "listen.socket_group: must be text or a number, not true",
        "machines.vm1.memory_bytes: must be a number, not true",
        "machines.vm1.quota.offers: must be a number, not false",
        "profiles.odd.connections.connect_timeout_seconds: a value like 20.0 is wanted, not True",
        "profiles.odd.connections.release_timeout_seconds: a number like 120.0 is wanted, not one so large",
        "profiles.odd.connections.stall_timeout_seconds: a number is wanted, such as 20.0, not nan",
        "profiles.odd.tdi.max_datagram_bytes: a value like 65507 is wanted, not True",
        'profiles.odd.tdi.unreachable_status: the name of a status is wanted, such as "CANCELLED", not True',
        "segments.lan.latency_seconds: must be a number, not false",
        "segments.lan.loss: must be a number, not true",
        "segments.lan.rate_bytes_per_second: must be a number, not true",
        "segments.lan.seed: must be a number, not true",
    ]


def test_true_for_a_table_or_a_list_is_an_ordinary_mistake(tmp_path: Path) -> None:
    assert len(refusal(tmp_path, "segments = true\nmachines = [true]\n")) == 2
    assert len(refusal(tmp_path, "[segments.lan]\npartition = [true]\n")) == 1


@pytest.mark.parametrize(
    "model",
    [each for each in [Config, *models_below(Config).values()] if each is not ProfileConfig],
    ids=lambda model: model.__name__,
)
def test_no_field_of_any_section_takes_true_for_a_number(model: type[Section]) -> None:
    for name, field in model.model_fields.items():
        leaves = set(plain_types(field.annotation))
        if leaves & {int, float} and bool not in leaves:
            for given in (True, [False]):
                with pytest.raises(ValidationError, match="Input should be"):
                    model.model_validate({name: given})
