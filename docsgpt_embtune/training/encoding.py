"""Vectors of many texts, each text encoded once, in the precision that this machine is fast in."""

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import numpy.typing as npt
import torch
from sentence_transformers import SentenceTransformer

from docsgpt_embtune.training.config import Precision

Vectors = npt.NDArray[np.float32]


def resolve_precision(precision: Precision, device: torch.device) -> Precision:
    """Turn "auto" into bf16 where the hardware multiplies in it, fp32 elsewhere.

    A CPU without AVX512-BF16 or AMX emulates bf16 a hundred times slower than it computes fp32. The choice
    goes by what the processor says of itself and not by a stopwatch, so that a busy machine trains the same model.
    """
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    if device.type == "cpu":
        fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        return "bf16" if fast else "fp32"
    return "fp32"


def arithmetic(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """Return the context in which a model computes in this precision; its weights stay fp32."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()


class Encoder:
    """Encode texts with a model as it is now, as DocsGPT does: no prompts, both sides alike.

    Args:
        model: Ends in Normalize, so that vectors are unit-norm.
        precision: "fp32" or "bf16".
        batch_size: Texts in one pass.
    """

    def __init__(self, model: SentenceTransformer, precision: Precision, batch_size: int = 32) -> None:
        self.model = model
        self.precision = precision
        self.batch_size = batch_size

    def __call__(self, texts: Iterable[str], *, show_progress: bool = False) -> Vectors:
        """Return (N, D) float32, one row per text, unit norm."""
        texts = list(texts)
        distinct = list(dict.fromkeys(texts))
        row_of = {text: row for row, text in enumerate(distinct)}
        with arithmetic(self.precision, self.model.device), torch.inference_mode():
            vectors = self.model.encode(
                distinct, batch_size=self.batch_size, convert_to_tensor=True, show_progress_bar=show_progress
            )
        # bf16 rounds the norm as well: 1.00 +- 0.004 would reorder near neighbours under L2.
        matrix: Vectors = torch.nn.functional.normalize(vectors.float()).cpu().numpy()
        return matrix[[row_of[text] for text in texts]]
