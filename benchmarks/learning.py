"""Does training learn, in the time that its configuration promises? Runs the commands that people run.

    python -m benchmarks.learning [--root FOLDER] [--speech FOLDER] [--only mae dino] [--runs FOLDER] [--out FOLDER]

On the full Fashion-MNIST: supervised training; and without labels MAE, DINO and DINOv2, each judged by nearest
neighbours and a linear probe on the frozen features of the test images (the protocol is in ``evaluate.json`` of each
run), and by fine-tuning on 600 labelled images, beside the same network untrained. Diffusion models, judged by the
supervised classifier. On the Free Spoken Digit Dataset: a Whisper from scratch, tiny.en with low-rank adapters, and
spoken keywords. Perceivers on both; answers about pictures; decoders that recall what is in their context. Leaves with
1 if a bar is missed.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from benchmarks.drawn import compare, recognised
from benchmarks.harness import RESULTS, machine

__all__ = ["main"]

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = ROOT / "configs"
ASSETS = Path(os.environ.get("SENSORIUM_ASSETS", ROOT.parent / "shared" / "assets"))
LABELLED = 600
METHODS = ("mae", "dino", "dinov2")
CLASSIFIER = "supervised_vit_fashion_mnist"

Bar = tuple[str, float, float, bool]  # what, measured, bar, good


def main(arguments: list[str] | None = None) -> int:
    """Run the commands, print and write what they reached, and return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--root", type=Path, default=ASSETS / "fashion-mnist", help="folder of the full Fashion-MNIST")
    parser.add_argument("--speech", type=Path, default=ASSETS / "speech" / "fsdd", help="folder of the spoken digits")
    parser.add_argument(
        "--only", nargs="+", choices=list(JOBS), default=list(JOBS), help="these; the others' rows are kept"
    )
    parser.add_argument("--runs", type=Path, help="folder that keeps the runs, and from which finished ones are taken")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the results")
    options = parser.parse_args(arguments)

    with tempfile.TemporaryDirectory() as passing:
        runs = options.runs or Path(passing)
        for name in options.only:
            _keep(name, JOBS[name](options.speech if name in SPOKEN else options.root, runs), options.out)
            print(_table(_kept(options.out)), flush=True)
    bars = _kept(options.out)
    return 0 if all(good for *_, good in bars) else 1


def quick(root: Path, runs: Path) -> list[Bar]:
    """The first recipe that people try."""
    return _classifier("classify_vit_fashion_mnist", root, runs, minutes=10, accuracy=88)


def supervised(root: Path, runs: Path) -> list[Bar]:
    """As far as a quarter of an hour goes."""
    return _classifier(CLASSIFIER, root, runs, minutes=15, accuracy=90)


def unlabelled(method: str) -> Callable[[Path, Path], list[Bar]]:
    """Pretraining by a method, and what it is worth."""

    def run(root: Path, runs: Path) -> list[Bar]:
        config = CONFIGS / "vision" / f"{method}_vit_fashion_mnist.yaml"
        minutes = _sensorium("fit", "-c", str(config), "--data.root", str(root), runs=runs, name=method)
        trained = next((runs / method).rglob("last.ckpt"))
        _sensorium("test", "--ckpt_path", str(trained), runs=runs, name=f"{method}-test")
        # one step of no length: the same network with its first weights, judged in the same way
        still = ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "1", "--model.optim.lr", "1e-12"]
        _sensorium("fit", "-c", str(config), "--data.root", str(root), *still, runs=runs, name=f"{method}-first")
        first = next((runs / f"{method}-first").rglob("last.ckpt"))
        _sensorium("test", "--ckpt_path", str(first), runs=runs, name=f"{method}-untrained")
        bars: list[Bar] = [(f"{method}: minutes of pretraining", minutes, 10.0, minutes <= 10)]
        for column, what in (("test/knn", "kNN"), ("test/probe", "linear probe")):
            value = 100 * _last(runs / f"{method}-test", column)
            bar = 100 * _last(runs / f"{method}-untrained", column)
            bars.append((f"{method}: {what}", value, bar, value > bar))
        tuned = _fine_tuned(f"{method}-tuned", config, root, runs, trained)
        scratch = _fine_tuned(f"{method}-scratch", config, root, runs, None)
        bars.append((f"{method}: fine-tuned on {LABELLED} images", tuned, scratch + 5, tuned >= scratch + 5))
        return bars

    return run


