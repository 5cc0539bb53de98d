"""Questions made without a language model's server: weaker, and labelled so wherever they are written.

A chunk's heading or first sentence has the chunk's own words, which a search finds without any tuning. A query
generator such as doc2query is better and still copies much. Neither kind of question is judged.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from docsgpt_embtune.data.dataset import RetrievalDataset, query_digest
from docsgpt_embtune.errors import ModelFolderError
from docsgpt_embtune.progress import Bar
from docsgpt_embtune.sources.question_filter import fault_of
from docsgpt_embtune.words import AS_WRITTEN, SENTENCE_END

HEADINGS = "headings and first sentences of the chunks: weaker than questions of people or of a language model"
GENERATOR = "a query generator, judged by nothing: weaker than questions of people or of a judged language model"
# Headings of Markdown, and those underlined with a row of signs, perhaps with such a row above, too.
_HEADING = re.compile(r"#{1,6}\s+(.+?)\s*#*$|(?:[=~^*#-]{3,}\n)?\s*(\S.*)\n[=~^*#-]{3,}$", re.MULTILINE)
_NO_PROSE = re.compile(r"^```\w.*?(?:^```|\Z)|<!--.*?-->", re.MULTILINE | re.DOTALL)  # fenced code and comments
_MARKS = re.compile(r"^[#>*+-]+\s+")  # in front of a heading, a quotation or a list item
_FEWEST_WORDS, _MOST_WORDS = 2, 12
_SENTENCE = 4  # words at least, as a shorter one may be a list item or a line of a table
_MOST_TEXTS = 3  # that may share a question: one that more of them have ("See also") asks for none of them
_LONGEST_QUESTION = 48  # tokens
_BATCH = 16


def questions_from_headings(corpus: Mapping[str, str]) -> RetrievalDataset:
    """Use as a question the heading that a chunk opens with, or its first sentence if it has none.

    If that is a single word, or many chunks open with it, the first sentence is used instead that is long enough and
    that few of those chunks have.

    Args:
        corpus: The chunks: doc_id -> text.

    Returns:
        At most one question for each chunk; if several chunks give the same question, all of them are good. There are
        no bad chunks, as nothing says which chunks do not answer.
    """
    questions = _questions(dict.fromkeys(corpus.values()))
    return _dataset(corpus, ((doc_id, questions.get(text, "")) for doc_id, text in corpus.items()), "heading")


def questions_from_generator(
    corpus: Mapping[str, str], folder: Path, *, questions_per_chunk: int = 3, seed: int = 0
) -> RetrievalDataset:
    """Sample questions from a sequence-to-sequence model such as doc2query-T5.

    Args:
        corpus: The chunks: doc_id -> text.
        folder: The model with its tokenizer, as transformers saves them.
        questions_per_chunk: Number sampled; faulty and repeated ones are left out.
        seed: Random seed of the sampling.

    Raises:
        ModelFolderError: If the folder does not hold such a model.
    """
    return _dataset(corpus, _generated(corpus, folder, questions_per_chunk, seed), "generated")


def _dataset(corpus: Mapping[str, str], made: Iterator[tuple[str, str]], prefix: str) -> RetrievalDataset:
    queries: dict[str, str] = {}
    good: dict[str, dict[str, None]] = {}
    for doc_id, question in made:
        if _words(question) < _FEWEST_WORDS:
            continue
        query_id = f"offline-{prefix}-{query_digest(question)}"
        queries.setdefault(query_id, question)
        good.setdefault(query_id, {})[doc_id] = None
    return RetrievalDataset(queries, corpus, {query_id: tuple(ids) for query_id, ids in good.items()})


def _questions(texts: Iterable[str]) -> dict[str, str]:
    """Choose a question for each text that has one: text -> question."""
    prose = {text: _NO_PROSE.sub("", text).strip() for text in texts}
    found = _first_of_few({text: [_opening(prose[text])] for text in prose}, _FEWEST_WORDS)
    return found | _first_of_few({text: _sentences(prose[text]) for text in prose if text not in found}, _SENTENCE)


def _first_of_few(lines: Mapping[str, Sequence[str]], fewest_words: int) -> dict[str, str]:
    """Choose each text's first line that is long enough and that few of the texts have: text -> line."""
    texts_with = Counter(line for of_text in lines.values() for line in set(of_text))
    found = {}
    for text, of_text in lines.items():
        few = (line for line in of_text if texts_with[line] <= _MOST_TEXTS and _words(line) >= fewest_words)
        if line := next(few, None):
            found[text] = line
    return found


def _opening(text: str) -> str:
    heading = _HEADING.match(text)
    return (heading[1] or heading[2]) if heading else next(iter(_sentences(text)), "")


def _sentences(text: str) -> list[str]:
    parts = (_MARKS.sub("", part.strip()) for part in SENTENCE_END.split(text))
    return [" ".join(part.split()[:_MOST_WORDS]).rstrip(".!。 ") for part in parts if part]


def _words(line: str) -> int:
    """Count words of two characters or more; where no spaces are written, two characters count as a word."""
    return sum(len(word) > 1 and any(map(str.isalnum, word)) for word in AS_WRITTEN.findall(line))


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
        inputs.pop("token_type_ids", None)  # from a BERT tokenizer; no sequence-to-sequence model takes them
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
    options = {"local_files_only": True, "trust_remote_code": False}  # not said, a terminal would be asked about code
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), **options)
        model = AutoModelForSeq2SeqLM.from_pretrained(str(folder), **options)
    except (OSError, ValueError, ImportError) as error:
        raise ModelFolderError(
            f"{folder}: no sequence-to-sequence model ({' '.join(str(error).split())[:150]})"
        ) from error
    return tokenizer, model.eval()
