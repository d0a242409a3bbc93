"""Solvers by name, for those that fit a process."""

import difflib
from collections.abc import Callable
from typing import Any

from core.errors import InputError
from diffusion.process import Flow, Gaussian, Process
from diffusion.solvers import DDIM, DDPM, Diffusers, Euler, EulerMaruyama, Heun, Solver

__all__ = ["named_solver", "solver_names"]

Make = Callable[[Any, int, float | None], Solver]


def _theirs(name: str, **settings: Any) -> Make:
    return lambda process, steps, clip: Diffusers(process, name, steps, **settings)


GAUSSIAN: dict[str, Make] = {
    "ddim": lambda process, steps, clip: DDIM(process, steps, clip=clip),
    "ddpm": lambda process, steps, clip: DDPM(process, steps, clip=clip),
    "dpm++": _theirs("DPMSolverMultistepScheduler"),
    "unipc": _theirs("UniPCMultistepScheduler"),
}
FLOW: dict[str, Make] = {
    "euler": lambda process, steps, clip: Euler(process, steps),
    "heun": lambda process, steps, clip: Heun(process, steps),
    "sde": lambda process, steps, clip: EulerMaruyama(process, steps),
    "dpm++": _theirs("DPMSolverMultistepScheduler"),
    "unipc": _theirs("UniPCMultistepScheduler"),
}


def solver_names(process: Process) -> dict[str, Make]:
    """The solvers of a process; the first is the default."""
    if isinstance(process, Gaussian):
        return GAUSSIAN
    if isinstance(process, Flow):
        return FLOW
    raise TypeError(f"no solvers for a {type(process).__name__}")


def named_solver(name: str | None, process: Process, steps: int, clip: float | None = None) -> Solver:
    """Make a solver.

    Args:
        name: of :func:`solver_names`; None for the default.
        process: what the model was trained on.
        steps: that it takes.
        clip: where clean data end, for those that clip.

    Raises:
        InputError: if the process has no such solver, with the nearest names, or can't be solved in so many steps.
    """
    known = solver_names(process)
    name = next(iter(known)) if name is None else name
    if name not in known:
        near = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        kind = "a flow" if isinstance(process, Flow) else "a Gaussian process"
        raise InputError(f"no solver {name!r} for this model, {kind}: {hint}There are {', '.join(known)}")
    return known[name](process, steps, clip)
