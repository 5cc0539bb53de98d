"""Kill a re-embedding or its rollback with SIGKILL, and check that either the old or the new vectors are complete.

    python scripts/kill_reembed.py --store faiss --tuned models/tuned --third models/third --kills 100
    python scripts/kill_reembed.py --store pgvector --uri postgresql://… --tuned models/tuned --kills 100
    python scripts/kill_reembed.py --store qdrant --tuned models/tuned --kills 100
    python scripts/kill_reembed.py --store milvus --tuned models/tuned --kills 100 --disk /mnt/small
    python scripts/kill_reembed.py --store milvus --uri http://localhost:19530 --tuned models/tuned --kills 100

The script creates its own chunks, in a temporary folder, or in a table `documents` or a collection `docsgpt` that must
not exist yet. Without --uri, Qdrant and Milvus run in their embedded modes. The kills
are spread evenly over the stages of a run, because a swap takes a hundredth of the time of embedding, and happen at
random moments of each stage. After each kill, every stored vector is compared with the model's, and every text must be
there once. If the new vectors are active, they are rolled back; if the old ones are, the next run resumes the work.
After the last kill, one run finishes, and a rollback must restore the first state.
With --third, the switch from the tuned model to a third one is killed as often. The rollback after each kill must end
with all chunks on the model that .env names.
With --disk, a small separate file system (for PostgreSQL: the one with its data), the disk is filled up at the end.
"""

import argparse
import importlib
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from itertools import pairwise
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any, NoReturn

import faiss
import numpy as np
from tqdm import tqdm

from docsgpt_embtune.deployment import pgvector_store, reembed, vector_journal
from docsgpt_embtune.deployment.collection_store import DEFAULT_NAME, MARK, Collections, CollectionStore, Entry
from docsgpt_embtune.deployment.deployed_model import DeployedModel, load_deployed_model
from docsgpt_embtune.deployment.environment_file import EnvironmentFile
from docsgpt_embtune.deployment.faiss_store import FaissStore
from docsgpt_embtune.deployment.milvus_collections import NO_KEEPALIVE, open_milvus
from docsgpt_embtune.deployment.qdrant_collections import open_qdrant
from docsgpt_embtune.deployment.stores import ChunkStore
from docsgpt_embtune.errors import DeploymentError
from docsgpt_embtune.vectors import SAME_VECTOR, Vectors, cosines

Opener = Callable[[], AbstractContextManager[list[ChunkStore]]]
Announce = Callable[[str], object]  # takes one of STAGES, or DONE

CHUNKS = 100
OLD, NEW, FAILED = 0, 10, 1  # exit codes by which a process reports which vectors it found
STAGES = ("building", "swapping", "switching .env", "rolling back")
DONE = "done"
CLIENTS = {"pgvector": "psycopg", "qdrant": "qdrant_client", "milvus": "pymilvus"}
MOST_RUNS = 20  # per kill, as a stage may end before it is killed
SCHEMA = """
CREATE EXTENSION IF NOT EXISTS vector;
CREATE TABLE documents (id SERIAL PRIMARY KEY, text TEXT NOT NULL, embedding vector({}), metadata JSONB,
                        source_id TEXT NOT NULL, created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP)
"""


