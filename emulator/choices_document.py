"""docs/choices.md, made from the profiles: ``python -m emulator.choices_document > docs/choices.md``."""

from __future__ import annotations

from collections.abc import Iterator

from emulator.choice import alternatives, choices_of, shown
from emulator.tdi.connection_profile import ConnectionProfile
from emulator.tdi.profile import ProviderProfile
from emulator.vmbus.profile import EndpointLimits, KmclProfile

PROFILES: dict[str, tuple[type, str]] = {
    "kmcl": (KmclProfile, "What a VMBus channel end does where the KMCL documentation leaves it open."),
    "channel": (
        EndpointLimits,
        "The sizes of a channel whose driver sets none. `0` is no size; the bounds on queues keep one channel from "
        "eating the process it lives in.",
    ),
    "tdi": (
        ProviderProfile,
        "What the TDI device over real UDP sockets does where its documentation leaves it open.",
    ),
    "connections": (
        ConnectionProfile,
        "What TDI connections over real TCP sockets do. Connections on a segment are made to differ: they keep the "
        "borders of sends and carry user data and expedited data, which real TCP cannot show.",
    ),
}
"""The tables of a profile in the configuration: the dataclass each becomes, and what it is about."""

_HEAD = """# Choices

Where the documentation of VMBus, KMCL and TDI is silent, or allows several answers, this project chooses one, and lets
you choose another. Made from the profiles in the source by `python -m emulator.choices_document > docs/choices.md`; do
not edit it by hand.

A profile is a table of the configuration, and a machine names the one it wants:

```toml
[machines.vm1]
profile = "lenient"

[profiles.lenient.kmcl]
reject_mdl_without_wait = false
closed_first_status = "DEVICE_REMOVED"
```

What a profile does not name keeps its default, and a machine without one has all of them. It holds for every hosted and
direct end of the machine. Statuses are written by name. The rule is the number errors show in brackets; a number with a
dot is a section of what this project knows of KMCL, a bare one of TDI.
"""


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _table(name: str, profile: type, about: str) -> Iterator[str]:
    yield f"\n## `[profiles.NAME.{name}]`\n\n{about}\n"
    yield "| choice | rule | decides | default | otherwise |"
    yield "|---|---|---|---|---|"
    for each, said in choices_of(profile):
        cells = f"`{each.name}`", said.rule, said.decides, f"`{shown(each.default)}`", alternatives(each, said)
        yield "| " + " | ".join(_cell(cell) for cell in cells) + " |"


def render() -> str:
    """The whole document as Markdown."""
    lines = [_HEAD.rstrip("\n")]
    for name, (profile, about) in PROFILES.items():
        lines += _table(name, profile, about)
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    # The descriptor itself, so that the file is UTF-8 whatever the terminal's encoding is.
    with open(1, "w", encoding="utf-8", closefd=False) as output:
        output.write(render())
