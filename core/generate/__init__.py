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
    MinP,
    Rule,
    Sample,
    Suppress,
    SuppressAtBegin,
    Temperature,
    TopK,
    TopP,
    drawn_from,
    most_likely,
)
from core.generate.search import Hypothesis, Step, generate, stream
from core.generate.speculative import Agreement, Judge, Rejection, RewindStep, speculate
from core.generate.stopping import StopTexts, StopWhen

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
    "MinP",
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
    "StopTexts",
    "StopWhen",
    "Suppress",
    "SuppressAtBegin",
    "Temperature",
    "TopK",
    "TopP",
    "beam_search",
    "drawn_from",
    "generate",
    "most_likely",
    "speculate",
    "stream",
]
