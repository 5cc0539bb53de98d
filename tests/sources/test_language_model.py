"""A server that misbehaves on purpose, asked one prompt at a time: what is tried again, and what is said."""

import json
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing

import pytest

from docsgpt_embtune.errors import GenerationError
from docsgpt_embtune.openai_client import client as openai_client
from docsgpt_embtune.openai_client.answers import retry_after
from docsgpt_embtune.openai_client.client import OpenAIClient, Patience, RefusedRequestError
from docsgpt_embtune.openai_client.pacing import Gate, Pace
from docsgpt_embtune.sources.blind_judge import parse_questions
from docsgpt_embtune.sources.language_model import ANSWER_ATTEMPTS, LanguageModel

from .chat_server import running
from .synthesis_runs import IMPATIENT


def test_a_server_that_is_too_slow_is_told_from_one_that_is_down():
    with running(faults=["slow"] * 8) as server:
        model = LanguageModel(server.url, "tiny", patience=Patience(first_wait=0.001, silence=0.2))
        said = r"the last: no answer within 0\.2 s \(ReadTimeout\); see to the server, or give it longer with --timeout"
        with model, pytest.raises(GenerationError, match=said):
            model.ask("Passage:\nAnchor", parse_questions)


def test_after_requests_in_vain_fewer_are_under_way_at_a_time():
    with (
        running(["slow", "slow"]) as server,
        LanguageModel(server.url, "tiny", patience=Patience(first_wait=0.001, silence=IMPATIENT / 3)) as model,
        ThreadPoolExecutor(6) as pool,
    ):
        list(pool.map(lambda number: model.ask(f"Passage:\nItem{number}", parse_questions), range(6)))
    assert max(server.under_way[:6]) == 6
    assert max(server.under_way[6:]) <= 3  # one, and those that the server does not know to be gone yet


def test_an_answer_without_an_end_is_cut_off_and_said_to_be():
    with running() as server, LanguageModel(server.url, "tiny", longest_answer=500) as model:
        server.endless = "Anchor"
        with pytest.raises(
            RefusedRequestError, match=r"cut off after 500 tokens \(--max-tokens\), no list of questions"
        ):
            model.ask("Passage:\nAnchor", parse_questions)
        assert model.spent.answers == ANSWER_ATTEMPTS


def test_a_server_that_has_moved_says_where_to():
    with running(status=308) as server, LanguageModel(server.url, "tiny") as model:
        server.location = "https://u:hunter2@llm.example/v1/chat/completions?key=sk-1"
        said = "HTTP 308 for model 'tiny', moved to 'https://llm.example/v1/chat/completions'; check --llm"
        with pytest.raises(GenerationError, match=re.escape(said)):
            model.ask("Passage:\nAnchor", str)


@pytest.mark.parametrize(
    ("refusal", "said"),
    [
        ({"error": {"message": "sk-1 is not a \n valid key"}}, ": '[key] is not a valid key'"),
        ({"error": "model is not found"}, ": 'model is not found'"),
        ({"detail": "x" * 199 + "sk-1"}, ": '" + "x" * 199 + "['"),
        ({"error": {"code": 7}}, ""),
        ({"error": None}, ""),
        (["no"], ""),
    ],
    ids=["openai", "ollama", "long", "no-message", "null", "list"],
)
@pytest.mark.parametrize("status", [400, 402, 429])
def test_what_the_server_says_of_its_refusal_is_passed_on_without_the_key(status, refusal, said):
    with (
        running(status=status) as server,
        LanguageModel(server.url, "tiny", key="sk-1", patience=Patience(first_wait=0.001)) as model,
    ):
        server.refusal = json.dumps(refusal)
        with pytest.raises((GenerationError, RefusedRequestError)) as refused:
            model.ask("Passage:\nAnchor", str)
    name = " for model 'tiny'" if status == 402 else ""
    assert re.search(rf"HTTP {status}{name}{re.escape(said)}(;|$)", str(refused.value))


@pytest.mark.parametrize(
    ("status", "raised", "tries"),
    [
        *((status, GenerationError, 1) for status in (301, 307, 401, 402, 403, 404, 405)),
        *((status, RefusedRequestError, 1) for status in (400, 413, 422)),
        *((status, GenerationError, 2) for status in (408, 409, 425, 429, 500, 502, 503, 529)),
    ],
)
def test_only_what_may_pass_is_asked_for_again(status, raised, tries):
    patience = Patience(attempts=2, first_wait=0.001)
    with running(status=status) as server:
        client = OpenAIClient(server.url, "tiny", key=None, settings="it", error=GenerationError, patience=patience)
        with closing(client), pytest.raises(raised) as ended:
            client.post({"messages": [{"content": "How?"}]}, str)
    assert type(ended.value) is raised
    assert client.requests == tries


@pytest.mark.parametrize("header", ["", "-5", "inf", "nan", "soon", "Wed, 21 Oct 2015 07:28:00 GMT"])
def test_a_wait_that_is_none_is_not_waited(header):
    assert retry_after(header) == 0


def test_fewer_requests_pass_after_a_failure_and_one_more_after_every_20_answers():
    gate = Gate(narrows=True)

    def most():
        with ExitStack() as under_way:
            while gate.under_way < gate._most:
                under_way.enter_context(gate.passed())
            return gate.under_way

    with gate.passed(), gate.passed(), gate.passed(), gate.passed():
        assert gate.narrow() == 4
    assert most() == 2
    for _ in range(20):
        gate.widen()
    assert most() == 3
    with gate.passed():
        gate.narrow()
    assert most() == 1  # never none, or all would wait for ever


