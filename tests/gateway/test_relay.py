"""A query adapter for a server's model: made by asking a server on loopback, and served before it."""

import asyncio
import json
import re
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest
from click.testing import CliRunner

from docsgpt_embtune import remote_model
from docsgpt_embtune.adapter import ADAPTER_FILE, load_query_adapter
from docsgpt_embtune.base_models import resolve_base
from docsgpt_embtune.cli import main
from docsgpt_embtune.data.dataset import save_dataset
from docsgpt_embtune.deployment.deployed_model import load_deployed_model
from docsgpt_embtune.embeddings import StockEmbeddings, TunedEmbeddings
from docsgpt_embtune.errors import ModelFolderError, RemoteModelError, TrainingError
from docsgpt_embtune.evaluation.report import write_report
from docsgpt_embtune.evaluation.retrieval_check import check_retrieval
from docsgpt_embtune.evaluation.summary import summary
from docsgpt_embtune.exporting.export import export
from docsgpt_embtune.gateway.app import Gateway
from docsgpt_embtune.gateway.config import Limits, ServerConfig
from docsgpt_embtune.gateway.model import GatewayModel, RelayedModel, served_model
from docsgpt_embtune.gateway.protocol import RequestError
from docsgpt_embtune.gateway.server import instructions
from docsgpt_embtune.manifest import read_manifest
from docsgpt_embtune.openai_client.client import OpenAIClient, Patience, UnansweredRequestError
from docsgpt_embtune.remote_model import KEY_VARIABLE, RemoteEmbeddings, RemoteModel
from docsgpt_embtune.serving.keywords import load_keywords
from docsgpt_embtune.training.keywords.weights import USUAL_WEIGHT
from docsgpt_embtune.training.query_adapter.adapting import adapt
from docsgpt_embtune.training.query_adapter.adapting import summary as adapted_in_words
from docsgpt_embtune.training.query_adapter.server_keywords import summary as keywords_in_words
from docsgpt_embtune.training.query_adapter.server_keywords import write_keywords_for_server
from docsgpt_embtune.vectors import unit_norm
from docsgpt_embtune.wording import silent

from ..conftest import TEXTS
from ..deployment.conftest import write_index_folder
from ..embeddings_server import ENDLESS, TOKENS, TOO_LONG, serving
from ..gateway_process import KEY, server
from ..sample_questions import TRAINING, VALIDATION, dataset
from ..waiting import wait_until

UNSEEN = dataset(nouns=["log", "worker", "invoice"], verbs=["verified twice"])


@pytest.fixture(scope="module", autouse=True)
def _key():
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv(KEY_VARIABLE, KEY)
        yield


@pytest.fixture(scope="module")
def stock(tiny_base_folder):
    return StockEmbeddings(tiny_base_folder)


@pytest.fixture(scope="module")
def upstream(stock):
    with serving(stock) as running:
        yield running


@pytest.fixture(scope="module")
def adapted(upstream, tmp_path_factory):
    out = tmp_path_factory.mktemp("adapted") / "handbook"
    return adapt(TRAINING, VALIDATION, out, model=upstream.name, keep_worse=True)


@pytest.fixture(scope="module")
def matrix(adapted):
    return load_query_adapter(adapted.folder, read_manifest(adapted.folder))


def test_adapter_is_the_one_that_the_same_model_here_would_get(adapted, matrix, tiny_base_folder, tmp_path):
    local = adapt(TRAINING, VALIDATION, tmp_path / "local", model=str(tiny_base_folder), keep_worse=True)
    assert np.allclose(matrix.matrix, local.adapter.matrix, atol=1e-5)
    assert sorted(path.name for path in adapted.folder.iterdir()) == ["embtune.json", ADAPTER_FILE]
    written, of_local = (read_manifest(report.folder)["data"]["seen_queries"] for report in (adapted, local))
    assert written == of_local


