"""A model as ONNX, for runtimes without PyTorch; checked by running it before it is kept."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from core.errors import InputError

from .files import replacing

__all__ = ["write_onnx"]


def write_onnx(
    model: nn.Module,
    example: Tensor,
    path: Path | str,
    *,
    names: Sequence[str] = ("input", "output"),
    tolerance: float = 1e-3,
) -> float:
    """Write a model of one input and one output as one ONNX file, any number of rows in a batch.

    The file is made by ``torch.export``, run by ONNX Runtime on another batch, and kept only if both agree.

    Args:
        model: in evaluation mode; it maps a tensor (B, ...) to a tensor (B, ...).
        example: an input of at least two rows.
        path: of the file.
        names: of the input and the output.
        tolerance: the largest difference from the model, relative to its largest output (at least 1).

    Returns:
        The largest difference that was found, likewise relative.

    Raises:
        InputError: if the packages for ONNX are missing, the model is over 2 GB, or the results differ.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise InputError(f"ONNX needs {error.name}: install sensorium[onnx]") from error
    size = sum(p.numel() * p.element_size() for p in model.state_dict().values())
    if size > 1 << 31:
        raise InputError(f"the weights take {size >> 20} MiB; one ONNX file holds 2048: export a smaller model")
    with torch.no_grad(), _quietly():
        program = torch.onnx.export(
            model,
            (example,),
            dynamo=True,
            input_names=list(names[:1]),
            output_names=list(names[1:]),
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )
    if program is None:
        raise InputError("torch.onnx made no program of this model")
    with replacing(Path(path)) as draft:
        program.save(str(draft), external_data=False)
        session = onnxruntime.InferenceSession(str(draft), providers=["CPUExecutionProvider"])
        other = torch.cat([example.roll(1, 0), example[:1]])
        found = torch.from_numpy(session.run(None, {names[0]: other.numpy()})[0])
        with torch.no_grad():
            expected = model(other)
        gap = float((found - expected).abs().max() / expected.abs().max().clamp(min=1))
        if not gap <= tolerance:
            raise InputError(f"ONNX Runtime's results differ by {gap:.2g}, over {tolerance:.2g}: nothing was written")
    return gap


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without the exporter's progress lines and the warnings of packages that it doesn't need."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
