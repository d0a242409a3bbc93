"""When a beam search has found enough, and which of the found texts is the best: one object for each row."""

from collections.abc import Sequence
from typing import Protocol

from core.generate.search import Hypothesis

__all__ = ["Finish", "FirstFinished", "NothingBetter"]


class Finish(Protocol):
    """What a row of a beam search has found so far.

    Attributes:
        closed: enough was found; nothing is added any more.
    """

    closed: bool

    def ended(self, rank: int, last: int, text: Hypothesis) -> None:
        """A text was ended by the stop token.

        Args:
            rank: among all that the beams may become in this step, the likeliest is 0.
            last: rank of the last beginning that goes on.
            text: that ended.
        """
        ...

    def cut(self, rank: int, text: Hypothesis) -> None:
        """What goes on when the row closes or the limit is reached; in the order of their ranks."""
        ...

    def judge(self, likeliest: float, length: int) -> None:
        """Close if there is nothing left to wait for.

        Args:
            likeliest: log-probability of the best beginning that goes on.
            length: its tokens.
        """
        ...

    def best(self) -> Hypothesis:
        """The best text."""
        ...


class NothingBetter:
    """Close when no beginning scores above the texts that were found: the rule of transformers.

    Args:
        beams: how many texts are kept.
        length_penalty: a text's score is its log-probability / length ** this; 0 = the log-probability itself.
    """

    def __init__(self, beams: int, length_penalty: float = 1.0) -> None:
        self.beams, self.length_penalty = beams, length_penalty
        self.found: list[tuple[float, Hypothesis]] = []  # best first
        self.closed = False

    def ended(self, rank: int, last: int, text: Hypothesis) -> None:
        """Only what is among the `beams` likeliest counts."""
        if rank < self.beams and not self.closed:
            score = text.logprob / len(text.logprobs) ** self.length_penalty
            self.found = sorted([*self.found, (score, text)], key=lambda pair: -pair[0])[: self.beams]

    def cut(self, rank: int, text: Hypothesis) -> None:
        """At the limit as good as ended."""
        self.ended(rank, rank, text)

    def judge(self, likeliest: float, length: int) -> None:
        """Compare the best beginning with the worst text."""
        full = len(self.found) == self.beams
        self.closed = self.closed or (full and likeliest / length**self.length_penalty <= self.found[-1][0])

    def best(self) -> Hypothesis:
        """The one with the highest score."""
        return self.found[0][1]


class FirstFinished:
    """Close when `beams` * `patience` texts have ended (Kasai et al. 2022, arXiv:2204.05424): the rule of Whisper.

    Source: openai/whisper ``whisper/decoding.py``, ``BeamSearchDecoder`` and ``MaximumLikelihoodRanker``.

    Args:
        beams: of the search.
        patience: 1 waits for as many texts as there are beams.
        length_penalty: None divides log-probabilities by the length; a number p by ((5 + length) / 6) ** p
            (Wu et al. 2016, arXiv:1609.08144).
    """

    def __init__(self, beams: int, patience: float = 1.0, length_penalty: float | None = None) -> None:
        self.beams = beams
        self.enough = round(beams * patience)
        if self.enough < 1:
            raise ValueError(f"{beams} beams with a patience of {patience} would find nothing: raise the patience")
        self.length_penalty = length_penalty
        self.found: list[Hypothesis] = []
        self.closed = False

    def ended(self, rank: int, last: int, text: Hypothesis) -> None:
        """What is likelier than the last beginning that goes on counts."""
        if rank < last and len(self.found) < self.enough:
            self.found.append(text)

    def cut(self, rank: int, text: Hypothesis) -> None:
        """Fills up what has not ended in time."""
        if len(self.found) < self.beams:
            self.found.append(text)

    def judge(self, likeliest: float, length: int) -> None:
        """Count."""
        self.closed = len(self.found) >= self.enough

    def best(self) -> Hypothesis:
        """The one with the highest score."""
        return self.better(self.found)

    def better(self, texts: Sequence[Hypothesis]) -> Hypothesis:
        """The one of some texts with the highest score; the first of several."""
        return max(texts, key=self._score)

    def _score(self, text: Hypothesis) -> float:
        length = len(text.tokens)
        return text.logprob / (
            max(length, 1) if self.length_penalty is None else ((5 + length) / 6) ** self.length_penalty
        )
