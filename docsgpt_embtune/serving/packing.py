"""Packing: put the texts of a batch end to end in one row, so that nothing is computed for padding."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import groupby, pairwise
from typing import Any

import torch
from sentence_transformers import SentenceTransformer

from docsgpt_embtune.loading import without_transformers_notes
from docsgpt_embtune.positions import first_position_of
from docsgpt_embtune.serving.batching import batches_within
from docsgpt_embtune.static_model import is_static, tokens_read

try:
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
except ImportError:  # transformers before 4.53, as an older DocsGPT may hold; every batch is padded there
    _CAN_REPLACE_ATTENTION = False
else:
    _CAN_REPLACE_ATTENTION = True

IMPLEMENTATION = "embtune_packed"
# Name, in transformers, of the argument with the ends of the texts in a row: (U + 1,) int32, beginning with 0.
BOUNDARIES = "cu_seq_lens_q"
# Allowed difference in each number of a unit-norm vector: what another order of summation causes, with a margin.
TOLERANCE = 1e-5
# For bf16, oneDNN compiles a kernel for each shape, which takes longer than one multiplication. To need few kernels,
# texts whose lengths round up to the same multiple of this share a shape.
LENGTHS_ALIKE = 16
# Tokens of a pass per thread, so that activations between two matrix products stay in the processor's caches.
TOKENS_PER_THREAD = 2048
PROBE_TOKENS = 300  # more than the usual window of models with local attention


def attend_within_texts(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Let every token attend to the tokens of its own text, in both directions, without dropout.

    Args:
        module: The attention module that calls this.
        query: (1, heads, T, D), the texts end to end, the shortest first.
        key: The same for the keys.
        value: The same for the values.
        attention_mask: Not used for packed texts, as nothing is padded.
        scaling: Factor of the attention scores; 1 / sqrt(D) if not given.
        **kwargs: Contains BOUNDARIES if the texts are packed. Without, the batch is padded and torch's own attention is
            used, as when validation encodes between training steps.

    Returns:
        The attention output, (1, T, heads, D), and no attention weights.
    """
    if kwargs.get(BOUNDARIES) is None:
        padded: Any = ALL_ATTENTION_FUNCTIONS["sdpa"]
        return padded(module, query, key, value, attention_mask, scaling=scaling, **kwargs)  # type: ignore[no-any-return]
    runs = _runs(tuple(kwargs[BOUNDARIES].tolist()), LENGTHS_ALIKE if query.dtype == torch.bfloat16 else 1)
    tokens = [run.tokens for run in runs]
    heads, width = query.shape[1], query.shape[3]
    scaling = width**-0.5 if scaling is None else scaling
    parts = (torch.split(tensor[0].transpose(0, 1), tokens) for tensor in (query * scaling, key, value))
    attended = []
    # No autocast: it would convert the attention weights, the largest tensor of a step, from bf16 to fp32 and back.
    with torch.autocast(query.device.type, enabled=False):
        for run, *of_run in zip(runs, *parts, strict=True):
            q, k, v = (run.spread(p).view(run.texts, run.length, heads, width).transpose(1, 2) for p in of_run)
            scores = q @ k.transpose(2, 3)
            if run.unread is not None:
                scores = scores.add_(run.unread.to(scores.dtype))
            mixed = torch.softmax(scores, dim=-1) @ v
            attended.append(run.gather(mixed.transpose(1, 2).reshape(run.texts * run.length, heads, width)))
    return torch.cat(attended)[None], None


@dataclass(frozen=True)
class _Run:
    """Texts of similar length that are computed together, padded to one length.

    Attributes:
        texts: Number of texts.
        length: Padded length of each text in tokens.
        tokens: Number of tokens of all texts, without padding.
        place: Position of each token among the padded ones, (tokens,); None if there is no padding.
        unread: Additive attention mask, (texts, 1, 1, length), -inf at padding; None if there is no padding.
    """

    texts: int
    length: int
    tokens: int
    place: torch.Tensor | None
    unread: torch.Tensor | None

    def spread(self, packed: torch.Tensor) -> torch.Tensor:
        """Pad each text to the common length: (tokens, …) to (texts * length, …)."""
        if self.place is None:
            return packed
        return packed.new_zeros(self.texts * self.length, *packed.shape[1:]).index_copy(0, self.place, packed)

    def gather(self, spread: torch.Tensor) -> torch.Tensor:
        """Remove the padding that `spread` added."""
        return spread if self.place is None else spread.index_select(0, self.place)


