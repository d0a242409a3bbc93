"""Solvers: from noise to data, step by step."""

from .adapter import FOR_FLOWS, FOR_GAUSSIANS, Diffusers
from .ddim import DDIM
from .ddpm import DDPM
from .euler import Euler
from .euler_maruyama import EulerMaruyama
from .heun import Heun
from .solver import Constrain, Denoise, Draw, Solver, State
from .spacing import Spacing

__all__ = [
    "DDIM",
    "DDPM",
    "FOR_FLOWS",
    "FOR_GAUSSIANS",
    "Constrain",
    "Denoise",
    "Diffusers",
    "Draw",
    "Euler",
    "EulerMaruyama",
    "Heun",
    "Solver",
    "Spacing",
    "State",
]
