"""Questions from a server that misbehaves on purpose: nothing lost, nothing asked twice."""

import json
import signal
import statistics
import threading
import time
from collections import Counter
from dataclasses import replace
from string import Template

import pytest

from docsgpt_embtune.errors import GenerationError
from docsgpt_embtune.sources.answer_journal import AnswerJournal
from docsgpt_embtune.sources.blind_judge import parse_questions
from docsgpt_embtune.sources.language_model import ANSWER_ATTEMPTS, LanguageModel
from docsgpt_embtune.sources.prompts import load_prompts
from docsgpt_embtune.sources.synthesis import Synthesizer

from . import chat_server
from .chat_server import BROKEN, REFUSAL, REFUSED, WRONG, running
from .synthesis_runs import CORPUS, IMPATIENT, PATIENT, ask_for


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
    with pytest.raises(GenerationError, match=r"127\.0\.0\.1.*3 attempts.*run the same again"):
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