def test_check_asks_the_server_and_embeds_the_corpus_once(adapted, upstream, tiny_base_folder, tmp_path):
    upstream.texts.clear()
    remote = check_retrieval(upstream.name, adapted.folder, UNSEEN, guards={"same": UNSEEN}, cache=tmp_path / "cache")
    assert sorted(upstream.texts) == sorted(UNSEEN.corpus.values())
    local = adapt(TRAINING, VALIDATION, tmp_path / "local", model=str(tiny_base_folder), keep_worse=True).folder
    assert remote.main.scores == check_retrieval(tiny_base_folder, local, UNSEEN).main.scores
    assert remote.truncation is remote.tokens_per_answer is None
    assert "not told by the server" in summary(remote)
    write_report(remote, tmp_path / "check.html")
    assert "not told by the server" in (tmp_path / "check.html").read_text()

    both = check_retrieval(adapted.folder, adapted.folder, UNSEEN, cache=tmp_path / "cache")
    assert (both.baseline.fingerprint, both.verdict) == (both.tuned.fingerprint, "not enough evidence")
    with pytest.raises(Exception, match="learned from the 40 questions given"):
        check_retrieval(upstream.name, adapted.folder, TRAINING)


def test_relay_moves_questions_and_leaves_chunks(adapted, upstream, stock, matrix):
    with server(adapted.folder) as relay, httpx.Client(headers={"Authorization": f"Bearer {KEY}"}) as client:

        def ask(asked):
            answer = client.post(f"{relay.address}/v1/embeddings", json={"input": asked, "model": "org/minilm"})
            assert answer.status_code == 200, answer.text
            return answer.json()

        chunks = ask(list(TEXTS) * 8)
        assert [each["embedding"] for each in chunks["data"]] == stock.embed_documents(list(TEXTS)) * 8
        assert chunks["usage"]["prompt_tokens"] == TOKENS * 8 * len(TEXTS)
        upstream.questions.clear()
        question = ask("when is the log kept")
        assert question["data"][0]["embedding"] == matrix(stock.embed_query("when is the log kept"))
        assert question["model"] == "org/minilm"
        assert ask("when is the log kept") == question
        assert upstream.questions == ["when is the log kept"]
        relay.send_signal(signal.SIGTERM)
        assert relay.wait(20) == 0
        assert "3 requests taken, 3 answered" in relay.stdout.read()


@pytest.mark.parametrize("asked", [ENDLESS, [ENDLESS]])
def test_server_that_says_nothing_cannot_keep_a_stopped_relay(adapted, upstream, asked):
    upstream.questions.clear()
    upstream.texts.clear()
    with server(adapted.folder, "--finish-seconds", "1") as relay, ThreadPoolExecutor(1) as pool:
        headers = {"Authorization": f"Bearer {KEY}"}
        url = f"{relay.address}/v1/embeddings"
        answer = pool.submit(httpx.post, url, json={"input": asked}, headers=headers, timeout=60)
        wait_until(lambda: ENDLESS in upstream.questions + upstream.texts)
        relay.send_signal(signal.SIGTERM)
        assert relay.wait(20) == 0
        assert "1 request taken, 0 answered, 1 cut off after 1 s" in relay.stdout.read()
        assert (answer.result().status_code, answer.result().headers["Retry-After"]) == (503, "10")


@pytest.fixture(scope="module")
def with_keywords(upstream, tmp_path_factory):
    out = tmp_path_factory.mktemp("keywords") / "handbook"
    return adapt(TRAINING, VALIDATION, out, model=upstream.name, keywords=True, keep_worse=True)


def test_keywords_join_the_servers_vectors(with_keywords, stock, matrix):
    keywords = load_keywords(with_keywords.folder)
    assert with_keywords.keywords.weight == keywords.weight > 0
    question = "when is the log kept"
    with closing(RemoteModel.adapted_in(with_keywords.folder).load()) as served:
        chunks = keywords.beside(np.array(stock.embed_documents(TEXTS)), keywords.of_documents(TEXTS))
        assert np.allclose(served.embed_documents(TEXTS), chunks, atol=1e-6)
        asked = keywords.beside(np.array([matrix(stock.embed_query(question))]), keywords.of_questions([question]))
        assert np.allclose(served.embed_query(question), asked[0], atol=1e-5)
        assert served.dimension == len(asked[0]) == read_manifest(with_keywords.folder)["dimension"]
    assert "stored chunks need their keywords: embtune reembed --model" in adapted_in_words(with_keywords)


