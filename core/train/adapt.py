"""Which weights of a model are trained: some of its own, or low-rank adapters beside them."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from core.errors import InputError
from core.train.optim import blocks_of, layers_of
from core.weights import read, write_safetensors

__all__ = [
    "Adapt",
    "Head",
    "Last",
    "LoRA",
    "Lock",
    "NormAndBias",
    "Only",
    "load_adapter",
    "save_adapter",
    "without_adapters",
]

HEAD = "head"


class Adapt(ABC):
    """Freezes a model but for what is to be trained; it may put modules of its own into it."""

    @abstractmethod
    def __call__(self, model: nn.Module) -> None:
        """Change ``model`` in place.

        Raises:
            InputError: If nothing would be left to train.
        """

    def merge(self, model: nn.Module) -> None:
        """Undo the change in place, keeping what was learned: ``model`` has its own modules again, all trainable."""
        model.requires_grad_(True)


class Head(Adapt):
    """Trains the head only: what the model calls ``head``."""

    def __call__(self, model: nn.Module) -> None:
        """Freeze all but the head."""
        _train_only(model, lambda name: _is_head(name), "no head")


class Last(Adapt):
    """Trains the last blocks and all that comes after them: the norm, the pooling, the head.

    Args:
        blocks: How many.
    """

    def __init__(self, blocks: int) -> None:
        if blocks < 0:
            raise InputError(f"blocks {blocks}: the number of blocks to train can't be negative")
        self.blocks = blocks

    def __call__(self, model: nn.Module) -> None:
        """Freeze what comes before.

        Raises:
            InputError: If the model has fewer blocks.
        """
        depth = sum(1 for _ in blocks_of(model))
        if self.blocks > depth:
            raise InputError(f"the last {self.blocks} blocks are to be trained, but the model has {depth}")
        layer = layers_of(model)
        _train_only(model, lambda name: layer.get(name, 0) > depth - self.blocks, "nothing after its blocks")


class Lock(Adapt):
    """Trains all but some parts: LiT's locked image tower (arXiv:2111.07991) is ``parts: [image]``.

    Args:
        parts: What their names begin with.
    """

    def __init__(self, parts: list[str]) -> None:
        self.parts = tuple(part + "." for part in parts)

    def __call__(self, model: nn.Module) -> None:
        """Freeze the parts.

        Raises:
            InputError: If the model has no such part, or no other.
        """
        names = [name for name, _ in model.named_parameters()]
        absent = [part for part in self.parts if not any(name.startswith(part) for name in names)]
        if absent:
            raise InputError(f"{absent[0][:-1]!r} can't be locked: the model has no such part")
        _train_only(model, lambda name: not name.startswith(self.parts), "nothing beside the locked parts")


class Only(Adapt):
    """Trains some parts and nothing else: the first stage of LLaVA (arXiv:2304.08485) is ``parts: [projector]``.

    Args:
        parts: What their names begin with.
    """

    def __init__(self, parts: list[str]) -> None:
        self.parts = list(parts)

    def __call__(self, model: nn.Module) -> None:
        """Freeze the rest.

        Raises:
            InputError: If the model has no such part.
        """
        begins = tuple(f"{part}." for part in self.parts)
        for part, begin in zip(self.parts, begins, strict=True):
            if not any(name.startswith(begin) for name, _ in model.named_parameters()):
                raise InputError(f"{part!r} can't be trained: the model has no such part")
        _train_only(model, lambda name: name.startswith(begins), "none of the parts")


class NormAndBias(Adapt):
    """Trains norms, biases and the head (BitFit, arXiv:2106.10199, and its like)."""

    def __call__(self, model: nn.Module) -> None:
        """Freeze every matrix but the head's."""
        norms = {
            f"{path}.{leaf}"
            for path, module in model.named_modules()
            if isinstance(module, nn.LayerNorm | nn.RMSNorm)
            for leaf, _ in module.named_parameters(recurse=False)
        }
        _train_only(
            model, lambda name: name in norms or name.endswith(".bias") or _is_head(name), "neither norm nor bias"
        )


