"""Questions without a language model's server: weaker, and named so wherever they are written.

A chunk's heading or first sentence borrows the chunk's own words, which is what a search finds without any tuning;
a query generator of the doc2query kind is better and still copies much. Nothing judges either.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from docsgpt_embtune.data.dataset import RetrievalDataset, query_digest
from docsgpt_embtune.errors import ModelFolderError
from docsgpt_embtune.progress import Bar
from docsgpt_embtune.sources.question_filter import fault_of
from docsgpt_embtune.words import SENTENCE_END

HEADINGS = "headings and first sentences of the chunks: weaker than questions of people or of a language model"
GENERATOR = "a query generator, judged by nothing: weaker than questions of people or of a judged language model"
_HEADING = re.compile(r"^#{1,6}\s+(.+?)\s*#*$|^(\S.*)\n[=~^*-]{3,}$", re.MULTILINE)  # Markdown's, and underlined ones
_FEWEST_WORDS, _MOST_WORDS = 2, 12
_LONGEST_QUESTION = 48  # tokens
_BATCH = 16


def questions_from_headings(corpus: Mapping[str, str]) -> RetrievalDataset:
    """Take a chunk's first heading for a question, or the opening of its first sentence where it has none.

    Args:
        corpus: The chunks: doc_id -> text.

    Returns:
        One question for each chunk that opens with more than a word; the same one for several chunks has all of
        them as its answers. No bad chunks: nothing says which chunks do not answer.
    """
    return _dataset(corpus, ((doc_id, _opening(text)) for doc_id, text in corpus.items()), "heading")


def questions_from_generator(
    corpus: Mapping[str, str], folder: Path, *, questions_per_chunk: int = 3, seed: int = 0
) -> RetrievalDataset:
    """Ask a sequence-to-sequence model such as doc2query-T5 for questions, by sampling.

    Args:
        corpus: The chunks: doc_id -> text.
        folder: The model with its tokenizer, as transformers saves them.
        questions_per_chunk: Drawn; faulty and repeated ones are left out.
        seed: Seed of the sampling.

    Raises:
        ModelFolderError: If the folder does not hold such a model.
    """
    return _dataset(corpus, _generated(corpus, folder, questions_per_chunk, seed), "generated")


def _dataset(corpus: Mapping[str, str], made: Iterator[tuple[str, str]], prefix: str) -> RetrievalDataset:
    queries: dict[str, str] = {}
    good: dict[str, dict[str, None]] = {}
    for doc_id, question in made:
        if len(question.split()) < _FEWEST_WORDS and question.isascii():
            continue
        query_id = f"offline-{prefix}-{query_digest(question)}"
        queries.setdefault(query_id, question)
        good.setdefault(query_id, {})[doc_id] = None
    return RetrievalDataset(queries, corpus, {query_id: tuple(ids) for query_id, ids in good.items()})


def _opening(text: str) -> str:
    heading = _HEADING.search(text)
    if heading:
        return heading[1] or heading[2]
    first = next((part for part in SENTENCE_END.split(text.strip()) if part.strip()), "")
    return " ".join(first.split()[:_MOST_WORDS]).rstrip(".!。")


def _generated(
    corpus: Mapping[str, str], folder: Path, questions_per_chunk: int, seed: int
) -> Iterator[tuple[str, str]]:
    import torch

    tokenizer, model = _load(folder)
    torch.manual_seed(seed)
    doc_ids = list(corpus)
    for start in Bar(range(0, len(doc_ids), _BATCH), desc="generating", unit="batch"):
        batch = doc_ids[start : start + _BATCH]
        inputs = tokenizer([corpus[doc_id] for doc_id in batch], padding=True, truncation=True, return_tensors="pt")
        inputs.pop("token_type_ids", None)  # a BERT tokenizer's; no such model takes them
        with torch.inference_mode():
            tokens = model.generate(
                **inputs,
                do_sample=True,
                top_k=10,
                max_new_tokens=_LONGEST_QUESTION,
                num_return_sequences=questions_per_chunk,
            )  # (B * questions_per_chunk, L)
        for number, question in enumerate(tokenizer.batch_decode(tokens, skip_special_tokens=True)):
            doc_id = batch[number // questions_per_chunk]
            if fault_of(question, corpus[doc_id]) is None:
                yield doc_id, " ".join(question.split())


def _load(folder: Path) -> tuple[Any, Any]:
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    if not (folder / "config.json").is_file():
        raise ModelFolderError(
            f"{folder}: no config.json in it; give the folder of a query generator such as doc2query"
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
        model = AutoModelForSeq2SeqLM.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError, ImportError) as error:
        raise ModelFolderError(
            f"{folder}: no sequence-to-sequence model ({' '.join(str(error).split())[:150]})"
        ) from error
    return tokenizer, model.eval()
