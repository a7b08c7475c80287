"""What a user has after an installation, in a folder that is not the checkout: python .ci/installed.py CHECKOUT."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

checkout, home = Path(sys.argv[1]), Path(sys.prefix)
import zoo  # noqa: E402
from inference import Fit, fit  # noqa: E402

for package in ("zoo", "guides", "inference"):
    module = importlib.import_module(package)
    place = Path(module.__file__).parent
    assert place.is_relative_to(home), place
    for file in ("py.typed", "__init__.pyi"):
        assert (place / file).read_text() == (checkout / package / file).read_text(), file
    names = re.findall(r" as (\w+)$", (checkout / package / "__init__.pyi").read_text(), re.MULTILINE)
    assert all(hasattr(module, name) for name in names), package
data = {path.name.partition(".")[0] for path in (checkout / "zoo" / "datasets").glob("*.csv*")}
assert {name for name in zoo.datasets.names() if len(zoo.datasets.load(name))} >= data


def command(*arguments: str) -> str:
    """Return what the command zoo prints."""
    return subprocess.run([home / "bin" / "zoo", *arguments], check=True, capture_output=True, text=True).stdout


assert command("--version") == f"latentzoo {zoo.__version__}\n"
listed = command("list")
assert all(f"  {name} " in listed for name in zoo.models()), listed
command("fit", "GMM", "faithful", "-m", "em", "--set", "components=2", "--seed", "0", "--out", "by_command")
fitted = fit(zoo.GMM(components=2), "faithful", method="em", seed=0, progress=False)
assert abs(fitted.objective.value + 1130.264) < 1e-3, fitted  # mclust, scikit-learn
assert Fit.load(Path("by_command")).objective == fitted.objective
importlib.import_module("nutpie")  # for all, without an extra
sys.stdout.write(f"latentzoo {zoo.__version__} on Python {sys.version.split()[0]}: {len(zoo.models())} models\n")
