"""Questions from a server that misbehaves on purpose: nothing lost, nothing asked twice."""

import fcntl
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from string import Template

import pytest
from click.testing import CliRunner

from docsgpt_embtune import openai_client
from docsgpt_embtune.cli import main
from docsgpt_embtune.data.dataset import load_dataset
from docsgpt_embtune.errors import GenerationError
from docsgpt_embtune.openai_client import Patience, RefusedRequestError
from docsgpt_embtune.sources.answer_journal import AnswerJournal
from docsgpt_embtune.sources.blind_judge import parse_questions
from docsgpt_embtune.sources.language_model import ANSWER_ATTEMPTS, KEY_VARIABLE, LanguageModel
from docsgpt_embtune.sources.prompts import load_prompts
from docsgpt_embtune.sources.synthesis import Synthesizer

from . import chat_server
from .chat_server import BROKEN, REFUSAL, REFUSED, WRONG, running

CORPUS = {
    f"c{number}": f"{word} is kept in the {place}, beside the other things that are not used in winter."
    for number, (word, place) in enumerate(
        [
            ("Anchor", "boathouse"),
            ("Bicycle", "shed"),
            ("Candle", "drawer"),
            ("Drill", "workshop"),
            ("Easel", "attic"),
            ("Fiddle", "music room"),
        ]
    )
}


PATIENT = 60.0  # seconds: an answer that a busy machine is slow to give must not be asked for again
IMPATIENT = 1.0  # of clients whose server never answers


def ask_for(corpus, journal_path, server, *, timeout=PATIENT, **settings):
    with (
        LanguageModel(server.url, "tiny", patience=Patience(first_wait=0.001, silence=timeout)) as model,
        AnswerJournal(journal_path, "tiny") as journal,
    ):
        return Synthesizer(corpus, model, journal, load_prompts(), **settings).run(), model.spent


def test_every_chunk_has_its_questions_and_a_near_miss(tmp_path):
    with running() as server:
        made, spent = ask_for(CORPUS, tmp_path / "journal", server)
    dataset = made.dataset
    asked = {(dataset.queries[q], *ids) for q, ids in dataset.relevant_docs.items()}
    words = [text.split()[0] for text in CORPUS.values()]
    assert asked == {
        (question, doc_id)
        for doc_id, word in zip(CORPUS, words, strict=True)
        for question in (f"Where is {word}?", f"{word} location")
    }
    assert all(set(ids).isdisjoint(dataset.relevant_docs[q]) for q, ids in dataset.irrelevant_docs.items())
    assert dict(made.thrown_out) == {"names the text": 6}
    assert dict(made.kinds) == {"how-to": 6, "fact": 6}
    assert (spent.requests, spent.input_tokens, spent.output_tokens) == (12, 1200, 120)


@pytest.mark.parametrize("faults", [REFUSED, BROKEN, WRONG[:2], WRONG[1:]])
def test_a_misbehaving_server_costs_nothing_but_requests(tmp_path, faults):
    with running() as server:
        expected, _ = ask_for(CORPUS, tmp_path / "calm", server)
    timeout = IMPATIENT if "slow" in faults else PATIENT
    with running(faults) as server:
        made, _ = ask_for(CORPUS, tmp_path / "journal", server, concurrency=12, timeout=timeout)
        assert made == expected
        assert set(server.answered.values()) == {1}
        again, spent = ask_for(CORPUS, tmp_path / "journal", server)
    assert again == expected
    assert spent.requests == 0


def test_a_chunk_that_the_model_refuses_leaves_the_others_alone(tmp_path):
    with running() as server:
        server.never = "Candle"
        made, spent = ask_for(CORPUS, tmp_path / "journal", server)
        answered = {doc_id for ids in made.dataset.relevant_docs.values() for doc_id in ids}
        assert made.unanswered == {"c2": f"no list of questions in the answer: {REFUSAL!r}"}
        assert answered == set(CORPUS) - {"c2"}
        assert spent.requests == 5 + ANSWER_ATTEMPTS + 5
        server.never = "\0"
        again, _ = ask_for(CORPUS, tmp_path / "journal", server)
    assert again.unanswered == {}
    assert len(again.dataset) == 12


