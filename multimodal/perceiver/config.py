"""The shape of a Perceiver, and of what it takes in and gives out."""

from dataclasses import dataclass, field
from typing import Literal

__all__ = [
    "ClassOutput",
    "ConvInput",
    "DenseOutput",
    "Fourier",
    "Input",
    "LabelInput",
    "LabelQuery",
    "Learned",
    "Output",
    "Part",
    "PerceiverConfig",
    "Positions",
    "SeveralInput",
    "SeveralOutput",
    "SignalInput",
    "SignalQuery",
    "TextInput",
    "TextOutput",
]


class Positions:
    """Where the tokens of an input are."""


@dataclass(frozen=True)
class Fourier(Positions):
    """Fixed positions: see :class:`core.nn.FourierPositions`.

    Attributes:
        bands: frequencies for each axis.
        resolution: points along each axis; as many numbers as there are axes.
    """

    bands: int
    resolution: tuple[int, ...]


@dataclass(frozen=True)
class Learned(Positions):
    """A table of positions.

    Attributes:
        count: rows, as many as the input has tokens.
        dim: their width.
        project: width after a linear layer; None for no such layer.
    """

    count: int
    dim: int
    project: int | None = None


class Input:
    """What a Perceiver takes in."""


@dataclass(frozen=True)
class SignalInput(Input):
    """Anything on a grid of one to three axes: recordings, spectrograms, images, videos, pairs of frames.

    Attributes:
        channels: of the signal: 3 of colours, 1 of a waveform, the bands of a spectrogram.
        patch: size of a patch along each axis; (1, 1) for pixels.
        project: width after a linear layer over each patch; None for the values as they are.
        positions: of the patches; joined to the values. Axes with one patch in front of theirs don't count.
    """

    channels: int = 3
    patch: tuple[int, ...] = (1, 1)
    project: int | None = None
    positions: Positions = field(default_factory=lambda: Fourier(64, (224, 224)))


@dataclass(frozen=True)
class ConvInput(Input):
    """Images (B, channels, H, W) through one convolution, norm and pooling to a quarter of their size.

    Attributes:
        channels: of the images.
        features: of the convolution.
        positions: joined to the features.
    """

    channels: int = 3
    features: int = 64
    positions: Positions = field(default_factory=lambda: Fourier(64, (56, 56)))


@dataclass(frozen=True)
class TextInput(Input):
    """Numbers of tokens (B, L), each with an embedding and a position that is added to it.

    Attributes:
        vocab: number of tokens: 256 bytes and six more of :class:`multimodal.perceiver.ByteTokenizer`.
        context: the most tokens.
        dim: width of the embeddings.
    """

    vocab: int = 262
    context: int = 2048
    dim: int = 768


@dataclass(frozen=True)
class LabelInput(Input):
    """One vector (B, classes), such as a one-hot class, as one token.

    Attributes:
        classes: width of the vector.
    """

    classes: int


@dataclass(frozen=True)
class Part:
    """One of several inputs.

    Attributes:
        input: its kind.
        hidden: share of its tokens that a learned one stands for, drawn anew for each batch in training; at 1 it is
            never seen, at 0 always. None for no such token.
    """

    input: Input
    hidden: float | None = None

    def __post_init__(self) -> None:
        if isinstance(self.input, SeveralInput):
            raise ValueError("a part is one input, not several")
        if self.hidden is not None and not 0 <= self.hidden <= 1:
            raise ValueError(f"hidden {self.hidden} is no share: expected a number from 0 to 1")


@dataclass(frozen=True)
class SeveralInput(Input):
    """Inputs of several kinds, read as one sequence; each is widened to the width of all by a learned vector.

    Attributes:
        audio, image, label, text: those that there are, read in this order.
        margin: width of the learned vector of the widest one.
    """

    audio: Part | None = None
    image: Part | None = None
    label: Part | None = None
    text: Part | None = None
    margin: int = 4

    def __post_init__(self) -> None:
        if self.margin < 1 or not any((self.audio, self.image, self.label, self.text)):
            raise ValueError("several inputs need at least one part, and a margin of at least 1")


