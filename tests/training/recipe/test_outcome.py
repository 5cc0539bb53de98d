"""What is written in the end, what is not, and what is refused at the beginning."""

import os
import subprocess
import sys
from dataclasses import replace

import pytest
from click.testing import CliRunner
from sentence_transformers import SentenceTransformer

from docsgpt_embtune.cli import main
from docsgpt_embtune.data.dataset import RetrievalDataset, save_dataset
from docsgpt_embtune.errors import TrainingError
from docsgpt_embtune.evaluation.best_of_many import mean_ndcg
from docsgpt_embtune.training import recipe
from docsgpt_embtune.training.material import Material
from docsgpt_embtune.training.recipe import Automatic
from docsgpt_embtune.training.summary import summary
from docsgpt_embtune.training.validation import score_vectors

from ..recipe_runs import CONFIG, TRAINING, VALIDATION, shuffled, what_the_base_finds_first

pytestmark = pytest.mark.usefixtures("quick_learning")


def test_shuffled_labels_are_no_better_than_the_base_and_nothing_is_written(tuned, tmp_path):
    report = tuned(shuffled(TRAINING, 1), shuffled(VALIDATION, 2))
    assert report.folder is None
    assert not report.tuned.improved
    assert not (tmp_path / "tuned").exists()

    def advice(training: RetrievalDataset | None, validation: RetrievalDataset | None) -> str:
        return summary(replace(report, tuned=replace(report.tuned, material=Material(training, validation))))

    assert "could be luck" in summary(report)
    assert "without --val" in advice(TRAINING, VALIDATION)
    assert "more questions, about other answers; or --corpus alone" in advice(TRAINING, None)
    assert "questions of people with --train" in advice(None, VALIDATION)


def test_width_above_the_models_is_refused_before_anything_is_read(tuned, tmp_path):
    said: list[str] = []
    with pytest.raises(TrainingError, match="the model is 32 wide and cannot be cut to 64; give --widths up to 32"):
        tuned(config=replace(CONFIG, widths=(64,)), say=said.append)
    assert not any(line.startswith("baseline") for line in said)
    assert list(tmp_path.iterdir()) == []


def test_kept_for_worse_are_the_weights_that_the_manifest_speaks_of(tuned, monkeypatch, tiny_base_folder):
    monkeypatch.setattr(recipe, "RANKING", replace(recipe.RANKING, learning_rate=1e-2))
    asked = what_the_base_finds_first(tiny_base_folder)
    report = tuned(validation=asked, automatic=Automatic(keywords="off"), keep_worse=True)
    assert not report.tuned.preferred
    assert report.manifest["training"]["kept"] == report.tuned.chosen.name
    written = SentenceTransformer(str(report.folder), device="cpu")
    scores = score_vectors(asked, *(written.encode(list(texts.values())) for texts in (asked.queries, asked.corpus)))
    assert mean_ndcg(scores) == pytest.approx(mean_ndcg(report.tuned.chosen.scores), abs=0.05)
    assert mean_ndcg(scores) < 0.95


def test_too_few_answers_to_tell_a_gain_from_luck_are_said_before_the_work(tuned):
    few = VALIDATION.subset(list(VALIDATION.queries)[:4])
    with pytest.raises(TrainingError, match="fewer than 5 cannot tell any gain from luck"):
        tuned(TRAINING, few)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (
            ["--recipe", "auto", "--loss", "cosine-similarity", "--epochs", "2"],
            "--recipe auto chooses --loss, --epochs",
        ),
        (["--epochs", "2", "--time-budget", "3"], "--time-budget: only with --recipe auto, and --epochs"),
        (["--widths", "8,16", "--keywords", "narrow"], "--keywords narrow with --widths: a vector to be cut has no"),
        (["--time-budget", "0"], "Invalid value for '--time-budget': '0': give a time above 0 that ends"),
    ],
)
def test_mixed_up_options_are_refused(tmp_path, arguments, complaint):
    save_dataset(TRAINING, tmp_path / "train.json")
    files = ["--train", str(tmp_path / "train.json"), "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(main, ["train", *files, *arguments])
    assert result.exit_code == 2
    assert complaint in result.stderr


@pytest.mark.slow
def test_two_processes_train_one_model(tiny_base_folder, tmp_path):
    save_dataset(TRAINING, tmp_path / "train.json")
    save_dataset(VALIDATION, tmp_path / "val.json")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=0"]
    command += ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", "-m", "docsgpt_embtune", "train"]
    command += ["--train", str(tmp_path / "train.json"), "--val", str(tmp_path / "val.json"), "--keep-worse"]
    command += ["--base", str(tiny_base_folder), "--out", str(tmp_path / "tuned"), "--device", "cpu"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("baseline    validation") == 1
    assert (tmp_path / "tuned" / "embtune.json").is_file()
