"""Search as DocsGPT does, through application/vectorstore/base.py, with the baseline and with the tuned model.

python scripts/show_search.py --tuned models/tuned --data runs/sample/test.json --corpus runs/sample/corpus.json
"""

import sys
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).parents[1]))  # `application` is the host's name, so no wheel carries ours

from application.core.settings import settings
from application.vectorstore.document_class import Document
from application.vectorstore.faiss import FaissStore
from docsgpt_embtune.cli.common import EmbtuneCommand, hide_loading_bars
from docsgpt_embtune.data.dataset import RetrievalDataset, load_dataset
from docsgpt_embtune.training.base_models import resolve_base

SHOWN = 5  # chunks a question
DEPTH = 50  # how far down a chunk's rank is followed
WIDTH = 46  # characters a side


@click.command(cls=EmbtuneCommand)
@click.option("--baseline", default="bundled", show_default=True)
@click.option("--tuned", required=True, help="The tuned model's folder.")
@click.option("--data", required=True, help="Questions with their good chunks.")
@click.option("--corpus", help="The chunks, where --data does not hold them.")
def main(baseline: str, tuned: str, data: str, corpus: str | None) -> None:
    """Print both models' first five chunks for the two questions that gained most and the one that lost most."""
    hide_loading_bars()
    dataset = load_dataset(data, corpus=corpus)
    names = {"baseline": str(resolve_base(baseline).folder), "tuned": str(Path(tuned).resolve())}
    rankings = {side: search_all(name, dataset) for side, name in names.items()}
    for query_id in worth_a_look(rankings, dataset):
        click.echo(f"\n  “{dataset.queries[query_id]}”\n")
        click.echo(f"     {'baseline':{WIDTH}}   tuned")
        for rank in range(SHOWN):
            left, right = (cell(rankings[side][query_id][rank], query_id, dataset) for side in names)
            click.echo(f"  {rank + 1}. {left}   {right}")
    click.echo("\n  ✓ the chunk that answers   ✗ the chunk that only looks right")
    click.echo(f"\nFor DocsGPT's .env, the web process and the worker alike:\n\nEMBEDDINGS_NAME={names['tuned']}")


def search_all(embeddings_name: str, dataset: RetrievalDataset) -> dict[str, list[str]]:
    """Set EMBEDDINGS_NAME, fill the host's store with the corpus, and search each question: query_id -> doc_ids."""
    settings.EMBEDDINGS_NAME = embeddings_name
    chunks = [Document(text, {"doc_id": doc_id}) for doc_id, text in dataset.corpus.items()]
    store = FaissStore("sample", docs_init=chunks)
    return {
        query_id: [document.metadata["doc_id"] for document in store.search(question, k=DEPTH)]
        for query_id, question in dataset.queries.items()
    }


def worth_a_look(rankings: dict[str, dict[str, list[str]]], dataset: RetrievalDataset) -> list[str]:
    """Pick two questions whose answer came to the front from furthest back, and the one that fell furthest."""

    def rank(side: str, query_id: str) -> int:
        found = rankings[side][query_id]
        return min((found.index(d) + 1 for d in dataset.relevant_docs[query_id] if d in found), default=DEPTH + 1)

    to_the_front = [query_id for query_id in dataset.queries if rank("tuned", query_id) == 1]
    gained = sorted(to_the_front, key=lambda q: rank("tuned", q) - rank("baseline", q))[:2]
    return [*gained, max(dataset.queries, key=lambda q: rank("tuned", q) - rank("baseline", q))]


def cell(doc_id: str, query_id: str, dataset: RetrievalDataset) -> str:
    """Mark a chunk as good or bad and cut its text to the column."""
    mark = "✓" if doc_id in dataset.relevant_docs[query_id] else " "
    mark = "✗" if doc_id in dataset.irrelevant_docs.get(query_id, ()) else mark
    text = f"{doc_id}: {' '.join(dataset.corpus[doc_id].split())}"
    return f"{mark} {text[: WIDTH - 3]}{'…' if len(text) > WIDTH - 3 else '':1}".ljust(WIDTH)


if __name__ == "__main__":
    main()