def main() -> None:
    """Run the trials, and print their results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", choices=["faiss", "pgvector", "qdrant", "milvus"], required=True)
    parser.add_argument("--uri", help="of the PostgreSQL, or of a server of Qdrant or Milvus")
    parser.add_argument("--stock", default="bundled")
    parser.add_argument("--tuned", required=True)
    parser.add_argument("--third", help="a model for a second switch, which is killed, too")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--disk", type=Path, help="a small file system of its own, to be filled up")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    vector_journal.BLOCK = 8  # small blocks make many writes, so that kills fall between them
    tqdm.set_lock(threading.RLock())  # tqdm's own is shared by forks: a killed holder blocks them
    if arguments.store in CLIENTS:
        importlib.import_module(CLIENTS[arguments.store])  # once here instead of in hundreds of forks
    models = [load_deployed_model(name) for name in (arguments.stock, arguments.tuned, arguments.third) if name]
    words = " ".join(topics.values()).split()
    texts = [f"{number} {' '.join(words[number * 30 : number * 30 + 20])}" for number in range(CHUNKS)]
    with tempfile.TemporaryDirectory(dir=arguments.disk) as name:
        environment = EnvironmentFile(Path(name) / ".env")
        environment.path.write_text(f"EMBEDDINGS_NAME={models[0].folder}\n", encoding="utf-8")
        with deployment(arguments.store, arguments.uri, Path(name), texts, models[0].embed(texts)) as opened:
            trial = Trial(opened, environment, models[:2], texts)
            trial.report(arguments.kills, random.Random(arguments.seed))
            if arguments.disk:
                trial.fill_up(arguments.disk)
                print("full disk: said so, all chunks whole; with room again the next run finished and was rolled back")
            if arguments.third:
                print("a second switch:")
                Trial(opened, environment, models, texts).report(arguments.kills, random.Random(arguments.seed))


class Trial:
    """One deployment that is re-embedded and checked in forked processes that can be killed.

    Args:
        opened: Opens the store; each forked process opens it for itself, and the parent never does.
        environment: The deployment's `.env`.
        models: The chunks' first model, then the models of the re-embeddings in order; runs to the last one are killed.
        texts: The chunks.
    """

    def __init__(
        self, opened: Opener, environment: EnvironmentFile, models: Sequence[DeployedModel], texts: list[str]
    ) -> None:
        self.opened = opened
        self.environment = environment
        self.models = models
        self.before, self.after = models[-2:]
        self.expected = {model.fingerprint: dict(zip(texts, model.embed(texts), strict=True)) for model in models}

    def report(self, kills: int, draw: random.Random) -> None:
        """Kill this many runs, and print how often the old and the new vectors were active."""
        found = self.kill(kills, draw)
        print(f"{'killed while':>14}   old in force   new in force")
        for stage in STAGES:
            print(f"{stage:>14}   {found[stage, OLD]:12}   {found[stage, NEW]:12}")
        print(
            f"{found.total()} kills: all {CHUNKS} chunks whole after each; the run after them finished, and was taken "
            "back"
        )

    def kill(self, kills: int, draw: random.Random) -> Counter[tuple[str, int]]:
        """Kill this many runs at random moments, in each stage in turn; count (stage, OLD or NEW vectors active)."""
        seconds = self.time_stages()
        found: Counter[tuple[str, int]] = Counter()
        for _ in range(MOST_RUNS * kills):
            if found.total() == kills:
                break
            self.set_up()
            stage = min(STAGES, key=lambda stage: found[stage, OLD] + found[stage, NEW])
            status, stages = in_process(self.there_and_back, kill=(stage, draw.uniform(0, seconds[stage])))
            require(status != FAILED, "the re-embedding")
            if stages[-1] == DONE:
                continue
            in_force, _ = in_process(self.look)
            require(in_force in (OLD, NEW), f"the store after a kill while {stages[-1]}")
            found[stages[-1], in_force] += 1
        require(found.total() == kills, f"a kill in each stage; they take {dict(seconds)} seconds")
        require(in_process(self.there)[0] == OLD, "the run after the last kill")
        require(in_process(self.look)[0] == NEW, "the new vectors after the last kill")
        require(in_process(self.look)[0] == OLD, "the old vectors after the last rollback")
        return found

    def set_up(self) -> None:
        """Make the switches before the killed one, so that `.env` also has an earlier step to roll back."""
        for model in self.models[:-1] if len(self.models) > 2 else ():
            require(in_process(partial(self.switch, model))[0] == OLD, "a switch before")

    def time_stages(self) -> Mapping[str, float]:
        """Re-embed and roll back without a kill; return the seconds that each stage takes."""
        self.set_up()
        announced: list[tuple[str, float]] = []
        status, stages = in_process(
            self.there_and_back, on_stage=lambda stage: announced.append((stage, time.monotonic()))
        )
        require(status == OLD and stages == (*STAGES, DONE), "a run that nobody kills")
        return {stage: end - began for (stage, began), (_, end) in pairwise(announced)}

    def fill_up(self, disk: Path) -> None:
        """Re-embed on a disk that becomes full, then again with free space."""
        ballast = disk / "ballast"
        room = 4 * self.after.dimension * CHUNKS // 2  # for half of the vectors
        try:
            with ballast.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, max(1, free_bytes(disk) - room))
            require(in_process(self.there_on_full_disk)[0] == OLD, "a clear error on a full disk")
        finally:
            ballast.unlink()
        require(in_process(self.look)[0] == OLD, "the old vectors after a full disk")
        require(in_process(self.there)[0] == OLD, "the run with room again")
        require(in_process(self.look)[0] == NEW, "the new vectors with room again")

    def there(self, announce: Announce) -> int:
        """Re-embed the store with the last model."""
        return self.switch(self.after, announce)

    def switch(self, model: DeployedModel, announce: Announce) -> int:
        """Re-embed the store with a model."""
        environment = AnnouncedEnvironment(self.environment.path, announce)
        with self.opened() as stores:
            reembed.reembed([AnnouncedStore(store, announce) for store in stores], model, environment)
        return OLD

    def there_and_back(self, announce: Announce) -> int:
        """Re-embed the store, and roll it back."""
        self.there(announce)
        with self.opened() as stores:
            announce("rolling back")
            reembed.roll_back(stores, self.environment)
            announce(DONE)
        return OLD

    def there_on_full_disk(self, announce: Announce) -> int:
        """Re-embed on a full disk, and check that it ends with an error message for users."""
        try:
            self.there(announce)
        except DeploymentError as error:
            require("old vectors are in force" in str(error), f"a message that says what is in force: {error}")
            return OLD
        return FAILED

    def look(self, _: Announce) -> int:
        """Check every chunk; if the new vectors are active, roll back, and check that all match `.env` again."""
        with self.opened() as stores:
            swapped = [store for store in stores if store.is_on(self.after)]
            for store in stores:
                self.check(store, self.after if store in swapped else self.before)
            if not swapped:
                return OLD
            reembed.roll_back(stores, self.environment)
        named = self.environment.get("EMBEDDINGS_NAME")
        require(named == self.before.name, f".env after a rollback: {named}")
        with self.opened() as stores:
            for store in stores:
                self.check(store, self.before)
        return NEW

    def check(self, store: ChunkStore, model: DeployedModel) -> None:
        """Exit with a message unless every chunk is there once, with this model's vector."""
        expected = self.expected[model.fingerprint]
        found = store.sample(2 * CHUNKS)
        require(sorted(found.texts) == sorted(expected), f"{len(found.texts)} chunks in {store.label}")
        agreement = cosines(found.vectors, np.array([expected[text] for text in found.texts]))
        require(agreement.min() >= SAME_VECTOR, f"a vector in {store.label} (cosine {agreement.min():.4f})")


