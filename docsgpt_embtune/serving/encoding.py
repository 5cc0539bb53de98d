"""Embed with torch, in fp32 or bf16, with as little padding as the model allows."""

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext

import torch
from sentence_transformers import SentenceTransformer

from docsgpt_embtune.positions import first_position_of
from docsgpt_embtune.precision import Precision, arithmetic
from docsgpt_embtune.progress import Bar
from docsgpt_embtune.serving.packing import embed_in_passes, is_packing, packing_where_possible, rows_of_tokens
from docsgpt_embtune.static_model import beginnings_read
from docsgpt_embtune.vectors import Vectors

_BLOCK = 256  # texts between two updates of the progress bar


class Encoder:
    """An encoder that embeds texts with a model's current weights as DocsGPT does: queries and chunks alike, no prompt.

    Not for use by two threads at once: while it runs, the model's attention is replaced by that for packed texts.

    Args:
        model: A model that ends in Normalize, so that its vectors have unit norm.
        precision: "fp32" or "bf16".
        batch_size: Texts in one pass if they are padded; on a CPU they are packed instead, if the model allows it.
    """

    def __init__(self, model: SentenceTransformer, precision: Precision, batch_size: int = 32) -> None:
        self.model = model
        self.precision = precision
        self.batch_size = batch_size

    def __call__(self, texts: Iterable[str], *, show_progress: bool = False) -> Vectors:
        """Embed texts: (N, D) float32, in order, unit norm."""
        texts = list(texts)
        # Longest first, so that batches have little padding and the progress bar does not underestimate the time left.
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
                # bf16 rounds the norms to 1.00 +- 0.004, which would reorder close neighbours under L2.
                blocks.append(torch.nn.functional.normalize(embed(beginnings_read(self.model, block)).float()).cpu())
                bar.update(len(block))
        matrix: Vectors = torch.cat(blocks).numpy()
        return matrix[[row_of[text] for text in texts]]

    def _packing(self) -> AbstractContextManager[bool]:
        if is_packing(self.model):  # during training
            return nullcontext(enter_result=True)
        if self.model.device.type != "cpu" or self.model.default_prompt_name or self.model.truncate_dim:
            return nullcontext(enter_result=False)
        return packing_where_possible(self.model)

    def _embed_packed(self, texts: list[str]) -> torch.Tensor:
        tokens = rows_of_tokens(self.model.preprocess(texts))
        return embed_in_passes(self.model, tokens, first_position_of(self.model))

    def _embed_padded(self, texts: list[str]) -> torch.Tensor:
        return self.model.encode(texts, batch_size=self.batch_size, convert_to_tensor=True, show_progress_bar=False)
