"""The code of README and of the pages of docs runs: their Python blocks, in order, each as one program."""

from __future__ import annotations

import codeop
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PAGES = (README, ROOT / "docs" / "images.md", ROOT / "docs" / "progress.md")
FENCE = re.compile(r"\s*(```+|~~~+)\s*(\w*)")


def program(text: str) -> str:
    """Keep the lines of Python blocks and blank all others, so that a traceback names the line of the README."""
    lines, fence, python, indent = [], "", False, 0
    for line in text.splitlines():
        mark = FENCE.match(line)
        if mark and not fence:
            fence, python, indent = mark[1], mark[2] == "python", len(line) - len(line.lstrip())
        elif mark and mark[1] == fence and not mark[2]:
            fence, python = "", False
        elif python:
            lines.append(line[indent:])
            continue
        lines.append("")
    return "\n".join(lines) + "\n"


def test_only_python_blocks_are_kept_at_their_lines() -> None:
    text = "# Title\n```python\na = 1\n```\n```bash\nexit 1\n```\n1. step\n   ```python\n   b = a\n   ```\nend\n"
    assert program(text).split("\n") == ["", "", "a = 1", *[""] * 6, "b = a", "", "", ""]


def test_blocks_can_be_pasted_at_a_prompt() -> None:
    """A blank line ends a class there, so that classes have none inside."""
    pending: list[str] = []
    for line in program(README.read_text(encoding="utf-8")).splitlines():
        pending.append(line)
        if codeop.compile_command("\n".join(pending)) is not None:  # a SyntaxError names the line
            pending = []
    assert not any(pending)


def test_recipes_for_progress_log_what_a_fit_tells() -> None:
    """With stand-ins that take the calls of TensorBoard's SummaryWriter and of MLflow."""
    space: dict[str, Any] = {}
    text = program((ROOT / "docs" / "progress.md").read_text(encoding="utf-8"))
    exec(
        "\n".join(text[text.index(f"def {n}") :].partition("\n\n\n")[0] for n in ("to_tensorboard", "to_mlflow")), space
    )
    logged: list[tuple[Any, ...]] = []
    writer = SimpleNamespace(add_scalar=lambda tag, value, step: logged.append((tag, value, step)))
    server = SimpleNamespace(log_metric=lambda key, value, *, step: logged.append((key, value, step)))
    for tell in (space["to_tensorboard"](writer), space["to_mlflow"](server)):
        for step in (3, 10, 25):
            tell(step, -float(step), {"title": "svi", "total": 25, "seconds": 0.1})
    assert [s for _, _, s in logged] == [3, 10, 25, 10, 25]
    assert [n for n, _, _ in logged] == ["svi/objective"] * 3 + ["svi_objective"] * 2


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_pages_run(page: Path, tmp_path: Path) -> None:
    code = program(page.read_text(encoding="utf-8"))
    assert code.strip()
    script = tmp_path / "page.py"
    script.write_text(code, encoding="utf-8")
    folder = tmp_path / "empty"
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=folder,
        env={**os.environ, "MPLBACKEND": "Agg"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
