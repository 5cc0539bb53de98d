"""A real server on a loopback port, asked by OpenAI's client, by DocsGPT's own, and by clients who misbehave."""

import asyncio
import base64
import json
import re
import shutil
import signal
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import httpx
import numpy as np
import openai
import pytest
from click.testing import CliRunner
from starlette.requests import Request

from application.core.settings import settings
from application.vectorstore import base
from application.vectorstore.document_class import Document
from application.vectorstore.faiss import FaissStore
from docsgpt_embtune.adapter import QueryAdapter
from docsgpt_embtune.cli import main
from docsgpt_embtune.deployment.deployed_model import load_deployed_model
from docsgpt_embtune.embeddings import TunedEmbeddings
from docsgpt_embtune.errors import ModelFolderError
from docsgpt_embtune.gateway import app
from docsgpt_embtune.gateway.app import Gateway
from docsgpt_embtune.gateway.config import Limits, ServerConfig
from docsgpt_embtune.gateway.model import DOCUMENTS_PER_CALL, LONGEST_QUESTION, GatewayModel, OwnModel
from docsgpt_embtune.gateway.protocol import Offer, RequestError, parse_request
from docsgpt_embtune.gateway.server import _listen, instructions
from docsgpt_embtune.remote_model import Embedded
from docsgpt_embtune.training.query_adapter.adapting import write_adapted_folder

from ..conftest import TEXTS
from ..gateway_process import KEY, server
from ..waiting import wait_until

# One client for all: each new one reads the machine's certificates, which takes longer than an answer.
HTTP = httpx.Client(verify=False, timeout=60, limits=httpx.Limits(max_connections=None))


@pytest.fixture(scope="module", autouse=True)
def _client_closed():
    with HTTP:
        yield


@pytest.fixture(scope="module")
def adapted_folder(tiny_tuned_folder, tmp_path_factory):
    """The tiny tuned model with an adapter that turns questions by a right angle in every plane."""
    out = tmp_path_factory.mktemp("adapted") / "handbook"
    model = load_deployed_model(str(tiny_tuned_folder))
    matrix = np.roll(np.eye(32, dtype=np.float32), 1, axis=1)
    write_adapted_folder(model, out, QueryAdapter(matrix), {}, (TEXTS, model.embed(TEXTS)), learned=())
    return out


@pytest.fixture(scope="module")
def gateway(adapted_folder):
    with server(adapted_folder, "--max-texts", "64", "--max-megabytes", "1") as process:
        yield process


@pytest.fixture(scope="module")
def in_process(adapted_folder):
    return TunedEmbeddings(str(adapted_folder))


def ask(gateway, key=KEY, **content):
    return HTTP.post(f"{gateway.address}/v1/embeddings", json=content, headers={"Authorization": f"Bearer {key}"})


def error_of(response, status):
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


def test_docsgpt_gets_adapted_questions_and_plain_chunks(gateway, in_process, adapted_folder, tiny_tuned_folder):
    remote = base.RemoteEmbeddings(gateway.address, str(adapted_folder), KEY)
    assert remote.embed_documents(list(TEXTS)) == pytest.approx(
        np.array(in_process.embed_documents(list(TEXTS))), abs=1e-5
    )
    assert remote.embed_query(TEXTS[0]) == pytest.approx(in_process.embed_query(TEXTS[0]), abs=1e-5)
    plain = TunedEmbeddings(str(tiny_tuned_folder)).embed_query(TEXTS[0])
    assert remote.embed_documents([TEXTS[0]])[0] == pytest.approx(plain, abs=1e-5)
    assert remote.embed_query(TEXTS[0]) == pytest.approx(np.roll(plain, -1), abs=1e-5)


def test_docsgpt_stores_and_finds_through_the_gateway(gateway, monkeypatch):
    monkeypatch.setattr(settings, "EMBEDDINGS_BASE_URL", gateway.address)
    monkeypatch.setattr(settings, "EMBEDDINGS_KEY", KEY)
    monkeypatch.setattr(settings, "EMBEDDINGS_NAME", "handbook")
    monkeypatch.setattr(base.EmbeddingsSingleton, "_instances", {})
    store = FaissStore(docs_init=[Document(text, {"source": str(n)}) for n, text in enumerate(TEXTS)])
    assert len(store.search_with_scores("Where is the backup?", k=3)) == 3


