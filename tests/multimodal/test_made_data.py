"""Rows that are made up: what is asked for is in them, and can be known from nothing else."""

import numpy as np
import pytest

from core.errors import InputError
from multimodal.tasks.made_data import Copy, Needle


@pytest.mark.parametrize("length", [7, 8, 20, 64, 256])
def test_a_copy_is_a_text_of_any_length_and_once_more(length: int) -> None:
    random = np.random.default_rng(0)
    sizes = set()
    for _ in range(100):
        row, wanted = Copy(512, length)(random)
        assert row.shape == wanted.shape == (length + 1,)
        first, second = np.flatnonzero(row == 0)
        text = row[first + 1 : second]
        assert (row[second + 1 :] == text).all()
        assert len(set(row[:second])) == second
        assert (np.flatnonzero(wanted) == np.arange(second + 2, length + 1)).all()
        sizes.add(len(text))
    assert len(sizes) > 1
    assert max(sizes) <= (length - 1) // 2


def test_needles_are_in_the_hay_once_and_asked_for_behind_it() -> None:
    random = np.random.default_rng(0)
    for _ in range(100):
        row, wanted = Needle(128, 64, value=2, needles=4, questions=3)(random)
        asked = row[-12:].reshape(3, 4)
        assert (asked[:, 0] == 1).all()
        assert len(set(asked[:, 1])) == 3
        assert (np.flatnonzero(wanted) == [55, 56, 59, 60, 63, 64]).all()
        for _, key, *value in asked:
            places = [place for place in np.flatnonzero(row == 0) if row[place + 1] == key]
            assert len(places) == 1
            assert (row[places[0] + 2 : places[0] + 4] == value).all()


def test_rows_that_are_too_short_are_refused() -> None:
    for make in (
        lambda: Copy(length=6),
        lambda: Copy(vocab=1),
        lambda: Needle(length=5),
        lambda: Needle(vocab=3),
        lambda: Needle(questions=2),
    ):
        with pytest.raises(InputError, match=r"length|questions"):
            make()