class AnnouncedStore:
    """A store that announces when it is built and swapped."""

    def __init__(self, store: ChunkStore, announce: Announce) -> None:
        self._store = store
        self._announce = announce

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def build(self, model: DeployedModel) -> None:
        """Announce and build."""
        self._announce("building")
        self._store.build(model)

    def swap(self, model: DeployedModel) -> None:
        """Announce and swap."""
        self._announce("swapping")
        self._store.swap(model)


class AnnouncedEnvironment(EnvironmentFile):
    """A `.env` that announces when it is switched."""

    def __init__(self, path: Path, announce: Announce) -> None:
        super().__init__(path)
        self._announce = announce

    @contextmanager
    def switched(self, settings: Mapping[str, str], places: Collection[str] = ()) -> Iterator[None]:
        """Switch the settings, and announce it after the block."""
        with super().switched(settings, places):
            yield
            self._announce("switching .env")


def in_process(
    work: Callable[[Announce], int],
    *,
    kill: tuple[str, float] | None = None,
    on_stage: Announce = lambda stage: None,
) -> tuple[int, tuple[str, ...]]:
    """Run a function in a forked process.

    Args:
        work: The function; gets a function by which it announces its stages.
        kill: A stage, and the seconds after its announcement at which the process is killed.
        on_stage: Called with each stage when it is announced.

    Returns:
        The exit status, -9 if the process was killed, and the stages that it reached.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _work_and_exit(work, lambda stage: os.write(writing, f"{stage}\n".encode()))
    os.close(writing)
    stages: list[str] = []
    with open(reading, encoding="utf-8") as announced:
        for line in announced:
            if line.strip() in stages[-1:]:  # the same stage of a second store
                continue
            stages.append(line.strip())
            on_stage(stages[-1])
            if kill is not None and stages[-1] == kill[0]:
                time.sleep(kill[1])
                os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), tuple(stages)


def _work_and_exit(work: Callable[[Announce], int], announce: Announce) -> NoReturn:
    status = FAILED
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        status = work(announce)
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", flush=True)
    finally:
        os._exit(status)


def require(holds: object, what: str) -> None:
    """Exit with a message unless a condition holds."""
    if not holds:
        sys.exit(f"FAILED: {what}")


def free_bytes(disk: Path) -> int:
    """Return the bytes that are free for unprivileged users on a file system."""
    status = os.statvfs(disk)
    return status.f_bavail * status.f_frsize


@contextmanager
def deployment(store: str, uri: str | None, folder: Path, texts: list[str], vectors: Vectors) -> Iterator[Opener]:
    """Create a store with these chunks, and yield a function that opens it."""
    if store == "pgvector":
        if uri is None:
            sys.exit("pgvector needs --uri")
        with pgvector_deployment(uri, texts, vectors) as opened:
            yield opened
    elif store == "faiss":
        sources = [folder / "source", folder / "other"]  # two, so that a kill may fall between their swaps
        for source in sources:
            write_index_folder(source, texts, vectors)
        yield lambda: nullcontext([FaissStore(source) for source in sources])
    else:
        location = uri or str(folder / f"{store}.db")  # Milvus takes a name with this suffix for a file, not a server
        filled, _ = in_process(lambda _: fill_collection(store, location, texts, vectors))
        require(filled == OLD, f"a {store} to begin with")
        try:
            yield lambda: open_collection(store, location, folder / ".env")
        finally:
            in_process(lambda _: drop_collections(store, location))


def write_index_folder(folder: Path, texts: list[str], vectors: Vectors) -> None:
    """Write index.faiss and index.json."""
    folder.mkdir()
    index = faiss.IndexFlatL2(vectors.shape[1])
    index.add(vectors)
    faiss.write_index(index, str(folder / "index.faiss"))
    documents = {f"chunk-{row}": {"page_content": text, "metadata": {}} for row, text in enumerate(texts)}
    rows = {str(row): doc_id for row, doc_id in enumerate(documents)}
    content = {"version": 1, "documents": documents, "index_to_docstore_id": rows}
    (folder / "index.json").write_text(json.dumps(content), encoding="utf-8")


@contextmanager
def pgvector_deployment(uri: str, texts: list[str], vectors: Vectors) -> Iterator[Opener]:
    """Create the table `documents`, and drop it at the end."""
    import psycopg

    with psycopg.connect(uri, autocommit=True) as connection:
        connection.execute(SCHEMA.format(vectors.shape[1]))
        for text, vector in zip(texts, vectors, strict=True):
            row = [text, json.dumps(vector.tolist())]
            connection.execute("INSERT INTO documents (text, embedding, source_id) VALUES (%s, %s, 's')", row)
    try:
        yield lambda: pgvector_store.pgvector_stores(uri)
    finally:
        with psycopg.connect(uri, autocommit=True) as connection:
            connection.execute("DROP TABLE documents")


@contextmanager
def open_collection(store: str, location: str, environment: Path) -> Iterator[list[ChunkStore]]:
    """Open the store."""
    with open_database(store, location) as collections:
        yield [CollectionStore(collections, EnvironmentFile(environment))]


def open_database(store: str, location: str) -> AbstractContextManager[Collections]:
    """Open Qdrant or Milvus, a server or embedded."""
    return open_qdrant(location) if store == "qdrant" else open_milvus(location)


def fill_collection(store: str, location: str, texts: list[str], vectors: Vectors) -> int:
    """Create DocsGPT's collection with the chunks."""
    (make_qdrant if store == "qdrant" else make_milvus)(location, vectors.shape[1])
    doc_ids = [str(uuid.uuid4()) for _ in texts]
    payloads = [{"page_content": text, "metadata": {"source_id": "s"}} for text in texts]
    rows = [
        {"id": doc_id, "text": text, "source_id": "s", "metadata": {}}
        for doc_id, text in zip(doc_ids, texts, strict=True)
    ]
    contents = payloads if store == "qdrant" else rows
    entries = [Entry(*parts, metadata={}) for parts in zip(doc_ids, texts, contents, strict=True)]
    with open_database(store, location) as collections:
        collections.put(DEFAULT_NAME, entries, vectors)
    return OLD


