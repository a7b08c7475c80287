"""The packages of this environment against `requirements.lock`: versions, licences, and known vulnerabilities.

python .ci/packages.py UV, where UV is that command. Ends with 1 if a version is not the locked one, or is known to be
vulnerable; where no database can be asked, what is installed is listed, and said to be unaudited.
"""

import re
import subprocess
import sys
from collections import defaultdict
from importlib.metadata import Distribution, distributions
from pathlib import Path

LOCK = Path(__file__).parents[1] / "requirements.lock"
NOT_LOCKED = {"latentzoo", "pip", "setuptools", "uv"}  # this, and what makes the environment
AUDIT = ["tool", "run", "pip-audit==2.10.1", "--disable-pip", "--progress-spinner", "off", "-r"]


def key(name: str) -> str:
    """Return a name as registries compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def licence(found: Distribution) -> str:
    """Return what a package says of its licence, in one line."""
    said = found.metadata
    classifiers = [c.rpartition(" :: ")[2] for c in said.get_all("Classifier", []) if c.startswith("License ::")]
    text = said.get("License-Expression") or ", ".join(classifiers) or (said.get("License") or "").partition("\n")[0]
    return text.strip()[:60] or "says none"


def main(uv: str) -> int:
    """Print what is installed, and return the exit code."""
    locked: dict[str, set[str]] = defaultdict(set)
    for name, version in re.findall(r"^([\w.-]+)==([^\s;\\]+)", LOCK.read_text(), re.MULTILINE):
        locked[key(name)].add(version)
    by_licence, other = defaultdict(list), []
    for found in sorted(distributions(), key=lambda d: key(d.name)):
        by_licence[licence(found)].append(f"{found.name} {found.version}")
        if key(found.name) not in NOT_LOCKED and found.version.partition("+")[0] not in locked[key(found.name)]:
            other.append(f"{found.name} {found.version}")
    for name, packages in sorted(by_licence.items()):
        print(f"{name}: {', '.join(packages)}")
    if other:
        print(f"NOT THE LOCKED VERSION: {', '.join(other)}")
    # One package tells whether there is a database, before all are asked about.
    lines = re.split(r"\n(?=\S)", LOCK.read_text())
    for part in ([next(line for line in lines if line.startswith("numpy=="))], lines):
        chosen = LOCK.with_suffix(".audited")
        chosen.write_text("\n".join(part) + "\n")
        done = subprocess.run([uv, *AUDIT, str(chosen)], capture_output=True, text=True)
        chosen.unlink()
        if "could not be audited" in done.stdout + done.stderr or "Error" in done.stderr:
            print("no database of vulnerabilities can be asked from here: the versions above are unaudited")
            break
        if done.returncode:
            print(done.stdout, done.stderr, sep="\n")
            return 1
    else:
        print(f"{len(locked)} packages: no known vulnerability")
    return bool(other)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
