"""The bundled sample: people's questions over Python's own language reference.

The documents are the ones that every Python carries for `help()`; the questions were written for this project.
A label is a phrase quoted from the chunk that answers, so it finds its chunk in every Python from 3.11 on,
even if the text around it has moved.
"""

import json
import re
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import resources
from pathlib import Path

from docsgpt_embtune.base_models import BUNDLED
from docsgpt_embtune.data.chunking import chunk_text
from docsgpt_embtune.data.dataset import RetrievalDataset, save_dataset
from docsgpt_embtune.data.split import SPLITS
from docsgpt_embtune.data.tokens import token_counter
from docsgpt_embtune.errors import DatasetError

QUESTIONS = "python_reference_questions.json"
# For DocsGPT's `recursive` strategy: a chunk size that all-MiniLM-L6-v2 reads to the end.
MAX_TOKENS = 220
MIN_TOKENS = 120
# A topic is left out if this share of its text is in a topic of at least its length: the reference repeats itself for
# `help()`.
_MOSTLY_CONTAINED = 0.7


def load_sample() -> dict[str, RetrievalDataset]:
    """Build the three splits over one corpus.

    Returns:
        "train", "validation" and "test" -> dataset, each question with its good chunks and with bad ones that look
        relevant. No chunk answers questions of two splits.

    Raises:
        DatasetError: If a label's phrase is in no chunk of this Python's reference.
    """
    corpus = _corpus()
    plain = {doc_id: _one_line(text) for doc_id, text in corpus.items()}
    splits = {split: _label(split, rows, corpus, plain) for split, rows in _questions().items()}
    return _without_shared_answers(splits)


def write_sample(folder: Path) -> dict[str, RetrievalDataset]:
    """Write `corpus.json`, `train.json`, `validation.json` and `test.json`, and return the splits."""
    splits = load_sample()
    for split, dataset in splits.items():
        save_dataset(dataset, folder / f"{split}.json", corpus=folder / "corpus.json")
    return splits


def _without_shared_answers(splits: Mapping[str, RetrievalDataset]) -> dict[str, RetrievalDataset]:
    # The split was drawn over the chunks of Python 3.11 to 3.13; another Python may cut two labels into one chunk.
    kept = dict(splits)
    for split, held_out in (("validation", ["test"]), ("train", ["test", "validation"])):
        answers = {doc_id for name in held_out for ids in kept[name].relevant_docs.values() for doc_id in ids}
        good = kept[split].relevant_docs
        kept[split] = kept[split].subset(query_id for query_id in good if answers.isdisjoint(good[query_id]))
    return kept


@cache
def _corpus() -> dict[str, str]:
    from pydoc_data.topics import topics

    count_tokens = token_counter(BUNDLED)
    return {
        f"{topic}-{number}": chunk
        for topic in _distinct_topics(topics)
        for number, chunk in enumerate(
            chunk_text(topics[topic], count_tokens=count_tokens, max_tokens=MAX_TOKENS, min_tokens=MIN_TOKENS)
        )
    }


def _distinct_topics(topics: Mapping[str, str]) -> list[str]:
    paragraphs = {topic: {_one_line(part) for part in re.split(r"\n\s*\n", text)} for topic, text in topics.items()}
    contained: set[str] = set()
    for topic in sorted(topics, key=lambda topic: (len(topics[topic]), topic)):
        wanted = _MOSTLY_CONTAINED * _size(paragraphs[topic])
        larger = (o for o in topics if o != topic and o not in contained and len(topics[o]) >= len(topics[topic]))
        if any(_size(paragraphs[topic] & paragraphs[other]) >= wanted for other in larger):
            contained.add(topic)
    return [topic for topic in topics if topic not in contained]


def _size(paragraphs: Iterable[str]) -> int:
    return sum(map(len, paragraphs))


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _questions() -> dict[str, list[dict[str, str]]]:
    rows = json.loads((resources.files("docsgpt_embtune.data") / QUESTIONS).read_text(encoding="utf-8"))
    return {split: rows[split] for split in SPLITS}


def _label(
    split: str, rows: Iterable[Mapping[str, str]], corpus: Mapping[str, str], plain: Mapping[str, str]
) -> RetrievalDataset:
    queries, good, bad = {}, {}, {}
    for number, row in enumerate(rows):
        query_id = f"{split}-{number}"
        queries[query_id] = row["query"]
        good[query_id] = _chunks_with(row["good"], row["query"], plain)
        looks_right = _chunks_with(row["bad"], row["query"], plain)
        bad[query_id] = tuple(doc_id for doc_id in looks_right if doc_id not in good[query_id])
    return RetrievalDataset(queries, corpus, good, bad, sources=(QUESTIONS, "pydoc_data.topics"))


def _chunks_with(phrase: str, query: str, plain: Mapping[str, str]) -> tuple[str, ...]:
    found = tuple(doc_id for doc_id, text in plain.items() if phrase in text)
    if not found:
        raise DatasetError(f"{QUESTIONS}: no chunk of this Python's reference has {phrase!r}, the label of {query!r}")
    return found
