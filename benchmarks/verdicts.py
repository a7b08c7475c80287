"""How often verdicts are wrong: every method with its defaults on posteriors whose means and sds are known.

An answer is right if no mean of the draws that are handed out is more than 0.1 posterior sds off and no sd more than
10 %, beyond three Monte Carlo errors of the reference; wrong if that is so beyond three errors of the draws, too. A
false trust is a "trust" in what is wrong, a false alarm a right answer that is not trusted. Posteriors are by
quadrature, and those of posteriordb where ZOO_REFERENCES names the folder of its summaries.
Run with: python benchmarks/verdicts.py [--methods svi laplace] [--write README.md]
"""

import argparse
import json
import statistics
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from posteriors import everything, scalar
from timing import machine

from inference import fit
from inference.diagnostics.arviz import effective_sizes
from inference.method import as_method
from zoo.errors import ZooError
from zoo.program.prepare import prepare

METHODS = ("exact", "cavi", "svi", "dadvi", "laplace", "pathfinder", "nuts", "smc")
# First words of the posteriors that were written after the rules were made.
HELD_OUT = "counts ridge gammas students lifetimes rates spread squared waves kink edge precise"
MEAN_OFF, SD_OFF, ERRORS = 0.1, 0.1, 3.0
BEGIN, END = "<!-- verdicts: made by benchmarks/verdicts.py -->", "<!-- end of verdicts -->"


def worst(found, known):
    """How far off the worst mean is (in sds) and the worst sd (as a share), and how far beyond errors of the draws."""
    tensors = {n: torch.from_numpy(v.to_numpy()) for n, v in found.posterior["posterior"].data_vars.items()}
    draws = {n: v.numpy() for n, v in known.named(tensors).items()}
    off = []
    for parameter, mean in known.mean.items():
        x, sd = scalar(draws, parameter), known.sd[parameter]
        worth = x.size
        if "diverging" in found.posterior["sample_stats"]:
            worth = float(effective_sizes(x[..., None])[0])
        elif "weight" in found.posterior["sample_stats"]:
            worth = 1 / (1 / x.size + 1 / found.diagnostics["ess"])
        kurtosis = max(3.0, float(np.mean(((x - x.mean()) / x.std()) ** 4)))
        gaps = np.array([abs(x.mean() - mean) / sd, abs(x.std() / sd - 1)])
        scale = ERRORS * np.array([1.0, (0.25 * (kurtosis - 1)) ** 0.5])
        truth = 1 / known.worth[parameter]
        off.append([gaps - scale * truth**0.5, gaps - scale * (truth + 1 / worth) ** 0.5])
    return np.max(off, 0).clip(0).tolist()


def run(name, known, method, half):
    """One line: what was said and what is."""
    began = time.perf_counter()
    line = {
        "name": name,
        "method": method,
        "half": half,
        "said": "failed",
        "right": False,
        "wrong": True,
        "mean": np.nan,
        "sd": np.nan,
    }
    try:
        found = fit(known.model, known.data, method=method, seed=0, progress=False)
        (line["mean"], line["sd"]), sure = worst(found, known)
        line["said"] = found.verdict.partition(":")[0] or "trust"  # what is exact says nothing
        line["right"] = bool(line["mean"] <= MEAN_OFF and line["sd"] <= SD_OFF)
        line["wrong"] = bool(sure[0] > MEAN_OFF or sure[1] > SD_OFF)
        line["steps"], line["verdict"] = found.steps, found.verdict
        line["seconds"] = found.seconds
    except ZooError as error:
        line["seconds"], line["verdict"] = time.perf_counter() - began, str(error)
    return line


def row(method, lines):
    """Shares of one method."""
    done = [x for x in lines if x["said"] != "failed"]
    trusted = [x for x in done if x["said"].startswith("trust")]
    right = [x for x in done if x["right"]]
    false = sum(x["wrong"] for x in trusted)
    alarms = sum(not x["said"].startswith("trust") for x in right)

    def share(part, whole):
        return f"{part} of {whole}" if whole else "-"

    return [
        method,
        str(len(lines)),
        str(len(lines) - len(done)),
        share(len(right), len(done)),
        share(len(trusted), len(done)),
        share(false, len(trusted)),
        str(sum(not x["right"] for x in trusted) - false),
        share(alarms, len(right)),
        f"{statistics.median(x['seconds'] for x in lines):.1f}",
        f"{statistics.median(x['steps'] for x in done):.0f}" if done else "-",
    ]


HEADER = [
    "method",
    "fits",
    "broke down",
    "right",
    "trusted",
    "false trusts",
    "off by noise",
    "false alarms",
    "seconds",
    "steps",
]


def markdown(rows):
    """Rows as a table."""
    return "\n".join("| " + " | ".join(r) + " |" for r in [HEADER, ["---"] * len(HEADER), *rows])


def main():
    """Run everything asked for, print it, and write the table where that is asked for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--methods", nargs="*", default=METHODS)
    parser.add_argument("--only", nargs="*", help="names of posteriors, or parts of them")
    parser.add_argument("--half", choices=["design", "held out"])
    parser.add_argument("--skip", nargs="*", default=[], help="names of posteriors, or parts of them")
    parser.add_argument("--lines", type=Path, help="file of what was measured, which is added to and not done again")
    parser.add_argument("--write", type=Path)
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    kept = [json.loads(x) for x in asked.lines.read_text().splitlines()] if asked.lines and asked.lines.exists() else []
    done = {(x["name"], x["method"]): x for x in kept}
    lines = []
    for name, known in everything().items():
        half = "held out" if name.split()[0] in HELD_OUT.split() else "design"
        if (asked.only and not any(part in name for part in asked.only)) or (asked.half and half != asked.half):
            continue
        if any(part in name for part in asked.skip):
            continue
        program = prepare(known.model, known.data, device="cpu")
        for method in asked.methods:
            if as_method(method).why_not(program) is not None:
                continue
            line = done.get((name, method)) or run(name, known, method, half)
            line["half"] = half
            if asked.lines and (name, method) not in done:
                with asked.lines.open("a") as file:
                    file.write(json.dumps(line) + "\n")
            mark = "!" if (line["wrong"] if line["said"].startswith("trust") else line["right"]) else " "
            numbers = f"{line['mean']:7.2f} {line['sd']:7.2f} {line['seconds']:7.1f}"
            print(f"{mark} {name:32} {method:10} {line['said']:17} {numbers}  {line['verdict'][:150]}", flush=True)
            lines.append(line)
    rows = [row(m, own) for m in asked.methods if (own := [x for x in lines if x["method"] == m])]
    rows += [row(h, own) for h in ("design", "held out") if (own := [x for x in lines if x["half"] == h])]
    rows.append(row("all", lines))
    print(machine(), markdown(rows), sep="\n")
    if asked.write:
        text = asked.write.read_text(encoding="utf-8")
        before, rest = text.split(BEGIN)
        after = rest.split(END)[1]
        asked.write.write_text(f"{before}{BEGIN}\n{markdown(rows)}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
