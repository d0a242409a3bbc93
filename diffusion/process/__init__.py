"""Processes between data and noise: what a model is trained to undo."""

from .betas import Schedule, betas
from .flow import Flow
from .gaussian import Gaussian, Normal, Variance
from .path import GVP, Linear, Path
from .process import Process
from .times import LogitNormal, Times, Uniform
from .weighting import MinSNR, Predicts, Weighting

__all__ = [
    "GVP",
    "Flow",
    "Gaussian",
    "Linear",
    "LogitNormal",
    "MinSNR",
    "Normal",
    "Path",
    "Predicts",
    "Process",
    "Schedule",
    "Times",
    "Uniform",
    "Variance",
    "Weighting",
    "betas",
]