@lru_cache(maxsize=1)  # every layer needs the same runs
@torch.inference_mode(mode=False)  # tensors cached while encoding may be used again in training
def _runs(ends: tuple[int, ...], step: int) -> list[_Run]:
    """Split the texts of a row, shortest first, into runs whose lengths round up to the same multiple of `step`."""
    runs = []
    for length, alike in groupby((end - start for start, end in pairwise(ends)), lambda n: -(-n // step) * step):
        lengths = list(alike)
        if min(lengths) == length:
            runs.append(_Run(len(lengths), length, sum(lengths), None, None))
            continue
        holds = torch.arange(length) < torch.tensor(lengths)[:, None]  # (texts, length)
        unread = torch.zeros(holds.shape).masked_fill(~holds, -torch.inf)[:, None, None]
        runs.append(_Run(len(lengths), length, sum(lengths), holds.flatten().nonzero()[:, 0], unread))
    return runs


if _CAN_REPLACE_ATTENTION:
    AttentionInterface.register(IMPLEMENTATION, attend_within_texts)
    AttentionMaskInterface.register(IMPLEMENTATION, sdpa_mask)  # for batches that are padded


@contextmanager
def packing_where_possible(model: SentenceTransformer) -> Iterator[bool]:
    """Make a model take packed rows within the block if it can, and yield whether it does.

    This is tried out: packing is used only if it gives the same vectors as padding. It does not for a model with local
    or causal attention, or with learned position biases.
    """
    if not can_attend_otherwise(model) or model.tokenizer.padding_side != "right":
        yield False
        return
    module: Any = model[0]
    usual, passed_on = module.auto_model.config._attn_implementation, module.model_forward_params
    tokens = _probe_texts(model)
    with _without_training(model):
        padded = model(dict(tokens))["sentence_embedding"]
    try:
        packs = False
        faults = suppress(AttributeError, KeyError, RuntimeError, TypeError, ValueError)
        with faults, _without_training(model), without_transformers_notes():
            module.auto_model.set_attn_implementation(IMPLEMENTATION)
            if passed_on is not None:
                module.model_forward_params = {*passed_on, BOUNDARIES}
            packs = torch.allclose(embed_packed(model, tokens, first_position_of(model)), padded, atol=TOLERANCE)
        if not packs:
            module.auto_model.set_attn_implementation(usual)
        yield packs
    finally:
        module.auto_model.set_attn_implementation(usual)
        module.model_forward_params = passed_on


def can_attend_otherwise(model: SentenceTransformer) -> bool:
    """Tell whether a model's attention can be replaced: MPNet's cannot, and a static model has none.

    Nor can it under a sentence-transformers before 5.4, without `preprocess`, or a transformers before 4.53.
    """
    if not (_CAN_REPLACE_ATTENTION and hasattr(model, "preprocess")):
        return False
    module: Any = model[0]
    return not is_static(model) and module.auto_model._can_set_attn_implementation()


def _probe_texts(model: SentenceTransformer) -> dict[str, torch.Tensor]:
    """Tokenise three texts: one word, a few words, and one longer than the window of models with local attention."""
    words = min(tokens_read(model), PROBE_TOKENS)
    features = model.preprocess(
        ["word", "a few words of a text", " ".join(["word", "text", "other"] * words)[: 6 * words]]
    )
    return rows_of_tokens(features)


def rows_of_tokens(features: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Keep the tensors from a model's `preprocess` that have one row per text: (U, L)."""
    return {key: value for key, value in features.items() if torch.is_tensor(value) and value.dim() == 2}


@contextmanager
def _without_training(model: SentenceTransformer) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)


def is_packing(model: SentenceTransformer) -> bool:
    """Tell whether a model takes packed rows now."""
    module: Any = model[0]
    return not is_static(model) and module.auto_model.config._attn_implementation == IMPLEMENTATION


def embed_in_passes(model: Any, tokens: Mapping[str, torch.Tensor], first_position: int) -> torch.Tensor:
    """Embed texts as `embed_packed` does, but in several passes that are small enough to be fast."""
    passes = batches_within(tokens_per_pass(), tokens["attention_mask"].sum(dim=1).tolist())
    return in_passes(partial(embed_packed, model, first_position=first_position), tokens, passes)


def tokens_per_pass() -> int:
    """Return the number of tokens per pass that is fast with all threads."""
    return TOKENS_PER_THREAD * torch.get_num_threads()


def in_passes(
    embed: Callable[[dict[str, torch.Tensor]], torch.Tensor],
    tokens: Mapping[str, torch.Tensor],
    passes: Iterable[Sequence[int]],
) -> torch.Tensor:
    """Embed texts pass by pass: (U, D), in the order of `tokens`.

    Args:
        embed: Takes the tokens of a pass and returns its vectors.
        tokens: Tensors of the tokenised texts, padded on the right, (U, L), including `attention_mask`.
        passes: Positions of the texts in each pass; each text is in exactly one.
    """
    lengths = tokens["attention_mask"].sum(dim=1).tolist()
    passes = list(passes)
    vectors = [
        embed({key: value[rows, : max(lengths[row] for row in rows)] for key, value in tokens.items()})
        for rows in passes
    ]
    order = torch.tensor([row for rows in passes for row in rows], device=vectors[0].device)
    return torch.cat(vectors)[torch.argsort(order)]


def embed_packed(model: Any, tokens: Mapping[str, torch.Tensor], first_position: int) -> torch.Tensor:
    """Pack texts that are padded on the right into one row and embed them: (U, D), in order.

    Args:
        model: The model, or a wrapper of it, that takes packed rows.
        tokens: Tensors of the tokenised texts, padded on the right, (U, L), including `attention_mask`.
        first_position: From `first_position_of`.
    """
    lengths = tokens["attention_mask"].sum(dim=1)  # (U,)
    order = torch.argsort(lengths, stable=True)
    sorted_lengths = lengths[order]
    kept = tokens["attention_mask"][order].bool()  # (U, L)
    ends = torch.cat([sorted_lengths.new_zeros(1), sorted_lengths.cumsum(0)])
    starts = torch.repeat_interleave(ends[:-1], sorted_lengths)
    features: dict[str, Any] = {
        key: value[order][kept][None] for key, value in tokens.items() if key != "attention_mask"
    }
    features["position_ids"] = (torch.arange(int(ends[-1])) - starts + first_position)[None]
    features[BOUNDARIES] = ends.to(torch.int32)
    vectors: torch.Tensor = model(features)["sentence_embedding"]
    return vectors[torch.argsort(order)]