def _classifier(config: str, root: Path, runs: Path, minutes: float, accuracy: float) -> list[Bar]:
    took = _sensorium("fit", "-c", str(_path(config)), "--data.root", str(root), runs=runs, name=config)
    best = next((runs / config).rglob("best.ckpt"))
    _sensorium("test", "--ckpt_path", str(best), runs=runs, name=f"{config}-again")
    reached = 100 * _last(runs / f"{config}-again", "test/accuracy")
    return [
        (f"{config}: minutes", took, minutes, took <= minutes),
        (f"{config}: test accuracy", reached, accuracy, reached >= accuracy),
    ]


def drawing(config: str) -> Callable[[Path, Path], list[Bar]]:
    """A diffusion model, judged by the supervised classifier."""

    def run(root: Path, runs: Path) -> list[Bar]:
        if not (runs / CLASSIFIER / "minutes.txt").exists():
            supervised(root, runs)
        classifier = next((runs / CLASSIFIER).rglob("best.ckpt"))
        took = _sensorium("fit", "-c", str(_path(config)), "--data.root", str(root), runs=runs, name=config)
        found = compare(next((runs / config).rglob("last.ckpt")), classifier, root)
        trained, untrained = found["trained"], found["untrained"]
        knows, shown = 100 * recognised(classifier, root), 100 * trained["recognised"]
        bars: list[Bar] = [
            (f"{config}: minutes", took, 20.0, took <= 20),
            (f"{config}: real images that the judge knows, %", knows, 90.0, knows >= 90),
            (f"{config}: samples that show the asked class, %", shown, 85.0, shown >= 85),
        ]
        for what, value, bar in (
            ("FID, bar: untrained", trained["fid"], untrained["fid"]),
            ("KID, bar: untrained", trained["kid"], untrained["kid"]),
            ("KID within classes, bar: to another class", trained["class_kid"], trained["other_class_kid"]),
        ):
            bars.append((f"{config}: {what}", value, bar, value < bar))
        return bars

    return run


def measured(
    config: str, minutes: float, what: str, column: str, bar: float, *more: str, least: bool = True
) -> Callable[[Path, Path], list[Bar]]:
    """A recipe that tests itself at its end, by one figure: at least the bar, or at most."""

    def run(root: Path, runs: Path) -> list[Bar]:
        took = _sensorium("fit", "-c", str(_path(config)), "--data.root", str(root), *more, runs=runs, name=config)
        reached = 100 * _last(runs / config, column)
        good = reached >= bar if least else reached <= bar
        return [(f"{config}: minutes", took, minutes, took <= minutes), (f"{config}: {what}", reached, bar, good)]

    return run


def spoken_lora(root: Path, runs: Path) -> list[Bar]:
    """The released tiny.en with low-rank adapters."""
    start = ASSETS / "weights" / "whisper-tiny.en"
    more = [f"--model.initial.init_args.source={start}"] if start.exists() else []
    return measured("lora_tiny_en_fsdd", 10, "test word error", "test/wer", 3, *more, least=False)(root, runs)


def recalled(config: str) -> Callable[[Path, Path], list[Bar]]:
    """A decoder that finds things in its context, and how far it does so in longer ones with scaled positions."""

    def run(root: Path, runs: Path) -> list[Bar]:
        bars = measured(config, 20, "test rows right, %", "test/exact", 99)(root, runs)
        trained = next((runs / config).rglob("last.ckpt"))
        length = yaml.safe_load(_path(config).read_text())["data"]["init_args"]["make"]["init_args"]["length"]
        for factor in (2, 4):
            for name, scaling in SCALINGS.items():
                _sensorium(
                    "test", "--ckpt_path", str(trained), "--data.make.init_args.length", str(factor * length),
                    *(option.format(factor=factor, original=length) for option in scaling),
                    runs=runs, name=f"{config}-{factor}-{name}",
                )  # fmt: skip
                reached = 100 * _last(runs / f"{config}-{factor}-{name}", "test/exact")
                bars.append((f"{config}: {factor} times as long, {name}, %", reached, 0.0, True))
        return bars

    return run


def _fine_tuned(name: str, config: Path, root: Path, runs: Path, trained: Path | None) -> float:
    """Test accuracy after fine-tuning on a few labelled images, from a checkpoint or from scratch."""
    model = yaml.safe_load(config.read_text())["model"]["init_args"]["model"]["init_args"]["config"]
    encoder = model.get("encoder", model)
    start = "null" if trained is None else str(trained)
    argument = "--model.initial" if trained is None else "--model.initial.init_args.path"
    settings = [f"--model.model.config.{key}={_plain(value)}" for key, value in encoder.items() if key in SHAPE]
    _sensorium(
        "fit", "-c", str(_path("finetune_few_vit_fashion_mnist")), "--data.root", str(root),
        f"--data.few={LABELLED}", f"{argument}={start}", *settings, runs=runs, name=name,
    )  # fmt: skip
    return 100 * _last(runs / name, "test/accuracy")


