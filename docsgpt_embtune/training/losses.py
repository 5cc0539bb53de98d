"""The losses of DocsGPT's article on tuning embeddings, computed without encoding a text of a batch twice."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import (
    CosineSimilarityLoss,
    MatryoshkaLoss,
    MSELoss,
    MultipleNegativesRankingLoss,
    OnlineContrastiveLoss,
)

from docsgpt_embtune.errors import TrainingError
from docsgpt_embtune.positions import first_position_of
from docsgpt_embtune.serving.batching import batches_with_little_padding, batches_within
from docsgpt_embtune.serving.packing import embed_packed, in_passes, is_packing, rows_of_tokens, tokens_per_pass
from docsgpt_embtune.training.activations import Room, checkpointed
from docsgpt_embtune.training.config import LossName
from docsgpt_embtune.training.processes import process_count

LOSSES = {
    "online-contrastive": OnlineContrastiveLoss,
    "cosine-similarity": CosineSimilarityLoss,
    "multiple-negatives-ranking": MultipleNegativesRankingLoss,
}
# On a GPU, launching the kernels of a small pass takes about as long as computing it, so few large passes are best.
TOKENS_PER_PASS_ON_GPU = 16_384

Features = Mapping[str, Any]


class EachTextOnce(torch.nn.Module):
    """Wrap a loss so that each distinct text of a batch is encoded once, together with texts of like length.

    A question is in a row with its good chunk and in a row with its bad one, and the library encodes it for each. It
    also pads every text of a column to the longest. The embeddings, and so the loss, are the same without either.
    Where the model packs (see `packing`), nothing is padded; else texts of like length are encoded together. A batch
    that does not fit into memory is computed in small passes with gradient checkpointing (see `activations`).

    Args:
        model: The model under training.
        loss: A sentence-transformers loss of that model.
        may_checkpoint: Whether gradient checkpointing is possible; a loss that wraps this one may rule it out.

    Attributes:
        room: How many tokens of a batch fit into memory; None before the first batch.
    """

    def __init__(self, model: SentenceTransformer, loss: Any, *, may_checkpoint: bool = True) -> None:
        super().__init__()
        self.model = model  # in a distributed run, the trainer puts a wrapped one here
        self.loss = loss
        self.pad_token_id = model.tokenizer.pad_token_id or 0
        self.first_position = first_position_of(model)
        self.may_checkpoint = may_checkpoint
        self.room: Room | None = None
        self._packs = partial(is_packing, model)

    def forward(self, sentence_features: Sequence[Features], labels: torch.Tensor) -> torch.Tensor:
        """Compute the loss of a batch, given one mapping of tokens (B, L) per column."""
        features = list(sentence_features)
        tokens, place = unique_texts(features, self.pad_token_id)
        embeddings = self._embed(tokens)[place].float()  # (columns * B, D)
        # Distances of near neighbours differ in digits that bf16 does not have.
        with torch.autocast(embeddings.device.type, enabled=False):
            loss: torch.Tensor = self.loss.compute_loss_from_embeddings(list(embeddings.chunk(len(features))), labels)
        return loss

    def _embed(self, tokens: dict[str, torch.Tensor]) -> torch.Tensor:
        packs = self._packs()
        embed = partial(embed_packed, self.model, first_position=self.first_position) if packs else self._embed_padded
        lengths = tokens["attention_mask"].sum(dim=1).tolist()
        if process_count() > 1:  # each pass waits for the other processes, so all take a single one
            return embed(tokens)
        if self.may_checkpoint:
            self.room = self.room or Room.of(embed, _longest(tokens, lengths))
            if sum(lengths) > self.room.tokens:
                small = batches_within(self.room.tokens_per_pass, lengths)
                return in_passes(checkpointed(embed), tokens, small)
        return in_passes(embed, tokens, self._passes(lengths, packs=packs))

    def _passes(self, lengths: Sequence[int], *, packs: bool) -> Iterator[list[int]]:
        if packs:
            return batches_within(tokens_per_pass(), lengths)
        if self.model.device.type == "cpu":
            return batches_with_little_padding(lengths)
        return batches_within(TOKENS_PER_PASS_ON_GPU, lengths)

    def _embed_padded(self, tokens: dict[str, torch.Tensor]) -> torch.Tensor:
        vectors: torch.Tensor = self.model(dict(tokens))["sentence_embedding"]  # a copy, as the model adds to it
        return vectors


def _longest(tokens: Features, lengths: Sequence[int]) -> dict[str, torch.Tensor]:
    row = max(range(len(lengths)), key=lengths.__getitem__)
    return {key: value[[row], : lengths[row]] for key, value in tokens.items()}


def make_loss(model: SentenceTransformer, name: LossName, widths: Sequence[int] = ()) -> torch.nn.Module:
    """Return the loss that the trainer takes.

    Args:
        model: The model under training.
        name: Which loss.
        widths: Widths at which truncated vectors must also work. The loss is then the sum over these and the full
            width, with each truncated vector normalised. The texts are encoded once for all widths.

    Raises:
        TrainingError: If a width is above the model's own.

    Source:
        Kusupati et al., 2022, "Matryoshka representation learning".
    """
    # MatryoshkaLoss replaces the model's forward while it runs: a checkpoint could not recompute the same afterwards.
    loss = _each_text_once(model, LOSSES[name](model), may_checkpoint=not widths)
    refuse_too_wide(model, widths)
    if not widths:
        return loss
    return MatryoshkaLoss(model, loss, sorted({*widths, model.get_embedding_dimension() or 0}))


def loss_of_vectors(model: SentenceTransformer) -> torch.nn.Module:
    """Return the loss that trains a model to give texts the vectors that are their labels (B, D)."""
    return _each_text_once(model, _FromGivenVectors(model))


class _FromGivenVectors(MSELoss):
    """The library's mean squared error, which takes a list of target vectors per column; here there is one column."""

    def compute_loss_from_embeddings(self, embeddings: Any, labels: Any) -> torch.Tensor:
        loss: torch.Tensor = super().compute_loss_from_embeddings(
            embeddings, [labels] if torch.is_tensor(labels) else labels
        )
        return loss