@pytest.mark.parametrize("word", ["Anchor", "Fiddle"])
def test_a_chunk_that_the_server_stumbles_over_leaves_the_others_alone(tmp_path, word):
    # First of all or last of all: alone in flight, it must not pass for a server that is down.
    bad = next(doc_id for doc_id, text in CORPUS.items() if text.startswith(word))
    with running() as server:
        server.stumbles_over = word
        for _ in range(2):  # the second time nothing else is left to ask
            made, _ = ask_for(CORPUS, tmp_path / "journal", server, concurrency=1)
            assert made.unanswered == {bad: "8 attempts, the last: HTTP 500"}
            assert {doc_id for ids in made.dataset.relevant_docs.values() for doc_id in ids} == set(CORPUS) - {bad}


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


def test_answers_in_one_piece_are_read_too(tmp_path):
    with running() as server:
        in_pieces, _ = ask_for(CORPUS, tmp_path / "pieces", server)
        server.whole = True
        whole, spent = ask_for(CORPUS, tmp_path / "whole", server)
        server.whole, server.ends_with_done = False, True
        done, _ = ask_for(CORPUS, tmp_path / "done", server)
    assert done == whole == in_pieces
    assert (spent.requests, spent.input_tokens, spent.output_tokens) == (12, 1200, 120)


def test_what_a_server_does_not_know_is_left_out_or_renamed(tmp_path):
    with running() as server:
        server.unknown = {
            "max_tokens": "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.",
            "stream_options": "stream_options: extra fields not permitted",
        }
        made, _ = ask_for(CORPUS, tmp_path / "journal", server, concurrency=1)
        assert (len(made.dataset), made.unanswered) == (12, {})
        assert server.tries.total() == 12 + 2
        server.unknown = {"messages": "the prompt is too long"}
        with pytest.raises(GenerationError, match="the prompt is too long"):
            ask_for({"new": "Another passage."}, tmp_path / "journal", server)


def test_a_server_that_does_not_stream_is_asked_for_whole_answers(tmp_path):
    with running() as server:
        server.unknown = {"stream": "Your organization must be verified to stream this model."}
        made, spent = ask_for(CORPUS, tmp_path / "journal", server, concurrency=1)
    assert (len(made.dataset), made.unanswered) == (12, {})
    assert (spent.requests, spent.input_tokens) == (12 + 1, 1200)


def test_a_limit_that_leaves_no_room_for_the_prompt_is_left_out(tmp_path):
    with running() as server:
        server.unknown = {"max_completion_tokens": "This model's maximum context length is 4096 tokens."}
        server.unknown |= {"max_tokens": "'max_tokens' or 'max_completion_tokens' is too large: 4000."}
        made, _ = ask_for(CORPUS, tmp_path / "journal", server, concurrency=1)
    assert (len(made.dataset), made.unanswered) == (12, {})


def test_an_answer_without_an_end_is_cut_off_and_said_to_be():
    with running() as server, LanguageModel(server.url, "tiny", longest_answer=500) as model:
        server.endless = "Anchor"
        with pytest.raises(
            RefusedRequestError, match=r"cut off after 500 tokens \(--max-tokens\), no list of questions"
        ):
            model.ask("Passage:\nAnchor", parse_questions)
        assert model.spent.answers == ANSWER_ATTEMPTS


def test_a_stop_says_whether_there_is_anything_to_go_on_from(tmp_path, monkeypatch):
    def stop(synthesizer):
        raise KeyboardInterrupt

    (tmp_path / "corpus.json").write_text(json.dumps(CORPUS))
    out = tmp_path / "train.json"
    journal = tmp_path / "train.json.answers.jsonl"
    monkeypatch.setattr(Synthesizer, "estimate", stop)  # which asks some, to see how long that takes
    command = ["synthesize", "--yes", "--corpus", str(tmp_path / "corpus.json"), "--out", str(out)]
    command += ["--llm-base-url", "http://localhost:1/v1", "--llm-model", "tiny"]
    stopped = CliRunner().invoke(main, command)
    assert stopped.exit_code == 130
    assert stopped.stderr.startswith("stopped     nothing was answered yet\nspent       0 requests")
    assert not journal.exists()
    with AnswerJournal(journal, "tiny") as kept:
        kept.add("prompt", [])
    said = CliRunner().invoke(main, command).stderr
    assert said.startswith(f"stopped     what was answered is kept ({journal}): the same command goes on from there\n")