@pytest.fixture(scope="module")
def keywords_alone(upstream, tmp_path_factory):
    return write_keywords_for_server(
        TRAINING.corpus, tmp_path_factory.mktemp("alone") / "handbook", model=upstream.name
    )


def test_without_questions_keywords_stand_beside_at_the_usual_weight(keywords_alone, upstream, stock):
    manifest = read_manifest(keywords_alone.folder)
    assert sorted(path.name for path in keywords_alone.folder.iterdir()) == ["embtune.json", "keywords.safetensors"]
    assert manifest["keywords"]["weight"] == USUAL_WEIGHT
    assert manifest["keywords"]["validation"]["asked_by"] == "words of the chunks and sentences cut out of them"
    assert manifest["data"]["seen_queries"] == []
    assert "query_adapter" not in manifest
    keywords = load_keywords(keywords_alone.folder)
    question = "when is the log kept"
    with closing(RemoteModel.adapted_in(keywords_alone.folder).load()) as served:
        chunks = keywords.beside(np.array(stock.embed_documents(TEXTS)), keywords.of_documents(TEXTS))
        assert np.allclose(served.embed_documents(TEXTS), chunks, atol=1e-6)
        asked = keywords.beside(np.array([stock.embed_query(question)]), keywords.of_questions([question]))
        assert np.allclose(served.embed_query(question), asked[0], atol=1e-6)
    upstream.texts.clear()
    compared = check_retrieval(upstream.name, keywords_alone.folder, UNSEEN)
    assert sorted(upstream.texts) == sorted(UNSEEN.corpus.values())  # once for both
    assert compared.baseline.fingerprint != compared.tuned.fingerprint
    assert "stored chunks need their keywords: embtune reembed --model" in keywords_in_words(keywords_alone)


@pytest.mark.parametrize("corpus", [{"1": TEXTS[0]}, {str(n): f"x{n} = f({n}); y[{n}] += 1" for n in range(20)}])
def test_where_no_chunk_can_be_asked_for_questions_are_wanted(corpus, upstream, tmp_path):
    with pytest.raises(TrainingError, match=r"chunks?: too few, or too little prose.*; give questions, with --train"):
        write_keywords_for_server(corpus, tmp_path / "out", model=upstream.name)


class _Knowing:
    """Puts a chunk and each of its sentences at one place, and beside it the chunk that says the same backwards."""

    def embed_query(self, text):
        words = re.findall(r"\b[wxy][a-i][a-j]{2}\b", text) or ["waaa"]  # where it is asked how wide it is
        topic = int("".join(str("abcdefghij".index(letter)) for letter in words[0][2:]))
        backwards = words[-1][0] == "x" or (words[-1][0] == "w" and words[0] > words[-1])
        vector = np.zeros(2 * _TOPICS)
        vector[[2 * topic, 2 * topic + 1]] = (0.9, 0.19**0.5) if backwards else (1, 0)
        return vector.tolist()

    def embed_documents(self, texts):
        return [self.embed_query(text) for text in texts]


_TOPICS = 100


def test_keywords_that_the_chunks_speak_against_are_not_written_unless_told(tmp_path):
    corpus = {}
    for topic in range(_TOPICS):
        name = "".join("abcdefghij"[int(digit)] for digit in f"{topic:02}")
        words = [f"w{letter}{name}" for letter in "abcdefg"]
        corpus[f"{name} forwards"] = f"{' '.join(words)}. {' '.join(f'y{letter}{name}' for letter in 'abcdefghi')}."
        others = " ".join(f"x{letter}{name}" for letter in "abcdefghi")
        corpus[f"{name} backwards"] = f"{' '.join(reversed(words))}. {others}."
    with serving(_Knowing()) as running:
        report = write_keywords_for_server(corpus, tmp_path / "lost", model=running.name)
        assert (report.folder, (tmp_path / "lost").exists()) == (None, False)
        assert "found less often, beyond chance, so nothing was written" in keywords_in_words(report)
        assert write_keywords_for_server(corpus, tmp_path / "kept", model=running.name, keep_worse=True).folder.is_dir()


