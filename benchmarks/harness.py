"""A fair race: ours and the peers on one machine, interleaved, with an output check and a ratio in every row.

A benchmark file has one function a job, which builds a `Case`, and hands them to `main`::

    def encoder() -> Case:
        return Case("encoder, 30 s", [Contender("sensorium", ours), Contender("openai-whisper", theirs)])

    if __name__ == "__main__":
        main("whisper", [encoder], options(__doc__))

Absolute times drift from run to run and from machine to machine, so only ratios within one run mean anything. To keep
them honest the contenders take turns (in an order that rotates each round), everyone gets the same threads, the median
of at least seven rounds counts, and a contender whose output differs from the reference beyond its tolerance fails the
whole run.
"""

import argparse
import gc
import json
import os
import platform
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.apart import peak, timed

__all__ = ["Case", "Contender", "Measurement", "difference", "main", "measure", "options", "write"]

RESULTS = Path(__file__).parent / "results"
OURS = "sensorium"
PEERS = ("openai-whisper", "ctranslate2", "transformers", "timm", "lightly", "open-clip-torch", "diffusers")


def difference(output: Any, reference: Any) -> float:
    """Largest absolute difference over the reference's largest magnitude; infinite when the shapes differ."""
    ours, theirs = (np.asarray(as_array(x), dtype=np.float64) for x in (output, reference))
    if ours.shape != theirs.shape or not np.isfinite(ours).all():
        return float("inf")
    return float(np.abs(ours - theirs).max() / max(np.abs(theirs).max(), 1e-12))


def as_array(x: Any) -> Any:
    return x.detach().float().cpu().numpy() if isinstance(x, torch.Tensor) else x


@dataclass(frozen=True)
class Contender:
    """One way to do the job.

    `run` does it once and returns its output (an array, a tensor or a list of numbers) for the check.
    `tolerance` replaces the case's for a contender that computes in lower precision; ``None`` there means: the same.
    """

    name: str
    run: Callable[[], Any]
    tolerance: float | None = None


@dataclass(frozen=True)
class Case:
    """One job done by several contenders; a name that starts with ``sensorium`` is ours, the others are peers.

    `unit` starts with ``"ms"`` (per item) or is a rate (items per second), with `items` items to a run. `reference` is
    the index of the contender whose output is taken as right; outputs further away from it than `tolerance` (see
    `difference`) are an error.
    """

    job: str
    contenders: Sequence[Contender]
    unit: str = "ms"
    items: int = 1
    tolerance: float = 1e-3
    reference: int = 1
    compare: Callable[[Any, Any], float] = difference


@dataclass
class Measurement:
    """What one contender needed: every run in seconds, MiB beside what it holds (None: unknown), and how far its output
    was from the reference."""

    job: str
    name: str
    unit: str
    items: int
    difference: float
    seconds: list[float] = field(default_factory=list)
    peak: float | None = None

    @property
    def value(self) -> float:
        """The median run, in the case's unit."""
        return in_unit(statistics.median(self.seconds), self)

    @property
    def spread(self) -> tuple[float, float]:
        """Fastest and slowest run, in the case's unit."""
        return in_unit(min(self.seconds), self), in_unit(max(self.seconds), self)


def in_unit(seconds: float, measurement: Measurement) -> float:
    """`seconds` for one run, as milliseconds per item or items per second."""
    if measurement.unit.startswith("ms"):
        return seconds * 1000 / measurement.items
    return measurement.items / seconds


def measure(case: Case, repeats: int = 7, warmup: int = 2) -> list[Measurement]:
    """Run every contender of `case` `repeats` times in rotating order and return one measurement each.

    Raises `ValueError` when fewer than seven rounds are asked for, `RuntimeError` when an output is wrong.
    """
    if repeats < 7:
        raise ValueError(f"repeats is {repeats}; a median needs at least 7 rounds")
    outputs = [contender.run() for contender in case.contenders]
    found = [
        Measurement(case.job, c.name, case.unit, case.items, case.compare(output, outputs[case.reference]))
        for c, output in zip(case.contenders, outputs, strict=True)
    ]
    for contender, measured in zip(case.contenders, found, strict=True):
        allowed = case.tolerance if contender.tolerance is None else contender.tolerance
        if measured.difference > allowed:
            wrong = f"differs by {measured.difference:.2e} (allowed {allowed:.0e})"
            raise RuntimeError(f"{case.job}: {contender.name} {wrong}")
    for contender, measured in zip(case.contenders, found, strict=True):
        measured.peak = peak(contender.run)
    gc.collect()
    gc.disable()  # a collection would be charged to whoever's turn it is
    try:
        for turn in range(warmup - 2 + repeats):  # every one ran twice by now
            for offset in range(len(found)):
                place = (turn + offset) % len(found)
                seconds = timed(case.contenders[place].run)
                if turn >= warmup - 2:
                    found[place].seconds.append(seconds)
    finally:
        gc.enable()
    return found


