"""Processor time to import the library, beside Pyro and ArviZ alone, and of `zoo --help`; each in its own process.

Run with: python benchmarks/imports.py [--repeats 5]
"""

import resource
import subprocess
import sys
from pathlib import Path

from timing import paired, repeats_asked, table


def python(code):
    """The command that runs code and says nothing of warnings."""
    return [sys.executable, "-W", "ignore", "-c", code]


COMMANDS = {
    "import torch, pyro": python("import torch, pyro"),
    "from inference import fit": python("from inference import fit"),
    "import pyro, arviz": python("import pyro, arviz"),
    "import zoo, guides, inference": python("import zoo, guides, inference"),
    "zoo --help": [str(Path(sys.executable).with_name("zoo")), "--help"],
}


def run(command):
    """Processor seconds of one process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main():
    """Print a table of best times, and how much more they are than that of torch and pyro."""
    repeats = repeats_asked(__doc__, 5)
    times = paired(repeats, *(lambda c=c: run(c) for c in COMMANDS.values()))
    lines = [(n, f"{t:.2f}", f"{t - times[0]:+.2f}") for n, t in zip(COMMANDS, times, strict=True)]
    table(("", "CPU seconds", "more"), lines, (32, 12, 6))


if __name__ == "__main__":
    main()