class LoRA(Adapt):
    """Low-rank adapters by ``peft`` (arXiv:2106.09685), optionally with DoRA's magnitudes (arXiv:2402.09353).

    An adapter starts as no change at all.

    Args:
        rank: Of the adapters.
        alpha: They are scaled by alpha / rank.
        dropout: Of their input.
        dora: Whether each column's magnitude is trained apart from its direction.
        targets: Ends of the names of the linear layers that get one.
        also: Modules that are trained as they are.
        parts: What the names of the layers begin with: adapters in these parts only; by default in all.
    """

    def __init__(
        self,
        rank: int = 8,
        alpha: float = 16,
        dropout: float = 0.0,
        dora: bool = False,
        targets: tuple[str, ...] = ("q.proj", "k.proj", "v.proj", "fn.out", "fn.fc1", "fn.fc2"),
        also: tuple[str, ...] = (HEAD,),
        parts: tuple[str, ...] = (),
    ) -> None:
        if rank < 1 or not 0 <= dropout < 1:
            raise InputError(f"rank {rank} must be at least 1 and dropout {dropout} in [0, 1)")
        self.rank = rank
        self.alpha = alpha
        self.dropout = dropout
        self.dora = dora
        self.targets = tuple(targets)
        self.also = tuple(also)
        self.parts = tuple(parts)

    def __call__(self, model: nn.Module) -> None:
        """Put adapters into the linear layers and freeze the rest.

        Raises:
            InputError: If no layer has one of the names.
        """
        from peft import LoraConfig, inject_adapter_in_model

        begins = tuple(f"{part}." for part in self.parts)
        names = [
            name
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear) and (not begins or name.startswith(begins))
        ]
        names = [name for name in names if any(f".{name}".endswith(f".{target}") for target in self.targets)]
        if not names:
            where = f" in {', '.join(self.parts)}" if self.parts else ""
            raise InputError(f"no linear layer{where} is called {', '.join(self.targets)}: LoRA has nothing to adapt")
        settings = LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,  # type: ignore[arg-type]  # any number will do
            lora_dropout=self.dropout,
            use_dora=self.dora,
            target_modules=names,
        )
        inject_adapter_in_model(settings, model)
        for name, parameter in model.named_parameters():
            if any(name.startswith(f"{part}.") for part in self.also):
                parameter.requires_grad_(True)

    def merge(self, model: nn.Module) -> None:
        """Add the adapters to the weights that they adapt, and take them out."""
        from peft.tuners.lora import LoraLayer

        for name, module in list(model.named_modules()):
            if isinstance(module, LoraLayer):
                module.merge(safe_merge=True)
                model.set_submodule(name, module.get_base_layer())
        model.requires_grad_(True)


@contextmanager
def without_adapters(model: nn.Module) -> Iterator[None]:
    """Inside the ``with`` the model is what it was before :class:`LoRA` adapted it."""
    from peft.tuners.lora import LoraLayer

    layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


def save_adapter(model: nn.Module, path: Path | str) -> None:
    """Write what is trained of an adapted model, as safetensors: megabytes where the model has gigabytes."""
    write_safetensors(path, {name: p for name, p in model.named_parameters() if p.requires_grad})


@torch.no_grad()
def load_adapter(model: nn.Module, path: Path | str) -> None:
    """Read :func:`save_adapter`'s file into a model that has been adapted in the same way.

    Raises:
        InputError: If it holds other tensors than the model trains.
    """
    tensors = read(path).tensors
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    wrong = [n for n in tensors.keys() & trained.keys() if tensors[n].shape != trained[n].shape]
    strays = sorted([*(tensors.keys() ^ trained.keys()), *wrong])
    if strays:
        raise InputError(f"{path} doesn't fit what the model trains: {len(strays)} tensors differ, such as {strays[0]}")
    for name, parameter in trained.items():
        parameter.copy_(tensors[name])


def _is_head(name: str) -> bool:
    return name.partition(".")[0] == HEAD


def _train_only(model: nn.Module, chosen: Callable[[str], bool], lack: str) -> None:
    names = [name for name, _ in model.named_parameters() if chosen(name)]
    if not names:
        raise InputError(f"{type(model).__name__} has {lack}: nothing would be trained")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in names and parameter.requires_grad)
