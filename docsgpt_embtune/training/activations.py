"""The activations that a step keeps for its backward pass: their size, the room for them, and checkpointing."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import torch
from torch.utils.checkpoint import checkpoint

from docsgpt_embtune.serving.packing import tokens_per_pass

# Share of the machine's or the GPU's memory. The rest is for weights, optimizer, heap fragmentation and other work.
SHARE_FOR_ACTIVATIONS = 0.4
# Memory limits of a container, in cgroup v2 and v1.
CONTAINER_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


@dataclass(frozen=True)
class Room:
    """How many tokens of a step fit into memory.

    Attributes:
        bytes_per_token: Bytes kept for the backward pass for each token.
        tokens: How many tokens fit.
    """

    bytes_per_token: float
    tokens: int

    @property
    def tokens_per_pass(self) -> int:
        """Tokens that are computed together where a batch does not fit as a whole."""
        return min(tokens_per_pass(), self.tokens)

    @property
    def bytes_per_pass(self) -> float:
        """Bytes that such a pass keeps for the backward pass."""
        return self.bytes_per_token * self.tokens_per_pass

    @classmethod
    def of(cls, embed: Callable[[dict[str, torch.Tensor]], object], text: dict[str, torch.Tensor]) -> "Room":
        """Measure the bytes per token, and see how many tokens fit.

        Args:
            embed: Embeds the tokens of a pass.
            text: The tokens of a long text, (1, L) each: it keeps more per token than a short one.
        """
        kept = [bytes_kept(partial(embed, {key: row.repeat(n, 1) for key, row in text.items()})) for n in (1, 2)]
        mask = text["attention_mask"]
        per_token = max(kept[1] - kept[0], 1) / int(mask.sum())  # weights are kept once in both
        return cls(per_token, int(_bytes_for_activations(mask.device) / per_token))


def _bytes_for_activations(device: torch.device) -> int:
    """Return how many bytes a step may keep: a share of all memory, not of the free, so that a run is repeatable."""
    if device.type == "cuda":
        return int(SHARE_FOR_ACTIVATIONS * torch.cuda.get_device_properties(device).total_memory)
    limits = [psutil.virtual_memory().total]
    for file in CONTAINER_LIMITS:
        with suppress(OSError, ValueError):  # no such file, or "max"
            limits.append(int(file.read_text()))
    return int(SHARE_FOR_ACTIVATIONS * min(limits))


def bytes_kept(compute: Callable[[], object]) -> int:
    """Compute something, discard it, and return how many bytes autograd would keep for its backward pass."""
    kept: dict[int, torch.UntypedStorage] = {}  # not freed, as the next storage might get the same address

    def note(tensor: torch.Tensor) -> None:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()

    def unpack(nothing: Any) -> Any:  # never called, without a backward pass
        return nothing

    with torch.autograd.graph.saved_tensors_hooks(note, unpack):
        compute()
    return sum(storage.nbytes() for storage in kept.values())


def checkpointed(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Apply gradient checkpointing: keep only the function's arguments, and recompute it in the backward pass.

    The numbers are the same. A step takes a third longer, and needs room for one pass instead of all of them.

    Source:
        Chen et al., 2016, "Training deep nets with sublinear memory cost".
    """
    recomputed: Any = partial(checkpoint, function, use_reentrant=False)
    return recomputed  # type: ignore[no-any-return]