def test_stored_chunks_get_their_keywords(with_keywords, adapted, tiny_base_folder, tmp_path):
    index = write_index_folder(tmp_path / "indexes" / "handbook", load_deployed_model(str(tiny_base_folder)))
    stores = ["--indexes", str(tmp_path / "indexes")]

    def run(*command):
        return CliRunner().invoke(main, [str(each) for each in command])

    assert "nothing wrong" in run("doctor", "--model", adapted.folder, *stores).output
    assert "vectors of 32 numbers, the model gives" in run("doctor", "--model", with_keywords.folder, *stores).output
    before = (index / "index.faiss").read_bytes()
    swapped = run("reembed", "--model", with_keywords.folder, *stores)
    assert swapped.exit_code == 0, swapped.output
    assert "set in DocsGPT's .env:  EMBEDDINGS_BASE_URL, to where it is served" in swapped.output
    assert "nothing wrong" in run("doctor", "--model", with_keywords.folder, *stores).output
    rolled_back = run("reembed", *stores, "--rollback")
    assert "set EMBEDDINGS_NAME, and EMBEDDINGS_BASE_URL if any, in DocsGPT's .env back" in rolled_back.output
    assert rolled_back.exit_code == 0
    assert (index / "index.faiss").read_bytes() == before

    (tmp_path / ".env").write_text("VECTOR_STORE=faiss\n")
    switch = ["reembed", "--model", with_keywords.folder, *stores, "--env", tmp_path / ".env"]
    assert "address; give it with --served-at URL#NAME" in run(*switch).stderr
    assert (tmp_path / ".env").read_text() == "VECTOR_STORE=faiss\n"
    assert run(*switch, "--served-at", "http://relay:8765/v1#minilm").exit_code == 0
    assert (tmp_path / ".env").read_text() == (
        "VECTOR_STORE=faiss\nEMBEDDINGS_BASE_URL=http://relay:8765\nEMBEDDINGS_NAME=minilm\n"
    )
    assert "nothing wrong" in run("doctor", "--model", with_keywords.folder, *stores).output


def test_rollback_takes_the_servers_key_from_env_as_reembed_does(
    with_keywords, tiny_base_folder, tmp_path, monkeypatch
):
    monkeypatch.delenv(KEY_VARIABLE)
    write_index_folder(tmp_path / "indexes" / "handbook", load_deployed_model(str(tiny_base_folder)))
    (tmp_path / ".env").write_text(f"VECTOR_STORE=faiss\nEMBEDDINGS_KEY={KEY}\n")
    given = ["--model", str(with_keywords.folder), "--indexes", str(tmp_path / "indexes")]
    command = ["reembed", *given, "--env", str(tmp_path / ".env")]
    for further in (["--served-at", "http://relay:8765#minilm"], ["--rollback"]):
        result = CliRunner().invoke(main, [*command, *further])
        assert result.exit_code == 0, result.output
    assert (tmp_path / ".env").read_text() == f"VECTOR_STORE=faiss\nEMBEDDINGS_KEY={KEY}\n"


def test_relay_with_keywords_says_that_chunks_need_them(with_keywords, upstream):
    remote = RemoteModel.adapted_in(with_keywords.folder)
    with closing(remote.load()) as server:
        served = RelayedModel(remote, server)
        narrow, wide = ("\n".join(instructions(served, ServerConfig(width=width), 8765)) for width in (None, 1024))
    assert f"stored with {upstream.name} must be embedded again" in narrow
    assert "note: DocsGPT takes" not in narrow  # a small model has just as many as DocsGPT takes it to have
    assert f"embtune reembed --model {with_keywords.folder} --pgvector, which makes the column as wide" in wide