@pytest.mark.usefixtures("ctrl_c_is_heard")
def test_a_second_ctrl_c_leaves_what_is_being_written(tmp_path):
    (tmp_path / "corpus.json").write_text(json.dumps(CORPUS))
    out = tmp_path / "train.json"
    with running() as server:
        server.endless = "Fiddle"
        command = [sys.executable, "-m", "docsgpt_embtune", "synthesize", "--yes", "--max-tokens", "1000000000"]
        command += ["--corpus", str(tmp_path / "corpus.json"), "--out", str(out)]
        command += ["--llm-base-url", server.url, "--llm-model", "tiny"]
        with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as child:
            try:
                assert server.writes_for_ever.wait(60)
                child.send_signal(signal.SIGINT)
                assert next(line for line in child.stderr if "waiting" in line).startswith("waiting for the answers")
                assert not server.unheard.is_set()
                child.send_signal(signal.SIGINT)
                _, said = child.communicate(timeout=60)
            finally:
                child.kill()
        assert server.unheard.wait(60)
    assert child.returncode == 130
    assert re.search(r"^stopped     .*\nspent       ", said, re.MULTILINE)
    assert said.count("stopped") == 1
    assert not out.exists()


@pytest.mark.usefixtures("ctrl_c_is_heard")
def test_a_second_ctrl_c_leaves_even_while_the_first_is_answered(tmp_path):
    def interrupt(line):
        if line.startswith("waiting for the answers"):
            signal.raise_signal(signal.SIGINT)

    def interrupt_once_under_way():
        server.writes_for_ever.wait(60)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    with (
        running() as server,
        LanguageModel(server.url, "tiny", longest_answer=1_000_000, say=interrupt) as model,
        AnswerJournal(tmp_path / "journal", "tiny") as journal,
    ):
        server.endless = "Fiddle"
        threading.Thread(target=interrupt_once_under_way).start()
        with pytest.raises(KeyboardInterrupt):
            Synthesizer(CORPUS, model, journal, load_prompts()).run()
        assert server.unheard.wait(60)


@pytest.mark.parametrize("second", [("own", "other"), ("own",)], ids=["twice", "once"])
def test_another_chunk_is_good_only_if_it_is_said_to_answer_twice(tmp_path, monkeypatch, second):
    corpus = {"own": CORPUS["c0"], "other": "The Anchor and the Bicycle are locked away."}
    said = iter([("own", "other"), second])

    def answer_to(prompt):
        if "\nQuestions:" not in prompt:
            return {"questions": [{"question": "Anchor?"}] if corpus["own"] in prompt else []}
        letters = {doc_id: prompt.partition(f"]\n{text}")[0][-1] for doc_id, text in corpus.items()}
        row = {"question": 1, "best": letters["own"], "answered_by": [letters[doc_id] for doc_id in next(said)]}
        return {"verdicts": [row]}

    monkeypatch.setattr(chat_server, "answer_to", answer_to)
    with running() as server:
        made, _ = ask_for(corpus, tmp_path / "journal", server)
    assert list(made.dataset.relevant_docs.values()) == [second]
    assert made.dataset.irrelevant_docs == {}  # the other may answer, and is not bad either
    assert next(said, None) is None


def test_a_server_that_is_down_is_named_and_what_was_answered_is_kept(tmp_path):
    path = tmp_path / "journal"
    with running() as server:
        ask_for({"c0": CORPUS["c0"]}, path, server)
        kept = path.read_bytes()
    with pytest.raises(GenerationError, match=r"127\.0\.0\.1.*8 attempts.*run the same again"):
        ask_for(CORPUS, path, server)
    assert path.read_bytes() == kept


