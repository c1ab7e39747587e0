"""Configuration files: the example is the default, and every mistake is reported with its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from emulator.config import Config, ConfigError, load

EXAMPLE = Path(__file__).parent.parent / "examples" / "vmbusd.toml"


def refusal(tmp_path: Path, text: str) -> list[str]:
    """The lines with which a configuration is refused, without the file's name."""
    file = tmp_path / "c.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as refused:
        load(file)
    return [line.removeprefix(f"{file}: ") for line in str(refused.value).splitlines()]


def test_the_example_is_the_default_written_out() -> None:
    assert load(EXAMPLE) == Config()


def test_all_mistakes_come_at_once_each_with_its_place(tmp_path: Path) -> None:
    lines = refusal(
        tmp_path,
        """
        [machines.vm1]
        memory_bytes = 4096
        memroy = 1
        [limits]
        sessions = 0
        [udp]
        bind = ["not an address"]
        """,
    )
    assert [line.split(":")[0] for line in lines] == [
        "machines.vm1.memory_bytes",
        "machines.vm1.memroy",
        "limits.sessions",
        "udp.bind",
    ]
    assert "greater than or equal to 262144" in lines[0]
    assert "not permitted" in lines[1]
    assert "'not an address'" in lines[3]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('[machines.a.segments]\nx = "10.0.0.1"\n[segments.lan]', "there is no segment 'x'; defined are: lan"),
        ('[machines.a.segments]\nlan = "10.9.0.1"\n[segments.lan]', "10.9.0.1 is not in the segment's subnet"),
        (
            '[machines.a.segments]\nlan = "10.0.0.1"\n[machines.b.segments]\nlan = "10.0.0.1"\n[segments.lan]',
            "10.0.0.1 already belongs to machine 'a'",
        ),
        ("[segments.udp]\n[machines.a]", "call the segment something else"),
        ('[machines."a b"]', "should match pattern"),
        ("x = ", "is not TOML"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, text: str, expected: str) -> None:
    (line,) = refusal(tmp_path, text)
    assert expected in line


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
    assert line.startswith(f"machines.vm1.{setting}: bits that daemon and guest change at once need the compiled ring")
    assert load(tmp_path / "good.toml").machines["vm1"].interrupt_page is False