class Output:
    """What a Perceiver gives out."""


@dataclass(frozen=True)
class ClassOutput(Output):
    """Logits (B, classes), from one learned query.

    Attributes:
        classes: their number.
    """

    classes: int


@dataclass(frozen=True)
class TextOutput(Output):
    """Logits (B, L, vocab) at each place of a :class:`TextInput`, by its own embeddings: masked language modelling.

    Attributes:
        qk: width of queries and keys.
        query_heads: of the attention to the latents.
    """

    qk: int = 256
    query_heads: int = 8


@dataclass(frozen=True)
class DenseOutput(Output):
    """Values (B, *grid, values) at each place of the input, whose tokens are the queries: optical flow.

    Attributes:
        values: at each place.
        scale: what they are divided by.
    """

    values: int = 2
    scale: float = 100.0


@dataclass(frozen=True)
class SignalQuery:
    """What to give out of a signal.

    Attributes:
        grid: of the points.
        positions: of the points.
        values: at each point.
    """

    grid: tuple[int, ...]
    positions: Fourier
    values: int


@dataclass(frozen=True)
class LabelQuery:
    """Which class it is.

    Attributes:
        classes: their number.
        dim: width of the learned query.
    """

    classes: int
    dim: int = 1024


@dataclass(frozen=True)
class SeveralOutput(Output):
    """Outputs of several kinds, read by one attention: autoencoding.

    Attributes:
        audio, image, label: those that there are.
        width: of what the attention finds, before each part's own layer.
        margin: width of the learned vector that widens the widest query.
    """

    audio: SignalQuery | None = None
    image: SignalQuery | None = None
    label: LabelQuery | None = None
    width: int = 512
    margin: int = 2

    def __post_init__(self) -> None:
        if self.margin < 1 or not any((self.audio, self.image, self.label)):
            raise ValueError("several outputs need at least one part, and a margin of at least 1")


@dataclass(frozen=True)
class PerceiverConfig:
    """The shape of a Perceiver; as it stands, the language model of arXiv:2107.14795.

    Attributes:
        input, output: what goes in and comes out.
        latents, dim: number and width of the latents.
        depth: self-attention blocks over the latents.
        rounds: how often these are applied, with the same weights.
        reads: how often the input is read. 1 is Perceiver IO; more is Perceiver (arXiv:2103.03206): after each
            reading the blocks are applied ``rounds`` times.
        shared: whether the readings behind the first one, with their blocks, have the same weights.
        heads, read_heads: of the self-attention and of the reading.
        qk_dim, v_dim: width of all heads together of queries and keys, and of values. By default, that of the
            latents; when reading, that of what ``read_width`` says.
        read_width: ``"memory"`` (what is read) or ``"latents"`` (what reads).
        ratio, read_ratio: hidden width of the feed-forward branches, as a multiple of the width.
        residual: whether the latents stay in the sum when the input is read.
    """

    input: Input = field(default_factory=TextInput)
    output: Output = field(default_factory=TextOutput)
    latents: int = 256
    dim: int = 1280
    depth: int = 26
    rounds: int = 1
    reads: int = 1
    shared: bool = True
    heads: int = 8
    read_heads: int = 8
    qk_dim: int | None = None
    v_dim: int | None = None
    read_width: Literal["memory", "latents"] = "memory"
    ratio: int = 1
    read_ratio: int = 1
    residual: bool = True

    def __post_init__(self) -> None:
        if min(self.latents, self.dim, self.rounds, self.reads, self.heads, self.read_heads) < 1 or self.depth < 0:
            raise ValueError("latents, dim, rounds, reads and heads must be at least 1, and depth not negative")
        if isinstance(self.output, TextOutput) and not isinstance(self.input, TextInput):
            raise ValueError("a TextOutput needs a TextInput, whose embeddings it takes")
        if isinstance(self.output, DenseOutput) and not isinstance(self.input, SignalInput | ConvInput):
            raise ValueError("a DenseOutput needs an input on a grid: SignalInput or ConvInput")
