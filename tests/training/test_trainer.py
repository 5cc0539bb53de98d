"""What a machine with GPUs, or a launcher's settings, must not change in a training run."""

import logging
import os

import pytest
import torch

from docsgpt_embtune.base_models import BaseModel
from docsgpt_embtune.errors import TrainingError
from docsgpt_embtune.training import trainer
from docsgpt_embtune.training.config import TrainConfig
from docsgpt_embtune.training.examples import build_examples, questions_of
from docsgpt_embtune.training.losses import make_loss
from docsgpt_embtune.training.trainer import fit, load_base

from ..conftest import TEXTS
from ..sample_questions import TRAINING

CONFIG = TrainConfig(loss="multiple-negatives-ranking", epochs=1, batch_size=20, seed=13)


@pytest.fixture
def model(tiny_base_folder):
    return load_base(BaseModel("tiny", tiny_base_folder), "cpu")


@pytest.fixture
def examples():
    return build_examples(questions_of(TRAINING, {}), CONFIG.loss)


def test_second_gpu_in_sight_changes_no_batch(model, examples, monkeypatch):
    class OfTwoGpus(trainer.SentenceTransformerTrainingArguments):
        def __post_init__(self):
            super().__post_init__()
            assert self.n_gpu <= 1
            self._n_gpu = 2

    steps = []
    for arguments in (trainer.SentenceTransformerTrainingArguments, OfTwoGpus):
        monkeypatch.setattr(trainer, "SentenceTransformerTrainingArguments", arguments)
        seen = []
        hook = model[0].register_forward_hook(lambda *_, seen=seen: seen.append(torch.is_autocast_enabled("cpu")))
        fit(model, examples, CONFIG, "bf16")
        hook.remove()
        steps.append(seen)
    assert steps[0] == steps[1]
    assert steps[0][-1]


def test_launchers_precision_does_not_overrule_the_runs(model, examples, monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    computed_in = set()
    model[0].register_forward_hook(lambda *_: computed_in.add(torch.is_autocast_enabled("cpu")))
    fit(model, examples, CONFIG, "fp32")
    assert computed_in == {False}
    assert os.environ["ACCELERATE_MIXED_PRECISION"] == "bf16"


def test_a_fit_leaves_no_precision_behind_and_tells_of_no_token(model, examples, monkeypatch):
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    noted, logger = [], logging.getLogger("transformers")
    handler = logging.Handler(logging.WARNING)
    handler.emit = noted.append
    model[0].auto_model.config.pad_token_id = 3
    logger.addHandler(handler)
    try:
        fit(model, examples, CONFIG, "fp32")
    finally:
        logger.removeHandler(handler)
    assert "ACCELERATE_MIXED_PRECISION" not in os.environ
    assert not noted


def test_gpu_that_the_trainer_would_not_use_is_refused(tiny_base_folder):
    with pytest.raises(TrainingError, match=r"cuda:1: training uses the first GPU .* set CUDA_VISIBLE_DEVICES=1"):
        load_base(BaseModel("tiny", tiny_base_folder), "cuda:1")


def test_gpu_takes_a_batch_in_one_pass(model, monkeypatch):
    columns = [model.preprocess(list(TEXTS)), model.preprocess([" ".join(TEXTS)] * len(TEXTS))]
    labels = torch.zeros(len(TEXTS))
    passes = []
    model.register_forward_pre_hook(lambda _, arguments: passes.append(len(arguments[0]["input_ids"])))
    found = []
    for device in ("cpu", "cuda"):
        monkeypatch.setattr(type(model), "device", torch.device(device))
        loss = make_loss(model, CONFIG.loss)
        loss(columns, labels)  # with the first batch it also measures how much memory a text takes
        passes.clear()
        found.append((loss(columns, labels), len(passes)))
    (by_processor, several), (by_gpu, one) = found
    assert several > one == 1
    assert torch.allclose(by_processor, by_gpu, atol=1e-5)
