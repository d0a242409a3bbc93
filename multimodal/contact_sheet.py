"""Pictures side by side on one self-contained HTML page."""

import base64
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path

from PIL import Image

from core.data.images import read_image
from core.errors import InputError
from core.weights.files import replacing

__all__ = ["contact_sheet"]

SIDE = 320  # pixels of the longer side of a thumbnail

CSS = """
:root { color-scheme: light dark; --ink: #1f2933; --soft: #5b6875; --back: #f4f6f9; --card: #fff; --line: #e3e8ee; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8eef5; --soft: #9aa7b5; --back: #10161d; --card: #1a222c; --line: #2a3542; }
}
body { margin: 0; padding: 2rem; background: var(--back); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.4rem; margin: 0 0 1.2rem; }
main { display: grid; grid-template-columns: repeat(auto-fill, minmax(180px, 1fr)); gap: 1rem; }
figure { margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: 10px; overflow: hidden; }
img { width: 100%; height: 180px; object-fit: contain; display: block; }
figcaption { padding: .5rem .7rem; font-size: .85rem; overflow-wrap: anywhere; }
figcaption b { display: block; } figcaption span { color: var(--soft); }
"""


def contact_sheet(path: Path, title: str, pictures: Sequence[tuple[Path, str]]) -> None:
    """Write a page of thumbnails; it appears when it is complete.

    Args:
        path: of the page.
        title: above the pictures.
        pictures: files and what is written below each, best first. A file that can't be read is shown as its name.
    """
    figures = "".join(_figure(number, file, words) for number, (file, words) in enumerate(pictures, 1))
    page = (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{CSS}</style><h1>{escape(title)}</h1><main>{figures}</main></html>"
    )
    with replacing(path) as draft:
        draft.write_text(page, encoding="utf-8")


def _figure(number: int, file: Path, words: str) -> str:
    caption = f"<figcaption><b>{number}. {escape(words)}</b><span>{escape(str(file))}</span></figcaption>"
    try:
        picture = read_image(file)
    except (InputError, OSError):
        return f"<figure>{caption}</figure>"
    return (
        f'<figure><img alt="{escape(file.name)}" src="data:image/jpeg;base64,{_thumbnail(picture)}">{caption}</figure>'
    )


def _thumbnail(picture: Image.Image) -> str:
    picture.thumbnail((SIDE, SIDE))
    held = io.BytesIO()
    picture.convert("RGB").save(held, "JPEG", quality=82)
    return base64.b64encode(held.getvalue()).decode()
