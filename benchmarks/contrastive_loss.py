"""The losses of CLIP and SigLIP, forward and backward, against open_clip's: time and peak memory.

python -m benchmarks.contrastive_loss [--repeats 9] [--threads 2]

Memory is how far a fresh process's peak of resident memory rises over what it held before the loss, less the gradients
of the features. open_clip 3.3 has no chunked loss yet; its main branch has (pull request 1145), which is made again
here on top of its ``SigLipLoss``: blocks of 512 images, softplus, and a correction for the pairs. Its losses that
aren't chunked need more than twenty gigabytes for 32k pairs, and are left out there.
"""

import json
import os
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from open_clip.loss import ClipLoss, SigLipLoss
from torch import Tensor

from benchmarks.apart import peak
from benchmarks.harness import Case, Contender, main, options
from multimodal.losses import info_nce, siglip

NAME = "contrastive_loss"
WIDTH = 512
SMALL, LARGE = 8192, 32768
MIB = 2**20


class ChunkedSigLip(SigLipLoss):
    """SigLIP's loss in blocks of images, as on open_clip's main branch."""

    def forward(self, image: Tensor, text: Tensor, scale: Tensor, bias: Tensor, chunk: int = 512) -> Tensor:
        total = image.new_zeros(())
        for start in range(0, len(image), chunk):
            logits = self.get_logits(image[start : start + chunk], text, scale, bias)
            total = total + F.softplus(logits.float()).sum() - logits.diagonal(start).float().sum()
        return total / len(image)


def our_clip(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    return info_nce(image, text, scale)


def their_clip(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    loss: Tensor = ClipLoss()(image, text, scale)
    return loss


LOSSES: dict[str, Callable[..., Tensor]] = {
    "sensorium CLIP": our_clip,
    "sensorium SigLIP": siglip,
    "open_clip ClipLoss": their_clip,
    "open_clip SigLipLoss": SigLipLoss(),
    "open_clip SigLipLoss, chunked": ChunkedSigLip(),
}


def inputs(count: int) -> list[Tensor]:
    """Features of unit length (count, WIDTH) that pair up, a scale and a bias."""
    make = torch.Generator().manual_seed(0)
    image = F.normalize(torch.randn(count, WIDTH, generator=make), dim=-1)
    text = F.normalize(image + 0.05 * torch.randn(count, WIDTH, generator=make), dim=-1)
    return [x.requires_grad_() for x in (image, text, torch.tensor(20.0), torch.tensor(-10.0))]


@torch.enable_grad()
def step(loss_of: Callable[..., Tensor], given: list[Tensor]) -> Tensor:
    """Forward and backward; what is compared: the loss, and each gradient's norm."""
    for x in given:
        x.grad = None
    loss = loss_of(*given)
    loss.backward()
    return torch.stack([loss.detach(), *(x.grad.norm() for x in given if x.grad is not None)])


def case(job: str, count: int, names: dict[str, str]) -> Case:
    """Contenders by the names that the table shows them under."""
    given = inputs(count)
    contenders = [Contender(shown, partial(step, LOSSES[name], given)) for shown, name in names.items()]
    return Case(f"{job}, {count} pairs", contenders, tolerance=1e-5)


def clip() -> Case:
    return case("CLIP loss", SMALL, {"sensorium": "sensorium CLIP", "ClipLoss": "open_clip ClipLoss"})


def sigmoid() -> Case:
    names = {"chunked SigLipLoss": "open_clip SigLipLoss, chunked", "SigLipLoss": "open_clip SigLipLoss"}
    return case("SigLIP loss", SMALL, {"sensorium": "sensorium SigLIP", **names})


def large_sigmoid() -> Case:
    names = {"sensorium": "sensorium SigLIP", "chunked SigLipLoss": "open_clip SigLipLoss, chunked"}
    return case("SigLIP loss", LARGE, names)


def memory(name: str, count: int) -> float:
    """MiB that one step of a loss needs beside its inputs and the gradients of the features, in this fresh process."""
    step(LOSSES[name], inputs(64))  # libraries and threads allocate at their first use
    given = inputs(count)
    needed = peak(partial(step, LOSSES[name], given))
    assert needed is not None
    return needed - 2 * given[0].nbytes / MIB


def peaks(chosen: Namespace) -> dict[str, dict[int, float]]:
    """MiB by loss and number of pairs, each in its own process."""
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}  # what is freed is given back, and not counted
    found: dict[str, dict[int, float]] = {}
    for name in LOSSES:
        chunked = name.startswith("sensorium") or name.endswith("chunked")
        for count in (SMALL, LARGE) if chunked else (SMALL,):
            code = (
                f"import torch; torch.set_num_threads({chosen.threads}); "
                f"from benchmarks.contrastive_loss import memory; print(memory({name!r}, {count}))"
            )
            command = [sys.executable, "-c", code]
            done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
            found.setdefault(name, {})[count] = float(done.stdout)
            print(f"{name}, {count} pairs: {found[name][count]:.1f} MiB", flush=True)
    return found


def report(found: dict[str, dict[int, float]], folder: Path) -> None:
    """Add the peaks to the results that `main` wrote."""
    chunked = found["open_clip SigLipLoss, chunked"]
    lines = [
        "Peak memory of forward and backward, in MiB beside inputs and gradients (open_clip's chunked loss / this):",
        "",
        f"| loss | {SMALL} pairs | {LARGE} pairs |",
        "|---|---:|---:|",
    ]
    for name, sizes in found.items():
        cells = [f"{sizes[n]:.1f} ({chunked[n] / sizes[n]:.1f}x)" if n in sizes else "-" for n in (SMALL, LARGE)]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    table = folder / f"{NAME}.md"
    table.write_text(table.read_text() + "\n" + "\n".join(lines) + "\n")
    data = folder / f"{NAME}.json"
    data.write_text(json.dumps({**json.loads(data.read_text()), "peak MiB": found}, indent=1) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    chosen = options(__doc__)
    main(NAME, [clip, sigmoid, large_sigmoid], chosen)
    if not chosen.only:
        report(peaks(chosen), chosen.out)