def _each_text_once(model: SentenceTransformer, loss: Any, *, may_checkpoint: bool = True) -> torch.nn.Module:
    # `EachTextOnce` cuts padding off the right end, so it needs a tokenizer that pads there. One that names no end does
    # not pad.
    if getattr(model.tokenizer, "padding_side", None) == "right":
        return EachTextOnce(model, loss, may_checkpoint=may_checkpoint)
    unwrapped: torch.nn.Module = loss
    return unwrapped


def refuse_too_wide(model: SentenceTransformer, widths: Sequence[int]) -> None:
    """Raise TrainingError if a width is above the model's own."""
    full = model.get_embedding_dimension() or 0
    if max(widths, default=0) > full:
        raise TrainingError(f"the model is {full} wide and cannot be cut to {max(widths)}; give --widths up to {full}")


def unique_texts(features: Sequence[Features], pad_token_id: int) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Join the tokenised columns of a batch and drop duplicates.

    Args:
        features: One mapping per column, each tensor (B, L of that column), padded on the right.
        pad_token_id: What the tokenizer pads `input_ids` with.

    Returns:
        The U distinct rows as one mapping of (U, L), and for each of the columns * B rows its index among them.
    """
    longest = max(column["input_ids"].shape[1] for column in features)

    def joined(key: str) -> torch.Tensor:
        filler = pad_token_id if key == "input_ids" else 0
        columns = [column[key] for column in features]
        return torch.cat([torch.nn.functional.pad(c, (0, longest - c.shape[1]), value=filler) for c in columns])

    tokens = {key: joined(key) for key in rows_of_tokens(features[0])}
    # With the mask, as a text may contain the padding token itself.
    identity = torch.cat([tokens["input_ids"], tokens["attention_mask"]], dim=1)
    # On the processor: Apple's GPUs find no distinct rows before torch 2.10.
    distinct, place = torch.unique(identity.cpu(), dim=0, return_inverse=True)
    row_numbers = torch.arange(len(place))
    first = row_numbers.new_full((len(distinct),), len(place)).scatter_reduce(0, place, row_numbers, reduce="amin")
    first, place = first.to(identity.device), place.to(identity.device)
    return {key: value[first] for key, value in tokens.items()}, place
