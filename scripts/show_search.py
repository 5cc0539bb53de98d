"""Search as DocsGPT does, through application/vectorstore/base.py, with the baseline and with the tuned model.

    python scripts/show_search.py --tuned models/tuned --data runs/sample/test.json --corpus runs/sample/corpus.json

Chunk vectors that a check has computed are taken from its cache.
"""

import sys
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).parents[1]))  # `application` is DocsGPT's package name, so our wheel lacks it

from application.core.settings import settings
from application.vectorstore.faiss import FaissStore
from docsgpt_embtune.cli.command import EmbtuneCommand
from docsgpt_embtune.data.dataset import RetrievalDataset, load_dataset
from docsgpt_embtune.evaluation.retrieval_check import CheckedModel
from docsgpt_embtune.evaluation.vector_cache import RememberedDocuments, VectorCache, cache_folder, default_cache_folder

SHOWN = 5  # chunks per question
DEPTH = 50  # chunks searched per question
WIDTH = 46  # characters per column


@click.command(cls=EmbtuneCommand)
@click.option("--baseline", default="bundled", show_default=True)
@click.option("--tuned", required=True, help="The tuned model's folder.")
@click.option("--data", required=True, help="Questions with their good chunks.")
@click.option("--corpus", help="The chunks, where --data does not hold them.")
def main(baseline: str, tuned: str, data: str, corpus: str | None) -> None:
    """Print both models' first five chunks for the two questions that gained most and the one that lost most."""
    dataset = load_dataset(data, corpus=corpus)
    models = {"baseline": CheckedModel.of_base(baseline), "tuned": CheckedModel.of_folder(tuned)}
    rankings = {side: search_all(model, dataset) for side, model in models.items()}
    for query_id in worth_a_look(rankings, dataset):
        click.echo(f"\n  “{dataset.queries[query_id]}”\n")
        click.echo(f"     {'baseline':{WIDTH}}   tuned")
        for rank in range(SHOWN):
            left, right = (cell(rankings[side][query_id][rank], query_id, dataset) for side in models)
            click.echo(f"  {rank + 1}. {left}   {right}")
    click.echo("\n  ✓ the chunk that answers   ✗ the chunk that only looks right")
    click.echo(
        f"\nFor DocsGPT's .env, the web process and the worker alike:\n\nEMBEDDINGS_NAME={models['tuned'].folder}"
    )


def search_all(model: CheckedModel, dataset: RetrievalDataset) -> dict[str, list[str]]:
    """Set EMBEDDINGS_NAME, fill DocsGPT's store with the corpus, and search each question: query_id -> doc_ids."""
    settings.EMBEDDINGS_NAME = str(model.folder)
    store = FaissStore("sample")
    made_by = model.side(store.embeddings, default_cache_folder()).document_fingerprint
    with cache_folder(default_cache_folder()) as folder:
        cache = VectorCache(folder, str(made_by), store.embeddings.dimension)
        store.embeddings = RememberedDocuments(store.embeddings, cache)
        store.add_texts(list(dataset.corpus.values()), [{"doc_id": doc_id} for doc_id in dataset.corpus])
        return {
            query_id: [document.metadata["doc_id"] for document in store.search(question, k=DEPTH)]
            for query_id, question in dataset.queries.items()
        }


def worth_a_look(rankings: dict[str, dict[str, list[str]]], dataset: RetrievalDataset) -> list[str]:
    """Pick the two questions whose answer rose furthest to rank 1, and the one whose answer fell furthest."""

    def rank(side: str, query_id: str) -> int:
        found = rankings[side][query_id]
        return min((found.index(d) + 1 for d in dataset.relevant_docs[query_id] if d in found), default=DEPTH + 1)

    to_the_front = [query_id for query_id in dataset.queries if rank("tuned", query_id) == 1]
    gained = sorted(to_the_front, key=lambda q: rank("tuned", q) - rank("baseline", q))[:2]
    return [*gained, max(dataset.queries, key=lambda q: rank("tuned", q) - rank("baseline", q))]


def cell(doc_id: str, query_id: str, dataset: RetrievalDataset) -> str:
    """Return a chunk's text, marked as good or bad and cut to the column's width."""
    mark = "✓" if doc_id in dataset.relevant_docs[query_id] else " "
    mark = "✗" if doc_id in dataset.irrelevant_docs.get(query_id, ()) else mark
    text = f"{doc_id}: {' '.join(dataset.corpus[doc_id].split())}"
    return f"{mark} {text[: WIDTH - 3]}{'…' if len(text) > WIDTH - 3 else '':1}".ljust(WIDTH)


if __name__ == "__main__":
    main()