@pytest.mark.parametrize("encoding_format", ["float", "base64", openai.omit], ids=["float", "base64", "its default"])
def test_openai_client_reads_every_encoding(gateway, in_process, encoding_format):
    with openai.OpenAI(base_url=f"{gateway.address}/v1", api_key=KEY, max_retries=0) as client:
        answer = client.embeddings.create(model="handbook", input=list(TEXTS), encoding_format=encoding_format)
        vectors = [item.embedding for item in answer.data]
        if encoding_format == "base64":
            vectors = [np.frombuffer(base64.b64decode(vector), dtype="<f4") for vector in vectors]
        assert np.allclose(vectors, in_process.embed_documents(list(TEXTS)), atol=1e-5)
        assert answer.model == "handbook"
        assert answer.usage.prompt_tokens > 5 * len(TEXTS)
        (listed,) = client.models.list()
        assert client.models.retrieve("handbook") == listed
        assert listed.id == "handbook"
        with pytest.raises(openai.NotFoundError, match="'gpt-5' is not served here, 'handbook' is"):
            client.models.retrieve("gpt-5")


@pytest.mark.parametrize(
    ("content", "status", "message"),
    [
        ({}, 400, "input must be a string"),
        ({"input": []}, 400, "input must be a string"),
        ({"input": ["a", 7]}, 400, r"input\[1\] is an int"),
        ({"input": [[1, 2]]}, 400, r"input\[0\] is a list .*another model's .*check_embedding_ctx_length=False"),
        ({"input": "a", "dimensions": 16}, 400, "gives 32 and no other"),
        ({"input": "a", "encoding_format": "hex"}, 400, "'float' or 'base64'"),
        ({"input": "a", "model": "text-embedding-3-small"}, 404, "'handbook' is; name that one"),
        ({"input": "a", "model": []}, 404, r"model \[\] is not served here"),
        ({"input": "a", "model": 0}, 404, "model 0 is not served here"),
        ({"input": ["a"] * 65}, 413, "65 texts, at most 64"),
        ({"input": "a" * 1_000_001}, 413, "at most 1000000"),
    ],
)
def test_what_cannot_be_answered_is_refused_with_the_reason(gateway, content, status, message):
    assert re.search(message, error_of(ask(gateway, **content), status)["message"])


def test_accepts_its_own_width_and_no_model_name(gateway):
    assert ask(gateway, input="a", dimensions=32).status_code == 200
    for name in ("/app/models/handbook/", "", None):
        assert ask(gateway, input="", model=name).status_code == 200


def test_a_body_that_is_no_json_or_longer_than_announced_is_refused(gateway):
    headers = {"Authorization": f"Bearer {KEY}"}
    url = f"{gateway.address}/v1/embeddings"
    assert "not JSON" in error_of(HTTP.post(url, content=b"{", headers=headers), 400)["message"]
    assert "no JSON object" in error_of(HTTP.post(url, content=b"[1]", headers=headers), 400)["message"]
    chunked = (b"x" * 100_000 for _ in range(20))
    assert "at most 1000000" in error_of(HTTP.post(url, content=chunked, headers=headers), 413)["message"]


def body_that_arrives(receive, limit=10):
    """What a gateway makes of a request's body, whose parts `receive` gives."""

    async def read():
        gateway = Gateway(SimpleNamespace(dimension=32), "handbook", "fingerprint", Limits(max_body=limit))
        return await asyncio.wait_for(gateway._body(Request({"type": "http", "headers": []}, receive)), 10)

    return asyncio.run(read())


def test_a_body_of_just_the_limit_is_taken():
    parts = [{"type": "http.request", "body": b"x" * 5, "more_body": more} for more in (False, True)]

    async def receive():
        return parts.pop()

    assert body_that_arrives(receive) == b"x" * 10


