"""Run the way from a deployment's ratings to a tuned model, on PostgreSQL: chunks, harvest, review, train, check.

    python scripts/try_harvest.py --work runs/harvest
    python scripts/try_harvest.py --work runs/harvest --unreviewed
    python scripts/try_harvest.py --work runs/harvest --train F --test F --corpus F --relevant-docs all-good

The deployment is synthetic but realistic: DocsGPT's tables in a real PostgreSQL with pgvector, the chunks embedded with
the base model, and the training questions asked with DocsGPT's K of 2. The users are simulated from the known labels. A
share of the questions is rated, with a like if a good chunk is among the two; one rating in ten is wrong. One question
in five is a follow-up, and one in twenty contains an e-mail address. The simulated reviewer fills in good and bad in
the review file where the labels say so, and leaves all other rows open. Every other step is the `embtune` command that
a user would type. The test questions are never asked.
"""

import argparse
import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg

from docsgpt_embtune.data.dataset import RetrievalDataset, load_dataset
from docsgpt_embtune.data.sample import write_sample
from docsgpt_embtune.deployment.deployed_model import DeployedModel, load_deployed_model
from docsgpt_embtune.sources.review import read_review, write_review

K = 2  # DocsGPT's default
WRONG_THUMBS, FOLLOW_UPS, TELL_AN_ADDRESS = 0.1, 0.2, 0.05
ADDRESS = "somebody@example.com"
RECIPE = "--loss multiple-negatives-ranking --batch-size 32 --learning-rate 5e-5 --negatives 3".split()
SCHEMA = """
CREATE EXTENSION IF NOT EXISTS vector;
CREATE TABLE documents (id SERIAL PRIMARY KEY, text TEXT NOT NULL, embedding vector({}), metadata JSONB,
                        source_id TEXT NOT NULL, created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP);
CREATE TABLE conversations (id UUID PRIMARY KEY DEFAULT gen_random_uuid(), user_id TEXT NOT NULL, name TEXT,
                            date TIMESTAMPTZ NOT NULL DEFAULT now());
CREATE TABLE conversation_messages (
    id UUID PRIMARY KEY DEFAULT gen_random_uuid(), conversation_id UUID NOT NULL REFERENCES conversations (id),
    user_id TEXT NOT NULL, position INTEGER NOT NULL, prompt TEXT, response TEXT, sources JSONB NOT NULL DEFAULT '[]',
    feedback JSONB, timestamp TIMESTAMPTZ NOT NULL DEFAULT now(), status TEXT NOT NULL DEFAULT 'complete',
    UNIQUE (conversation_id, position)
);
"""


def main() -> None:
    """Harvest from a made-up deployment, train on it, and check."""
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # to keep its lines in order with the commands'
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for everything that is written")
    parser.add_argument("--train", type=Path, help="questions that users ask; the bundled sample's if not given")
    parser.add_argument("--test", type=Path, help="questions for the check")
    parser.add_argument("--corpus", type=Path, help="the chunks of both")
    parser.add_argument("--relevant-docs", choices=["good-bad", "all-good"])
    parser.add_argument("--base", default="bundled")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--unreviewed", action="store_true", help="let thumbs count as they are, to see what they lack")
    parser.add_argument("--rated", type=float, default=0.5, help="share of the questions whose answer somebody rates")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    work = arguments.work
    work.mkdir(parents=True, exist_ok=True)
    if arguments.train is None:
        write_sample(work)
        arguments.train, arguments.test, arguments.corpus = (
            work / name for name in ("train.json", "test.json", "corpus.json")
        )
    asked = load_dataset(arguments.train, corpus=arguments.corpus, relevant_docs=arguments.relevant_docs)
    harvest(work, asked, arguments)
    if ADDRESS in (work / "harvested.json").read_text(encoding="utf-8"):
        sys.exit(f"FAILED: {ADDRESS} is in {work / 'harvested.json'}")
    say_how_right(load_dataset(work / "harvested.json"), asked)
    tuned = work / "tuned"
    trained = ["train", "--train", work / "harvested.json", "--base", arguments.base, "--out", tuned, *RECIPE]
    embtune(*trained, "--epochs", arguments.epochs, "--seed", arguments.seed)
    settles = ["--relevant-docs", arguments.relevant_docs] if arguments.relevant_docs else []
    data = ["--data", arguments.test, "--corpus", arguments.corpus, *settles]
    embtune(
        "check", "--baseline", arguments.base, "--tuned", tuned, *data, "--json", work / "check.json", may_say_no=True
    )
    print(f"\nverdict: {json.loads((work / 'check.json').read_text(encoding='utf-8'))['verdict']}")


def harvest(work: Path, asked: RetrievalDataset, arguments: argparse.Namespace) -> None:
    """Create the deployment, and harvest `harvested.json` from it."""
    draw = random.Random(arguments.seed)
    with postgresql() as uri:
        rated = [query_id for query_id in asked.queries if draw.random() < arguments.rated]
        make_deployment(uri, asked.subset(rated), load_deployed_model(arguments.base), draw)
        embtune("chunks", "--pgvector", uri, "--out", work / "chunks.json")
        harvested = ["harvest", "--corpus", work / "chunks.json", "--out", work / "harvested.json"]
        if arguments.unreviewed:
            embtune(*harvested, "--postgres", uri, "--accept-unreviewed", "--yes")
            return
        review = work / "review.csv"
        embtune("harvest", "--corpus", work / "chunks.json", "--postgres", uri, "--review", review, "--yes")
        simulate_reviewer(review, asked, json.loads((work / "chunks.json").read_text(encoding="utf-8")))
        embtune(*harvested, "--reviewed", review)


