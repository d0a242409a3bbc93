"""One engine that generates tokens: rules and choosers (`sampling`), loops (`search`, `beam`)."""

from core.generate.beam import BeamStep, beam_search
from core.generate.finish import Finish, FirstFinished, NothingBetter
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
    most_likely,
)
from core.generate.search import Hypothesis, Step, generate

__all__ = [
    "BeamStep",
    "Chooser",
    "Drawn",
    "Finish",
    "FirstFinished",
    "ForcePrefix",
    "Hypothesis",
    "MinLength",
    "NothingBetter",
    "Rule",
    "Sample",
    "Step",
    "Suppress",
    "SuppressAtBegin",
    "TopK",
    "TopP",
    "beam_search",
    "generate",
    "most_likely",
]
