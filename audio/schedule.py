"""In which order windows of recordings are heard, several at once."""

from collections.abc import Callable, Iterable, Iterator, Sequence

from audio.passage import Passage

__all__ = ["hear"]

AHEAD = 2  # batches of passages that are held: windows of about the same length are heard together


def hear(passages: Iterable[Passage], listen: Callable[[Sequence[Passage]], None], batch: int) -> Iterator[None]:
    """Hear all of some passages, the next windows of at most `batch` of them in each step.

    A passage waits for those before it that it depends on, and all of a recording for the first of it where the
    language has to be detected. What a window holds doesn't follow from what it is heard together with.
    """
    source = iter(passages)
    waiting: list[Passage] = []
    more = True
    while True:
        while more and len(waiting) < AHEAD * batch:
            passage = next(source, None)
            more = passage is not None
            if passage is not None:
                waiting.append(passage)
        waiting = [passage for passage in waiting if not passage.done]
        if waiting:
            listen(_together(waiting, batch))
            yield
        elif not more:
            return


def _together(waiting: Sequence[Passage], batch: int) -> list[Passage]:
    """The first passage that waits, and those of the most similar windows that may be heard with it."""
    begun: set[int] = set()
    ready = []
    for passage in waiting:
        recorded = passage.recorded
        if id(recorded) not in begun or not (recorded.in_turn or recorded.language is None):
            ready.append(passage)
        begun.add(id(recorded))
    first, others = ready[0], ready[1:]
    similar = sorted(others, key=lambda passage: abs(passage.size - first.size))[: batch - 1]
    return [first, *similar]
