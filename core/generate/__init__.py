"""One engine that generates tokens, for every model that does: rules and choosers (`sampling`), loops (`search`)."""

from core.generate.sampling import Chooser, ForcePrefix, Rule, Sample, Suppress, SuppressAtBegin, most_likely
from core.generate.search import Hypothesis, Step, generate

__all__ = [
    "Chooser",
    "ForcePrefix",
    "Hypothesis",
    "Rule",
    "Sample",
    "Step",
    "Suppress",
    "SuppressAtBegin",
    "generate",
    "most_likely",
]
