"""One engine that generates tokens: rules (`sampling`, `guards`), choosers, loops (`search`, `beam`, `speculative`)."""

from core.generate.batching import Batching, Piece, Request
from core.generate.beam import BeamStep, beam_search
from core.generate.finish import Finish, FirstFinished, NothingBetter
from core.generate.guards import AfterPrompt, NoRepeatNGram, RepetitionPenalty
from core.generate.sampling import (
    Chooser,
    Drawn,
    ForcePrefix,
    MinLength,
    Rule,
    Sample,
    Suppress,
    SuppressAtBegin,
    TopK,
    TopP,
    drawn_from,
    most_likely,
)
from core.generate.search import Hypothesis, Step, generate
from core.generate.speculative import Agreement, Judge, Rejection, RewindStep, speculate

__all__ = [
    "AfterPrompt",
    "Agreement",
    "Batching",
    "BeamStep",
    "Chooser",
    "Drawn",
    "Finish",
    "FirstFinished",
    "ForcePrefix",
    "Hypothesis",
    "Judge",
    "MinLength",
    "NoRepeatNGram",
    "NothingBetter",
    "Piece",
    "Rejection",
    "RepetitionPenalty",
    "Request",
    "RewindStep",
    "Rule",
    "Sample",
    "Step",
    "Suppress",
    "SuppressAtBegin",
    "TopK",
    "TopP",
    "beam_search",
    "drawn_from",
    "generate",
    "most_likely",
    "speculate",
]
