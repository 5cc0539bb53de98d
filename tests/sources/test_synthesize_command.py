"""`embtune synthesize`: what it asks and says, and what a stop or a kill leaves."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
from click.testing import CliRunner

from docsgpt_embtune.cli import main
from docsgpt_embtune.data.dataset import load_dataset
from docsgpt_embtune.errors import GenerationError
from docsgpt_embtune.sources.answer_journal import AnswerJournal
from docsgpt_embtune.sources.language_model import KEY_VARIABLE
from docsgpt_embtune.sources.prompts import load_prompts
from docsgpt_embtune.sources.synthesis import Synthesizer

from .chat_server import running
from .synthesis_runs import CORPUS


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


def test_help_says_that_the_timeout_is_of_silence():
    result = CliRunner().invoke(main, ["synthesize", "--help"])
    assert "Seconds of silence from the server" in " ".join(result.output.split())


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
