"""Compare ways of making keywords, on an untuned model: nDCG@10 on held-out training questions.

    python scripts/bench_keywords.py ../shared/data/emanual ../shared/data/zoomcamp_faq

In each dataset folder (see bench_tuning.py), word weights are learned from 60 % of the training questions and measured
on the other 40 %, which have other answers. The test questions are not used. Each figure is at the best weight of the
keywords, which favours all ways alike. In the lines with later chunks, directions and counts come from a random part of
the chunks, and all chunks are searched, as in a deployment that has grown since it was tuned.
"""

import argparse
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from bench_tuning import load_splits

from docsgpt_embtune.base_models import resolve_base
from docsgpt_embtune.data.dataset import RetrievalDataset
from docsgpt_embtune.data.split import hold_out
from docsgpt_embtune.evaluation.best_of_many import mean_ndcg
from docsgpt_embtune.precision import resolve_precision
from docsgpt_embtune.serving.encoding import Encoder
from docsgpt_embtune.serving.keywords import Keywords
from docsgpt_embtune.training.keywords.fitting import KeywordFitting
from docsgpt_embtune.training.keywords.weights import KeywordsAtEachWeight
from docsgpt_embtune.training.trainer import load_base
from docsgpt_embtune.training.validation import score_vectors
from docsgpt_embtune.vectors import Vectors

HELD_OUT = 0.4


def main() -> None:
    """Measure and print, a table for each folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--base", default="bundled")
    parser.add_argument("--seed", type=int, default=13)
    arguments = parser.parse_args()
    model = load_base(resolve_base(arguments.base))
    encode = Encoder(model, resolve_precision("auto", model.device))
    for folder in arguments.folders:
        splits = load_splits(folder)
        corpus = {**splits.train.corpus, **splits.test.corpus}
        learned, measured = (replace(part, corpus=corpus) for part in hold_out(splits.train, HELD_OUT, arguments.seed))
        queries, chunks = encode(measured.queries.values()), encode(corpus.values())
        print(f"{folder.name}: {len(learned)} questions to learn from, {len(measured)} measured, {len(corpus)} chunks")
        print(f"  {'the model alone':<48} {mean_ndcg(score_vectors(measured, queries, chunks)):.3f}")
        for name, keywords in ways(learned, queries.shape[1], arguments.seed):
            print(f"  {name:<48} {best(keywords, measured, queries, chunks)}", flush=True)


def ways(learned: RetrievalDataset, model_width: int, seed: int) -> Iterator[tuple[str, Keywords]]:
    """Yield each way's name, and the keywords made in that way."""
    chunks = list(dict.fromkeys(learned.corpus.values()))
    random_ones = Keywords.of(chunks, model_width)
    yield "random directions, keywords", random_ones
    yield "random directions, wide keywords", random_ones.wider(model_width)
    for name, keywords in KeywordFitting.of(chunks, model_width, wide=True).kinds(learned).items():
        yield f"fitted, {name}", keywords
    for later in (0.1, 0.25, 0.5):
        known = random.Random(seed).sample(chunks, round((1 - later) * len(chunks)))
        for name, keywords in KeywordFitting.of(known, model_width, wide=True).kinds().items():
            yield f"fitted, {later:.0%} of the chunks later, {name}", keywords


def best(keywords: Keywords, measured: RetrievalDataset, queries: Vectors, chunks: Vectors) -> str:
    """Return nDCG@10 at the best weight, and that weight."""
    weighed = KeywordsAtEachWeight(keywords, list(measured.queries.values()), list(measured.corpus.values()))
    found = {each.weight: mean_ndcg(score_vectors(measured, q, c)) for each, q, c in weighed.beside(queries, chunks)}
    weight = max(found, key=lambda weight: found[weight])
    return f"{found[weight]:.3f} at {weight:.0%}"


if __name__ == "__main__":
    main()
