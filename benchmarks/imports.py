"""Time to import the library against Pyro and ArviZ alone, and of `zoo --help`, each in a process of its own.

Run with: python benchmarks/imports.py [--repeats 5]
"""

import subprocess
import sys
from pathlib import Path

from timing import paired, repeats_asked, seconds, table

COMMANDS = {
    "import pyro, arviz": [sys.executable, "-W", "ignore", "-c", "import pyro, arviz"],
    "import zoo, guides, inference": [sys.executable, "-W", "ignore", "-c", "import zoo, guides, inference"],
    "zoo --help": [str(Path(sys.executable).with_name("zoo")), "--help"],
}


def run(command):
    """Seconds of one process."""
    return seconds(lambda: subprocess.run(command, check=True, capture_output=True))


def main():
    """Print a table of best times and ratios."""
    repeats = repeats_asked(__doc__, 5)
    times = paired(repeats, *(lambda c=c: run(c) for c in COMMANDS.values()))
    lines = [(n, f"{t:.2f}", f"{t / times[0]:.2f}") for n, t in zip(COMMANDS, times, strict=True)]
    table(("", "seconds", "ratio"), lines, (32, 8, 6))


if __name__ == "__main__":
    main()
