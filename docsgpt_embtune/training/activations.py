"""What a step keeps for its backward pass: how much that is, whether there is room for it, and how to do without."""

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

# Of the memory of the machine, or of the GPU. The rest is for weights, optimizer, the gaps in the heap, and other work.
SHARE_FOR_ACTIVATIONS = 0.4
# What a container may use, in cgroup's second and first version.
CONTAINER_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


@dataclass(frozen=True)
class Room:
    """How much of a step's texts the memory has room for.

    Attributes:
        bytes_per_token: Bytes kept for the backward pass, for each token.
        tokens: How many tokens there is room for.
    """

    bytes_per_token: float
    tokens: int

    @property
    def tokens_per_pass(self) -> int:
        """Tokens that are computed together where a batch has no room as a whole."""
        return min(tokens_per_pass(), self.tokens)

    @property
    def bytes_per_pass(self) -> float:
        """Bytes that are kept for the way back then."""
        return self.bytes_per_token * self.tokens_per_pass

    @classmethod
    def of(cls, embed: Callable[[dict[str, torch.Tensor]], object], text: dict[str, torch.Tensor]) -> "Room":
        """Measure it.

        Args:
            embed: Embeds the tokens of a pass.
            text: The tokens of a long text, (1, L) each: it keeps more of each of its tokens than a short one.
        """
        kept = [bytes_kept(partial(embed, {key: row.repeat(n, 1) for key, row in text.items()})) for n in (1, 2)]
        mask = text["attention_mask"]
        per_token = max(kept[1] - kept[0], 1) / int(mask.sum())  # what both keep are weights, which are kept once
        return cls(per_token, int(_bytes_for_activations(mask.device) / per_token))


def _bytes_for_activations(device: torch.device) -> int:
    """Tell how many bytes a step may keep: by what there is and not by what is free, so that a run is repeatable."""
    if device.type == "cuda":
        return int(SHARE_FOR_ACTIVATIONS * torch.cuda.get_device_properties(device).total_memory)
    limits = [psutil.virtual_memory().total]
    for file in CONTAINER_LIMITS:
        with suppress(OSError, ValueError):  # not there, or "max"
            limits.append(int(file.read_text()))
    return int(SHARE_FOR_ACTIVATIONS * min(limits))


def bytes_kept(compute: Callable[[], object]) -> int:
    """Compute something, throw it away, and tell how much autograd would hold on to for its backward pass."""
    kept: dict[int, torch.UntypedStorage] = {}  # held, since what is freed may give its address to the next

    def note(tensor: torch.Tensor) -> None:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()

    def unpack(nothing: Any) -> Any:  # nothing goes backward
        return nothing

    with torch.autograd.graph.saved_tensors_hooks(note, unpack):
        compute()
    return sum(storage.nbytes() for storage in kept.values())


def computed_twice(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Keep nothing but a function's arguments for the backward pass, and compute it again there: the same numbers.

    A step takes a third longer. What it needs room for is then one pass and not all of them.

    Source:
        Chen et al., 2016, "Training deep nets with sublinear memory cost".
    """
    twice: Any = partial(checkpoint, function, use_reentrant=False)
    return twice  # type: ignore[no-any-return]
