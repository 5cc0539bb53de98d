"""The whole way through an unmodified DocsGPT: stock index, hook, re-embedding, search, and back.

    python scripts/try_in_docsgpt.py CHECKOUT --python CHECKOUT/.venv/bin/python --tuned models/tuned --data test.json

CHECKOUT is DocsGPT's source at 0.19 or later, and --python an interpreter that has its requirements and
docsgpt-embtune. Nothing of the checkout is changed but `indexes/embtune-try`, which is removed at the end.
Every search goes through DocsGPT's own FaissStore, in a process of its own.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from docsgpt_embtune.data.dataset import load_dataset
from docsgpt_embtune.training.base_models import resolve_base

SOURCE = "embtune-try"

# Run by DocsGPT's interpreter, in its checkout: nothing but its own code.
BUILD = """
import json, sys
from application.vectorstore.document_class import Document
from application.vectorstore.faiss import FaissStore
chunks = json.load(open(sys.argv[2]))
documents = [Document(page_content=text, metadata={"source": doc_id}) for doc_id, text in chunks.items()]
FaissStore(source_id=sys.argv[1], embeddings_key=None, docs_init=documents).save_local()
"""
SEARCH = """
import json, sys
from application.vectorstore.faiss import FaissStore
store = FaissStore(source_id=sys.argv[1], embeddings_key=None)
queries = json.load(open(sys.argv[2]))
found = {q: [hit.metadata["source"] for hit in store.search(text, k=20)] for q, text in queries.items()}
print(json.dumps({"embeddings": type(store.embeddings).__name__, "found": found}))
"""


def main() -> None:
    """Run the steps, and stop at the first that is not as it must be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--python", type=Path, default=Path(sys.executable), help="interpreter that runs DocsGPT")
    parser.add_argument("--stock", default="bundled", help="the model that the index is first built with")
    parser.add_argument("--tuned", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="questions and chunks to try it with")
    parser.add_argument("--corpus", type=Path, help="the chunks, where they are in a file of their own")
    parser.add_argument("--relevant-docs", choices=["good-bad", "all-good"])
    arguments = parser.parse_args()
    dataset = load_dataset(arguments.data, corpus=arguments.corpus, relevant_docs=arguments.relevant_docs)
    checkout, python = arguments.checkout.resolve(), arguments.python
    stock, tuned = resolve_base(arguments.stock).folder, arguments.tuned.resolve()
    index, environment = checkout / "indexes" / SOURCE, checkout / "indexes" / f"{SOURCE}.env"
    texts, queries = index.with_suffix(".chunks.json"), index.with_suffix(".queries.json")
    index.parent.mkdir(exist_ok=True)
    environment.write_text(f"EMBEDDINGS_NAME={stock}\n", encoding="utf-8")
    texts.write_text(json.dumps(dict(dataset.corpus)), encoding="utf-8")
    queries.write_text(json.dumps(dict(dataset.queries)), encoding="utf-8")

    def host(code: str, path: Path) -> str:
        name = environment.read_text(encoding="utf-8").strip().removeprefix("EMBEDDINGS_NAME=")
        settings = {**os.environ, "EMBEDDINGS_NAME": name, "VECTOR_STORE": "faiss"}
        return run([python, "-c", code, SOURCE, path], cwd=checkout, env=settings)

    def embtune(*words: object) -> None:
        print(f"$ embtune {' '.join(map(str, words))}")
        print(run([sys.executable, "-m", "docsgpt_embtune", *words]))

    try:
        print(f"DocsGPT builds an index of {len(dataset.corpus)} chunks with its stock model")
        host(BUILD, texts)
        before = hashes(index)
        stock_ranks = ranks(json.loads(host(SEARCH, queries)), dataset.relevant_docs)
        embtune("install", "--python", python, "--yes")
        embtune("reembed", "--model", tuned, "--indexes", index, "--env", environment, "--dry-run")
        embtune("reembed", "--model", tuned, "--indexes", index, "--env", environment)
        embtune("doctor", "--model", tuned, "--indexes", index, "--env", environment)
        answer = json.loads(host(SEARCH, queries))
        require(answer["embeddings"] == "TunedEmbeddings", f"DocsGPT searched with {answer['embeddings']}")
        show(stock_ranks, ranks(answer, dataset.relevant_docs))
        embtune("reembed", "--indexes", index, "--env", environment, "--rollback")
        embtune("uninstall", "--python", python)
        require(hashes(index) == before, "the index is not what it was")
        again = json.loads(host(SEARCH, queries))
        require(ranks(again, dataset.relevant_docs) == stock_ranks, "the searches are not what they were")
        require(answer["embeddings"] != again["embeddings"], "the hook is still in force")
        print("after the rollback: index the same to the byte, searches the same")
    finally:
        shutil.rmtree(index, ignore_errors=True)
        for path in (environment, environment.with_name(f"{environment.name}.embtune.json"), texts, queries):
            path.unlink(missing_ok=True)


def run(command: list[object], **options: object) -> str:
    """Run a command and return what it printed; stop if it fails."""
    finished = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]
    require(finished.returncode == 0, f"{command[:3]} failed:\n{finished.stderr[-2000:]}")
    return str(finished.stdout)


def require(holds: bool, message: str) -> None:
    """Stop with a message where something is not as it must be."""
    if not holds:
        sys.exit(f"FAILED: {message}")


def hashes(folder: Path) -> dict[str, str]:
    """Hash every file of an index folder."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def ranks(answer: dict[str, dict[str, list[str]]], good: object) -> dict[str, int]:
    """Rank of the first good chunk for each question; 21 where it is not among the first 20."""
    found: dict[str, int] = {}
    for query_id, doc_ids in answer["found"].items():
        places = [doc_ids.index(doc_id) + 1 for doc_id in good[query_id] if doc_id in doc_ids]  # type: ignore[index]
        found[query_id] = min(places, default=21)
    return found


def show(stock: dict[str, int], tuned: dict[str, int]) -> None:
    """Print how far the answers moved."""
    print(f"questions whose answer is first: stock {sum(r == 1 for r in stock.values())} of {len(stock)}, ", end="")
    print(f"tuned {sum(r == 1 for r in tuned.values())}")
    moved = sorted(stock, key=lambda query_id: tuned[query_id] - stock[query_id])[:5]
    for query_id in moved:
        print(f"  {query_id}: rank {stock[query_id]} -> {tuned[query_id]}")


if __name__ == "__main__":
    main()
