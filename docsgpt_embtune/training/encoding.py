"""Vectors of many texts, each text encoded once, in the precision that this machine is fast in."""

import hashlib
import time
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import count as numbers_from

import numpy as np
import numpy.typing as npt
import torch
from sentence_transformers import SentenceTransformer

from docsgpt_embtune.progress import Bar
from docsgpt_embtune.token_table import tokens_read
from docsgpt_embtune.training.config import Precision
from docsgpt_embtune.training.packing import (
    embed_in_passes,
    first_position_of,
    is_packing,
    packing_where_possible,
    rows_of_tokens,
)

Vectors = npt.NDArray[np.float32]
_BLOCK = 256  # texts between two moves of the bar
_CHARACTERS_PER_TOKEN = 4.5  # of English wordpieces; it only has to tell where a long text is cut
_STATES_HELD = 5  # a run comes back to the beginning of a stage after two others, and in the end to the best of all


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

    Not for two threads at once: while it runs, the model's attention is exchanged for that of packed texts.

    Args:
        model: Ends in Normalize, so that vectors are unit-norm.
        precision: "fp32" or "bf16".
        batch_size: Texts in one pass, where texts are padded; on a CPU they are packed, where the model allows it.
    """

    def __init__(self, model: SentenceTransformer, precision: Precision, batch_size: int = 32) -> None:
        self.model = model
        self.precision = precision
        self.batch_size = batch_size

    def __call__(self, texts: Iterable[str], *, show_progress: bool = False) -> Vectors:
        """Return (N, D) float32, one row per text, unit norm."""
        texts = list(texts)
        # Longest first, so that little of a batch is padding and the time left is not underestimated.
        distinct = sorted(dict.fromkeys(texts), key=len, reverse=True)
        row_of = {text: row for row, text in enumerate(distinct)}
        blocks = []
        self.model.eval()
        with (
            self._packing() as packs,
            arithmetic(self.precision, self.model.device),
            torch.inference_mode(),
            Bar(total=len(distinct), desc="encoding", unit="text", disable=not show_progress) as bar,
        ):
            embed = self._embed_packed if packs else self._embed_padded
            for start in range(0, len(distinct), _BLOCK):
                block = distinct[start : start + _BLOCK]
                # bf16 rounds the norm as well: 1.00 +- 0.004 would reorder near neighbours under L2.
                blocks.append(torch.nn.functional.normalize(embed(block).float()).cpu())
                bar.update(len(block))
        matrix: Vectors = torch.cat(blocks).numpy()
        return matrix[[row_of[text] for text in texts]]

    def _packing(self) -> AbstractContextManager[bool]:
        if is_packing(self.model):  # in the midst of a fit
            return nullcontext(enter_result=True)
        if self.model.device.type != "cpu" or self.model.default_prompt_name or self.model.truncate_dim:
            return nullcontext(enter_result=False)
        return packing_where_possible(self.model)

    def _embed_packed(self, texts: list[str]) -> torch.Tensor:
        tokens = rows_of_tokens(self.model.preprocess(texts))
        return embed_in_passes(self.model, tokens, first_position_of(self.model))

    def _embed_padded(self, texts: list[str]) -> torch.Tensor:
        return self.model.encode(texts, batch_size=self.batch_size, convert_to_tensor=True, show_progress_bar=False)


@dataclass
class _Table:
    """Vectors of one state of the weights, in the blocks that they were encoded in."""

    row_of: dict[str, int] = field(default_factory=dict)
    blocks: list[Vectors] = field(default_factory=list)


class KnownVectors:
    """The vectors of a model that is being trained: each text is encoded once for each state of its weights.

    Attributes:
        seconds: Spent on encoding so far.
        characters: Encoded so far, of what the model reads.
    """

    def __init__(self, encode: Encoder) -> None:
        self.seconds = 0.0
        self.characters = 0.0
        self._encode = encode
        self._tables: dict[bytes, _Table] = {}  # the one used last at the end

    def of(self, texts: Iterable[str], *, show_progress: bool = True) -> Vectors:
        """Return (N, D) float32, one row per text, unit norm."""
        texts = list(texts)
        table = self._table()
        if new := _unknown(texts, table):
            started = time.monotonic()
            table.blocks.append(self._encode(new, show_progress=show_progress))
            self.seconds += time.monotonic() - started
            table.row_of.update(zip(new, numbers_from(len(table.row_of)), strict=False))
            self.characters += characters_read(new, self._encode.model)
        return np.concatenate(table.blocks)[[table.row_of[text] for text in texts]]

    def unknown(self, texts: Iterable[str]) -> list[str]:
        """Return those that would have to be encoded, each once."""
        return _unknown(texts, self._table())

    def _table(self) -> _Table:
        state = _digest_of_weights(self._encode.model)
        self._tables[state] = table = self._tables.pop(state, None) or _Table()
        if len(self._tables) > _STATES_HELD:
            del self._tables[next(iter(self._tables))]
        return table


def _unknown(texts: Iterable[str], table: _Table) -> list[str]:
    return [text for text in dict.fromkeys(texts) if text not in table.row_of]


def _digest_of_weights(model: SentenceTransformer) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for tensor in model.state_dict().values():
        digest.update(tensor.detach().cpu().numpy().tobytes())
    return digest.digest()


def characters_read(texts: Iterable[str], model: SentenceTransformer) -> float:
    """Estimate how much of these texts a model reads, in characters."""
    longest = _CHARACTERS_PER_TOKEN * tokens_read(model)
    return sum(min(len(text), longest) for text in texts)