@pytest.mark.parametrize("file", ["query_adapter.safetensors", "keywords.safetensors"])
def test_folder_that_was_half_copied_is_refused(with_keywords, tmp_path, file):
    folder = Path(shutil.copytree(with_keywords.folder, tmp_path / "copied"))
    content = (folder / file).read_bytes()
    (folder / file).write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelFolderError, match="a file is missing, half-copied or changed"):
        RemoteModel.adapted_in(folder).load()


@contextmanager
def relayed(upstream, folder, say=silent):
    """A relay in this process, whose patience ends at once."""
    remote = RemoteModel(upstream.name.partition("#")[0], "org/minilm", folder)
    client = OpenAIClient(
        f"{remote.url}/v1/embeddings",
        remote.model,
        key=KEY,
        settings="it",
        error=RemoteModelError,
        patience=Patience(attempts=2, first_wait=0.001, longest_wait=0.001),
    )
    with closing(RemoteEmbeddings.connect(client)) as embeddings:
        yield RelayedModel(remote, embeddings, say)


@pytest.mark.parametrize(
    ("asked", "status", "reason"),
    [
        (TOO_LONG, 400, "the server behind this one: HTTP 400: 'input is too long', for 1 text (the longest: "),
        ("silence", 502, "the server behind this one gives no answer that can be used; try again later"),
    ],
)
@pytest.mark.parametrize("as_list", [False, True])
def test_what_the_server_refuses_is_passed_on_without_its_address(adapted, upstream, asked, status, reason, as_list):
    async def ask():
        gateway = Gateway(model, "minilm", "fingerprint", Limits())
        transport = httpx.ASGITransport(gateway.app())
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
            answer = await client.post("/v1/embeddings", json={"input": [asked] if as_list else asked})
            return answer, (await client.get("/metrics")).text

    said = []
    with relayed(upstream, adapted.folder, said.append) as served, closing(GatewayModel(served)) as model:
        answer, metrics = asyncio.run(ask())
    message = answer.json()["error"]["message"]
    assert (answer.status_code, reason in message, "127.0.0.1" in message) == (status, True, False)
    if status == 502:  # its operator reads the rest
        assert re.search(r"http://127\.0\.0\.1:\d+/v1/embeddings: HTTP 429, and asks to wait 600 s", said.pop())
    assert said == []
    assert f'embtune_requests_total{{status="{status}"}} 1.0' in metrics


def test_texts_that_the_server_stumbles_over_are_told_of(adapted, upstream, monkeypatch):
    def stumble(*_):
        raise UnansweredRequestError("2 attempts, the last: HTTP 500")

    with relayed(upstream, adapted.folder) as served:
        monkeypatch.setattr(served._server._client, "post", stumble)
        told = r"^the server behind this one: 2 attempts, the last: HTTP 500, for 1 text .*cut the chunks smaller"
        with pytest.raises(RequestError, match=told) as refused:
            served.embed_documents(["a"])
    assert refused.value.status == 502


@pytest.mark.parametrize(
    ("width", "said", "unsaid"), [(None, "stay as they are", "768"), (64, "must be uploaded again", "stay as they are")]
)
def test_operator_is_told_what_to_set_for_the_relay(adapted, upstream, width, said, unsaid):
    with relayed(upstream, adapted.folder) as served:
        text = "\n".join(instructions(served, ServerConfig(width=width), 8765))
    assert "EMBEDDINGS_NAME=org/minilm" in text
    assert said in text
    assert unsaid not in text


