"""When a word of a live transcript is settled: two looks in a row found it (LocalAgreement-2).

Source: Macháček, Dabre, Bojar 2023, arXiv:2307.14743, section 3. There, what is new is told from what is settled by
times; here by the words as well, since times of words vary from look to look.
"""

from collections import deque
from collections.abc import Sequence

import numpy as np

from audio.transcript import Word

__all__ = ["Agreement"]

JITTER = 0.1  # seconds by which a word's start may differ from look to look
OVERLAP = 5  # words that are compared where a text goes on, in case a settled one is found again
NEAR = 1.0  # seconds from the last settled word in which it may be found again


class Agreement:
    """What two consecutive looks at growing audio agree on, from the last settled word on.

    Attributes:
        until: where the last settled word ended, seconds.
        open: what the last look found beyond it.
        settled: words of the audio that is looked at.
    """

    def __init__(self) -> None:
        self.until = 0.0
        self.open: list[Word] = []
        self.settled: deque[Word] = deque()
        self._last: deque[str] = deque(maxlen=OVERLAP)  # settled words

    def __call__(self, words: Sequence[Word], overdue: float = 0.0) -> list[Word]:
        """Add a look, and return the words that it settles.

        Two words are the same whatever their case and punctuation; those of the later look are taken.

        Args:
            words: that were found, in order, also those that are settled.
            overdue: seconds of the recording: words that ended before are settled though looks disagree.
        """
        words = self._new(words)
        agreed = 0
        for old, new in zip(self.open, words, strict=False):
            if _plain(old) != _plain(new):
                break
            agreed += 1
        while agreed < len(words) and words[agreed].end <= overdue:
            agreed += 1
        return self._settle(words, agreed)

    def close(self, words: Sequence[Word]) -> list[Word]:
        """Add the last look at a stretch of audio: all of it is settled."""
        words = self._new(words)
        return self._settle(words, len(words))

    def forget(self, begin: float) -> str:
        """From now on looks begin at `begin`, in seconds: the text of the settled words before."""
        gone = ""
        while self.settled and self.settled[0].end <= begin:
            gone += self.settled.popleft().text
        return gone

    def _settle(self, words: list[Word], count: int) -> list[Word]:
        settled, self.open = words[:count], words[count:]
        self.settled += settled
        if settled:
            self.until = max(self.until, settled[-1].end)
            self._last.extend(map(_plain, settled))
        return settled

    def _new(self, words: Sequence[Word]) -> list[Word]:
        """Words beyond those that are settled."""
        known = _prefix([_plain(word) for word in self.settled], [_plain(word) for word in words])
        if known is not None:
            return list(words[known:])
        new = [word for word in words if word.start > self.until - JITTER and word.end > self.until]
        if new and abs(new[0].start - self.until) < NEAR:
            for size in range(min(OVERLAP, len(new), len(self._last)), 0, -1):
                if [_plain(word) for word in new[:size]] == list(self._last)[-size:]:
                    return new[size:]
        return new


def _prefix(settled: list[str], words: list[str]) -> int | None:
    """How many of the first `words` are the settled ones, found again; None if they differ too much to say."""
    if not settled:
        return None
    costs = np.arange(len(words) + 1)  # edits between the settled words so far and each beginning of `words`
    for number, word in enumerate(settled, start=1):
        changed = costs[:-1] + np.array([word != other for other in words], dtype=int)
        best = np.concatenate([[number], np.minimum(changed, costs[1:] + 1)])
        steps = np.arange(len(best))
        costs = np.minimum.accumulate(best - steps) + steps  # words that are new at their place
    least = int(costs.min())
    if 2 * least > len(settled):
        return None
    alike = np.flatnonzero(costs == least)
    return int(alike[np.abs(alike - len(settled)).argmin()])


def _plain(word: Word) -> str:
    letters = "".join(filter(str.isalnum, word.text.casefold()))
    return letters or word.text.strip()
