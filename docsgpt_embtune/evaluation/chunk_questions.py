"""Questions made of chunks' own words, to measure what int8 or shorter vectors cost when real questions are too few."""

import random
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from docsgpt_embtune.data.corpus_questions import questions_from_corpus
from docsgpt_embtune.data.dataset import RetrievalDataset
from docsgpt_embtune.serving.reading import Reading, WindowReader

_MOST_ASKED = 2000  # questions; enough to show a loss of .003 of nDCG@10


def asked_by_their_words(folder: Path, reading: Reading, corpus: Mapping[str, str]) -> RetrievalDataset:
    """Make questions for up to 2,000 chunks, each a run of the chunk's own words from the part that the model reads."""
    doc_ids = list(corpus)
    if len(doc_ids) > _MOST_ASKED:
        doc_ids = random.Random(0).sample(doc_ids, _MOST_ASKED)
    parts = {doc_id: corpus[doc_id] for doc_id in doc_ids}
    if reading.windows == "off":
        reader = WindowReader(folder, reading.max_seq_length)
        parts = {doc_id: reader.windows_of(text)[0] for doc_id, text in parts.items()}
    return replace(questions_from_corpus(parts, seed=0), corpus=corpus)