SHAPE = ("patch", "dim", "depth", "heads", "positions", "cls_token", "registers", "mask_token")
JOBS: dict[str, Callable[[Path, Path], list[Bar]]] = {
    "quick": quick,
    "supervised": supervised,
    **{method: unlabelled(method) for method in METHODS},
    "dit": drawing("dit_fashion_mnist"),
    "sit": drawing("sit_fashion_mnist"),
    "speech": measured("whisper_fsdd", 15, "test word error", "test/wer", 8, least=False),
    "speech_lora": spoken_lora,
    "keywords": measured("keyword_fsdd", 10, "test accuracy", "test/accuracy", 95),
    "perceiver": measured("perceiver_fashion_mnist", 15, "test accuracy", "test/accuracy", 85),
    "perceiver_speech": measured("perceiver_fsdd", 15, "test accuracy", "test/accuracy", 85),
    "vlm": measured("vlm_fashion_mnist", 20, "exact answers, %", "test/exact", 85),
    "copy": recalled("copy_decoder"),
    "needle": recalled("needle_decoder"),
}
SPOKEN = ("speech", "speech_lora", "keywords", "perceiver_speech")
YARN = "{{class_path: core.nn.scaling.Yarn, init_args: {{factor: {factor}, original: {original}}}}}"
SCALINGS: dict[str, list[str]] = {"unscaled": [], "YaRN": [f"--model.model.init_args.config.scaling={YARN}"]}


def _path(config: str) -> Path:
    """The file of a configuration."""
    return next(CONFIGS.glob(f"*/{config}.yaml"))


def _sensorium(*arguments: str, runs: Path, name: str) -> float:
    """Run a command into the folder of that name, unless an earlier benchmark did; return the minutes that it took."""
    took = runs / name / "minutes.txt"
    if not took.exists():
        began = time.monotonic()
        command = [sys.executable, "-m", "sensorium", *arguments, "--runs", str(runs), "--name", name]
        subprocess.run(command, cwd=ROOT, check=True)
        took.write_text(str((time.monotonic() - began) / 60))
    return float(took.read_text())


def _plain(value: object) -> str:
    """A value for the command line."""
    return value if isinstance(value, str) else json.dumps(value)


def _last(folder: Path, column: str) -> float:
    """The last value in a column of a run's table."""
    with next(folder.rglob("metrics.csv")).open() as file:
        return [float(row[column]) for row in csv.DictReader(file) if row.get(column)][-1]


def _table(bars: list[Bar]) -> str:
    rows = [f"| {what} | {value:.2f} | {bar:.2f} | {'good' if good else 'MISSED'} |" for what, value, bar, good in bars]
    return "\n".join(["| what | measured | bar | |", "|---|---|---|---|", *rows])


def _kept(folder: Path) -> list[Bar]:
    """What was measured so far, in order, and the bar on the best of the methods."""
    jobs = _read(folder)
    bars: list[Bar] = [tuple(row) for name in JOBS if name in jobs for row in jobs[name]["rows"]]
    if set(METHODS) <= set(jobs):
        best = max(value for what, value, _, _ in bars if what.endswith("kNN"))
        bars.append(("best kNN of the three", best, 82.0, best >= 82.0))
    return bars


def _read(folder: Path) -> dict[str, Any]:
    path = folder / "learning.json"
    return json.loads(path.read_text()) if path.exists() else {}


def _keep(name: str, bars: list[Bar], folder: Path) -> None:
    """Put a job's rows into the results, in the place of those that it had."""
    jobs = {**_read(folder), name: {"machine": machine(), "rows": bars}}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "learning.json").write_text(json.dumps(jobs, indent=1) + "\n")
    lines = ["# What training learns", "", _table(_kept(folder)), ""]
    for job in (job for job in JOBS if job in jobs):
        lines.append(f"* {job}: " + ", ".join(f"{key} {value}" for key, value in jobs[job]["machine"].items()))
    (folder / "learning.md").write_text("\n".join([*lines, ""]))


if __name__ == "__main__":
    sys.exit(main())