@pytest.mark.parametrize("status", [308, 401, 402, 404])
def test_wrong_settings_are_not_tried_again(tmp_path, status):
    with running(status=status) as server, pytest.raises(GenerationError, match=f"HTTP {status} for model 'tiny'"):
        ask_for({"c0": CORPUS["c0"]}, tmp_path / "journal", server)
    assert server.tries.total() == 1


def test_a_server_that_refuses_every_chunk_says_why_and_no_prompt_is_blamed(tmp_path):
    with running(status=400) as server:
        server.refusal = json.dumps({"error": {"message": "tiny is an embedding model"}})
        with pytest.raises(GenerationError) as refused:
            ask_for(CORPUS, tmp_path / "journal", server)
        assert str(refused.value) == (
            "the server refused all: HTTP 400: 'tiny is an embedding model'; see to it, or take another model or server"
        )
        server.status, server.never = 200, "Passage:"
        with pytest.raises(GenerationError, match=r"no question is left of 0 to 6 chunks \(no list .*\); change the"):
            ask_for(CORPUS, tmp_path / "journal", server)
    assert not (tmp_path / "journal").exists()


@pytest.mark.parametrize("own", [True, False], ids=["own-prompts", "the-package's"])
def test_questions_in_another_script_are_kept_where_own_prompts_may_ask_for_them(tmp_path, own):
    prompts = load_prompts()
    if own:
        prompts = replace(prompts, questions=Template("In Russian, $count questions to $passage"))
    with AnswerJournal(tmp_path / "journal", "m") as journal:
        maker = Synthesizer({"one": "The anchor is kept in the boathouse."}, None, journal, prompts)
        (prompt,) = maker._question_prompts.values()
        journal.add(prompt, [{"kind": "how-to", "question": "Где хранится якорь?"}])
        thrown_out = Counter()
        assert len(maker._made_questions(thrown_out)) == own
    assert thrown_out["in another script"] == (not own)


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


def test_help_says_that_the_timeout_is_of_silence():
    result = CliRunner().invoke(main, ["synthesize", "--help"])
    assert "Seconds of silence from the server" in " ".join(result.output.split())


def test_one_text_under_two_ids_is_asked_once_and_both_answer(tmp_path):
    with running() as server:
        made, _ = ask_for({"c0": CORPUS["c0"], "copy": CORPUS["c0"], "c1": CORPUS["c1"]}, tmp_path / "j", server)
    assert list(made.dataset.relevant_docs.values()) == [("c0", "copy")] * 2 + [("c1",)] * 2
    assert server.answered.total() == 4


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("How do I upgrade to version 4?", "How do I upgrade to version 5?", False),
        ("What does plan A cost?", "What does plan B cost?", False),
        ("Read a file in C", "Read a file in R", False),
        ("How to enable the log", "How not to enable the log", False),
        ("Why does it start?", "Why doesn't it start?", False),
        ("What is the server's name?", "What is a server name", True),
        ("A file is read how?", "How is the file read", True),
    ],
)
def test_questions_that_differ_in_a_character_or_a_not_are_two(tmp_path, first, second, same):
    corpus = {"one": "The first passage, of one thing.", "two": "The second passage, of another."}
    with AnswerJournal(tmp_path / "journal", "m") as journal:
        maker = Synthesizer(corpus, None, journal, load_prompts())
        for prompt, text in zip(maker._question_prompts.values(), (first, second), strict=True):
            journal.add(prompt, [{"kind": "how-to", "question": text}])
        thrown_out = Counter()
        assert len(maker._made_questions(thrown_out)) == 2 - same
    assert thrown_out["asked already"] == same


