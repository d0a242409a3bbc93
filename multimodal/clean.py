"""What is done to a text before it is cut into tokens: each family of models was trained with its own rule.

Sources: open_clip ``tokenizer.py``; big_vision ``evaluators/proj/image_text/prompt_engineering.py``; transformers
``models/siglip/tokenization_siglip.py``.
"""

import html
import string
from collections.abc import Callable

__all__ = ["CLEANERS", "Cleaner", "canonicalize", "lower", "lower_only", "plain", "whitespace"]

Cleaner = Callable[[str], str]

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def whitespace(text: str) -> str:
    """Repair what was decoded wrongly, read HTML's entities, and make every run of white space one blank."""
    return " ".join(_repaired(text).split())


def lower(text: str) -> str:
    """CLIP's: as `whitespace`, in lower case."""
    return whitespace(text).lower()


def canonicalize(text: str) -> str:
    """open_clip's for SigLIP: as `lower`, ``_`` read as a blank, the other ASCII punctuation removed."""
    return plain(_repaired(text).replace("_", " "))


def plain(text: str) -> str:
    """transformers' for SigLIP: lower case, no ASCII punctuation, one blank for each run of white space."""
    return " ".join(text.lower().translate(_NO_PUNCTUATION).split())


def lower_only(text: str) -> str:
    """SigLIP 2's: lower case, nothing else; character by character, so a final sigma is like any other."""
    return "".join(map(str.lower, text))


CLEANERS: dict[str, Cleaner] = {"lower": lower, "whitespace": whitespace, "canonicalize": canonicalize}
"""By the names that open_clip's configs use (``tokenizer_kwargs: {"clean": ...}``)."""


def _repaired(text: str) -> str:
    # printable ASCII without entities is what nearly all captions are, and ftfy leaves it as it is
    if text.isascii() and text.isprintable() and "&" not in text:
        return text
    import ftfy

    return html.unescape(html.unescape(ftfy.fix_text(text)))