def drop_collections(store: str, location: str) -> int:
    """Delete DocsGPT's collection, and those that were built from it."""
    with open_database(store, location) as collections:
        for name in collections.names():
            if name == DEFAULT_NAME or name.startswith(f"{DEFAULT_NAME}{MARK}"):
                collections.drop(name)
    return OLD


def make_qdrant(location: str, width: int) -> None:
    """Make the empty collection as DocsGPT does."""
    from qdrant_client import QdrantClient
    from qdrant_client.models import Distance, VectorParams

    client = QdrantClient(url=location) if "://" in location else QdrantClient(path=location)
    client.create_collection(DEFAULT_NAME, vectors_config=VectorParams(size=width, distance=Distance.COSINE))
    client.close()


def make_milvus(location: str, width: int) -> None:
    """Make the empty collection as DocsGPT does."""
    from pymilvus import DataType, MilvusClient

    client = MilvusClient(uri=location, grpc_options=NO_KEEPALIVE)  # pymilvus reuses the connection for later clients
    schema = client.create_schema(auto_id=False, enable_dynamic_field=True)
    schema.add_field("id", DataType.VARCHAR, is_primary=True, max_length=64)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=width)
    schema.add_field("text", DataType.VARCHAR, max_length=65535)
    schema.add_field("source_id", DataType.VARCHAR, max_length=512)
    schema.add_field("metadata", DataType.JSON, nullable=True)
    index = client.prepare_index_params()
    index.add_index(field_name="vector", index_type="AUTOINDEX", metric_type="COSINE")
    require(not client.has_collection(DEFAULT_NAME), f"no collection {DEFAULT_NAME} in {location}")
    client.create_collection(DEFAULT_NAME, schema=schema, index_params=index)
    client.close()


if __name__ == "__main__":
    main()
