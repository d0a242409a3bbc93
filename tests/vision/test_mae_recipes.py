"""The configurations of MAE, probes, fine-tuning, LoRA and distillation parse, and the small ones run in a row."""

from pathlib import Path

import pytest
import torch
import yaml
from jsonargparse import ArgumentParser

from core.train.arguments import restrict_imports
from core.train.cli import main
from core.train.task import Task

CONFIGS = Path(__file__).parents[2] / "configs" / "vision"
KINDS = ("mae", "probe", "finetune", "lora", "distill", "classify_deit")
FILES = sorted(path for path in CONFIGS.glob("*.yaml") if path.stem.startswith(KINDS))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_configuration_makes_its_task(path: Path) -> None:
    text = path.read_text()
    assert text.startswith(f"# sensorium fit -c configs/vision/{path.name}")
    content = yaml.safe_load(text)
    restrict_imports()
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Task, "model")
    with torch.device("meta"):
        task = parser.instantiate_classes(parser.parse_object({"model": content["model"]})).model
    assert isinstance(task, Task)
    assert sum(p.numel() for p in task.parameters() if p.requires_grad) > 0


def test_the_small_ones_run_in_a_row(tmp_path: Path, few_fashion: Path) -> None:
    def run(name: str, *options: str) -> Path:
        short = ["--trainer.max_steps", "2", "--trainer.limit_val_batches", "1", "--test_after_fit", "false"]
        quick = ["--runs", str(tmp_path), "--data.batch_size", "32", "--trainer.accelerator", "cpu"]
        quick += ["--data.root", str(few_fashion)]
        main(["fit", "-c", str(CONFIGS / f"{name}_vit_fashion_mnist.yaml"), *short, *quick, *options])
        return tmp_path / f"{name}_vit_fashion_mnist" / "version_0" / "last.ckpt"

    encoder = run("mae")
    main(
        [
            "test",
            "--ckpt_path",
            str(encoder),
            "--runs",
            str(tmp_path),
            "--name",
            "tested",
            "--trainer.limit_test_batches",
            "1",
        ]
    )
    for name in ("probe", "finetune", "finetune_few", "lora"):
        fewer = ["--data.few", "60"] if name == "finetune_few" else []
        assert run(name, "--model.initial.init_args.path", str(encoder), *fewer).exists()
    assert run("supervised").exists()
    teacher = run("classify")
    assert run("distill", "--model.teacher.init_args.initial.init_args.path", str(teacher)).exists()
