"""A baseline behind a server: the real one on loopback, and one that misbehaves."""

import base64
import json
import math
from contextlib import closing, contextmanager
from http.server import ThreadingHTTPServer

import numpy as np
import pytest
from click.testing import CliRunner

from docsgpt_embtune import remote_model
from docsgpt_embtune.cli import main
from docsgpt_embtune.data.dataset import RetrievalDataset, save_dataset
from docsgpt_embtune.errors import RefusedTextsError, RemoteModelError
from docsgpt_embtune.evaluation.retrieval_check import check_retrieval
from docsgpt_embtune.openai_client.client import OpenAIClient, Patience
from docsgpt_embtune.remote_model import KEY_VARIABLE, RemoteEmbeddings, RemoteModel

from .conftest import TEXTS
from .gateway_process import KEY, server
from .loopback import JsonHandler, answering

LONGEST_TAKEN = 40
FAULT = {"error": {"message": "out of memory"}}


class _Handler(JsonHandler):
    """Gives each text its length as a vector, the last text's first; refuses every second request at first."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(asked)
        texts = [asked["input"]] if isinstance(asked["input"], str) else asked["input"]
        if max(map(len, texts)) > LONGEST_TAKEN:
            self.reply(400, {"error": {"message": "input is too long"}})
        elif self.server.fault:
            self.reply(500, self.server.fault)
        elif self.server.refusals.pop() if self.server.refusals else False:
            self.reply(503, {})
        else:
            vectors = [{"index": n, "embedding": self.server.odd or [len(t), 1]} for n, t in enumerate(texts)]
            self.reply(200, {"data": self.server.sent(vectors)})


@contextmanager
def misbehaving(sent=reversed):
    running = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    running.asked, running.refusals = [], [True, False, True, False]
    running.odd, running.fault, running.sent = None, None, lambda vectors: list(sent(vectors))
    with answering(running):
        yield running


@contextmanager
def embeddings_of(running, say=lambda line: None):
    url = f"http://127.0.0.1:{running.server_address[1]}/v1/embeddings"
    client = OpenAIClient(
        url, "m", key=None, settings="it", error=RemoteModelError, patience=Patience(first_wait=0.001), say=say
    )
    with closing(client):
        yield RemoteEmbeddings.connect(client)


@pytest.fixture
def dataset():
    return RetrievalDataset(
        queries={str(i): " ".join(text.split()[:5]) for i, text in enumerate(TEXTS)},
        corpus={str(i): text for i, text in enumerate(TEXTS)},
        relevant_docs={str(i): (str(i),) for i in range(len(TEXTS))},
    )


def test_served_model_counts_as_the_same_model_does_from_its_folder(
    tiny_base_folder, tiny_tuned_folder, dataset, tmp_path, monkeypatch
):
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    with server(tiny_tuned_folder) as gateway:
        remote = check_retrieval(f"{gateway.address}/v1#{tiny_tuned_folder.name}", tiny_tuned_folder, dataset)
        local = check_retrieval(tiny_tuned_folder, tiny_tuned_folder, dataset)
        assert remote.main.scores == local.main.scores
        assert remote.main.query_ranks() == local.main.query_ranks()

        save_dataset(dataset, tmp_path / "test.json")
        given = ["--tuned", str(tiny_base_folder), "--data", str(tmp_path / "test.json"), "--cache", str(tmp_path)]
        files = ["--json", str(tmp_path / "check.json"), "--report", str(tmp_path / "check.html")]
        name = f"{gateway.address}#{tiny_tuned_folder.name}"
        result = CliRunner().invoke(main, ["check", "--baseline", name, *given, *files])
        assert f"baseline   {name} (" in result.output
        assert json.loads((tmp_path / "check.json").read_text())["models"]["baseline"]["name"] == name
        assert KEY not in result.output + (tmp_path / "check.html").read_text()

        monkeypatch.setenv(KEY_VARIABLE, "sk-wrong")
        refused = CliRunner().invoke(main, ["check", "--baseline", name, *given])
        assert refused.exit_code == 2
        assert "HTTP 401 for model" in refused.stderr
        assert f"check URL#MODEL and the key in {KEY_VARIABLE}" in refused.stderr
        assert "sk-wrong" not in refused.output


def test_questions_are_sent_as_strings_and_chunks_in_lists_that_come_back_in_order(monkeypatch):
    monkeypatch.setattr(remote_model, "_CHUNKS_PER_REQUEST", 3)
    texts = ["x" * length for length in range(1, 12)]
    said = []
    with misbehaving() as running, embeddings_of(running, said.append) as embeddings:
        assert embeddings.dimension == 2
        assert embeddings.embed_query("four") == embeddings.embed_query("\ud83d\ude00\ud83d\ude00") == [4, 1]
        assert embeddings.embed_documents(texts) == [[len(text), 1] for text in texts]
        assert embeddings.embed_documents([]) == []
    assert {type(asked["input"]) for asked in running.asked} == {str, list}
    assert max(len(asked["input"]) for asked in running.asked if isinstance(asked["input"], list)) == 3
    assert all(asked["model"] == "m" for asked in running.asked)
    assert any("HTTP 503; trying again" in line for line in said)


def test_text_that_the_server_refuses_is_named():
    with misbehaving() as running, embeddings_of(running) as embeddings:
        with pytest.raises(
            RefusedTextsError, match=r"HTTP 400: 'input is too long', for 2 texts \(the longest: 'x{41}', 41 char"
        ):
            embeddings.embed_documents(["short", "x" * (LONGEST_TAKEN + 1)])


def test_server_that_answers_for_fewer_texts_than_were_sent_is_no_server():
    with misbehaving(lambda vectors: vectors[-1:]) as running, embeddings_of(running) as embeddings:
        running.refusals.clear()
        with pytest.raises(
            RemoteModelError, match=r"2 attempts, .*not the protocol's \(ValueError vectors: 1 of 2 numbers, wanted 2"
        ):
            embeddings.embed_documents(["one", "another"])


@pytest.mark.parametrize("index", [{}, {"index": None}], ids=["none", "null"])
def test_vectors_without_an_index_are_taken_as_they_come(index):
    with (
        misbehaving(lambda vectors: ({"embedding": each["embedding"]} | index for each in vectors)) as running,
        embeddings_of(running) as embeddings,
    ):
        assert embeddings.embed_documents(["one", "another"]) == [[3, 1], [7, 1]]


@pytest.mark.parametrize(
    ("indexes", "shown"), [((0, 0), r"\[0, 0\]"), ((1, 2), r"\[1, 2\]"), ((0, None), r"\[0, None\]")]
)
def test_indexes_that_do_not_fit_the_texts_are_shown(indexes, shown):
    def sent(vectors):
        return vectors[:1] if len(vectors) == 1 else [e | {"index": i} for e, i in zip(vectors, indexes, strict=True)]

    with misbehaving(sent) as running, embeddings_of(running) as embeddings:
        running.refusals.clear()
        with pytest.raises(RemoteModelError, match=f"2 attempts, .*the answer's indexes are {shown}"):
            embeddings.embed_documents(["one", "another"])


def test_vectors_in_base64_are_read():
    with misbehaving() as running, embeddings_of(running) as embeddings:
        running.odd = base64.b64encode(np.array([0.5, -1.0], dtype="<f4").tobytes()).decode()
        assert embeddings.embed_query("How?") == [0.5, -1.0]


def test_server_that_never_answered_and_tells_of_a_fault_is_tried_three_times():
    said: list[str] = []
    tried = r"3 attempts, the last: HTTP 500: 'out of memory'; see to the server, or check it, and"
    with misbehaving() as running:
        running.fault = FAULT
        with pytest.raises(RemoteModelError, match=tried), embeddings_of(running, said.append):
            pass
    assert len(running.asked) == 3
    assert said[0].endswith("; trying again, 3 times at most")


def test_server_that_has_answered_is_waited_for():
    with misbehaving() as running, embeddings_of(running) as embeddings:
        running.asked.clear()
        running.fault = FAULT
        with pytest.raises(RemoteModelError, match="8 attempts, the last: HTTP 500: 'out of memory'"):
            embeddings.embed_query("one")
    assert len(running.asked) == 8


def test_https_where_none_is_spoken_is_not_tried_again():
    said: list[str] = []
    with misbehaving() as running:
        name = f"https://127.0.0.1:{running.server_address[1]}#m"
        with pytest.raises(RemoteModelError, match=r"it speaks no https, or .*; check URL#MODEL"):
            RemoteModel.named(name).load(said.append)
    assert said == []


def test_address_without_a_server_is_refused_at_once():
    with pytest.raises(RemoteModelError, match="names no server; check URL#MODEL"):
        RemoteModel.named("http://#m").load()


@pytest.mark.parametrize("odd", [[1.0], [1.0, 0.0, 0.0], [1.0, math.nan], [1.0, None], "AACAPw==", "no vector"])
def test_vector_that_is_none_of_the_model_is_no_answer(odd):
    with misbehaving() as running, embeddings_of(running) as embeddings:
        running.odd = odd
        with pytest.raises(RemoteModelError, match="an answer that is not the protocol's"):
            embeddings.embed_query("How?")
        with pytest.raises(RemoteModelError, match="an answer that is not the protocol's"):
            embeddings.embed_documents(["one", "another"])


@pytest.mark.parametrize("around", ["{}\n", "{}\r", "{} ", "{0}\n{0}", "{} für uns"])
def test_key_that_no_header_can_hold_is_refused_and_not_shown(around, monkeypatch):
    monkeypatch.setenv(KEY_VARIABLE, around.format("sk-secret"))
    with misbehaving() as running:
        with pytest.raises(RemoteModelError, match=f"the key has a line break .*{KEY_VARIABLE}$") as refused:
            RemoteModel.named(f"http://127.0.0.1:{running.server_address[1]}#m").load()
    assert "sk-secret" not in str(refused.value)


def test_name_without_a_model_is_refused_and_a_password_not_shown():
    with pytest.raises(RemoteModelError, match=r"http://localhost/v1: names no model; give URL#MODEL") as refused:
        RemoteModel.named("http://u:hunter2@localhost/v1")
    assert "hunter2" not in str(refused.value)
    model = RemoteModel.named("http://u:hunter2@localhost/v1/#some/model")
    assert (model.name, model.model) == ("http://localhost#some/model", "some/model")


def test_a_query_which_no_address_behind_v1_can_keep_is_refused_and_not_shown():
    with pytest.raises(RemoteModelError, match=r"^http://localhost/v1: has a query .*; leave it out") as refused:
        RemoteModel.named("http://localhost/v1?key=hunter2#m")
    assert "hunter2" not in str(refused.value)


def test_a_password_does_not_tell_one_model_from_another():
    named = (RemoteModel.named(f"http://{user}localhost/v1#m") for user in ("", "u:hunter2@", "u:hunter3@"))
    assert len({model.document_fingerprint for model in named}) == 1