@contextlib.contextmanager
def postgresql() -> Iterator[str]:
    """Run a PostgreSQL with pgvector in a temporary folder, which PostgreSQL's user must be able to enter."""
    from pgserver.postgres_server import get_server

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        server = get_server(Path(folder) / "data")
        try:
            yield server.get_uri()
        finally:
            server.cleanup()


def make_deployment(uri: str, asked: RetrievalDataset, model: DeployedModel, draw: random.Random) -> None:
    """Store the chunks with their vectors, and simulate users who ask and rate."""
    with psycopg.connect(uri, autocommit=True) as connection:
        connection.execute(SCHEMA.format(model.dimension))
        texts = list(asked.corpus.values())
        with connection.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO documents (text, embedding, metadata, source_id) VALUES (%s, %s, '{}', 'handbook')",
                [(t, json.dumps(v.tolist())) for t, v in zip(texts, model.embed(texts), strict=True)],
            )
        liked = 0
        for query_id, question in asked.queries.items():
            shown = search(connection, model, question)
            is_right = any(asked.corpus[doc_id] in shown for doc_id in asked.relevant_docs[query_id])
            is_liked = is_right != (draw.random() < WRONG_THUMBS)
            liked += is_liked
            add_message(connection, question, shown, "like" if is_liked else "dislike", draw)
    print(f"made a deployment: {len(texts):,} chunks; {len(asked):,} rated answers, {liked:,} liked (simulated users)")


def search(connection: Any, model: DeployedModel, question: str) -> list[str]:
    """Search as DocsGPT's pgvector store does."""
    nearest = "SELECT text FROM documents WHERE source_id = 'handbook' ORDER BY embedding <=> %s::vector LIMIT %s"
    vector = json.dumps(model.embeddings.embed_query(question))
    return [text for (text,) in connection.execute(nearest, [vector, K])]


def add_message(connection: Any, question: str, shown: list[str], thumb: str, draw: random.Random) -> None:
    """Store a rated answer in DocsGPT's form.

    The ids are drawn here because the database would draw other ones in every run, and the choice of questions held out
    for validation depends on them.
    """
    conversation, message = (uuid.UUID(int=draw.getrandbits(128), version=4) for _ in range(2))
    prompt = f"{question} Write to {ADDRESS}." if draw.random() < TELL_AN_ADDRESS else question
    sources = [{"text": text[:1000], "title": "Handbook", "source": "handbook.md"} for text in shown]
    connection.execute("INSERT INTO conversations (id, user_id, name) VALUES (%s, 'user-1', 'a talk')", [conversation])
    connection.execute(
        "INSERT INTO conversation_messages "
        "(id, conversation_id, user_id, position, prompt, response, sources, feedback) "
        "VALUES (%s, %s, 'user-1', %s, %s, 'An answer.', %s, %s)",
        [
            *(message, conversation, int(draw.random() < FOLLOW_UPS), prompt),
            *(json.dumps(sources), json.dumps({"text": thumb, "timestamp": "2026-03-01T10:00:00+00:00"})),
        ],
    )


def simulate_reviewer(review: Path, asked: RetrievalDataset, corpus: dict[str, str]) -> None:
    """Fill in the verdicts that follow from the known labels, and no others."""
    judged: dict[tuple[str, str], str] = {}
    for query_id, question in asked.queries.items():
        good, bad = asked.relevant_docs[query_id], asked.irrelevant_docs.get(query_id, ())
        for ids, verdict in ((bad, "bad"), (good, "good")):
            judged |= {(question, asked.corpus[doc_id]): verdict for doc_id in ids}
    rows = []
    for row in read_review(review):
        question = row.question.removesuffix(" Write to [email].")
        rows.append(replace(row, verdict=judged.get((question, corpus[row.doc_id]), "")))
    write_review(rows, review)
    count = Counter(row.verdict for row in rows)
    print(
        f"simulated reviewer, from the known labels: {count['good']:,} good, {count['bad']:,} bad, {count['']:,} open"
    )


def say_how_right(harvested: RetrievalDataset, asked: RetrievalDataset) -> None:
    """Compare the harvested dataset with the known labels."""
    known = {
        question: {asked.corpus[doc_id] for doc_id in asked.relevant_docs[query_id]}
        for query_id, question in asked.queries.items()
    }
    pairs = [
        (harvested.queries[query_id].removesuffix(" Write to [email]."), harvested.corpus[doc_id])
        for query_id, ids in harvested.relevant_docs.items()
        for doc_id in ids
    ]
    right = sum(text in known[question] for question, text in pairs)
    print(f"of {len(pairs):,} good chunks harvested {right:,} are good by the labels ({right / len(pairs):.0%})")


def embtune(*arguments: object, may_say_no: bool = False) -> None:
    """Run an `embtune` command as a user would, and exit if it fails."""
    command = [sys.executable, "-m", "docsgpt_embtune", *map(str, arguments)]
    print(f"\n$ embtune {' '.join(command[3:])}", flush=True)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    code = subprocess.run(command, check=False, env=environment).returncode
    if code and not (may_say_no and code == 1):
        sys.exit(code)


if __name__ == "__main__":
    main()
