"""How many descriptors this process may have open: as many as it is allowed, and whether a start can do with them."""

from __future__ import annotations

import resource

from emulator.config import Config

# A machine's memory, and the mapping of it, which keeps a descriptor of its own.
PER_MACHINE = 2
# Standard streams, the event loop, listeners and their lock, clients enough to look what is wrong.
SPARE = 64


class TooFewDescriptors(Exception):
    """The configuration needs more descriptors than this process is allowed; the text has both numbers."""


def raise_limit() -> int:
    """Raise the soft limit to the hard one; how many are allowed now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def needed_to_start(config: Config) -> int:
    """What a configuration takes before the first client comes."""
    gateways = [segment.gateway for segment in config.segments.values() if segment.gateway is not None]
    return SPARE + PER_MACHINE * len(config.machines) + sum(len(gateway.ports) for gateway in gateways)


def require(config: Config, allowed: int) -> None:
    """Raises TooFewDescriptors for a configuration that cannot start with so many."""
    needed = needed_to_start(config)
    if allowed != resource.RLIM_INFINITY and needed > allowed:
        text = (
            f"{len(config.machines)} machines need {needed} open descriptors to start, and this process is allowed "
            f"{allowed}; raise its hard limit (LimitNOFILE={needed + config.limits.sessions} in a systemd unit, "
            f"ulimit -Hn in a shell), or have fewer machines"
        )
        raise TooFewDescriptors(text)