def test_half_a_character_in_an_answer_costs_no_run(tmp_path):
    assert parse_questions('{"questions": [{"kind": "a\\ud83d", "question": "Where \\ud83d?"}]}') == [
        {"kind": "a?", "question": "Where ??"}
    ]
    prompt = load_prompts().questions.substitute(count=3, passage=CORPUS["c0"])
    with AnswerJournal(tmp_path / "journal", "tiny") as journal:  # as earlier releases wrote it
        journal.add(prompt, [{"kind": "fact", "question": "Is the Anchor \ud83d in the boathouse?"}])
    with running() as server:
        made, _ = ask_for({"c0": CORPUS["c0"]}, tmp_path / "journal", server)
    assert list(made.dataset.queries.values()) == ["Is the Anchor ? in the boathouse?"]


def test_the_rate_is_kept(tmp_path):
    with (
        running() as server,
        LanguageModel(server.url, "tiny", requests_per_minute=1200) as model,
        AnswerJournal(tmp_path / "journal", "tiny") as journal,
    ):
        started = time.monotonic()
        Synthesizer(CORPUS, model, journal, load_prompts(), concurrency=8).run()
    assert time.monotonic() - started >= 11 * 60 / 1200


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


def test_a_journal_that_was_cut_drops_its_tail_and_one_in_use_is_refused(tmp_path):
    path = tmp_path / "journal"
    with AnswerJournal(path, "tiny") as journal:
        journal.add("a", [1])
        journal.add("b", [2])
        with pytest.raises(GenerationError, match="another run is writing it"):
            AnswerJournal(path, "tiny")
    os.truncate(path, path.stat().st_size - 3)
    with AnswerJournal(path, "tiny") as journal:
        assert "a" in journal
        assert "b" not in journal
        journal.add("b", [3])
    with AnswerJournal(path, "tiny") as journal:
        assert (journal["a"], journal["b"]) == ([1], [3])
    with AnswerJournal(path, "another model") as journal:
        assert "a" not in journal


def test_a_journal_without_an_answer_leaves_no_file(tmp_path):
    path = tmp_path / "journal"
    with AnswerJournal(path, "tiny") as journal:
        assert journal.is_empty
        assert path.is_file()
    assert not path.exists()
    with AnswerJournal(path, "tiny") as journal:
        journal.add("a", [1])
        assert not journal.is_empty
    with AnswerJournal(path, "another model"):
        pass
    assert answered(path, 0) == []
    assert path.is_file()


def test_a_journal_that_its_run_removes_meanwhile_takes_no_answer(tmp_path, monkeypatch):
    path = tmp_path / "journal"
    first = AnswerJournal(path, "tiny")
    lock = fcntl.flock

    def lock_late(file, how):
        first.close()
        lock(file, how)

    monkeypatch.setattr(fcntl, "flock", lock_late)
    with pytest.raises(GenerationError, match="another run has just ended; start again"):
        AnswerJournal(path, "tiny")


def answered(path, count=5):
    with AnswerJournal(path, "tiny") as journal:
        return [number for number in range(count) if f"p{number}" in journal]


@pytest.fixture
def journal_of_five(tmp_path):
    path = tmp_path / "journal"
    with AnswerJournal(path, "tiny") as journal:
        for number in range(5):
            journal.add(f"p{number}", [number])
    return path


def test_broken_lines_cost_no_answer_after_them(journal_of_five):
    first, *others = journal_of_five.read_bytes().splitlines(keepends=True)
    journal_of_five.write_bytes(b"".join([first, b"\n", b"my notes\n", *others, others[0][:-9]]))
    assert answered(journal_of_five) == [0, 1, 2, 3, 4]
    assert journal_of_five.read_bytes() == b"".join([first, b"\n", b"my notes\n", *others])


def test_a_last_answer_without_its_newline_is_kept(journal_of_five):
    whole = journal_of_five.read_bytes()
    journal_of_five.write_bytes(whole[:-1])
    assert answered(journal_of_five) == [0, 1, 2, 3, 4]
    assert journal_of_five.read_bytes() == whole


