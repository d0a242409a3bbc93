"""The recipe with REPA takes a checkpoint of the suite's DINOv2, and goes on from its own without it."""

import itertools
from pathlib import Path

import torch

from core.train.cli import main
from core.train.rebuild import rebuild
from diffusion.tasks.diffuse import Diffuse

CONFIGS = Path(__file__).parents[2] / "configs"


def test_tokens_are_aligned_with_our_own_encoder(tmp_path: Path) -> None:
    common = {
        "--runs": str(tmp_path), "--data.batch_size": "8", "--trainer.max_steps": "1", "--trainer.callbacks": "[]",
        "--trainer.limit_val_batches": "0", "--trainer.accelerator": "cpu",
    }  # fmt: skip
    flat = list(itertools.chain(*common.items()))
    main(["fit", "-c", str(CONFIGS / "vision" / "dinov2_vit_fashion_mnist.yaml"), "--name", "encoder", *flat])
    encoder = next((tmp_path / "encoder").rglob("last.ckpt"))
    config = "--model.model.init_args.config"
    given = {
        "-c": str(CONFIGS / "diffusion" / "sit_repa_fashion_mnist.yaml"), "--name": "sit",
        "--model.repa.init_args.teacher.init_args.initial.init_args.path": str(encoder),
        "--model.repa.init_args.dim": "32", f"{config}.dim": "32", f"{config}.depth": "2", f"{config}.heads": "2",
    }  # fmt: skip
    main(["fit", *itertools.chain(*given.items()), *flat])
    trained = rebuild(next((tmp_path / "sit").rglob("last.ckpt")))
    assert isinstance(trained, Diffuse)
    assert trained.repa is not None
    # the teacher has the checkpoint's weights, not those it was made with
    theirs, ours = rebuild(encoder).encoder().state_dict(), trained.repa.teacher.model.state_dict()  # type: ignore[operator]
    assert all(torch.equal(weight, theirs[name]) for name, weight in ours.items() if not name.startswith("mask_token"))
