"""One self-contained HTML page: text, tables and embedded pictures."""

import base64
import os
from collections.abc import Sequence
from html import escape
from pathlib import Path

__all__ = ["Report"]

CSS = """
:root { --ink: #1f2933; --soft: #5b6875; --line: #e3e8ee; --accent: #2563eb; --paper: #fff; --back: #f4f6f9; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--ink); font: 16px/1.55 system-ui, "DejaVu Sans", sans-serif; }
main { max-width: 960px; margin: 0 auto; padding: 2.2rem 1rem 4rem; }
h1 { font-size: 2rem; margin: 0 0 .2rem; letter-spacing: -.02em; }
h2 { font-size: 1.3rem; margin: 0 0 .6rem; }
p { margin: .5rem 0; } .lead { color: var(--soft); font-size: 1.05rem; margin-bottom: 1.4rem; }
section { background: var(--paper); border: 1px solid var(--line); border-radius: 12px; padding: 1.3rem 1.5rem;
  margin: 1.2rem 0; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: .8rem; }
.figures div { background: var(--paper); border: 1px solid var(--line); border-radius: 12px; padding: .8rem 1rem; }
.figures b { display: block; font-size: 1.55rem; color: var(--accent); line-height: 1.2; }
.figures span { color: var(--soft); font-size: .85rem; }
img { max-width: 100%; height: auto; display: block; margin: .8rem auto; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; margin: .8rem 0; }
th { text-align: left; color: var(--soft); font-weight: 600; }
th, td { border-bottom: 1px solid var(--line); padding: .4rem .5rem; vertical-align: top; }
td.number, th.number { text-align: right; white-space: nowrap; }
pre { background: #17202b; color: #e8eef5; border-radius: 8px; padding: .8rem 1rem; overflow-x: auto; font-size: .84rem;
  white-space: pre-wrap; }
ins { text-decoration: none; background: #fde2e1; } del { color: #b42318; }
footer { color: var(--soft); font-size: .85rem; }
"""


class Report:
    """Collects the parts of the page in order; `write` puts them into one file.

    Text is escaped; what is passed as `html` is not and must come from this package.
    """

    def __init__(self, title: str, lead: str) -> None:
        self.title = title
        self.parts = [f"<h1>{escape(title)}</h1>", f'<p class="lead">{escape(lead)}</p>']

    def figures(self, figures: Sequence[tuple[str, str]]) -> None:
        """A row of key figures: (value, what it is)."""
        cells = "".join(f"<div><b>{escape(value)}</b><span>{escape(what)}</span></div>" for value, what in figures)
        self.parts.append(f'<div class="figures">{cells}</div>')

    def section(self, title: str, *html: str) -> None:
        """A titled box around parts made by `text`, `image`, `table` and `command`."""
        self.parts.append(f"<section><h2>{escape(title)}</h2>{''.join(html)}</section>")

    def write(self, path: Path) -> None:
        """Write the page as a whole: a run that is stopped leaves no half of it."""
        page = (
            '<!doctype html><html lang="en"><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{escape(self.title)}</title><style>{CSS}</style><main>{''.join(self.parts)}</main></html>"
        )
        unfinished = path.with_suffix(".part")
        unfinished.write_text(page, encoding="utf-8")
        os.replace(unfinished, path)


def text(words: str) -> str:
    """A paragraph."""
    return f"<p>{escape(words)}</p>"


def command(line: str) -> str:
    """A command line, as typed."""
    return f"<pre>$ {escape(line)}</pre>"


def image(png: bytes, alt: str) -> str:
    """A picture inside the page."""
    return f'<img alt="{escape(alt)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'


def animation(webp: bytes, alt: str) -> str:
    """A moving picture inside the page."""
    return f'<img alt="{escape(alt)}" src="data:image/webp;base64,{base64.b64encode(webp).decode()}">'


def table(head: Sequence[str], rows: Sequence[Sequence[str]], numbers: Sequence[int] = ()) -> str:
    """A table of cells that are HTML already (escape them); the columns in `numbers` are set to the right."""

    def cells(tag: str, row: Sequence[str]) -> str:
        kinds = [' class="number"' if column in numbers else "" for column in range(len(row))]
        return "".join(f"<{tag}{kind}>{cell}</{tag}>" for kind, cell in zip(kinds, row, strict=True))

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f"<table><tr>{cells('th', head)}</tr>{body}</table>"