@pytest.mark.parametrize("content", [b"my notes\n" * 3, b"my notes", b"{}\n"])
def test_a_file_that_is_no_journal_stays_as_it_is(tmp_path, content):
    (tmp_path / "journal").write_bytes(content)
    with pytest.raises(GenerationError, match="holds no answer of a language model, and stays as it is"):
        AnswerJournal(tmp_path / "journal", "tiny")
    assert (tmp_path / "journal").read_bytes() == content


@pytest.mark.parametrize("content", [b"", b"\n", b'{"ke', b'{"key": "0123'])
def test_a_journal_that_was_torn_at_its_first_answer_begins_anew(tmp_path, content):
    (tmp_path / "journal").write_bytes(content)
    assert answered(tmp_path / "journal") == []


def test_a_password_in_the_servers_url_is_not_shown():
    with pytest.raises(GenerationError, match=r"'ftp://localhost/v1/chat/completions' does not begin with") as refused:
        LanguageModel("ftp://u:hunter2@localhost/v1", "tiny")
    assert "hunter2" not in str(refused.value)
    assert LanguageModel("http://u:hunter2@localhost/v1", "tiny").label == "http://localhost/v1/chat/completions"


@pytest.mark.slow
def test_killed_and_resumed_nothing_is_lost_and_nothing_asked_twice(tmp_path):
    corpus = {f"c{number}": f"Item{number} lies on shelf {number} of the store room." for number in range(40)}
    (tmp_path / "corpus.json").write_text(json.dumps(corpus))
    out = tmp_path / "train.json"
    journal_path = tmp_path / "train.json.answers.jsonl"
    with running(["429", "cut"]) as server:
        command = [sys.executable, "-m", "docsgpt_embtune", "synthesize", "--yes", "--first-wait", "0.01"]
        command += ["--corpus", str(tmp_path / "corpus.json"), "--out", str(out), "--concurrency", "4"]
        command += ["--llm-base-url", server.url, "--llm-model", "tiny"]
        environment = os.environ | {KEY_VARIABLE: "not-to-be-shown"}
        for wanted in (7, 55):  # answers in the journal: among the questions, then among the judgments
            child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment)
            while child.poll() is None and _lines(journal_path) < wanted:
                time.sleep(0.005)
            child.send_signal(signal.SIGKILL)
            child.communicate()
            assert child.returncode == -signal.SIGKILL
            assert not out.exists()
            kept = journal_path.read_bytes().rpartition(b"\n")[0].splitlines()
            in_flight = server.answered.total() - len(kept)
            assert 0 <= in_flight <= 2 * 4
        result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        assert result.returncode == 0, result.stdout + result.stderr
        # An answer that was on its way when the process died is the only thing that can be asked for again.
        assert server.answered.total() <= 80 + 2 * 4
        assert server.keys == {"Bearer not-to-be-shown"}
    keys = [json.loads(line)["key"] for line in journal_path.read_bytes().splitlines()]
    assert len(keys) == len(set(keys)) == 80
    dataset = load_dataset(out)
    of_chunk = {doc_id: [] for doc_id in corpus}
    for query_id, (doc_id,) in dataset.relevant_docs.items():
        of_chunk[doc_id].append(dataset.queries[query_id])
    assert of_chunk == {f"c{n}": [f"Where is Item{n}?", f"Item{n} location"] for n in range(40)}
    assert "not-to-be-shown" not in result.stdout + result.stderr + out.read_text() + journal_path.read_text()


def _lines(path):
    return path.read_bytes().count(b"\n") if path.exists() else 0


def test_command_estimates_asks_and_says_what_was_spent(tmp_path):
    corpus, out = tmp_path / "corpus.json", tmp_path / "train.json"
    corpus.write_text(json.dumps(CORPUS))
    with running() as server:
        arguments = ["synthesize", "--corpus", str(corpus), "--out", str(out)]
        arguments += ["--llm-base-url", server.url, "--llm-model", "tiny", "--price-input", "1", "--price-output", "2"]
        refused = CliRunner().invoke(main, arguments, input="n\n")
        assert refused.exit_code == 1
        assert "chunks without questions yet: 2 of 6; to ask takes about 8 requests" in refused.output
        assert not out.exists()
        result = CliRunner().invoke(main, [*arguments, "--yes"])
    assert result.exit_code == 0, result.output
    assert "spent       8 requests, 800 input and 80 output tokens, 0.00 in money" in result.output
    assert json.loads(out.read_text())["made_by"] == "the language model tiny"
    assert len(load_dataset(out)) == 12


