"""What the benchmarks share: paired timings in one run, and a line that describes the machine."""

import argparse
import platform
import statistics
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


def machine():
    """Describe processor, threads and versions."""
    model = platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text().splitlines()
        model = next((line.partition(": ")[2].strip() for line in lines if "model name" in line), model)
    device = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    versions = f"torch {torch.__version__}, Python {sys.version.split()[0]}"
    return f"{model}{device}, {torch.get_num_threads()} threads, {versions}"


def repeats_asked(document, usual=3):
    """Read how often to repeat from the command line, and print what machine this is."""
    parser = argparse.ArgumentParser(description=document.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=usual)
    repeats = parser.parse_args().repeats
    print(machine())
    return repeats


def seconds(function):
    """Wall time of one call."""
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def paired(repeats, *functions):
    """Best time of each function, which take turns; the best is what other work on the machine disturbs least."""
    times = [[f() for f in functions] for _ in range(repeats)]
    return [min(row[i] for row in times) for i in range(len(functions))]


def per_step(trace, skip=1):
    """Seconds per step, from the trace of a fit: the median, without the first steps."""
    return statistics.median(trace["seconds"].diff().iloc[1 + skip :])


def table(header, rows, widths):
    """Print rows as they come, under a header."""
    line = " ".join(f"{{:>{w}}}" for w in widths)
    print(line.format(*header))
    for row in rows:
        print(line.format(*row), flush=True)