def test_who_waits_at_a_narrow_gate_passes_when_all_is_stopped():
    gate = Gate(narrows=True)
    with ThreadPoolExecutor() as pool, gate.passed():
        gate.narrow()
        waiting = pool.submit(lambda: gate.passed().__enter__())
        gate.open()
        waiting.result(timeout=10)


def test_who_is_told_to_wait_holds_back_the_others():
    pace, now = Pace(None), time.monotonic()
    pace.hold(0.05)
    pace.wait(threading.Event())
    assert time.monotonic() >= now + 0.05


def test_a_wait_that_the_server_asks_for_is_told():
    said: list[str] = []

    def hear(line):
        said.append(line)
        model.stop()

    with running(["429-for-30-s"]) as server, LanguageModel(server.url, "tiny", say=hear) as model:
        with pytest.raises(GenerationError, match="stopped"):
            model.ask("Passage:\nAnchor", str)
    assert said[0] == f"{model.label}: HTTP 429; trying again in 30 s, as it asks, 8 times at most"


def test_a_wait_beyond_all_patience_ends_the_run_at_once():
    with running(["429-for-an-hour"]) as server, LanguageModel(server.url, "tiny") as model:
        with pytest.raises(GenerationError, match="HTTP 429, and asks to wait 3,600 s; run the same again in 60 min"):
            model.ask("Passage:\nAnchor", str)
    assert server.tries.total() == 1


@pytest.mark.parametrize(
    ("refusal", "said"),
    [
        ({"error": {"message": "sk-1 has no credit", "code": "quota"}}, "not the protocol's: '[key] has no credit'"),
        ("<h1>Log in</h1>", "not the protocol's (JSONDecodeError "),
    ],
    ids=["error", "page"],
)
def test_an_answer_that_is_wrong_in_the_same_way_twice_is_not_asked_for_again(refusal, said):
    lines: list[str] = []
    with (
        running() as server,
        LanguageModel(server.url, "tiny", key="sk-1", patience=Patience(first_wait=0.001), say=lines.append) as model,
    ):
        server.answer_always = refusal if isinstance(refusal, str) else json.dumps(refusal)
        with pytest.raises(
            GenerationError, match=r"2 attempts, the last: .*see to the server, or check --llm-base-url"
        ) as ended:
            model.ask("Passage:\nAnchor", str)
    assert said in str(ended.value)
    assert server.tries["Passage:\nAnchor"] == 2
    (line,) = lines
    assert line.endswith("; trying again, once")


def test_the_key_is_masked_in_an_error_amid_the_pieces_of_an_answer():
    lines: list[str] = []
    with (
        running(["error-inside"]) as server,
        LanguageModel(server.url, "tiny", key="sk-1", patience=Patience(first_wait=0.001), say=lines.append) as model,
    ):
        model.ask("Passage:\nAnchor", str)
    assert "not the protocol's (ValueError no memory for [key]); trying again" in lines[0]


def test_a_failure_that_a_relay_passes_on_may_pass():
    with (
        running() as server,
        LanguageModel(server.url, "tiny", patience=Patience(first_wait=0.001)) as model,
    ):
        server.answer_always = json.dumps({"error": {"message": "overloaded", "code": 502}})
        with pytest.raises(GenerationError, match=r"8 attempts, the last: .*'overloaded'"):
            model.ask("Passage:\nAnchor", str)


def test_server_that_gives_no_answer_is_told_of_once_a_minute(monkeypatch):
    said: list[str] = []
    with (
        running(status=503) as server,
        LanguageModel(server.url, "tiny", patience=Patience(first_wait=0.001), say=said.append) as model,
    ):
        for _ in range(2):
            with pytest.raises(GenerationError):
                model.ask("Passage:\nAnchor", str)
        assert said == [f"{model.label}: HTTP 503; trying again, 8 times at most"]
        server.status = 200
        model.ask("Passage:\nAnchor", str)
        server.status = 503
        with pytest.raises(GenerationError):
            model.ask("Passage:\nBicycle", str)
        assert len(said) == 1
        monkeypatch.setattr(openai_client, "SAID_EVERY", 0.0)
        with pytest.raises(GenerationError):
            model.ask("Passage:\nBicycle", str)
    assert set(said) == {said[0]}
    assert len(said) == 1 + 7


def test_who_waits_for_a_turn_stops_at_once_and_sends_nothing():
    with (
        running() as server,
        LanguageModel(server.url, "tiny", requests_per_minute=0.1) as model,
        ThreadPoolExecutor() as pool,
    ):
        model.ask("Passage:\nAnchor", str)
        started = time.monotonic()
        waiting = pool.submit(model.ask, "Passage:\nBicycle", str)
        time.sleep(0.1)
        model.stop()
        assert "stopped" in str(waiting.exception())
        assert time.monotonic() - started < 60
    assert set(server.tries) == {"Passage:\nAnchor"}


def test_a_password_in_the_servers_url_is_not_shown():
    with pytest.raises(GenerationError, match=r"'ftp://localhost/v1/chat/completions' does not begin with") as refused:
        LanguageModel("ftp://u:hunter2@localhost/v1", "tiny")
    assert "hunter2" not in str(refused.value)
    assert LanguageModel("http://u:hunter2@localhost/v1", "tiny").label == "http://localhost/v1/chat/completions"
