"""Which windows are heard together, and in which order."""

from collections.abc import Sequence

import torch

from audio.passage import History, Passage, Recorded
from audio.schedule import AHEAD, hear


def passage(recorded: Recorded, size: int, windows: int = 1) -> Passage:
    history = History([], carry=False, keep=False, room=10)
    return Passage(recorded, lambda first, count: torch.zeros(1), 0, size * windows, size * windows, history)


def heard(passages: list[Passage], batch: int, size: int = 100, language: str = "en") -> list[list[int]]:
    """The passages, by their numbers, that are heard in each step."""
    steps = []

    def listen(some: Sequence[Passage]) -> None:
        steps.append([next(n for n, other in enumerate(passages) if other is one) for one in some])
        for one in some:
            one.recorded.language = language
            one.seek += size

    for _ in hear(passages, listen, batch):
        continue
    assert all(one.done for one in passages)
    return steps


def test_full_batches_in_order() -> None:
    recorded = Recorded("en", in_turn=False)
    assert heard([passage(recorded, 100) for _ in range(7)], 3) == [[0, 1, 2], [3, 4, 5], [6]]


def test_windows_of_one_length_together() -> None:
    recorded = Recorded("en", in_turn=False)
    sizes = [100, 30, 90, 31, 32, 80]
    assert heard([passage(recorded, size) for size in sizes], 3) == [[0, 2, 5], [1, 3, 4]]


def test_a_long_passage_goes_on_while_others_come_and_go() -> None:
    recorded = Recorded("en", in_turn=False)
    steps = heard([passage(recorded, 100, windows=3), *(passage(recorded, 100) for _ in range(3))], 2)
    assert steps == [[0, 1], [0, 2], [0, 3]]


def test_in_turn() -> None:
    a, b = Recorded("en", in_turn=True), Recorded("en", in_turn=True)
    steps = heard([passage(a, 100), passage(a, 100), passage(b, 100), passage(b, 100)], 8)
    assert steps == [[0, 2], [1, 3]]


def test_the_first_passage_tells_the_language() -> None:
    a, b = Recorded(None, in_turn=False), Recorded("de", in_turn=False)
    steps = heard([passage(a, 100), passage(a, 100), passage(b, 100), passage(b, 100)], 8)
    assert steps == [[0, 2, 3], [1]]


def test_little_is_read_ahead() -> None:
    recorded = Recorded("en", in_turn=False)
    read = []

    def source():
        for number in range(100):
            read.append(number)
            yield passage(recorded, 100)

    def listen(some: Sequence[Passage]) -> None:
        for one in some:
            one.seek = one.end

    for step, _ in enumerate(hear(source(), listen, 4), start=1):
        assert len(read) <= 4 * (step + AHEAD)
    assert len(read) == 100


def test_nothing() -> None:
    assert heard([], 8) == []
