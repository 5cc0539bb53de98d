"""A run of the automatic recipe on a tiny model, and one that several of these files look at."""

from dataclasses import dataclass
from functools import partial

import pytest

from docsgpt_embtune.training.train import TrainingReport, train

from ..recipe_runs import AUTOMATIC, CONFIG, TRAINING, VALIDATION, learning_quickly


def tune(base, out, training=TRAINING, validation=VALIDATION, automatic=AUTOMATIC, **options):
    return train(training, validation, out, base=str(base), automatic=automatic, **{"config": CONFIG, **options})


@pytest.fixture
def tuned(tiny_base_folder, tmp_path):
    return partial(tune, tiny_base_folder, tmp_path / "tuned")


@dataclass(frozen=True)
class RunThatSpoke:
    report: TrainingReport
    said: list[str]


@pytest.fixture(scope="package")
def undisturbed(tiny_base_folder, tmp_path_factory):
    said: list[str] = []
    with learning_quickly():
        report = tune(tiny_base_folder, tmp_path_factory.mktemp("whole") / "tuned", say=said.append)
    return RunThatSpoke(report, said)
