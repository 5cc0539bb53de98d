"""Runs that are stopped and gone on with: the same weights in the end, and no text left behind."""

import json
import re
from dataclasses import replace

import pytest
from sentence_transformers import SentenceTransformer

from docsgpt_embtune.errors import TrainingError
from docsgpt_embtune.training import callbacks, trainer
from docsgpt_embtune.training.recipe import Automatic
from docsgpt_embtune.training.selection import Selection

from ..recipe_runs import CONFIG, CORPUS, TRAINING, stopping

pytestmark = pytest.mark.usefixtures("quick_learning")


def test_stage_that_held_up_holds_up_after_a_kill_at_its_end(tiny_base_folder, tmp_path):
    def scored(*values: float):
        return {m: {str(n): values[n % len(values)] for n in range(40)} for m in ("recall@1", "ndcg@10")}

    def begun(scores: list) -> Selection:
        model = SentenceTransformer(str(tiny_base_folder), device="cpu")
        groups = [[str(n)] for n in range(40)]
        selection = Selection(
            scored(0.5), model, lambda: scores.pop(0), lambda line: None, groups, folder=tmp_path, leniency=1.0
        )
        selection.resume()
        selection.begin_stage()
        return selection

    selection = begun([scored(0.1, 0.9), scored(0.95)])
    assert selection.holds_up("chunks, early")
    selection.enter("chunks")
    again = begun([scored(0.1, 0.9), scored(0.4)])
    assert again.holds_up("chunks, early")
    assert again.kept.name == "chunks"
    again.finish_stage()
    assert not begun([scored(0.4)]).holds_up("another, early")


@pytest.mark.parametrize("stopped_at", [("chunks", 2), ("questions", 1), ("hardest", 1)])
def test_run_that_is_stopped_and_gone_on_with_ends_with_the_same_weights(
    tuned, undisturbed, monkeypatch, stopped_at, tmp_path
):
    whole = undisturbed.report
    monkeypatch.setattr(callbacks, "SECONDS_BETWEEN_SAVES", 0.0)
    with stopping(stopped_at):
        tuned()
    assert not (tmp_path / "tuned").exists()
    said: list[str] = []
    resumed = tuned(resume=True, say=said.append)
    assert "resume      going on with the run that was stopped" in said
    assert resumed.manifest["fingerprint"] == whole.manifest["fingerprint"]
    assert resumed.tuned.mined == whole.tuned.mined
    assert not (tmp_path / ".tuned.run").exists()


@pytest.mark.parametrize("recipe_chooses", [True, False], ids=["auto", "told"])
def test_run_that_is_stopped_before_its_epoch_is_scored_ends_with_the_same_weights(
    tuned, undisturbed, monkeypatch, recipe_chooses
):
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    told = {"automatic": None, "config": replace(CONFIG, epochs=2), "keep_worse": True}
    options = {} if recipe_chooses else told
    whole = undisturbed.report if recipe_chooses else tuned(**told)
    monkeypatch.setattr(callbacks, "SECONDS_BETWEEN_SAVES", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(trainer.AtEpochEnd, "on_epoch_end", stop)
        with pytest.raises(KeyboardInterrupt):
            tuned(**options)
    resumed = tuned(resume=True, **options)
    assert [c.name for c in resumed.tuned.candidates] == [c.name for c in whole.tuned.candidates]
    assert resumed.manifest["fingerprint"] == whole.manifest["fingerprint"]


def test_run_without_questions_that_is_gone_on_with_is_taught_by_the_same_tokens(tuned, monkeypatch):
    alone = {"training": None, "validation": None, "corpus": CORPUS, "keep_worse": True}
    whole = tuned(**alone)
    monkeypatch.setattr(callbacks, "SECONDS_BETWEEN_SAVES", 0.0)
    with stopping(("chunks", 2)):
        tuned(**alone)
    assert tuned(resume=True, **alone).manifest["fingerprint"] == whole.manifest["fingerprint"]


def test_run_that_goes_on_tells_what_is_done_and_how_long_it_took_in_all(tuned, tmp_path):
    taken = tmp_path / ".tuned.run" / "seconds.json"
    with stopping(("questions", 1)):
        tuned(keep_worse=True)
    assert json.loads(taken.read_text()) > 0
    taken.write_text("1000")
    with stopping(("questions", 2)):
        tuned(keep_worse=True, resume=True)
    assert json.loads(taken.read_text()) > 1000
    said: list[str] = []
    report = tuned(keep_worse=True, resume=True, say=said.append)
    assert report.tuned.seconds > 1000
    assert "plan        1. chunks: done" in said
    assert any(line.startswith(f"plan        2. questions: {len(TRAINING)} questions") for line in said)
    assert any(re.search(r"so far \(16 min \d\d s before it was stopped\), of 20 min", line) for line in said)
    assert not any("longer than allowed" in line for line in said)


def test_nothing_of_the_texts_is_in_what_a_stopped_run_leaves(tuned, monkeypatch, tmp_path):
    monkeypatch.setattr(callbacks, "SECONDS_BETWEEN_SAVES", 0.0)
    monkeypatch.setattr("docsgpt_embtune.training.train.write_model_folder", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        tuned(keep_worse=True)
    left = [path for path in (tmp_path / ".tuned.run").rglob("*") if path.is_file()]
    assert any(path.name == "optimizer.pt" for path in left)
    assert not any(b"when is the log" in path.read_bytes() or b"by hand" in path.read_bytes() for path in left)


def test_run_that_is_finished_is_not_trained_anew(tuned, tmp_path):
    tuned(keep_worse=True, automatic=None)
    with pytest.raises(
        TrainingError, match=r"tuned: is finished, and no run to it was stopped; to train it anew leave"
    ):
        tuned(keep_worse=True, automatic=None, resume=True)
    assert [path.name for path in tmp_path.iterdir()] == ["tuned"]


def test_another_run_is_not_gone_on_with(tuned, monkeypatch):
    with stopping(("chunks", 1)):
        tuned(keep_worse=True)
    with pytest.raises(TrainingError, match="left by a run with a different --time-budget; run with the same"):
        tuned(keep_worse=True, resume=True, automatic=Automatic(minutes=10))
    with pytest.raises(TrainingError, match="left by a run with a different --seed;"):
        tuned(keep_worse=True, resume=True, config=replace(CONFIG, seed=99))
    monkeypatch.setattr("docsgpt_embtune.training.train.__version__", "0.0.1")
    with pytest.raises(TrainingError, match="left by a run with a different version"):
        tuned(keep_worse=True, resume=True)
