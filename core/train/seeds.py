"""The seed of a run, as ``seed_everything`` left it for all of its processes."""

import os

__all__ = ["run_seed"]


def run_seed() -> int:
    """The seed that was given to Lightning's ``seed_everything``; 0 if there was none."""
    return int(os.environ.get("PL_GLOBAL_SEED", "0"))
