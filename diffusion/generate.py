"""Pictures from a trained diffusion model: what a person calls."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from core.errors import InputError
from diffusion.classes import class_index
from diffusion.condition import Condition, Labels, rows
from diffusion.guidance import AutoGuidance, Guidance, Guide
from diffusion.guides import check_guide
from diffusion.latents import Latents, Pixels
from diffusion.original import Original
from diffusion.process import Process
from diffusion.prompting import Asked, Prompting
from diffusion.sample import Sampler, Watch
from diffusion.solver_names import named_solver, solver_names
from diffusion.speed.quick import first_weight

__all__ = ["Generator", "Settings"]

MOST_STEPS, MOST_GUIDANCE, MOST_PIXELS = 1000, 100.0, 2048**2


@dataclass(frozen=True)
class Settings:
    """How samples are drawn.

    Attributes:
        steps: of the solver.
        guidance: scale of classifier-free guidance: 1 = none, 0 = without the condition.
        solver: of :mod:`diffusion.solver_names`; None for the default of the process.
        interval: the part of the way, from 0 (data) to 1 (noise), in which guidance is given (arXiv:2404.07724).
        rescale: how far the guided prediction gets back the deviation of the unguided one (arXiv:2305.08891).
        channels: the first channels, which alone are guided; None for all (the release of DiT: 3).
        batch: samples at once.

    Raises:
        InputError: if a number is out of range.
    """

    steps: int = 50
    guidance: float = 4.0
    solver: str | None = None
    interval: tuple[float, float] = (0.0, 1.0)
    rescale: float = 0.0
    channels: int | None = None
    batch: int = 8

    def __post_init__(self) -> None:
        if not 1 <= self.steps <= MOST_STEPS:
            raise InputError(f"{self.steps} steps: expected 1 to {MOST_STEPS}")
        if not 0 <= self.guidance <= MOST_GUIDANCE:
            raise InputError(f"guidance {self.guidance}: expected 0 to {MOST_GUIDANCE:g}; 1 is no guidance")
        if not 0 <= self.interval[0] < self.interval[1] <= 1:
            raise InputError(f"guidance from {self.interval[0]} to {self.interval[1]}: expected 0 <= from < to <= 1")
        if not 0 <= self.rescale <= 1:
            raise InputError(f"rescale {self.rescale}: expected 0 to 1")
        if self.batch < 1:
            raise InputError(f"batch {self.batch}: expected 1 or more")


class Generator:
    """A diffusion model with all that it takes to draw pictures.

    Args:
        model: on its device; its ``config`` says the size of what it denoises.
        process: that it was trained on.
        latents: between pictures and what is denoised.
        labels: names of its classes, if they are known.
        settings: what is done where nothing else is asked for.
        prompts: encodes texts, for a model that is told texts.
    """

    def __init__(
        self,
        model: nn.Module,
        process: Process,
        latents: Latents,
        labels: Sequence[str] = (),
        settings: Settings = Settings(),
        prompts: Prompting | None = None,
    ) -> None:
        self.model, self.process, self.latents = model, process, latents
        self.labels, self.settings, self.prompts = tuple(labels), settings, prompts
        self.config: Any = model.config
        self.classes = int(getattr(self.config, "classes", 0))
        self.device = first_weight(model).device

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels of the pictures that the model was trained on."""
        height, width = self.config.image
        return height * self.latents.factor, width * self.latents.factor

    def generate(
        self,
        classes: str | int | Sequence[str | int] | None = None,
        num: int = 1,
        seed: int = 0,
        *,
        prompts: str | Sequence[str] | None = None,
        guide: "Generator | None" = None,
        init: Image.Image | None = None,
        mask: Image.Image | None = None,
        strength: float | None = None,
        size: tuple[int, int] | None = None,
        watch: Watch = lambda first, state: None,
        **settings: Any,
    ) -> list[Image.Image]:
        """Draw pictures.

        Args:
            classes: what they show, by name or number: one or several; None for each class in turn.
            num: pictures of each class or text that is asked for, or in all. Picture n has the seed ``seed + n``, so
                that the same seed and class give the same picture, whatever else is drawn.
            seed: of the first.
            prompts: one or several texts that say what to draw, for a model that is told texts.
            guide: see `draw`.
            init: a picture to begin from.
            mask: of its size: white where it is painted anew.
            strength: how much of the way from noise is taken: by default 0.75 of a picture, all of it with a mask.
            size: (height, width) in pixels; by default as trained.
            watch: see :data:`diffusion.sample.Watch`.
            **settings: others of :class:`Settings`, such as ``steps=20``.

        Raises:
            InputError: if something that is asked for can't be.
        """
        wanted = self.asked(classes, num, seed, prompts)
        original = None if init is None else self.original(init, mask, strength, size)
        if init is None and (mask is not None or strength is not None):
            raise InputError("mask and strength are about a picture to begin from: give init too")
        drawn = self.draw(
            [index for index, _ in wanted],
            [number for _, number in wanted],
            self.with_settings(**settings),
            guide=guide,
            original=original,
            size=size,
            watch=watch,
        )
        return [_picture(pixels) for pixels in drawn]

    def with_settings(self, **changes: Any) -> Settings:
        """The model's own settings with some changed.

        Raises:
            InputError: if there is no such setting, or a number is out of range.
        """
        unknown = sorted(changes.keys() - Settings.__dataclass_fields__.keys())
        if unknown:
            raise InputError(f"no setting {unknown[0]!r}: there are {', '.join(Settings.__dataclass_fields__)}")
        return replace(self.settings, **changes)

    def described(self, settings: Settings, size: tuple[int, int] | None = None) -> dict[str, Any]:
        """What pictures drawn with these settings depend on beside the model, the class and the seed; plain data.

        Raises:
            InputError: as `pixels`.
        """
        height, width = self.pixels(size)
        said = {name: value for name, value in asdict(settings).items() if name != "batch"}
        said["solver"] = settings.solver or next(iter(solver_names(self.process)))
        return {**said, "interval": list(settings.interval), "size": f"{width}x{height}"}

    def asked(
        self,
        classes: str | int | Sequence[str | int] | None,
        num: int,
        seed: int,
        prompts: str | Sequence[str] | None = None,
    ) -> list[tuple[Asked, int]]:
        """The class or the text, None of a model of neither, and the seed of each picture.

        Raises:
            InputError: if there is no such class, a text can't be read, or the model isn't told what is given.
        """
        if num < 1:
            raise InputError(f"{num} pictures: expected 1 or more")
        if self.prompts is not None:
            texts = [prompts] if isinstance(prompts, str) else prompts
            if classes is not None or not texts:
                raise InputError(
                    "this model is told texts: ask by a prompt, such as 'a photo of a sneaker', not by class"
                )
            self.prompts.check(texts)
            return [(text, seed + number) for text in dict.fromkeys(texts) for number in range(num)]
        count = self.classes
        if prompts is not None:
            told = f"classes: ask by one{_some(self.labels)}" if count else "nothing: ask without"
            raise InputError(f"this model reads no prompts, it is told {told}")
        if not count:
            if classes is not None:
                raise InputError("this model knows no classes: ask for none")
            return [(None, seed + number) for number in range(num)]
        if classes is None:
            return [((seed + number) % count, seed + number) for number in range(num)]
        several = [classes] if isinstance(classes, str | int) else classes
        indices = [class_index(asked, self.labels, count) for asked in several]
        return [(index, seed + number) for index in dict.fromkeys(indices) for number in range(num)]

    def draw(
        self,
        asked: Sequence[Asked],
        seeds: Sequence[int],
        settings: Settings | None = None,
        *,
        guide: "Generator | None" = None,
        original: Original | None = None,
        size: tuple[int, int] | None = None,
        watch: Watch = lambda first, state: None,
    ) -> Iterator[Tensor]:
        """Yield one picture (H, W, C) uint8 for each class or text and seed, as its batch is done.

        Args:
            asked: as `asked` has it.
            seeds: of the noise.
            settings: by default the model's own.
            guide: a worse model of the same kind: guidance leads away from what it says of the same class or text,
                instead of from what this one says of none (autoguidance, arXiv:2406.02507).
            original: a picture to begin from.
            size: (height, width) in pixels.
            watch: see :data:`diffusion.sample.Watch`.

        Raises:
            InputError: if the settings or the guide don't fit the model.
        """
        settings = settings or self.settings
        solver = named_solver(settings.solver, self.process, settings.steps, self.latents.clip)
        said = settings.interval, settings.rescale, settings.channels
        if guide is not None:
            check_guide(self, guide)
            guidance: Guide = AutoGuidance(guide.model, settings.guidance, *said)
        else:
            told = self.classes or self.prompts is not None
            guidance = Guidance(settings.guidance if told else 1.0, *said)
        height, width = (side // self.latents.factor for side in self.pixels(size))
        sampler = Sampler(
            self.model, solver, guidance, self.latents, (self.config.channels, height, width), self.device
        )
        return sampler(self.condition(asked), seeds, settings.batch, original, watch)

    def pixels(self, size: tuple[int, int] | None) -> tuple[int, int]:
        """The (height, width) of pictures that are asked for in a size, by default as trained.

        Raises:
            InputError: if the size is not a multiple of the patch, or too large.
        """
        height, width = size or self.size
        unit = self.config.patch * self.latents.factor
        if height < 1 or width < 1 or height % unit or width % unit:
            raise InputError(f"{width} x {height} pixels can't be cut into patches: expected multiples of {unit}")
        most = unit * getattr(self.config, "most", MOST_PIXELS)
        if max(height, width) > most:
            raise InputError(f"{width} x {height} pixels: this model has positions for up to {most} x {most}")
        if height * width > MOST_PIXELS:
            raise InputError(f"{width} x {height} pixels are more than {MOST_PIXELS}")
        return height, width

    def original(
        self,
        picture: Image.Image,
        mask: Image.Image | None = None,
        strength: float | None = None,
        size: tuple[int, int] | None = None,
    ) -> Original:
        """A picture to begin from, scaled and cut to the model's size; see `generate`.

        Raises:
            InputError: if the mask is of another size, or the strength out of range; as `pixels`.
        """
        if mask is not None and mask.size != picture.size:
            sizes = [f"{image.width} x {image.height}" for image in (picture, mask)]
            raise InputError(f"the image is {sizes[0]} and its mask {sizes[1]}: expected the same size")
        strength = (0.75 if mask is None else 1.0) if strength is None else strength
        cut = _cutter(self.pixels(size))
        # pixels are denoised as they are, whatever the model of them says
        channels = self.config.channels if isinstance(self.latents, Pixels) else self.latents.channels
        pixels = _tensor(cut(picture.convert("L" if channels == 1 else "RGB"))) / 127.5 - 1
        anew = None if mask is None else _tensor(cut(mask.convert("L")))[0] >= 128
        return Original(pixels, anew, strength)

    def condition(self, asked: Sequence[Asked]) -> Condition:
        """What the model is told of pictures of these classes or texts."""
        if self.prompts is not None:
            texts = [str(text) for text in asked]
            different = list(dict.fromkeys(texts))
            numbers = {text: number for number, text in enumerate(different)}
            at = torch.tensor([numbers[text] for text in texts], device=self.device)
            return rows(self.prompts(different), at)
        return Labels(torch.tensor(asked, device=self.device)) if self.classes else None


def _some(labels: Sequence[str]) -> str:
    return f", such as {labels[0]!r}" if labels else ""


def _cutter(size: tuple[int, int]) -> Callable[[Image.Image], Image.Image]:
    """Scales a picture so that it fills (height, width), and takes the middle."""
    height, width = size

    def cut(image: Image.Image) -> Image.Image:
        if image.size == (width, height):
            return image
        scale = max(width / image.width, height / image.height)
        wide, high = width / scale, height / scale
        left, top = (image.width - wide) / 2, (image.height - high) / 2
        return image.resize((width, height), Image.Resampling.LANCZOS, (left, top, left + wide, top + high))

    return cut


def _tensor(image: Image.Image) -> Tensor:
    """A picture as (C, H, W) float32 in 0..255."""
    flat = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return flat.view(image.height, image.width, -1).permute(2, 0, 1).float()


def _picture(pixels: Tensor) -> Image.Image:
    array = pixels.numpy()
    return Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array)
