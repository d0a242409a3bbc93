"""Does training learn, in the time that its configuration promises? Runs the commands that people run.

    python -m benchmarks.learning [--root FOLDER] [--minutes 10] [--accuracy 0.88]

Trains ``configs/vision/classify_vit_fashion_mnist.yaml`` on the full Fashion-MNIST, takes the time, then measures the
best checkpoint on the test data by a command of its own, from the checkpoint alone. Leaves with 1 if it was too slow or
too bad.
"""

import argparse
import csv
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

__all__ = ["main"]

ROOT = Path(__file__).resolve().parent.parent
CONFIG = ROOT / "configs" / "vision" / "classify_vit_fashion_mnist.yaml"


def main(arguments: list[str] | None = None) -> int:
    """Run the commands, print what they reached, and return the exit code."""
    assets = Path(os.environ.get("SENSORIUM_ASSETS", ROOT.parent / "shared" / "assets"))
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--root", type=Path, default=assets / "fashion-mnist", help="folder of the full Fashion-MNIST")
    parser.add_argument("--minutes", type=float, default=10.0, help="the most that training may take")
    parser.add_argument("--accuracy", type=float, default=0.88, help="the least that the test data must show")
    options = parser.parse_args(arguments)

    with tempfile.TemporaryDirectory() as runs:
        began = time.monotonic()
        _sensorium("fit", "-c", str(CONFIG), "--data.root", str(options.root), "--runs", runs)
        minutes = (time.monotonic() - began) / 60
        best = next(Path(runs).rglob("best.ckpt"))
        _sensorium("test", "--ckpt_path", str(best), "--name", "again")
        accuracy = _last(next((Path(runs) / "again").rglob("metrics.csv")), "test/accuracy")
    good = minutes <= options.minutes and accuracy >= options.accuracy
    print(f"{'good' if good else 'BAD'}: test accuracy {100 * accuracy:.2f} % after {minutes:.1f} minutes")
    return 0 if good else 1


def _sensorium(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "sensorium", *arguments], cwd=ROOT, check=True)


def _last(table: Path, column: str) -> float:
    with table.open() as file:
        return [float(row[column]) for row in csv.DictReader(file) if row.get(column)][-1]


if __name__ == "__main__":
    sys.exit(main())
