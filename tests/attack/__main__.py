"""Run the campaign, or part of it, and print its counts: ``python -m tests.attack --all``."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections import Counter

from tests.attack import ORDER, campaign, judge

parser = argparse.ArgumentParser(prog="python -m tests.attack", description=__doc__)
parser.add_argument("--all", action="store_true", help="all attempts, some 5,000; else a tenth of them")
parser.add_argument("--kind", choices=ORDER, help="of one kind only")
parser.add_argument("--name", default="", help="only attempts whose name has this text")
parser.add_argument("--share", default="0/1", metavar="K/N", help="part K of N")
parser.add_argument("--show", action="store_true", help="print each attempt that was not answered rightly")
asked = parser.parse_args()

stopped: list[int] = []
signal.signal(signal.SIGTERM, lambda number, _: stopped.append(number))
part, of = map(int, asked.share.split("/"))
chosen = [a for a in campaign(None if asked.all else 500) if asked.kind in (None, a.kind) and asked.name in a.name]
counts: dict[str, Counter[str]] = {kind: Counter() for kind in ORDER}
began = time.perf_counter()
for number, attempt in enumerate(chosen[part::of], 1):
    if stopped:  # the counts so far
        break
    verdict = judge(attempt)
    counts[attempt.kind][verdict.what] += 1
    if asked.show and (verdict.what != "right" or verdict.seconds > 20):
        sys.stdout.write(
            f"{verdict.what}: {attempt.kind}: {attempt.name} ({verdict.seconds:.1f} s): {verdict.why[:300]}\n"
        )
        sys.stdout.flush()
    if number % 500 == 0:
        sys.stderr.write(f"{number} of {len(chosen[part::of])}, {time.perf_counter() - began:.0f} s\n")
counts["all"] = sum(counts.values(), Counter())
sys.stdout.write(f"{'kind':<18}{'attempts':>9}{'right':>8}{'unclear':>9}{'wrong':>7}\n")
for kind, found in counts.items():
    if found.total():
        sys.stdout.write(f"{kind:<18}{found.total():>9}{found['right']:>8}{found['unclear']:>9}{found['wrong']:>7}\n")
sys.stdout.write(f"{time.perf_counter() - began:.0f} s\n")
sys.exit(1 if counts["all"]["wrong"] else 0)
