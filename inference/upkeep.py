"""The command line: zoo cache."""

from __future__ import annotations

from typing import Annotated

import typer

from inference.options import JSON, say

app = typer.Typer()


@app.command()
def cache(
    clear: Annotated[bool, typer.Option("--clear", help="Remove them; what is needed again is compiled again")] = False,
    json: JSON = False,
) -> None:
    """Say where compiled programs are kept between runs, and how much room they take.

    Beyond 1 GiB those used longest ago are removed.
    """
    from inference.compiled import kept
    from inference.reporting import machine

    removed = kept.clear() if clear else 0
    there, size = kept.folder(), kept.size()
    if json:
        say(machine.cache_text(str(there), size, kept.LIMIT, removed))
        return
    if clear:
        say(f"removed {removed / 2**20:.1f} MiB of compiled programs from {there}")
    else:
        say(f"{size / 2**20:.1f} of at most {kept.LIMIT / 2**20:.0f} MiB of compiled programs in {there}")
