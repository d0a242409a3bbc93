"""What the training of a Whisper begins with: fresh weights, released ones, or some layers of a teacher's."""

import torch
from torch import Tensor, nn

from audio.checkpoints import find_whisper
from audio.tasks.trained import load_trained_whisper
from audio.tokenizer import Tokenizer
from audio.weights import load_whisper
from audio.whisper import Whisper
from core.errors import InputError
from core.train.initial import Initial, fill
from core.train.seeds import run_seed

__all__ = ["Fresh", "Layers", "Released"]


class Fresh(Initial):
    """Random weights: embeddings and linear layers from a normal distribution, biases zero, as GPT-2's.

    PyTorch's own would give the tied embedding a deviation of 1, and so logits of a hundred at the first step.

    Args:
        std: Deviation.
    """

    def __init__(self, std: float = 0.02) -> None:
        if std <= 0:
            raise InputError(f"std {std} of the first weights must be positive")
        self.std = std

    @torch.no_grad()
    def __call__(self, model: nn.Module) -> None:
        """Fill the model as the run's seed says: on any number of processes the same."""
        generator = torch.Generator().manual_seed(run_seed())
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
            elif parameter.ndim == 2:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * self.std)


class Released(Initial):
    """Begins with the weights of a trained Whisper.

    A vocabulary with more languages is allowed (51866 tokens of a source with 51865): a new language begins as the mean
    of those that the source knows, in its place among them. A language that no vocabulary has takes the token of one
    that is like it, by ``targets: {language: ...}``. A shorter `audio_context` is allowed too: the first positions are
    taken.

    Args:
        source: A name, a path, a ``.ckpt`` of ours included, or ``owner/name``: see
            :func:`audio.checkpoints.find_whisper`.
    """

    def __init__(self, source: str) -> None:
        self.source = source

    def __call__(self, model: nn.Module) -> None:
        """Fill the model.

        Raises:
            InputError: If there is no such model, or it has another shape.
        """
        _fill(_whisper(model), _source(self.source), self.source)


class Layers(Initial):
    """Begins a student with a teacher's encoder and some layers of its decoder (distil-whisper, arXiv:2311.00430, 4.1).

    The student's `n` decoder layers are the teacher's at the rounded places of ``linspace(0, last, n)``: the first and
    the last of two. Of a shallower encoder likewise.

    Args:
        source: Of the teacher; see :class:`Released`.
    """

    def __init__(self, source: str) -> None:
        self.source = source

    def __call__(self, model: nn.Module) -> None:
        """Fill the student.

        Raises:
            InputError: If there is no such teacher, or it is narrower or shallower than the student.
        """
        student, teacher = _whisper(model), _source(self.source)
        for side in ("encoder", "decoder"):
            ours, theirs = getattr(student, side), getattr(teacher, side)
            if len(ours.blocks) > len(theirs.blocks):
                raise InputError(
                    f"{self.source} has {len(theirs.blocks)} {side} layers, the student {len(ours.blocks)}"
                )
            theirs.blocks = type(theirs.blocks)(
                theirs.blocks[place] for place in chosen(len(theirs.blocks), len(ours.blocks))
            )
        _fill(student, teacher, self.source)


def chosen(layers: int, wanted: int) -> list[int]:
    """Which of a teacher's layers a student takes, evenly from the first to the last."""
    return [round(place) for place in torch.linspace(0, layers - 1, wanted, dtype=torch.float64).tolist()]


def more_languages(embedding: Tensor, vocab: int) -> Tensor:
    """Rows for the tokens of a multilingual vocabulary (V, D) with more languages: (vocab, D).

    Each new language is the mean of the old ones; every other token keeps its row, at its new place.
    """
    old, new = Tokenizer.for_vocab(len(embedding)), Tokenizer.for_vocab(vocab)
    first = old.language_tokens[old.languages[0]]
    end = first + len(old.languages)
    added = embedding[first:end].mean(0, keepdim=True).expand(len(new.languages) - len(old.languages), -1)
    return torch.cat([embedding[:end], added, embedding[end:]])


def _fill(model: Whisper, source: Whisper, name: str) -> None:
    """Copy a model's weights into another one, which may have more languages and a shorter audio context."""
    theirs, ours = source.state_dict(), model.state_dict()
    words, positions = "decoder.tokens.weight", "encoder.positions.table"
    if source.config.multilingual and len(ours[words]) > len(theirs[words]):
        theirs[words] = more_languages(theirs[words], len(ours[words]))
    theirs[positions] = theirs[positions][: len(ours[positions])]
    fill(model, theirs, name)


def _source(name: str) -> Whisper:
    path = find_whisper(name)
    return (load_trained_whisper if path.suffix == ".ckpt" else load_whisper)(path)[0]


def _whisper(model: nn.Module) -> Whisper:
    if not isinstance(model, Whisper):
        raise InputError(f"a {type(model).__name__} is no Whisper")
    return model
