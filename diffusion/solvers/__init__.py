"""Solvers: from noise to data, step by step."""

from .ddim import DDIM
from .ddpm import DDPM
from .euler import Euler
from .solver import Constrain, Denoise, Draw, Solver, State
from .spacing import Spacing

__all__ = ["DDIM", "DDPM", "Constrain", "Denoise", "Draw", "Euler", "Solver", "Spacing", "State"]
