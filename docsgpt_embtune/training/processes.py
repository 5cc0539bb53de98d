"""The place of this process in a distributed run, from the environment that `accelerate launch` or `torchrun` sets."""

import os


def process_count() -> int:
    """Count the processes of this run; 1 where it is not distributed."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main_process() -> bool:
    """Tell whether this process is the one that prints and writes."""
    return int(os.environ.get("RANK", "0")) == 0


def own_gpu() -> str:
    """Name this process's GPU among those of its machine."""
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