def test_tokens_that_a_server_does_not_count_are_not_said_to_be_none(tmp_path):
    (tmp_path / "corpus.json").write_text(json.dumps(CORPUS))
    with running() as server:
        server.usage = None
        arguments = ["--corpus", tmp_path / "corpus.json", "--out", tmp_path / "train.json", "--yes"]
        arguments += ["--llm-base-url", server.url, "--llm-model", "tiny"]
        result = CliRunner().invoke(main, ["synthesize", *map(str, arguments)])
    assert "spent       12 requests, tokens that the server did not count, " in result.output


@pytest.mark.parametrize("usage", [None, {"prompt_tokens": 2000, "completion_tokens": 1500}], ids=["none", "thinks"])
def test_the_estimate_goes_by_what_the_server_counted(tmp_path, usage):
    with (
        running() as server,
        LanguageModel(server.url, "tiny") as model,
        AnswerJournal(tmp_path / "journal", "tiny") as journal,
    ):
        server.usage = usage
        estimate = Synthesizer(CORPUS, model, journal, load_prompts()).estimate()
        asked = statistics.mean(map(len, server.answered))
        sent = estimate.input_tokens * (asked / 2000 if usage else 4)  # characters
    assert estimate.output_tokens == estimate.requests * (1500 if usage else 3 * 30)
    judge_prompts = 6 * (len(load_prompts().judge.template) + 6 * statistics.mean(map(len, CORPUS.values())))
    assert sent == pytest.approx(2 * asked + judge_prompts, rel=0.01)  # of six, four were timed


def test_where_judgments_alone_are_left_some_of_them_are_timed(tmp_path):
    with (
        running() as server,
        LanguageModel(server.url, "tiny") as model,
        AnswerJournal(tmp_path / "journal", "tiny") as journal,
    ):
        made = Synthesizer(CORPUS, model, journal, load_prompts(), concurrency=1)
        for prompt in made._missing():
            journal.add(prompt, model.ask(prompt, parse_questions))
        estimate = made.estimate()
        assert (estimate.chunks, estimate.requests) == (0, 3)  # of six
        assert estimate.seconds > 0
        made.run()
        done = made.estimate()
    assert (done.requests, done.seconds) == (0, 0)
    assert server.answered.total() == 12


@pytest.mark.parametrize("price", ["--price-input", "--price-output"])
def test_one_price_without_the_other_is_refused(tmp_path, price):
    (tmp_path / "corpus.json").write_text(json.dumps(CORPUS))
    arguments = ["--corpus", tmp_path / "corpus.json", "--out", tmp_path / "train.json", "--llm-model", "tiny"]
    arguments += ["--llm-base-url", "http://localhost:1/v1", price, 1]
    result = CliRunner().invoke(main, ["synthesize", *map(str, arguments)])
    assert result.exit_code == 2
    assert "give both --price-input and --price-output" in result.output


def test_prompts_can_be_changed_and_are_checked(tmp_path):
    result = CliRunner().invoke(main, ["synthesize", "--write-prompts", str(tmp_path)])
    assert result.exit_code == 0
    assert load_prompts(tmp_path).judge.template == load_prompts().judge.template
    (tmp_path / "questions.txt").write_text("For $count coins, sing $passage; it costs $$5.")
    assert load_prompts(tmp_path).questions.substitute(count=2, passage="x") == "For 2 coins, sing x; it costs $5."
    (tmp_path / "questions.txt").write_text("Only $passage")
    with pytest.raises(GenerationError, match=r"questions\.txt: has to hold \$count and \$passage"):
        load_prompts(tmp_path)
    with pytest.raises(GenerationError, match=r"neither questions\.txt nor judge\.txt"):
        load_prompts(tmp_path / "nowhere")