@pytest.mark.parametrize(("turned", "is_taken"), [(0.06, True), (0.1, False)])  # cosines .9982, as of int8, and .995
def test_a_model_that_was_tuned_a_little_is_another_and_int8_is_not(adapted, upstream, monkeypatch, turned, is_taken):
    class Turned:
        def embed_documents(self, texts, own=upstream.model):
            vectors = np.array(own.embed_documents(texts))
            aside = np.zeros_like(vectors)
            aside[:, 0], aside[:, 1] = -vectors[:, 1], vectors[:, 0]
            return unit_norm(vectors + turned * unit_norm(aside)).tolist()

    monkeypatch.setattr(upstream, "model", Turned())
    remote = RemoteModel.adapted_in(adapted.folder)
    if is_taken:
        remote.load().close()
    else:
        with pytest.raises(RemoteModelError, match=r"was made for \(cosine 0\.995"):
            remote.load()


def test_another_model_behind_the_address_is_noticed(adapted, upstream, tiny_tuned_folder, monkeypatch):
    before = upstream.model
    monkeypatch.setattr(upstream, "model", TunedEmbeddings(str(tiny_tuned_folder)))
    with pytest.raises(RemoteModelError, match=r"not the model that .*handbook was made for \(cosine"):
        RemoteModel.adapted_in(adapted.folder).load()

    monkeypatch.setattr(upstream, "model", before)
    with closing(RemoteModel.adapted_in(adapted.folder).load()) as server:
        server.ask_question("when is the log kept")
        monkeypatch.setattr(upstream, "model", TunedEmbeddings(str(tiny_tuned_folder)))
        server.ask_question("when is the log kept")  # not asked about yet
        monkeypatch.setattr(remote_model, "PROBED_EVERY", 0.0)
        for ask, asked in ((server.ask_question, "when is the log kept"), (server.ask_chunks, TEXTS)):
            with pytest.raises(RemoteModelError, match="not the model that"):
                ask(asked)
        monkeypatch.setattr(upstream, "model", before)
        assert len(server.ask_chunks(TEXTS).vectors) == len(TEXTS)

    monkeypatch.setattr(before, "embed_documents", lambda texts: [[1.0, 0.0]] * len(texts))
    monkeypatch.setattr(upstream, "model", before)
    with pytest.raises(RemoteModelError, match="2 numbers in a vector, not 32"):
        RemoteModel.adapted_in(adapted.folder).load()


def test_server_is_asked_where_it_is_now(adapted, stock, monkeypatch):
    with serving(stock) as moved:
        url = moved.name.partition("#")[0]
        monkeypatch.setenv("EMBTUNE_UPSTREAM", f"{url}/v1/")
        remote = RemoteModel.adapted_in(adapted.folder)
        assert (remote.url, remote.model) == (url, "org/minilm")
        with closing(remote.load()) as server:
            assert server.embed_documents(TEXTS) == stock.embed_documents(TEXTS)
        assert moved.texts == list(TEXTS)
    assert remote.document_fingerprint == read_manifest(adapted.folder)["server"]["document_fingerprint"]


def test_folder_below_the_home_folder_is_found(adapted, monkeypatch):
    monkeypatch.setenv("HOME", str(adapted.folder.parent))
    with served_model(f"~/{adapted.folder.name}") as served:
        assert served.label == str(adapted.folder)


def test_address_of_a_moved_server_is_named_where_it_is_wrong(adapted, monkeypatch):
    monkeypatch.setenv("EMBTUNE_UPSTREAM", "embed:8080")
    with pytest.raises(RemoteModelError, match="does not begin with http:// or https://; check EMBTUNE_UPSTREAM, if"):
        RemoteModel.adapted_in(adapted.folder).load()


def test_address_of_a_moved_server_with_a_query_is_named_before_it_is_asked(adapted, monkeypatch):
    monkeypatch.setenv("EMBTUNE_UPSTREAM", "http://embed:8080/?version=2")
    with pytest.raises(RemoteModelError, match=r"^EMBTUNE_UPSTREAM=http://embed:8080/: has a query .*; leave it out"):
        RemoteModel.adapted_in(adapted.folder)


