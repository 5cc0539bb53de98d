"""The stages of a run: what each learns from, what it passes on, and when it is given up."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, StaticEmbedding
from tokenizers import Tokenizer

from docsgpt_embtune.base_models import resolve_base
from docsgpt_embtune.serving.encoding import Encoder
from docsgpt_embtune.training import activations, recipe, trainer
from docsgpt_embtune.training.config import TrainConfig
from docsgpt_embtune.training.known_vectors import KnownVectors
from docsgpt_embtune.training.material import Material
from docsgpt_embtune.training.recipe import Automatic
from docsgpt_embtune.training.selection import copy_of_weights
from docsgpt_embtune.training.stage import Stage
from docsgpt_embtune.training.train import train
from docsgpt_embtune.training.trainer import load_base
from docsgpt_embtune.training.tuning_run import TuningRun

from ...sample_questions import NOUNS, VERBS
from ..recipe_runs import AUTOMATIC, CONFIG, CORPUS, TRAINING, VALIDATION

pytestmark = pytest.mark.usefixtures("quick_learning")


def test_every_chunk_then_the_questions_and_the_better_is_written(undisturbed):
    report, said = undisturbed.report, undisturbed.said
    names = [candidate.name for candidate in report.tuned.candidates]
    assert names[:6] == ["chunks, early", "chunks", "questions", "questions, mean", "hardest", "hardest, mean"]
    assert report.tuned.chosen in report.tuned.candidates
    assert report.manifest["training"]["recipe"] == "auto"
    assert report.manifest["validation"]["verdict"] == "improved"
    plan = [line for line in said if line.startswith("plan")]
    assert len(plan) == 4
    assert said.index(plan[-1]) < next(n for n, line in enumerate(said) if line.startswith("mined"))


def test_run_without_room_recomputes_activations_and_says_so(tuned, monkeypatch, tmp_path):
    (tmp_path / "memory.max").write_text("1000000\n")
    monkeypatch.setattr(activations, "CONTAINER_LIMITS", (tmp_path / "memory.max",))
    said: list[str] = []
    report = tuned(automatic=Automatic(keywords="off"), say=said.append)
    assert report.manifest["validation"]["verdict"] == "improved"
    last = [line for line in said if line.startswith("plan")][-1]
    assert last.endswith(", with activations recomputed to fit (slower)")


def test_static_base_is_tuned_too(tiny_base_folder, tmp_path):
    tokens = Tokenizer.from_file(str(tiny_base_folder / "tokenizer.json"))
    torch.manual_seed(0)
    SentenceTransformer(modules=[StaticEmbedding(tokens, embedding_dim=32), Normalize()], device="cpu").save(
        str(tmp_path / "static")
    )
    said: list[str] = []
    report = train(
        TRAINING,
        VALIDATION,
        tmp_path / "tuned",
        base=str(tmp_path / "static"),
        config=CONFIG,
        automatic=AUTOMATIC,
        say=said.append,
    )
    assert report.folder is not None
    assert any("a static model, which hardly learns in these steps" in line for line in said)
    assert "GiB of memory at its peak" in [line for line in said if line.startswith("plan")][-1]


def test_stage_that_makes_validation_fall_is_given_up_early(monkeypatch):
    said: list[str] = []
    run = TuningRun.begin(load_base(resolve_base("bundled"), "cpu"), VALIDATION, CONFIG, say=said.append)
    ruinous = TrainConfig(loss="multiple-negatives-ranking", learning_rate=0.3, batch_size=4, precision="fp32")
    seen: list[int] = []
    monkeypatch.setattr(trainer.ProgressBar, "on_step_end", lambda self, args, state, *_, **__: seen.append(1))
    run.train(0, Stage("chunks", TRAINING, ruinous, mines=False, may_be_given_up=True))
    assert len(seen) == 4  # of 15
    assert [candidate.name for candidate in run.selection.candidates] == ["chunks, early"]
    assert run.selection.kept is None
    assert said[-1] == "chunks      given up: validation has fallen"
    assert run.selection.finished_stages == 1


def test_stage_that_moves_no_answer_is_not_given_up(tiny_base_folder):
    run = TuningRun.begin(SentenceTransformer(str(tiny_base_folder), device="cpu"), VALIDATION, CONFIG)
    assert run.selection.holds_up("as the base model")


def test_stage_that_does_not_pass_on_leaves_the_next_its_own_beginning(tiny_base_folder):
    model = SentenceTransformer(str(tiny_base_folder), device="cpu")
    run = TuningRun.begin(model, VALIDATION, CONFIG)
    begun_with = copy_of_weights(model)
    config = replace(recipe.RANKING, precision="fp32")
    run.train(0, Stage("questions", TRAINING, config, mines=False, passes_on=False))
    run.selection.begin_stage()
    assert run.selection.kept is not None
    assert all(torch.equal(tensor, begun_with[name]) for name, tensor in model.state_dict().items())
    run.train(1, Stage("hardest", TRAINING, config, mines=False))
    run.selection.begin_stage()
    assert not all(torch.equal(tensor, begun_with[name]) for name, tensor in model.state_dict().items())


def test_texts_are_encoded_once_for_each_state_of_the_weights(tiny_base_folder):
    run = TuningRun.begin(SentenceTransformer(str(tiny_base_folder), device="cpu"), VALIDATION, CONFIG)
    mining = Stage("questions", TRAINING, replace(recipe.RANKING, precision="fp32"), mines=True)
    assert not run.vectors.unknown(CORPUS.values())
    run.train(0, replace(mining, passes_on=False, averages=True))
    run.selection.begin_stage()
    assert not run.vectors.unknown(CORPUS.values())
    run.selection.restore()
    assert not run.vectors.unknown(run.ranked)  # as they were scored
    assert set(run.vectors.unknown(CORPUS.values())) == set(CORPUS.values()) - set(run.ranked)


def test_known_vectors_are_the_models(tiny_base_folder):
    model = SentenceTransformer(str(tiny_base_folder), device="cpu")
    encode = Encoder(model, "fp32")
    vectors = KnownVectors(encode)
    texts = [*CORPUS.values()][:5]
    before = vectors.embed(texts)
    with torch.no_grad():
        next(model.parameters()).mul_(2)
    after = vectors.embed(texts[::-1])[::-1]
    assert np.allclose(after, encode(texts), atol=1e-6)
    assert not np.allclose(after, before, atol=1e-3)
    assert not vectors.unknown(texts)


def test_chunks_that_outrank_the_good_one_are_learned_from(tiny_base_folder):
    model = SentenceTransformer(str(tiny_base_folder), device="cpu")
    run = TuningRun.begin(model, VALIDATION, CONFIG)
    *_, hardest = recipe._stages(run, Material(TRAINING, VALIDATION), CONFIG)
    mined = run._mine(hardest)

    def similarity(query_id: str, doc_id: str) -> float:
        query, chunk = run.vectors.embed([TRAINING.queries[query_id], CORPUS[doc_id]])
        return float(query @ chunk)

    assert any(
        similarity(query_id, bad) > similarity(query_id, TRAINING.relevant_docs[query_id][0])
        for query_id, (bad,) in mined.items()
    )


def test_questions_that_come_with_bad_chunks_are_learned_from_once(tiny_base_folder):
    model = SentenceTransformer(str(tiny_base_folder), device="cpu")
    run = TuningRun.begin(model, VALIDATION, CONFIG)
    given = replace(TRAINING, irrelevant_docs={f"q-{n}-{v}": (f"{n}-sold",) for n in NOUNS for v in VERBS[:6]})
    stages = recipe._stages(run, Material(given, VALIDATION), CONFIG)
    assert [stage.name for stage in stages] == ["chunks", "questions"]


def test_every_stage_trains_at_the_widths_of_the_run(tiny_base_folder):
    model = SentenceTransformer(str(tiny_base_folder), device="cpu")
    run = TuningRun.begin(model, VALIDATION, CONFIG)
    stages = recipe._stages(run, Material(TRAINING, VALIDATION), replace(CONFIG, widths=(8, 16)))
    assert [stage.config.widths for stage in stages] == [(8, 16)] * 3
