"""One HTML page without anything outside it: text, tables and pictures under headings."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from inference.runtime.whole import whole_file

LONGEST = 200  # rows of a table that are shown

_TEMPLATE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{{ title }}</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; border-bottom: 1px solid #ccc; margin-top: 2rem; }
pre { background: #f6f6f6; padding: .7rem; overflow-x: auto; font-size: 13px; }
table { border-collapse: collapse; font-size: 13px; display: block; overflow-x: auto; }
th, td { padding: .15rem .6rem; text-align: right; border-bottom: 1px solid #eee; }
tbody th { text-align: left; font-weight: normal; font-family: monospace; }
img { max-width: 100%; } caption { text-align: left; font-weight: bold; }
</style>
</head>
<body>
<h1>{{ title }}</h1>
{% for section in sections %}
<h2>{{ section.title }}</h2>
{% for paragraph in section.paragraphs %}<p>{{ paragraph }}</p>
{% endfor %}
{% if section.text %}<pre>{{ section.text }}</pre>
{% endif %}
{% for table in section.tables %}{{ table | safe }}
{% endfor %}
{% for name, picture in section.pictures %}<p><img alt="{{ name }}" src="data:image/png;base64,{{ picture }}"></p>
{% endfor %}
{% endfor %}
</body>
</html>
"""


@dataclass
class Section:
    """A heading with what stands under it: paragraphs, text as it is laid out, tables, pictures (name and PNG)."""

    title: str
    paragraphs: Sequence[str] = ()
    text: str = ""
    tables: Sequence[pd.DataFrame] = ()
    pictures: Sequence[tuple[str, bytes]] = ()


def html(title: str, sections: Sequence[Section]) -> str:
    """Render a page. Whatever text comes from a user, names of columns included, is escaped."""
    import jinja2  # it takes long to import

    page = jinja2.Environment(autoescape=True, trim_blocks=True).from_string(_TEMPLATE)
    return page.render(
        title=title,
        sections=[
            {
                "title": s.title,
                "paragraphs": [*s.paragraphs, *(_cut(t) for t in s.tables if len(t) > LONGEST)],
                "text": s.text,
                "tables": [_table(t) for t in s.tables if len(t)],
                "pictures": [(name, base64.b64encode(png).decode()) for name, png in s.pictures],
            }
            for s in sections
        ],
    )


def write_page(path: Path, title: str, sections: Sequence[Section]) -> Path:
    """Write a page to a file, and make the folders above it.

    Raises
    ------
    DataError
        If it cannot be written, naming the path and why.
    """
    text = html(title, sections)
    with whole_file(path) as new:
        new.write_text(text, encoding="utf-8")
    return path


def _cut(table: pd.DataFrame) -> str:
    return f"The first {LONGEST} of {len(table)} rows are shown."


def _table(table: pd.DataFrame) -> str:
    """Return a table as HTML; pandas escapes its names and cells."""
    return table.head(LONGEST).to_html(border=0, float_format=lambda v: f"{v:.6g}", na_rep="-", justify="right")
