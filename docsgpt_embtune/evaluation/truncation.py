"""How much of each chunk a model really reads: the rest is cut off, and nothing warns."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from docsgpt_embtune.data.dataset import RetrievalDataset
from docsgpt_embtune.embeddings import encodable
from docsgpt_embtune.positions import possible_length
from docsgpt_embtune.token_table import tokenizer_of, tokens_read

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

_SAMPLE = 20_000  # chunks looked at in a larger corpus, evenly spread
_BATCH = 1000


@dataclass(frozen=True)
class TruncationAudit:
    """Wordpieces of the chunks that a model sees, and those that it never does.

    Attributes:
        max_seq_length: What the model reads of a text, special tokens included, in wordpieces.
        possible_length: What it could read at most, by its position embeddings; None if it does not say.
        chunks: Chunks looked at.
        chunks_cut: How many of them are longer than what the model reads.
        wordpieces: Number of wordpieces in these chunks.
        wordpieces_seen: How many of these wordpieces are read.
        good_chunks: Chunks that answer a question.
        good_chunks_cut: How many of them are cut.
        longest: Wordpieces of the longest chunk, of both.
        reading_stays: Whether a query adapter keeps the chunks as they were read when they were stored.
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
        """Share of the wordpieces that the model sees."""
        return self.wordpieces_seen / max(1, self.wordpieces)

    @property
    def wordpieces_per_chunk(self) -> float:
        """Mean length of a chunk."""
        return self.wordpieces / max(1, self.chunks)

    @property
    def advice(self) -> str:
        """Say what to do about it; empty where no chunk is cut that answers."""
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
    """Count what a model reads of the corpus; of more than 20,000 chunks, an evenly spread sample.

    Args:
        model: Its tokenizer counts.
        dataset: Holds the corpus.
        in_windows: Chunks are read to their end, a window at a time, so that nothing is cut.
        reading_stays: As in `TruncationAudit`.
    """
    step = max(1, len(dataset.corpus) // _SAMPLE)
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
    """Return the share of the texts' wordpieces that a model reads before it cuts them off, from 0 to 1."""
    lengths = _lengths(model, [encodable(text) for text in texts])
    return _seen(lengths, _room_for_text(model)) / max(1, sum(lengths))


def parts_read(model: "SentenceTransformer", corpus: Mapping[str, str]) -> dict[str, str]:
    """Cut every chunk where the model stops reading it.

    Args:
        model: Its tokenizer decides.
        corpus: doc_id -> text.

    Returns:
        doc_id -> the text that the model reads, the model's prompt not counted; the whole text where its tokenizer
        (one of Python alone) does not tell where a token stands.
    """
    cut = tokenizer_of(model)
    if not cut.is_fast:
        return dict(corpus)
    limit = tokens_read(model)
    ends = [
        max((end for _, end in offsets), default=0)
        for texts in _batches(list(corpus.values()))
        for offsets in cut(texts, truncation=True, max_length=limit, return_offsets_mapping=True)["offset_mapping"]
    ]
    return {doc_id: text[:end] for (doc_id, text), end in zip(corpus.items(), ends, strict=True)}


def _room_for_text(model: "SentenceTransformer") -> int:
    """Return how many of a text's own wordpieces are read, beside special tokens and what stands before every text."""
    prompt = model.prompts.get(model.default_prompt_name or "") or ""
    return tokens_read(model) - int(tokenizer_of(model).num_special_tokens_to_add()) - _lengths(model, [prompt])[0]


def _seen(lengths: Iterable[int], read: int) -> int:
    return sum(min(length, read) for length in lengths)


def _cut(lengths: Iterable[int], read: int) -> int:
    return sum(length > read for length in lengths)


def _lengths(model: "SentenceTransformer", texts: Sequence[str]) -> list[int]:
    count = tokenizer_of(model)
    # Truncation is off, and so is the tokenizer's warning about it: to know the whole length is the point.
    return [
        len(ids)
        for batch in _batches(texts)
        for ids in count(batch, add_special_tokens=False, truncation=False, padding=False, verbose=False)["input_ids"]
    ]


def _batches(texts: Sequence[str]) -> Iterator[list[str]]:
    for start in range(0, len(texts), _BATCH):
        yield list(texts[start : start + _BATCH])
