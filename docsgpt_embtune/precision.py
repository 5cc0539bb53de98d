"""The arithmetic precision of training: bf16 if the hardware multiplies in it, else fp32."""

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

Precision = Literal["auto", "fp32", "bf16"]


def resolve_precision(precision: Precision, device: "torch.device") -> Precision:
    """Resolve "auto" to bf16 if the hardware multiplies in it, else to fp32.

    A CPU without AVX512-BF16 or AMX emulates bf16 a hundred times slower than it computes fp32. The choice relies on
    the processor's reported features and not on timing, so that a busy machine trains the same model.
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
    """Return the context manager in which a model computes in this precision; its weights stay fp32."""
    import torch

    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()