def test_a_body_without_an_end_is_not_heard_out():
    heard = []

    async def receive():
        heard.append(10)
        assert len(heard) < 20
        return {"type": "http.request", "body": b"x" * 10, "more_body": True}

    with pytest.raises(RequestError, match="has 90 bytes or more, at most 10 are taken") as refused:
        body_that_arrives(receive)
    assert refused.value.status == 413


def test_a_body_that_does_not_come_to_its_end_is_given_up(monkeypatch):
    monkeypatch.setattr(app, "BODY_TIMEOUT", 0.01)

    async def silence():
        await asyncio.Event().wait()

    async def leave():
        return {"type": "http.disconnect"}

    for receive, status, said in ((silence, 408, "did not arrive within 0.01 s"), (leave, 400, "the client left")):
        with pytest.raises(RequestError, match=said) as refused:
            body_that_arrives(receive)
        assert refused.value.status == status


def test_tokens_are_counted_to_the_end_of_a_long_text(adapted_folder):
    model = OwnModel(load_deployed_model(str(adapted_folder)))
    assert model._count_tokens(["logs " * 60_000, "", "logs"]) == (60_000 + 2) + 2 + 3


def test_a_long_question_waits_among_the_documents(adapted_folder, monkeypatch):
    ran = []
    served = OwnModel(load_deployed_model(str(adapted_folder)))
    monkeypatch.setattr(
        served, "embed_question", lambda text: ran.append(threading.current_thread().name) or Embedded([[0.0]], 1)
    )

    async def ask_both():
        model = GatewayModel(served)
        for length in (LONGEST_QUESTION, LONGEST_QUESTION + 1):
            await model.embed_question("x" * length)

    asyncio.run(ask_both())
    assert [name.partition("_")[0] for name in ran] == ["question", "documents"]


def test_a_model_without_a_fast_tokenizer_is_not_served(tiny_base_folder, tmp_path):
    folder = shutil.copytree(tiny_base_folder, tmp_path / "model")
    (folder / "tokenizer.json").rename(tmp_path / "aside")
    with pytest.raises(ModelFolderError, match=r"has no tokenizer\.json"):
        OwnModel(SimpleNamespace(folder=folder))


def test_other_paths_say_where_the_embeddings_are(gateway):
    assert "POST /v1/embeddings" in error_of(HTTP.get(f"{gateway.address}/embeddings"), 404)["message"]
    error_of(HTTP.get(f"{gateway.address}/v1/embeddings"), 405)


@pytest.mark.parametrize("key", ["sk-gatewaY", KEY[:-1], "ключ"])
def test_a_wrong_key_opens_nothing(gateway, key):
    headers = {"Authorization": f"Bearer {key}".encode()}
    for response in (
        HTTP.post(f"{gateway.address}/v1/embeddings", json={"input": "a"}, headers=headers),
        HTTP.get(f"{gateway.address}/v1/models", headers=headers),
        HTTP.get(f"{gateway.address}/v1/models/handbook", headers=headers),
        HTTP.post(f"{gateway.address}/v1/embeddings", json={"input": "a"}),
    ):
        assert error_of(response, 401)["code"] == "invalid_api_key"
    assert HTTP.get(f"{gateway.address}/health", headers=headers).status_code == 200


@pytest.mark.parametrize("header", [f"bearer {KEY}", f"BEARER  {KEY}", KEY])
def test_the_scheme_before_a_key_is_written_in_any_way(gateway, header):
    assert HTTP.get(f"{gateway.address}/v1/models", headers={"Authorization": header}).status_code == 200


def test_metrics_count_what_was_embedded(gateway):
    def count(name):
        return float(re.search(rf"^{re.escape(name)} (\S+)$", HTTP.get(f"{gateway.address}/metrics").text, re.M)[1])

    ask(gateway, input="a")
    before = count('embtune_texts_total{kind="document"}') if ask(gateway, input=["a"]).is_success else 0
    ask(gateway, input=["a", "b"])
    ask(gateway, input="a", model="another")
    assert count('embtune_texts_total{kind="document"}') == before + 2
    assert count('embtune_requests_total{status="404"}') >= 1
    assert count("embtune_requests_in_flight") == 0


