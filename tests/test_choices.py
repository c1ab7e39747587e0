"""Every choice names its rule and its alternatives, stands in ``docs/choices.md``, and can be made by plain values."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass, fields
from pathlib import Path

import pytest

from emulator.choice import ChoiceError, alternatives, choice, choices_of, chosen, plain
from emulator.choices_document import PROFILES, render
from emulator.status import NtStatus
from emulator.tdi.profile import CleanupStyle, ProviderProfile
from emulator.vmbus.profile import EndpointLimits, KmclProfile

ROOT = Path(__file__).resolve().parents[1]
RULES = re.compile(r"[A-Z]{1,2}\d+[a-z]?(-[A-Z]{1,2}\d+)?|\d(\.\d)?")


def unexplained(profile: type) -> list[str]:
    """Fields of a profile that do not say which rule they decide, what, and what else there is."""
    told = {each.name: (each, said) for each, said in choices_of(profile)}
    missing = [each.name for each in fields(profile) if each.name not in told]
    return missing + [
        name
        for name, (each, said) in told.items()
        if not (
            all(RULES.fullmatch(rule) for rule in said.rule.split(", ")) and said.decides and alternatives(each, said)
        )
    ]


@pytest.mark.parametrize("profile", [profile for profile, _ in PROFILES.values()])
def test_every_field_of_a_profile_says_what_it_chooses(profile: type) -> None:
    assert unexplained(profile) == []


def test_a_field_that_says_nothing_is_found() -> None:
    @dataclass
    class Sample:
        silent: bool = True
        half: bool = choice(True, "K1", "something")
        no_rule: int = choice(1, "perhaps", "something")
        good: int = choice(1, "K1", "something")

    assert unexplained(Sample) == ["silent", "half", "no_rule"]


def test_the_document_in_docs_is_up_to_date() -> None:
    stands = (ROOT / "docs" / "choices.md").read_text(encoding="utf-8")
    assert stands == render(), "out of date; make it again: python -m emulator.choices_document > docs/choices.md"


def test_the_module_prints_the_document() -> None:
    made = subprocess.run(
        [sys.executable, "-m", "emulator.choices_document"],
        cwd=ROOT,
        env={"LC_ALL": "C"},
        capture_output=True,
        check=True,
    )
    assert made.stdout.decode("utf-8") == render()


def test_every_choice_has_a_row_with_its_default() -> None:
    text = render()
    for profile, _ in PROFILES.values():
        for each in fields(profile):
            assert re.search(rf"^\| `{each.name}` \| .* \| `.*` \| .+ \|$", text, re.M), each.name
    assert '| `closed_first_status` | 4.4 | the channel closed before the packet completed | `"CANCELLED"` |' in text


@pytest.mark.parametrize("profile", [profile for profile, _ in PROFILES.values()])
def test_a_profile_goes_through_json_and_back(profile: type) -> None:
    made: object = chosen(profile, json.loads(json.dumps(plain(profile()))))
    assert made == profile()
    assert list(plain(made)) == [each.name for each in fields(profile)]


def test_choices_are_made_by_plain_values() -> None:
    kmcl = chosen(KmclProfile, {"closed_first_status": "STATUS_DEVICE_REMOVED", "check_locked": False})
    assert kmcl == KmclProfile(closed_first_status=NtStatus.DEVICE_REMOVED, check_locked=False)
    settings = {"cleanup": "drain", "dynamic_ports": [5000, 5001], "send_timeout_seconds": 2}
    tdi = chosen(ProviderProfile, {**settings, "maximum_lookahead_bytes": 64})
    expected = ProviderProfile(
        cleanup=CleanupStyle.DRAIN, dynamic_ports=(5000, 5001), send_timeout_seconds=2.0, maximum_lookahead_bytes=64
    )
    assert tdi == expected
    assert type(tdi.send_timeout_seconds) is float


def test_every_mistake_is_named() -> None:
    with pytest.raises(ChoiceError) as wrong:
        chosen(
            ProviderProfile,
            {
                "nothing": 1,
                "cleanup": "burn",
                "expired_status": "GONE",
                "dynamic_ports": [1],
                "refuses_zero_length": 1,
                "max_queued_datagrams": True,
            },
        )
    texts = dict(wrong.value.problems)
    assert "there is no such choice; ProviderProfile has: max_datagram_bytes" in texts["nothing"]
    assert texts["cleanup"] == 'one of "cancel", "drain" is wanted, not \'burn\''
    assert "the name of a status" in texts["expired_status"]
    assert "a list of 2" in texts["dynamic_ports"]
    assert texts["refuses_zero_length"] == "a value like false is wanted, not 1"
    assert "not True" in texts["max_queued_datagrams"]


def test_limits_are_above_zero() -> None:
    with pytest.raises(Exception, match="max_packet_bytes must be above 0"):
        chosen(EndpointLimits, {"max_packet_bytes": 0})
