"""Voice activity: how likely somebody speaks, every 32 ms, by the Silero network (MIT, package ``silero-vad``).

The tensors of the package's TorchScript archive are read into the modules below, and nothing of the package runs: its
code takes a frame a call, and sets PyTorch to one thread as it loads. (Its safetensors file holds an older network.)
Source: snakers4/silero-vad, ``tinygrad_model.py``.
"""

from functools import cache
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.errors import InputError
from core.weights import Table, load_into, read

__all__ = ["FRAME", "SileroVad", "VoiceStream", "load_silero"]

FRAME = 512  # samples at 16 kHz: 32 ms
CONTEXT = 64  # samples that a frame is shown of the one before

_AT_ONCE = 512  # frames: bounds the memory of the convolutions

SILERO = Table(
    "silero-vad",
    {
        "_model.stft.forward_basis_buffer": "stft.weight",
        "_model.encoder.{i}.reparam_conv.{leaf}": "convs.{i}.{leaf}",
        "_model.decoder.rnn.weight_ih": "lstm.weight_ih_l0",
        "_model.decoder.rnn.weight_hh": "lstm.weight_hh_l0",
        "_model.decoder.rnn.bias_ih": "lstm.bias_ih_l0",
        "_model.decoder.rnn.bias_hh": "lstm.bias_hh_l0",
        "_model.decoder.decoder.2.{leaf}": "out.{leaf}",
        "_model_8k.{path}": None,  # for recordings of 8 kHz: ours are brought to 16 kHz
        "_state": None,
        "_context": None,
    },
)


class SileroVad(nn.Module):
    """A short-time Fourier transform, four convolutions within a frame, and an LSTM from frame to frame."""

    def __init__(self) -> None:
        super().__init__()
        self.stft = nn.Conv1d(1, 258, 256, stride=128, bias=False)  # 129 real parts, then 129 imaginary ones
        self.convs = nn.ModuleList(
            [
                nn.Conv1d(129, 128, 3, padding=1),
                nn.Conv1d(128, 64, 3, stride=2, padding=1),
                nn.Conv1d(64, 64, 3, stride=2, padding=1),
                nn.Conv1d(64, 128, 3, padding=1),
            ]
        )
        self.lstm = nn.LSTM(128, 128)
        self.out = nn.Conv1d(128, 1, 1)

    def forward(
        self, frames: Tensor, state: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """How likely somebody speaks in each of consecutive `frames` (N, CONTEXT + FRAME): (N,), and the state after.

        A frame begins with the last samples of the one before; `state` is what an earlier call returned.
        """
        x = self.stft(F.pad(frames, (0, CONTEXT), mode="reflect")[:, None])  # (N, 258, 4)
        x = x.unflatten(1, (2, 129)).square().sum(dim=1).sqrt()
        for conv in self.convs:
            x = conv(x).relu()
        x, state = self.lstm(x.transpose(1, 2), state)  # (N, 128, 1) -> (N, 1, 128): time first, a batch of one
        return self.out(x.transpose(1, 2).relu()).sigmoid()[:, 0, 0], state


class VoiceStream:
    """The network over a recording that comes in blocks of any size."""

    def __init__(self, model: SileroVad | None = None) -> None:
        self.model = model or load_silero()
        self.held = torch.zeros(CONTEXT)  # the samples that the next frame begins with
        self.state: tuple[Tensor, Tensor] | None = None

    @torch.inference_mode()
    def __call__(self, audio: Tensor, last: bool = False) -> Tensor:
        """How likely somebody speaks in each frame that `audio` (samples,) completes: (N,).

        With `last`, silence completes the last frame.
        """
        held = torch.cat([self.held, audio])
        rest = (len(held) - CONTEXT) % FRAME
        if last and rest:
            held = F.pad(held, (0, FRAME - rest))
        count = (len(held) - CONTEXT) // FRAME
        self.held = held[count * FRAME :]
        if not count:
            return torch.zeros(0)
        frames = held[: count * FRAME + CONTEXT].unfold(0, CONTEXT + FRAME, FRAME)  # (N, CONTEXT + FRAME)
        found = []
        for some in frames.split(_AT_ONCE):
            likely, self.state = self.model(some, self.state)
            found.append(likely)
        return torch.cat(found)


@cache
def load_silero() -> SileroVad:
    """The trained network, on the CPU, read once.

    Raises InputError when the package isn't there, or is one that is laid out otherwise.
    """
    spec = find_spec("silero_vad")  # looked for, not imported
    folders = list(spec.submodule_search_locations or ()) if spec else []
    path = Path(folders[0]) / "data" / "silero_vad.jit" if folders else None
    if path is None or not path.is_file():
        raise InputError("voice activity needs the package silero-vad: pip install silero-vad")
    model = SileroVad()
    load_into(model, SILERO, read(path).tensors)
    return model.eval().requires_grad_(False)