def test_half_a_character_costs_no_request(gateway):
    for cut, whole in (("a cut \ud83d", "a cut ?"), (["x", "a cut \ud83d"], ["x", "a cut ?"])):
        answers = [
            HTTP.post(
                f"{gateway.address}/v1/embeddings",
                content=json.dumps({"input": text}),  # in which it is written as \\ud83d
                headers={"Authorization": f"Bearer {KEY}"},
            )
            for text in (cut, whole)
        ]
        assert [answer.status_code for answer in answers] == [200, 200]
        assert answers[0].json() == answers[1].json()


def test_failures_of_the_model_are_counted(adapted_folder):
    async def ask_a_closed_model():
        model = GatewayModel(OwnModel(load_deployed_model(str(adapted_folder))), threads=1)
        gateway = Gateway(model, "handbook", "fingerprint", Limits())
        model.close()
        transport = httpx.ASGITransport(gateway.app(), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
            failed = await client.post("/v1/embeddings", json={"input": "a"})
            return failed, (await client.get("/metrics")).text

    failed, metrics = asyncio.run(ask_a_closed_model())
    assert "the model failed (RuntimeError)" in error_of(failed, 500)["message"]
    assert 'embtune_requests_total{status="500"} 1.0' in metrics
    assert "embtune_requests_in_flight 0.0" in metrics


@pytest.mark.parametrize("served", ["org/handbook", "handbook", "/models/handbook/"])
@pytest.mark.parametrize("asked", ["org/handbook", "handbook", "/app/models/handbook/"])
def test_model_is_asked_for_by_its_name_or_the_last_part_of_it(served, asked):
    body = json.dumps({"input": "a", "model": asked}).encode()
    assert parse_request(body, Offer(served, 32, 1)).texts == ["a"]
    with pytest.raises(RequestError, match="'org/another' is not served here"):
        parse_request(json.dumps({"input": "a", "model": "org/another"}).encode(), Offer(served, 32, 1))


def test_model_of_the_hub_is_served_under_its_name(tiny_base_folder, tmp_path, monkeypatch):
    kept = tmp_path / "hub" / "models--org--manual"
    (kept / "refs").mkdir(parents=True)
    (kept / "refs" / "main").write_text("c" * 40)
    shutil.copytree(tiny_base_folder, kept / "snapshots" / ("c" * 40))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with server("org/manual") as process:
        assert HTTP.get(f"{process.address}/health").json()["model"] == "manual"
        assert ask(process, input="a", model="org/manual").status_code == 200


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="no IPv6 on this system")
@pytest.mark.parametrize(("host", "said"), [("::", "127.0.0.1"), ("::1", "[::1]"), ("0.0.0.0", "127.0.0.1")])
def test_address_that_is_printed_is_listened_on(tiny_tuned_folder, host, said):
    config = ServerConfig(host=host, port=0)
    with _listen(config) as listening:
        port = listening.getsockname()[1]
        text = "\n".join(instructions(OwnModel(load_deployed_model(str(tiny_tuned_folder))), config, port))
        address = httpx.URL(re.search(r"EMBEDDINGS_BASE_URL=(\S+)", text)[1])
        assert str(address) == f"http://{said}:{port}"
        socket.create_connection((address.host, address.port), timeout=60).close()


def test_96_clients_get_their_own_vectors_and_health_answers_meanwhile(gateway, in_process):
    questions = [f"{text} {number}" for number in range(20) for text in TEXTS][:96]
    expected = [in_process.embed_query(question) for question in questions]
    with ThreadPoolExecutor(97) as clients:
        upload = clients.submit(ask, gateway, input=[TEXTS[0] * 3] * 64)
        answers = list(clients.map(lambda question: ask(gateway, input=question), questions))
        health = HTTP.get(f"{gateway.address}/health", timeout=5)
        assert upload.result().status_code == 200
    assert health.json() == {"status": "ok", "model": "handbook", "dimension": 32}
    vectors = [answer.json()["data"][0]["embedding"] for answer in answers]
    assert np.allclose(vectors, expected, atol=1e-5)


