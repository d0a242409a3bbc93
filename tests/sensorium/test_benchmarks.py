"""The race is fair: turns rotate, medians and ratios are right, wrong outputs don't count."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import apart, harness
from benchmarks.harness import Case, Contender, Measurement


def racing(turns: list[str], outputs: dict[str, float], **given: float) -> Case:
    def contender(name: str, output: float) -> Contender:
        def run() -> list[float]:
            turns.append(name)
            return [1.0, output]

        return Contender(name, run)

    return Case("job", [contender(name, output) for name, output in outputs.items()], **given)


def test_everyone_runs_as_often_and_in_turns() -> None:
    turns: list[str] = []
    found = harness.measure(racing(turns, {"sensorium": 2.0, "peer a": 2.0, "peer b": 2.0}), repeats=7, warmup=2)
    assert [len(row.seconds) for row in found] == [7, 7, 7]
    assert turns[6:15] == [  # after the outputs and the peaks
        "sensorium",
        "peer a",
        "peer b",
        "peer a",
        "peer b",
        "sensorium",
        "peer b",
        "sensorium",
        "peer a",
    ]
    assert len(turns) == 3 * (7 + 2)


def test_a_wrong_output_ends_the_run() -> None:
    with pytest.raises(RuntimeError, match=r"job: sensorium differs by 5\.00e-01"):
        harness.measure(racing([], {"sensorium": 1.0, "peer": 2.0}))


def test_too_few_rounds_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 7"):
        harness.measure(racing([], {"sensorium": 2.0, "peer": 2.0}), repeats=5)


def test_differences() -> None:
    assert harness.difference(np.array([1.0, 2.1]), [1.0, 2.0]) == pytest.approx(0.05)
    assert harness.difference([1.0], [1.0, 2.0]) == float("inf")
    assert harness.difference([float("nan"), 2.0], [1.0, 2.0]) == float("inf")


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the system doesn't tell its peak")
def test_the_peak_is_what_a_run_needs() -> None:
    found = apart.peak(lambda: np.ones(2**23).sum())  # 64 MiB
    assert found is not None
    assert 60 < found < 80


def test_medians_and_ratios(tmp_path: Path) -> None:
    rows = [
        Measurement("job", "sensorium", "ms/token", 10, 0.0, [0.1, 0.2, 9.0]),
        Measurement("job", "slow peer", "ms/token", 10, 0.0, [0.6, 0.4, 0.5]),
        Measurement("job", "fast peer", "images/s", 10, 0.0, [0.1, 0.1, 0.1]),
    ]
    assert [row.value for row in rows] == pytest.approx([20.0, 50.0, 100.0])
    assert [harness.ratio(row, rows) for row in rows] == pytest.approx([0.5, 2.5, 0.5])
    text = harness.write("race", rows, 7, tmp_path)
    assert "| job | slow peer | 50 ms/token | 40 .. 60 | 2.50 (this / ours) | - | 0.0e+00 |" in text
    assert (tmp_path / "race.md").read_text() == text
    data = json.loads((tmp_path / "race.json").read_text())
    assert data["machine"]["torch"]
    assert [row["median"] for row in data["rows"]] == pytest.approx([20.0, 50.0, 100.0])