def ratio(measured: Measurement, rows: Iterable[Measurement]) -> float:
    """How many times as fast as this row our plain entry is (for our own rows: against the fastest peer)."""
    job = [row for row in rows if row.job == measured.job]
    median = statistics.median
    if measured.name.startswith(OURS):
        best = min(median(row.seconds) for row in job if not row.name.startswith(OURS))
        return best / median(measured.seconds)
    ours = next(row for row in job if row.name.startswith(OURS))
    return median(measured.seconds) / median(ours.seconds)


def machine() -> dict[str, str]:
    """What the figures were taken on: processor, threads, Python and the versions of torch and of the peers."""
    facts = {
        "processor": processor(),
        "cores": str(os.cpu_count()),
        "threads": str(torch.get_num_threads()),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    for name in PEERS:
        try:
            facts[name] = version(name)
        except PackageNotFoundError:
            continue
    return facts


def processor() -> str:
    """The processor's name as the system tells it."""
    listing = Path("/proc/cpuinfo")
    if listing.exists():
        for line in listing.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def table(rows: Sequence[Measurement]) -> str:
    """The measurements as a Markdown table."""
    lines = [
        "| job | contender | median | fastest .. slowest | ratio | peak MiB | output difference |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        fast, slow = row.spread
        speed = f"{ratio(row, rows):.2f}"
        shown = f"**{speed}** (best peer / ours)" if row.name.startswith(OURS) else f"{speed} (this / ours)"
        memory = "-" if row.peak is None else f"{row.peak:.0f}"
        cells = [row.job, row.name, f"{row.value:.4g} {row.unit}", f"{fast:.4g} .. {slow:.4g}", shown, memory]
        lines.append("| " + " | ".join([*cells, f"{row.difference:.1e}"]) + " |")
    return "\n".join(lines)


def write(name: str, rows: Sequence[Measurement], repeats: int, folder: Path = RESULTS) -> str:
    """Write ``<name>.md`` and ``<name>.json`` into `folder` and return the Markdown."""
    facts = machine()
    text = "\n".join(
        [
            f"# {name}",
            "",
            "Made by `python -m benchmarks." + name + "`: interleaved runs, median of "
            f"{repeats}, {facts['threads']} threads. Ratios are of times: above 1, ours is faster.",
            "Peak MiB is what one run needs beside what is held before it (weights, and in training moments).",
            "The output difference is the largest error over the reference's largest magnitude (0: the reference).",
            "",
            table(rows),
            "",
            "Machine: " + ", ".join(f"{key} {value}" for key, value in facts.items()),
            "",
        ]
    )
    data = {
        "machine": facts,
        "repeats": repeats,
        "rows": [{**row.__dict__, "median": row.value, "ratio": ratio(row, rows)} for row in rows],
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.md").write_text(text)
    (folder / f"{name}.json").write_text(json.dumps(data, indent=1) + "\n")
    return text


def options(description: str | None = None) -> argparse.Namespace:
    """The arguments that all benchmark files share: ``--repeats``, ``--threads``, ``--only`` and ``--out``."""
    parser = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=9, help="rounds; at least 7")
    parser.add_argument("--threads", type=int, default=2, help="threads for everyone")
    parser.add_argument("--only", default="", help="only the functions whose name contains this; writes no results")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the results")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    torch.set_grad_enabled(False)
    return chosen


def main(name: str, cases: Iterable[Callable[[], Case]], chosen: argparse.Namespace) -> None:
    """Measure the cases one after the other (each is built only when its turn comes), print and write the table.

    ``--only`` looks at the makers' names.
    """
    rows: list[Measurement] = []
    for make in cases:
        if chosen.only and chosen.only not in make.__name__:
            continue
        case = make()
        rows += measure(case, chosen.repeats)
        print(table([row for row in rows if row.job == case.job]), flush=True)
    if not chosen.only:
        print(write(name, rows, chosen.repeats, chosen.out))