def begin(address, body, sent):
    """Send a request's head and the first bytes of its body."""
    host, port = address.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=60)
    head = (
        f"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    connection.sendall(head.encode() + body[:sent])
    return connection


def end(connection, rest=b""):
    connection.sendall(rest)
    answer = b""
    while part := connection.recv(65536):
        answer += part
        head, _, content = answer.partition(b"\r\n\r\n")
        if (length := re.search(rb"content-length: (\d+)", head)) and len(content) >= int(length[1]):
            break
    connection.close()
    return answer


def test_a_full_server_says_when_to_come_back_and_a_stopped_one_answers_what_it_took(adapted_folder):
    body = json.dumps({"input": [TEXTS[0]] * 40}).encode()
    with server(adapted_folder, "--max-requests", "3", "--name", "manual") as process:
        assert HTTP.get(f"{process.address}/health").json()["model"] == "manual"
        taken = [begin(process.address, body, 5) for _ in range(3)]
        wait_until(lambda: "embtune_requests_in_flight 3.0" in HTTP.get(f"{process.address}/metrics").text)
        refused = ask(process, input="a")
        error = error_of(refused, 429)
        assert "3 requests are waiting" in error["message"]
        assert error["type"] == "server_error"  # the request is right, and may be sent again
        assert refused.headers["Retry-After"] == "1"
        assert end(taken.pop(), body[5:]).startswith(b"HTTP/1.1 200")
        assert ask(process, input="a").status_code == 200

        process.send_signal(signal.SIGTERM)
        stopped = threading.Thread(target=process.wait)
        stopped.start()
        wait_until(lambda: _refuses(process.address))
        assert all(end(connection, body[5:]).startswith(b"HTTP/1.1 200") for connection in taken)
        stopped.join(60)
        assert process.returncode == 0
        assert "4 requests taken, 4 answered\n" in process.stdout.read()


@pytest.mark.parametrize("stop", [[signal.SIGTERM], [signal.SIGINT] * 2], ids=["in time", "at once"])
def test_what_a_stopped_server_cannot_answer_in_time_is_told_so(adapted_folder, stop):
    body = json.dumps({"input": [TEXTS[0] * 20] * 2048}).encode()
    with server(adapted_folder, "--finish-seconds", "1") as process:
        assert error_of(ask(process, input=[]), 400)
        taken = [begin(process.address, body, sent) for sent in (len(body), 5)]  # one of them is not sent to its end
        wait_until(lambda: "embtune_requests_in_flight 2.0" in HTTP.get(f"{process.address}/metrics").text)
        for number in stop:
            process.send_signal(number)
            wait_until(lambda: _refuses(process.address))
        for connection in taken:
            head, _, content = end(connection).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 503")
            assert b"retry-after: 10" in head.lower()
            error = json.loads(content)["error"]
            assert (error["type"], error["code"]) == ("server_error", "service_unavailable")
            assert "stopped before the answer was there; ask again in 10 s" in error["message"]
        assert process.wait(20) == 0
        when = "at once" if len(stop) > 1 else "after 1 s"
        assert f"stopped: 3 requests taken, 1 answered, 2 cut off {when}\n" in process.stdout.read()
        assert "Traceback" not in process.stderr.read()


def _refuses(address):
    host, port = address.removeprefix("http://").split(":")
    try:
        socket.create_connection((host, int(port)), timeout=60).close()
    except (ConnectionRefusedError, ConnectionResetError):  # reset where the server closes as it connects
        return True
    return False


def test_a_client_who_does_not_read_cannot_keep_a_stopped_server(adapted_folder):
    body = json.dumps({"input": ["a"] * 2048}).encode()
    with server(adapted_folder, "--pad-to", "1536", "--finish-seconds", "1") as process:
        with begin(process.address, body, len(body)) as connection:
            assert connection.recv(1) == b"H"  # of an answer that is larger than all buffers on its way
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
        assert "1 request taken, 1 answered\n" in process.stdout.read()


async def stays():
    return False


def test_an_upload_whose_client_has_left_is_given_up(adapted_folder, monkeypatch):
    body = json.dumps({"input": ["a"] * 10 * DOCUMENTS_PER_CALL}).encode()
    sent = [{"type": "http.request", "body": body}, {"type": "http.disconnect"}]

    async def receive():
        return sent.pop(0) if len(sent) > 1 else sent[0]

    async def upload_and_leave():
        model = GatewayModel(OwnModel(load_deployed_model(str(adapted_folder))), threads=1)
        embedded = []
        monkeypatch.setattr(
            model._served._embeddings, "embed_documents", lambda part: embedded.append(part) or [[0.0]] * 32
        )
        gateway = Gateway(model, "handbook", "fingerprint", Limits())
        with pytest.raises(RequestError, match="the client left") as error:
            await gateway._embeddings(Request({"type": "http", "headers": []}, receive))
        return error.value.status, len(embedded), gateway.metrics.exposition().decode()

    status, calls, metrics = asyncio.run(upload_and_leave())
    assert (status, calls) == (499, 1)
    assert 'embtune_requests_total{status="499"} 1.0' in metrics
    assert "embtune_requests_in_flight 0.0" in metrics


def test_padding_keeps_every_distance(adapted_folder, in_process):
    async def embed():
        model = GatewayModel(OwnModel(load_deployed_model(str(adapted_folder))), threads=1, width=768)
        return await model.embed_question("Where is the backup?"), await model.embed_documents(list(TEXTS), stays)

    (question,), chunks = (embedded.vectors for embedded in asyncio.run(embed()))
    plain = np.array(in_process.embed_documents(list(TEXTS))) - in_process.embed_query("Where is the backup?")
    padded = np.array(chunks) - question
    assert padded.shape == (len(TEXTS), 768)
    assert np.allclose(question[:32], in_process.embed_query("Where is the backup?"), atol=1e-5)
    assert np.allclose(np.linalg.norm(padded, axis=1), np.linalg.norm(plain, axis=1), atol=1e-5)


@pytest.mark.parametrize(
    ("options", "key", "message"),
    [
        (["--pad-to", "16"], KEY, "cannot be padded to 16"),
        (["--host", "192.0.2.1"], KEY, "cannot listen there"),
        ([], "", "EMBTUNE_API_KEY is set and empty"),
        ([], f"{KEY}\n", "EMBTUNE_API_KEY has a line break in it"),
        ([], f" {KEY}", "or a blank at an end"),
        ([], "schlüssel", "a letter that is not ASCII"),
    ],
)
def test_what_cannot_be_served_ends_in_one_line(adapted_folder, options, key, message):
    result = CliRunner(env={"EMBTUNE_API_KEY": key}).invoke(main, ["serve", str(adapted_folder), *options])
    assert result.exit_code == 2
    assert message in result.stderr
    assert not key.strip() or key.strip() not in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_no_name_of_a_model_is_told_so():
    result = CliRunner(env={"EMBTUNE_API_KEY": KEY}).invoke(main, ["serve", ""])
    assert (result.exit_code, result.stderr) == (
        2,
        "error: MODEL is empty; name a folder, a hub's model, or 'bundled'\n",
    )


@pytest.mark.parametrize(
    ("config", "said", "unsaid"),
    [
        (ServerConfig(), "--pad-to 768", "warning"),
        (ServerConfig(width=768), "768 wide", "--pad-to"),
        (ServerConfig(width=1536), "tuned with --keywords narrow", "--pad-to"),
        (ServerConfig(host="0.0.0.0"), "warning: no EMBTUNE_API_KEY", "EMBEDDINGS_KEY"),
        (ServerConfig(host="0.0.0.0", api_key=KEY), "EMBEDDINGS_KEY=the value of EMBTUNE_API_KEY", "warning"),
        (ServerConfig(api_key=KEY), "EMBEDDINGS_KEY=the value of EMBTUNE_API_KEY", KEY),
        (ServerConfig(name="tuned #2"), "  EMBEDDINGS_NAME='tuned #2'\n", "EMBEDDINGS_NAME=tuned"),
    ],
)
def test_operator_is_told_what_to_set(tiny_tuned_folder, config, said, unsaid):
    text = "\n".join(instructions(OwnModel(load_deployed_model(str(tiny_tuned_folder))), config, 8765))
    assert "EMBEDDINGS_BASE_URL=http://127.0.0.1:8765" in text
    assert said in text
    assert unsaid not in text
