"""``completion``: the script that teaches a shell to complete vmbusctl's command lines."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from clients.commands.calling import CommandFailed
from clients.commands.output import say

PROGRAM = "vmbusctl"
# What the script sets when it asks for completions; click answers it.
VARIABLE = "_VMBUSCTL_COMPLETE"


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the script that completes vmbusctl's commands and options in a shell.

    \b
    Example, for the shell that runs now, and for every bash of this user:
        eval "$(vmbusctl completion bash)"
        vmbusctl completion bash > ~/.local/share/bash-completion/completions/vmbusctl
    """
    kind = get_completion_class(shell)
    if kind is None:
        raise CommandFailed(f"nothing is known about completion in {shell}")
    root = click.get_current_context().find_root().command
    say(kind(root, {}, PROGRAM, VARIABLE).source().strip())
