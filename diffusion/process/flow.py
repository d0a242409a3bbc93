"""Flow matching: a model predicts the velocity along a path between data and noise.

Sources: Ma et al. 2024, SiT (arXiv:2401.08740); Esser et al. 2024, Stable Diffusion 3 (arXiv:2403.03206).
"""

from typing import Literal

from torch import Tensor

from core.errors import InputError

from .path import Linear, Path
from .process import Process, exact, over
from .times import Times, Uniform

__all__ = ["Flow"]


class Flow(Process):
    """Data and noise joined by a path; the model predicts dx/dt.

    The two families of published models differ in their clock: SiT is told t in [0, 1] that grows towards the data,
    SD3 and FLUX are told 1000 times the level of noise. Inside, s is that level: 0 = data, 1 = noise.

    Args:
        path: :class:`Linear` or :class:`GVP`.
        sampled: which levels of noise are trained how often, before the shift.
        shift: above 1 = more noise, for large images: s becomes shift s / (1 + (shift - 1) s), also in sampling.
        towards: where time flows, and the predicted velocity points: ``"data"`` (SiT) or ``"noise"`` (SD3).
        scale: the time that the whole way takes: 1 (SiT) or 1000 (SD3). The velocity is that of a way of length 1.

    Raises:
        InputError: if the shift or the scale isn't positive.
    """

    def __init__(
        self,
        path: Path | None = None,
        sampled: Times | None = None,
        shift: float = 1.0,
        towards: Literal["data", "noise"] = "data",
        scale: float = 1.0,
    ) -> None:
        if shift <= 0 or scale <= 0:
            raise InputError(f"shift {shift} and scale {scale} of a flow: expected numbers above 0")
        if towards not in ("data", "noise"):
            raise InputError(f"a flow towards {towards!r}: expected 'data' or 'noise'")
        self.path: Path = Linear() if path is None else path
        self.sampled: Times = Uniform() if sampled is None else sampled
        self.shift, self.towards, self.scale = shift, towards, scale
        self.sign = -1.0 if towards == "data" else 1.0  # of ds/dt
        self.end = self.scale if towards == "data" else 0.0

    def times(self, draws: Tensor) -> Tensor:
        """See :class:`Process`."""
        return self.at(self.shifted(self.sampled(draws)))

    def shifted(self, s: Tensor) -> Tensor:
        """Move levels of noise s in [0, 1] by the shift."""
        return self.shift * s / (1 + (self.shift - 1) * s)

    def at(self, s: Tensor) -> Tensor:
        """Return the model's time at the level of noise s."""
        return self.scale * (1 - s if self.towards == "data" else s)

    def level(self, t: Tensor) -> Tensor:
        """See :class:`Process`: s at the model's time t."""
        share = exact(t) / self.scale
        return 1 - share if self.towards == "data" else share

    def levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`Process`."""
        return self.path.shares(self.level(t))

    def velocity(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return what the model should predict, (B, C, H, W)."""
        data, fuzz = (over(self.sign * slope, x0) for slope in self.path.slopes(self.level(t)))
        return data * x0 + fuzz * noise

    def loss(
        self, output: Tensor, x0: Tensor, x_t: Tensor, noise: Tensor, t: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """See :class:`Process`: the mean square of the error of the velocity."""
        error = (output.to(x0.dtype) - self.velocity(x0, noise, t)).square().flatten(1).mean(1)
        return error, {"mse": error}

    def clean(self, output: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """See :class:`Process`."""
        return self._both(output, x_t, t)[0]

    def noise(self, output: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """See :class:`Process`."""
        return self._both(output, x_t, t)[1]

    def _both(self, output: Tensor, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Solve position and velocity, two linear equations, for data and noise."""
        s = self.level(t)
        (a, b), (da, db) = self.path.shares(s), self.path.slopes(s)
        whole = a * db - b * da
        v = self.sign * output.to(x_t.dtype)
        x0 = over(db / whole, x_t) * x_t - over(b / whole, x_t) * v
        noise = over(a / whole, x_t) * v - over(da / whole, x_t) * x_t
        return x0, noise
