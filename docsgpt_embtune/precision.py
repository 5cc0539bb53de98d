"""The precision that a machine computes in: bf16 where it multiplies in it, fp32 elsewhere."""

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

Precision = Literal["auto", "fp32", "bf16"]


def resolve_precision(precision: Precision, device: "torch.device") -> Precision:
    """Turn "auto" into bf16 where the hardware multiplies in it, fp32 elsewhere.

    A CPU without AVX512-BF16 or AMX emulates bf16 a hundred times slower than it computes fp32. The choice
    goes by what the processor says of itself and not by a stopwatch, so that a busy machine trains the same model.
    """
    if precision != "auto":
        return precision
    import torch

    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    if device.type == "cpu":
        fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        return "bf16" if fast else "fp32"
    return "fp32"


def arithmetic(precision: Precision, device: "torch.device") -> AbstractContextManager[object]:
    """Return the context in which a model computes in this precision; its weights stay fp32."""
    import torch

    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()
