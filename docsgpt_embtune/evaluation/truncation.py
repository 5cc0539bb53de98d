"""How much of each chunk a model reads. The rest is truncated without a warning."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from docsgpt_embtune.data.dataset import RetrievalDataset
from docsgpt_embtune.embeddings import encodable
from docsgpt_embtune.positions import possible_length
from docsgpt_embtune.static_model import beginnings_read, tokenizer_of, tokens_read

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

_SAMPLE = 20_000  # most chunks counted of a corpus, evenly spread
_BATCH = 1000


@dataclass(frozen=True)
class TruncationAudit:
    """Counts of the chunks' wordpieces that a model reads, and of those it truncates.

    Attributes:
        max_seq_length: Wordpieces that the model reads of a text, special tokens included.
        possible_length: Wordpieces that its position embeddings allow; None if unknown or if it reads texts whole.
        chunks: Number of chunks counted.
        chunks_cut: Number of them that are longer than the model reads.
        wordpieces: Number of wordpieces in the counted chunks.
        wordpieces_seen: Number of these wordpieces that are read.
        good_chunks: Number of chunks that answer a question.
        good_chunks_cut: Number of them that are truncated.
        longest: Wordpieces of the longest chunk, counted or good.
        reading_stays: Whether a query adapter fixes how the chunks are read, because their stored vectors stay.
    """

    max_seq_length: int
    possible_length: int | None
    chunks: int
    chunks_cut: int
    wordpieces: int
    wordpieces_seen: int
    good_chunks: int
    good_chunks_cut: int
    longest: int
    reading_stays: bool = False

    @property
    def share_seen(self) -> float:
        """Share of the wordpieces that the model reads."""
        return self.wordpieces_seen / max(1, self.wordpieces)

    @property
    def wordpieces_per_chunk(self) -> float:
        """Mean length of a chunk, in wordpieces."""
        return self.wordpieces / max(1, self.chunks)

    @property
    def advice(self) -> str:
        """Advice on what to do about truncation; empty if no good chunk is truncated."""
        if not self.good_chunks_cut:
            return ""
        smaller = f"cut the documents into chunks of at most {int(0.8 * self.max_seq_length)} tokens."
        if self.reading_stays:
            return f"A query adapter changes nothing about that: {smaller}"
        further = ""
        if self.possible_length and self.possible_length > self.max_seq_length:
            further = f", or up to the {self.possible_length} wordpieces that this model could read,"
        return (
            f"embtune export --data tries whether questions gain where chunks are read in windows{further} and embtune "
            f"train learns from windows where they do. Or {smaller}"
        )


def audit_truncation(
    model: "SentenceTransformer",
    dataset: RetrievalDataset,
    *,
    in_windows: bool = False,
    reading_stays: bool = False,
) -> TruncationAudit:
    """Count the wordpieces of the corpus that a model reads; of more than 20,000 chunks, of an even sample.

    Args:
        model: Model whose tokenizer counts.
        dataset: Dataset with the corpus and its good chunks.
        in_windows: Whether chunks are read to their end in windows, so that nothing is truncated.
        reading_stays: As in `TruncationAudit`.
    """
    step = math.ceil(len(dataset.corpus) / _SAMPLE)
    lengths = _lengths(model, list(islice(dataset.corpus.values(), 0, None, step)))
    good = {doc_id for doc_ids in dataset.relevant_docs.values() for doc_id in doc_ids}
    good_lengths = _lengths(model, [dataset.corpus[doc_id] for doc_id in sorted(good)])
    read = max(lengths + good_lengths) if in_windows else _room_for_text(model)
    return TruncationAudit(
        max_seq_length=tokens_read(model),
        possible_length=possible_length(model),
        chunks=len(lengths),
        chunks_cut=_cut(lengths, read),
        wordpieces=sum(lengths),
        wordpieces_seen=_seen(lengths, read),
        good_chunks=len(good),
        good_chunks_cut=_cut(good_lengths, read),
        longest=max(lengths + good_lengths),
        reading_stays=reading_stays,
    )


def share_read(model: "SentenceTransformer", texts: Sequence[str]) -> float:
    """Return the share of the texts' wordpieces that a model reads, from 0 to 1."""
    lengths = _lengths(model, [encodable(text) for text in texts])
    return _seen(lengths, _room_for_text(model)) / max(1, sum(lengths))


def count_cut(model: "SentenceTransformer", texts: Iterable[str]) -> int:
    """Count the texts that are longer than a model reads."""
    return _cut(_lengths(model, [encodable(text) for text in texts]), _room_for_text(model))


def parts_read(model: "SentenceTransformer", corpus: Mapping[str, str]) -> dict[str, str]:
    """Truncate every chunk where the model stops reading it.

    Args:
        model: Model whose tokenizer truncates.
        corpus: doc_id -> text.

    Returns:
        doc_id -> the text that the model reads, its prompt not counted; the whole text if its tokenizer is a slow one
        (pure Python), which reports no token offsets.
    """
    cut = tokenizer_of(model)
    if not cut.is_fast:
        return dict(corpus)
    limit = tokens_read(model)
    ends = [
        max((end for _, end in offsets), default=0)
        for texts in _batches(beginnings_read(model, corpus.values()))
        for offsets in cut(texts, truncation=True, max_length=limit, return_offsets_mapping=True)["offset_mapping"]
    ]
    return {doc_id: text[:end] for (doc_id, text), end in zip(corpus.items(), ends, strict=True)}


def _room_for_text(model: "SentenceTransformer") -> int:
    """Return how many of a text's own wordpieces are read, without special tokens and the default prompt."""
    prompt = model.prompts.get(model.default_prompt_name or "") or ""
    return tokens_read(model) - int(tokenizer_of(model).num_special_tokens_to_add()) - _lengths(model, [prompt])[0]


def _seen(lengths: Iterable[int], read: int) -> int:
    return sum(min(length, read) for length in lengths)


def _cut(lengths: Iterable[int], read: int) -> int:
    return sum(length > read for length in lengths)


def _lengths(model: "SentenceTransformer", texts: Sequence[str]) -> list[int]:
    count = tokenizer_of(model)
    # The full length is wanted, so truncation is off, and so is the tokenizer's warning about long texts.
    return [
        len(ids)
        for batch in _batches(texts)
        for ids in count(batch, add_special_tokens=False, truncation=False, padding=False, verbose=False)["input_ids"]
    ]


def _batches(texts: Sequence[str]) -> Iterator[list[str]]:
    for start in range(0, len(texts), _BATCH):
        yield list(texts[start : start + _BATCH])
