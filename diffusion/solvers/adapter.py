"""The schedulers of diffusers as solvers: DPM-Solver++, UniPC, Heun, Euler and others."""

import copy
import inspect
import math
from collections.abc import Callable, Iterator
from functools import partial
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

from core.errors import InputError
from diffusion.process import Flow, Gaussian, Linear, Process

from .solver import Constrain, Denoise, Draw, Solver, State, checked

__all__ = ["FOR_FLOWS", "FOR_GAUSSIANS", "Diffusers"]

# those whose x grows with the noise, instead of keeping its variance
EXPLODING = (
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "LMSDiscreteScheduler",
)
FOR_BOTH = ("DPMSolverMultistepScheduler", "UniPCMultistepScheduler")
FOR_FLOWS = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler", *FOR_BOTH)
FOR_GAUSSIANS = (
    "DDIMScheduler",
    "DDPMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    *EXPLODING,
    *FOR_BOTH,
)


class Diffusers(Solver):
    """A scheduler of diffusers, made to fit a process.

    Where a scheduler scales x by its noise, this is undone for all who see x: it keeps the process's scale. A
    scheduler of order 2 asks the model twice a step. What is random in it comes from the solver's noise.

    Args:
        process: what the model was trained on.
        name: of the scheduler's class: of ``FOR_GAUSSIANS`` or ``FOR_FLOWS``.
        steps: that it takes.
        settings: of the scheduler, beside those that follow from the process, e.g. ``use_karras_sigmas=True``. Clean
            data are clipped with ``clip_sample=True`` only.

    Raises:
        InputError: if the scheduler doesn't exist, doesn't fit the process, or has no such setting, or if there are
            fewer than 1 steps, or more than in training.
    """

    def __init__(self, process: Process, name: str, steps: int, **settings: Any) -> None:
        import diffusers

        fitting = FOR_FLOWS if isinstance(process, Flow) else FOR_GAUSSIANS
        if name not in fitting:
            raise InputError(f"no scheduler {name!r} for such a process: expected one of {', '.join(sorted(fitting))}")
        kind = getattr(diffusers, name)
        known = inspect.signature(kind.__init__).parameters.keys() - {"self"}
        if unknown := settings.keys() - known:
            raise InputError(f"{name} has no setting {min(unknown)!r}: it has {', '.join(sorted(known))}")
        implied = {key: value for key, value in _implied(process, name).items() if key in known}
        self.process = process
        self.scheduler = kind(**implied | settings)
        most = process.steps if isinstance(process, Gaussian) else None
        self.scheduler.set_timesteps(checked(steps, most))
        self.calls = self.scheduler.order  # a step
        self.count = -(-len(self.scheduler.timesteps) // self.calls)
        self.exploding = name in EXPLODING
        self.translate = _translation(process, name)
        self.every = self._every()
        self.times = torch.tensor(list(dict.fromkeys(self.every)), dtype=torch.float32)

    def __call__(
        self, denoise: Denoise, x: Tensor, noise: Draw, start: int = 0, constrain: Constrain | None = None
    ) -> Iterator[State]:
        """See :class:`Solver`."""
        scheduler = copy.deepcopy(self.scheduler)  # it remembers earlier steps
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(start * self.calls)
        step = _drawing(scheduler, noise)
        x = x * float(scheduler.init_noise_sigma if start == 0 and self.exploding else self._growth(start * self.calls))
        for number in range(start, self.count):
            last = min((number + 1) * self.calls, len(self.every))
            for call in range(number * self.calls, last):
                x, clean = self._call(scheduler, step, denoise, x, call)
            t = self.every[last] if last < len(self.every) else self.process.end
            growth = self._growth(last)
            seen = x / growth
            if constrain is not None:
                seen = constrain(seen, t)
                x = seen * growth
            yield State(number, self.count, t, seen, clean)

    def noised(self, x0: Tensor, noise: Tensor, number: int) -> Tensor:
        """See :class:`Solver`."""
        return self.process.noised(x0, noise, self.every[number * self.calls])

    def _call(
        self, scheduler: Any, step: Callable[..., Any], denoise: Denoise, x: Tensor, call: int
    ) -> tuple[Tensor, Tensor]:
        """One question to the model, and what the scheduler makes of the answer: x and clean data."""
        timestep, t = scheduler.timesteps[call], self.every[call]
        seen = scheduler.scale_model_input(x, timestep) if hasattr(scheduler, "scale_model_input") else x
        output = denoise(seen, torch.tensor(t, dtype=torch.float32, device=x.device)).to(x.dtype)
        time = torch.tensor(t, dtype=torch.float64)
        x = step(self.translate(output, seen, time), timestep, x, return_dict=False)[0]
        return x, self.process.clean(output, seen, time)

    def _every(self) -> list[float]:
        """The model's time in every call."""
        if isinstance(self.process, Flow):  # some round their timesteps
            levels = self.scheduler.sigmas[: len(self.scheduler.timesteps)]
            return self.process.at(levels.double()).tolist()
        return self.scheduler.timesteps.double().tolist()

    def _growth(self, call: int) -> float:
        """By how much the scheduler's x is larger before a call than the process's."""
        return math.sqrt(1 + float(self.scheduler.sigmas[call]) ** 2) if self.exploding else 1.0


def _implied(process: Process, name: str) -> dict[str, Any]:
    """Settings of a scheduler that follow from a process; each scheduler has some of them.

    Raises:
        InputError: if they can't say what the process is.
    """
    if isinstance(process, Gaussian):
        variances = {"small": "fixed_small", "large": "fixed_large", "learned": "learned_range"}
        settings = {
            "num_train_timesteps": process.steps,
            "trained_betas": process.betas.tolist(),
            "prediction_type": {"epsilon": "epsilon", "x0": "sample", "v": "v_prediction"}[process.predicts],
            "clip_sample": False,
            "lower_order_final": True,  # some have to be told what they do anyway
        }
        if name == "DDPMScheduler":  # others would cut learned variances off behind the third channel
            settings["variance_type"] = variances[process.variance]
        if name in EXPLODING and process.predicts == "x0":
            settings["prediction_type"] = "epsilon"  # some of these don't know models of clean data
        return settings
    assert isinstance(process, Flow)
    if not isinstance(process.path, Linear):
        raise InputError("the schedulers of diffusers know straight flows only: take Euler, Heun or EulerMaruyama")
    return {
        "num_train_timesteps": 1000,
        "shift": process.shift,
        "prediction_type": "flow_prediction",
        "use_flow_sigmas": True,
        "flow_shift": process.shift,
    }


def _translation(process: Process, name: str) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """What makes of a model's output, x and t the output that the scheduler expects."""
    if isinstance(process, Flow):
        sign = process.sign
        return lambda output, x, t: sign * output
    assert isinstance(process, Gaussian)
    if name in EXPLODING and process.predicts == "x0":
        return process.noise
    if name == "DDPMScheduler" and process.variance == "learned":
        return lambda output, x, t: output
    return lambda output, x, t: process.split(output, x)[0]


def _drawing(scheduler: Any, noise: Draw) -> Callable[..., Any]:
    """The scheduler's step, with `noise` for its random numbers.

    Schedulers draw by ``randn_tensor``, which takes generators, and the samples of a batch may not share one. So the
    step sees another function of that name; nobody else does.
    """
    theirs = type(scheduler).step
    names = {**theirs.__globals__, "randn_tensor": lambda shape, **_: noise()}
    step = FunctionType(theirs.__code__, names, theirs.__name__, theirs.__defaults__, theirs.__closure__)
    step.__kwdefaults__ = theirs.__kwdefaults__
    return partial(step, scheduler)
