"""Search in embeddings: the nearest ones to an image or a text, exactly, by faiss."""

from collections.abc import Sequence

import numpy as np

from core.errors import InputError

__all__ = ["Index"]


class Index:
    """Names and their embeddings.

    Args:
        names: of what was embedded, such as paths.
        embeddings: (N, D) float32, of any length: their directions are compared.

    Raises:
        InputError: if faiss isn't installed.
    """

    def __init__(self, names: Sequence[str], embeddings: np.ndarray) -> None:
        try:
            import faiss
        except ImportError as error:
            raise InputError("searching needs faiss: pip install 'sensorium[search]'") from error
        self.names = list(names)
        self.width = embeddings.shape[1]
        self.index = faiss.IndexFlatIP(self.width)
        self.index.add(_unit(embeddings))

    def search(self, query: np.ndarray, k: int) -> list[list[tuple[str, float]]]:
        """Return for each query (Q, D) the k nearest names, best first, and their cosines.

        Raises:
            InputError: if the queries are of another width.
        """
        if query.shape[1] != self.width:
            raise InputError(f"the query has {query.shape[1]} channels, the index {self.width}: embed with one model")
        values, places = self.index.search(_unit(query), min(k, len(self.names)))
        return [
            [(self.names[place], float(value)) for place, value in zip(row, near, strict=True)]
            for row, near in zip(places, values, strict=True)
        ]


def _unit(x: np.ndarray) -> np.ndarray:
    """Rows of length one; a row of zeros stays."""
    x = np.ascontiguousarray(x, np.float32)
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), np.float32(1e-12))