def test_vectors_of_the_cache_that_another_model_made_are_noticed(stock, tiny_tuned_folder, tmp_path):
    with serving(TunedEmbeddings(str(tiny_tuned_folder))) as running:
        adapt(TRAINING, None, tmp_path / "first", model=running.name, keep_worse=True, cache=tmp_path / "cache")
        running.model = stock
        with pytest.raises(ModelFolderError, match="give another --cache"):
            adapt(TRAINING, None, tmp_path / "second", model=running.name, keep_worse=True, cache=tmp_path / "cache")
    assert not (tmp_path / "second").exists()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (lambda vectors: 2 * vectors, r"not the model that .* \(cosine 1\.000 .*, length 2\.000\)"),
        (lambda vectors: vectors[:, :8], r"vectors: 1 of 8 numbers, wanted 1 of 32"),
    ],
    ids=["length", "width"],
)
def test_vectors_that_become_longer_or_narrower_are_noticed(adapted, upstream, monkeypatch, changed, said):
    class Changed:
        def embed_documents(self, texts, own=upstream.model):
            return changed(np.array(own.embed_documents(texts))).tolist()

    monkeypatch.setattr(remote_model, "PROBED_EVERY", 0.0)
    with closing(RemoteModel.adapted_in(adapted.folder).load()) as server:
        monkeypatch.setattr(upstream, "model", Changed())
        with pytest.raises(RemoteModelError, match=said):
            server.ask_question("when is the log kept")


class _Unnormalised:
    """Gives each text the same vector, of length 2."""

    def embed_documents(self, texts):
        return [[2.0, 0.0]] * len(texts)


def test_vectors_of_another_length_are_refused_before_the_chunks_are_sent(tmp_path):
    with serving(_Unnormalised()) as running:
        for make, given in ((adapt, (TRAINING, None)), (write_keywords_for_server, (TRAINING.corpus,))):
            with pytest.raises(ModelFolderError, match=r"length 2\.000, .* let the server normalise them"):
                make(*given, tmp_path / "out", model=running.name)
        assert running.texts == []


def test_where_a_model_is_needed_the_folder_is_refused(adapted, upstream):
    for use in (TunedEmbeddings, resolve_base, export):
        with pytest.raises(ModelFolderError, match=r"made for .org/minilm. of http"):
            use(str(adapted.folder))
    with pytest.raises(ModelFolderError, match=r"a server's model, which only .* `doctor` with --model, take"):
        resolve_base(upstream.name)
    with pytest.raises(ModelFolderError, match="--keywords is for a server's model"):
        adapt(TRAINING, None, adapted.folder.parent / "another", keywords=True)


def test_command_says_how_to_serve_it_and_shows_no_key(upstream, tmp_path, monkeypatch):
    save_dataset(TRAINING, tmp_path / "train.json")
    given = ["--train", str(tmp_path / "train.json"), "--cache", str(tmp_path / "cache"), "--keep-worse"]
    adapting = ["adapt", "--model", upstream.name, *given]
    result = CliRunner().invoke(main, [*adapting, "--out", str(tmp_path / "handbook")])
    assert f"works through `embtune serve {tmp_path / 'handbook'}`, which asks the server" in result.output
    assert "--keywords tries more, for which stored chunks have to be embedded again" in result.output
    manifest = read_manifest(tmp_path / "handbook")
    with_password = RemoteModel.named(upstream.name.replace("//", "//user:hunter2@"))
    recorded = with_password.record(manifest["server"]["probe"], with_password.document_fingerprint)
    assert manifest["server"] == recorded
    assert manifest["server"]["url"] == upstream.name.partition("#")[0]
    assert KEY not in result.output + json.dumps(manifest)

    monkeypatch.setenv(KEY_VARIABLE, "sk-wrong")
    for command in ([*adapting, "--out", str(tmp_path / "another")], ["serve", str(tmp_path / "handbook")]):
        refused = CliRunner(env={"EMBTUNE_API_KEY": KEY}).invoke(main, command)
        assert refused.exit_code == 2
        assert "HTTP 401 for model 'org/minilm'" in refused.stderr
        assert "sk-wrong" not in refused.output
