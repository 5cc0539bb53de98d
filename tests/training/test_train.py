"""The main job on a tiny model: real trainer, real files."""

import errno
import json
import os
import shutil
import signal
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, LayerNorm, Pooling

from docsgpt_embtune.base_models import BaseModel, resolve_base
from docsgpt_embtune.cli import main
from docsgpt_embtune.data.dataset import RetrievalDataset, query_digest, save_dataset
from docsgpt_embtune.embeddings import TunedEmbeddings
from docsgpt_embtune.errors import ModelFolderError, TrainingError
from docsgpt_embtune.evaluation.best_of_many import mean_ndcg
from docsgpt_embtune.evaluation.metrics import mean_scores
from docsgpt_embtune.serving.encoding import Encoder
from docsgpt_embtune.stopping import ToldInterrupt
from docsgpt_embtune.training import train as train_module
from docsgpt_embtune.training import trainer
from docsgpt_embtune.training.config import TrainConfig
from docsgpt_embtune.training.examples import build_examples, questions_of
from docsgpt_embtune.training.held_out import keep_apart
from docsgpt_embtune.training.query_adapter.adapting import adapt
from docsgpt_embtune.training.recipe import Automatic
from docsgpt_embtune.training.run_folder import run_folder
from docsgpt_embtune.training.selection import copy_of_weights
from docsgpt_embtune.training.summary import summary
from docsgpt_embtune.training.train import train
from docsgpt_embtune.training.trainer import fit, load_base
from docsgpt_embtune.training.validation import Pool
from docsgpt_embtune.wording import silent

from ..sample_questions import NOUNS, TRAINING, VALIDATION, VERBS, dataset

CONFIG = TrainConfig(epochs=2, learning_rate=1e-3, precision="fp32", device="cpu")


@pytest.fixture
def tuned(tiny_base_folder, tmp_path):
    def run(config=CONFIG, out="tuned", **options):
        return train(TRAINING, VALIDATION, tmp_path / out, base=str(tiny_base_folder), config=config, **options)

    return run


def test_library_does_what_the_command_does_takes_paths_as_strings_and_prints_nothing(
    tiny_base_folder, tmp_path, monkeypatch, capfd
):
    asked = []
    monkeypatch.setattr(train_module, "tune_automatically", lambda *args, **_: asked.append(args[3]) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train(TRAINING, VALIDATION, str(tmp_path / "out"), base=tiny_base_folder)
    assert asked == [Automatic()]
    report = train(TRAINING, VALIDATION, str(tmp_path / "out"), base=tiny_base_folder, config=CONFIG, keep_worse=True)
    assert str(report) == repr(report) == summary(report)
    assert f"{tmp_path / 'out'} (" in str(report)
    assert capfd.readouterr() == ("", "")


def test_no_more_of_a_long_chunk_is_tokenised_than_the_model_may_read(tiny_base_folder, tmp_path, monkeypatch):
    longest, kind = [0], type(load_base(BaseModel("tiny", tiny_base_folder), "cpu")[0])
    preprocess = kind.preprocess

    def spy(self, texts, *arguments, **options):
        longest.append(max(len(text.split()) for text in texts))
        return preprocess(self, texts, *arguments, **options)

    monkeypatch.setattr(kind, "preprocess", spy)
    long = {doc_id: f"{text} {'or lost ' * 500}" for doc_id, text in TRAINING.corpus.items()}
    automatic = Automatic(windows="off", keywords="off")
    train(replace(TRAINING, corpus=long), None, tmp_path / "out", base=tiny_base_folder, automatic=automatic)
    assert max(longest) <= 128  # it reads 64 tokens


def test_questions_that_are_longer_than_the_model_reads_are_counted(tiny_base_folder, tmp_path):
    long = replace(TRAINING, queries={**TRAINING.queries, "q-log-kept": "when is the log " + "kept " * 100})
    said = []
    train(long, VALIDATION, tmp_path / "out", base=tiny_base_folder, config=CONFIG, say=said.append)
    assert "            1 of 60 questions are longer: their ends are not read" in said


def test_what_is_no_dataset_is_named_with_what_makes_one(tmp_path):
    with pytest.raises(
        TypeError, match=r"^training must be a RetrievalDataset, and is 'q.csv'; give what load_dataset"
    ):
        train("q.csv", None, tmp_path / "out")
    with pytest.raises(TypeError, match=r"^validation must be"):
        adapt(TRAINING, tmp_path / "q.csv", tmp_path / "out")
    with pytest.raises(TypeError, match=r"^corpus must map ids to texts, and is 'c.json'; give what load_corpus"):
        train(None, None, tmp_path / "out", corpus="c.json")
    assert repr(VALIDATION) == f"<RetrievalDataset: {VALIDATION.describe()}>"


def test_model_that_not_every_host_can_load_is_refused_before_the_training(tiny_base_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(train_module, "tune_as_told", None)
    transformer = SentenceTransformer(str(tiny_base_folder), device="cpu")[0]
    for modules, fault in (
        (
            [Pooling(32, ("mean", "cls"))],
            "joins the vectors of mean, cls in this order, and what DocsGPT loads joins cls",
        ),
        ([Pooling(32, "mean"), LayerNorm(32)], "module 2 of the model is a LayerNorm"),
        ([Pooling(32, "mean"), Dense(32, 32, use_residual=True)], "a Dense layer with a residual"),
    ):
        SentenceTransformer(modules=[transformer, *modules], device="cpu").save(str(tmp_path / "base"))
        with pytest.raises(ModelFolderError, match=fault):
            train(TRAINING, VALIDATION, tmp_path / "out", base=tmp_path / "base", config=CONFIG)
        shutil.rmtree(tmp_path / "base")


@pytest.mark.parametrize("loss", ["online-contrastive", "cosine-similarity", "multiple-negatives-ranking"])
def test_each_loss_writes_a_folder_that_serves(tuned, loss):
    report = tuned(
        TrainConfig(loss=loss, epochs=1, learning_rate=1e-3, precision="fp32", device="cpu"), keep_worse=True
    )
    vector = TunedEmbeddings(str(report.folder)).embed_query("when is the log kept")
    assert np.linalg.norm(vector) == pytest.approx(1.0, abs=1e-5)
    assert report.manifest["training"]["loss"] == loss
    assert report.manifest["training"]["mined_bad_chunks"] > 0 or loss != "online-contrastive"


def test_widths_are_trained_and_recorded_for_shrink_to_try(tuned):
    one_epoch = replace(CONFIG, epochs=1)
    plain, cut = (
        tuned(config, out=f"w{config.widths}", keep_worse=True)
        for config in (one_epoch, replace(one_epoch, widths=(8, 16)))
    )
    assert cut.manifest["training"]["widths"] == (8, 16)
    assert cut.manifest["fingerprint"] != plain.manifest["fingerprint"]


def test_the_best_epoch_is_what_is_saved(tuned, tiny_base_folder, monkeypatch):
    real = trainer.AtEpochEnd.on_epoch_end

    def undo_what_the_first_epoch_learned(self, args, state, control, **context):
        if state.epoch > 1:
            torch.nn.utils.vector_to_parameters(torch.zeros(10**6), context["model"].parameters())
        real(self, args, state, control, **context)

    monkeypatch.setattr(trainer.AtEpochEnd, "on_epoch_end", undo_what_the_first_epoch_learned)
    report = tuned(keep_worse=True)
    ndcg = [mean_ndcg(candidate.scores) for candidate in report.tuned.candidates]
    assert max(ndcg) != ndcg[-1]
    base = Encoder(SentenceTransformer(str(tiny_base_folder), device="cpu"), "fp32")
    pool = Pool.of_the_hardest(VALIDATION, base(VALIDATION.queries.values()), base(VALIDATION.corpus.values()))
    encode = Encoder(SentenceTransformer(str(report.folder), device="cpu"), "fp32")
    saved = pool.score(encode(pool.queries), encode(pool.chunks))
    assert mean_ndcg(saved) == pytest.approx(max(ndcg))
    assert report.manifest["training"]["kept"] == f"questions, epoch {ndcg.index(max(ndcg)) + 1}"


def test_after_training_in_bf16_the_model_computes_in_fp32_again(tuned):
    report = tuned(replace(CONFIG, epochs=1, precision="bf16"), keep_worse=True)
    texts = list(VALIDATION.queries.values())
    saved = SentenceTransformer(str(report.folder), device="cpu").encode(texts)
    assert np.allclose(report.tuned.model.encode(texts), saved, atol=1e-6)


def test_every_fit_of_a_model_computes_in_bf16(tiny_base_folder):
    model = SentenceTransformer(str(tiny_base_folder), device="cpu")
    config = replace(CONFIG, loss="multiple-negatives-ranking", epochs=1, batch_size=32)
    examples = build_examples(questions_of(TRAINING, {}), config.loss)
    computed_in = []
    linear = next(module for module in model.modules() if isinstance(module, torch.nn.Linear))
    linear.register_forward_hook(lambda module, inputs, output: computed_in.append((module.training, output.dtype)))
    weights = copy_of_weights(model)
    fitted = []
    for _ in range(2):
        model.load_state_dict(weights)
        trainer.fit(model, examples, config, "bf16")
        fitted.append(copy_of_weights(model))
    assert {dtype for training, dtype in computed_in if training} == {torch.bfloat16}
    assert all(torch.equal(tensor, fitted[1][name]) for name, tensor in fitted[0].items())


def test_same_seed_same_model_and_another_seed_another(tuned):
    one_epoch = replace(CONFIG, epochs=1)
    first, again = (tuned(one_epoch, out=name, keep_worse=True) for name in ("first", "again"))
    other = tuned(replace(one_epoch, seed=14), out="other", keep_worse=True)
    assert first.manifest["fingerprint"] == again.manifest["fingerprint"] != other.manifest["fingerprint"]


def test_a_model_that_validation_does_not_prefer_is_not_written(tuned, tmp_path):
    report = tuned(replace(CONFIG, learning_rate=1e-9))
    assert report.folder is None
    assert not (tmp_path / "tuned").exists()


def test_manifest_tells_where_the_model_comes_from_and_no_private_text(tuned):
    report = tuned(keep_worse=True)
    text = (report.folder / "embtune.json").read_text()
    assert not any(question in text for question in TRAINING.queries.values())
    manifest = json.loads(text)
    questions = [*TRAINING.queries.values(), *VALIDATION.queries.values()]
    assert manifest["data"]["seen_queries"] == sorted(map(query_digest, questions))
    assert manifest["validation"]["tuned"] == mean_scores(report.tuned.chosen.scores)
    assert manifest["data"]["training"]["sha256"] == TRAINING.fingerprint


def test_validation_questions_are_taken_out_of_training(tiny_base_folder, tmp_path):
    lines: list[str] = []
    base = str(tiny_base_folder)
    train(dataset(), VALIDATION, tmp_path / "out", base=base, config=CONFIG, keep_worse=True, say=lines.append)
    assert "left out of training: 20 questions that validation asks too" in lines
    with pytest.raises(TrainingError, match="every training question"):
        train(VALIDATION, VALIDATION, tmp_path / "other", base=base, config=CONFIG)


def test_one_of_a_kind_takes_no_s(tiny_base_folder, tmp_path):
    one_more = joined(VALIDATION.subset(list(VALIDATION.queries)[:1]), TRAINING.subset(list(TRAINING.queries)[:1]))
    lines: list[str] = []
    told = {"base": str(tiny_base_folder), "config": CONFIG, "keep_worse": True, "say": lines.append}
    train(one_more, VALIDATION, tmp_path / "out", **told)
    assert "left out of training: 1 question that validation asks too" in lines
    assert "mined       1 bad chunk for 1 question that had too few" in lines


def test_gain_that_is_kept_says_whether_it_could_be_luck_and_a_tie_is_none(tuned):
    report = tuned()
    base = report.tuned.choice.baseline
    one = min(base["ndcg@10"], key=base["ndcg@10"].get)

    def said_of(better: Collection[str], **options) -> str:
        gained = {query_id: score + 0.1 * (query_id in better) for query_id, score in base["ndcg@10"].items()}
        chosen = {**base, "ndcg@10": gained}
        choice = replace(report.tuned.choice, tried=[chosen], chosen=chosen)
        return summary(replace(report, tuned=replace(report.tuned, choice=choice, **options)))

    assert " (beyond luck), " in said_of(base["ndcg@10"])
    assert " (which could be luck), " in said_of([one])
    assert "luck" not in said_of([one], evidence_needed=True).splitlines()[0]
    tie = said_of([], preferred=False)
    assert "written all the same: validation sees no difference from the base model" in tie
    assert "luck" not in tie


def test_without_validation_questions_some_are_held_out(tiny_base_folder, tmp_path):
    report = train(TRAINING, None, tmp_path / "out", base=str(tiny_base_folder), config=CONFIG, keep_worse=True)
    # Of forty, the most that is ever held out; of many, a hundred or 15 %.
    assert report.manifest["validation"]["queries"] == 0.4 * len(TRAINING)
    assert report.manifest["data"]["training"]["queries"] == 0.6 * len(TRAINING)


def test_a_folder_of_somebody_elses_is_left_alone(tuned, tmp_path):
    (tmp_path / "tuned").mkdir()
    (tmp_path / "tuned" / "precious.txt").write_text("mine")
    with pytest.raises(ModelFolderError, match="not a tuned model"):
        tuned()
    assert (tmp_path / "tuned" / "precious.txt").read_text() == "mine"


def test_no_bad_chunk_to_be_found_is_said(tiny_base_folder, tmp_path):
    lonely = RetrievalDataset({"q": "when", "r": "why"}, {"c": "a log"}, {"q": ("c",), "r": ("c",)})
    with pytest.raises(TrainingError, match="none could be mined from 1 chunks"):
        train(lonely, VALIDATION, tmp_path / "out", base=str(tiny_base_folder), config=CONFIG)
    assert list(tmp_path.iterdir()) == []  # nothing to go on with


@pytest.mark.parametrize(("epochs", "said"), [(10, "the loss became nan at step"), (1, "the weights are no numbers")])
def test_loss_that_is_no_number_ends_the_run(tiny_base_folder, tmp_path, epochs, said):
    # Weights that are broken from the 40th token on: only the one long chunk shows it, in training.
    model = SentenceTransformer(str(tiny_base_folder), device="cpu")
    with torch.no_grad():
        model[0].auto_model.embeddings.position_embeddings.weight[40:] = float("nan")
    model.save(str(tmp_path / "broken"))
    long = RetrievalDataset(
        {**TRAINING.queries, "long": "when is everything kept"},
        {**TRAINING.corpus, "long": "a log is kept " * 20},
        {**TRAINING.relevant_docs, "long": ("long",)},
    )
    ranking = replace(CONFIG, loss="multiple-negatives-ranking", batch_size=41, epochs=epochs)
    with pytest.raises(TrainingError, match=said):  # a loss is logged every ten steps
        train(long, VALIDATION, tmp_path / "out", base=str(tmp_path / "broken"), config=ranking)
    assert not (tmp_path / "out").exists()


def test_text_is_trained_on_with_the_prompt_that_it_is_asked_with(tiny_base_folder, monkeypatch):
    model = load_base(resolve_base(str(tiny_base_folder)), "cpu")
    model.prompts, model.default_prompt_name = {"usual": "the backup is "}, "usual"
    lengths = []
    forward = type(model).forward

    def watched(self, features, **options):
        lengths.append(
            int(features["attention_mask"].sum()) if "attention_mask" in features else features["input_ids"].numel()
        )
        return forward(self, features, **options)

    monkeypatch.setattr(type(model), "forward", watched)
    examples = build_examples(questions_of(TRAINING, {}), "multiple-negatives-ranking")
    config = replace(CONFIG, loss="multiple-negatives-ranking", epochs=1, batch_size=40)
    fit(model, examples, config, "fp32")
    with_prompt, lengths[:] = sum(lengths), []
    model.default_prompt_name = None
    fit(model, examples, config, "fp32")
    assert with_prompt >= sum(lengths) + 3 * 80  # words of the prompt, and texts


def test_a_run_that_the_user_stops_says_how_to_go_on(tmp_path):
    said = []
    with pytest.raises(ToldInterrupt), run_folder(tmp_path / "tuned", {}, resume=False, say=said.append) as folder:
        raise KeyboardInterrupt
    assert folder.is_dir()
    assert said == [f"stopped     the same command with --resume goes on from here ({folder})"]


def test_a_run_that_fills_the_disk_says_how_to_go_on_and_another_error_does_not(tmp_path):
    said = []
    for number in (errno.ENOSPC, errno.EACCES):
        with (
            pytest.raises(OSError, match=os.strerror(number)),
            run_folder(tmp_path / "tuned", {}, resume=False, say=said.append) as folder,
        ):
            raise OSError(number, os.strerror(number))
    assert folder.is_dir()
    assert [line for line in said if "goes on from here" in line] == [
        f"full disk   with more room the same command with --resume goes on from here ({folder})"
    ]


def test_second_run_to_one_folder_is_refused_while_the_first_goes_on(tmp_path):
    with run_folder(tmp_path / "tuned", {"seed": 1}, resume=False, say=print) as folder:
        (folder / "weights").write_text("of the first")
        with (
            pytest.raises(TrainingError, match="another run to this folder is going on"),
            run_folder(tmp_path / "tuned", {"seed": 1}, resume=False, say=print),
        ):
            pass
        assert (folder / "weights").is_file()
    assert not folder.exists()


def test_answer_under_a_copys_id_can_be_found(tiny_base_folder):
    copied = RetrievalDataset(
        VALIDATION.queries,
        {**{f"copy of {doc_id}": text for doc_id, text in VALIDATION.corpus.items()}, **VALIDATION.corpus},
        VALIDATION.relevant_docs,
    )
    encode = Encoder(SentenceTransformer(str(tiny_base_folder), device="cpu"), "fp32")
    scores = []
    for asked in (VALIDATION, copied):
        pool = Pool.of_the_hardest(asked, encode(asked.queries.values()), encode(asked.corpus.values()))
        scores.append(pool.score(encode(pool.queries), encode(pool.chunks)))
    assert scores[1]["recall@1"] == scores[0]["recall@1"]


def write_files(folder: Path) -> list[str]:
    save_dataset(TRAINING, folder / "train.json")
    save_dataset(VALIDATION, folder / "val.json")
    return ["--train", str(folder / "train.json"), "--val", str(folder / "val.json")]


def test_command_line_writes_folder_and_zip(tiny_base_folder, tmp_path):
    arguments = [*write_files(tmp_path), "--base", str(tiny_base_folder), "--out", str(tmp_path / "m" / "tuned")]
    result = CliRunner().invoke(
        main, ["train", *arguments, "--learning-rate", "1e-3", "--device", "cpu", "--zip", "--keep-worse"]
    )
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in (tmp_path / "m").iterdir()) == ["model-embeddings.zip", "tuned"]
    assert str(tmp_path / "m" / "tuned") in result.stdout


def test_zip_that_will_be_replaced_is_named_before_the_training(tiny_base_folder, tmp_path):
    arguments = [*write_files(tmp_path), "--base", str(tiny_base_folder), "--out", str(tmp_path / "m" / "tuned")]
    arguments += ["--learning-rate", "1e-9", "--device", "cpu", "--zip"]
    (tmp_path / "m").mkdir()
    other = tmp_path / "m" / "model-embeddings.zip"
    other.write_text("of another model")
    said = CliRunner().invoke(main, ["train", *arguments]).output
    assert -1 < said.find(f"replaces    {other}, if a model is written\n") < said.index("training    ")
    assert other.read_text() == "of another model"  # none was written
    assert "replaces" not in CliRunner().invoke(main, ["train", *arguments[:-1]]).output
    other.unlink()
    other.mkdir()
    refused = CliRunner().invoke(main, ["train", *arguments])
    assert refused.exit_code == 2
    assert refused.output == f"error: {other}: exists and is not a file; move it away, or choose another --out\n"


def test_command_line_says_no_with_exit_code_1(tiny_base_folder, tmp_path):
    arguments = [*write_files(tmp_path), "--base", str(tiny_base_folder), "--out", str(tmp_path / "tuned")]
    result = CliRunner().invoke(main, ["train", *arguments, "--learning-rate", "1e-9", "--device", "cpu"])
    assert result.exit_code == 1
    assert "nothing was written" in result.stdout


@pytest.mark.parametrize(
    ("option", "value", "range_in_words"),
    [
        ("--widths", "64,-3", "1 or more each"),
        ("--epochs", "0", "1 to 1000"),
        ("--learning-rate", "7.0", "above 0 and below 1, e.g. 2e-5"),
        ("--batch-size", "1", "2 to 65536"),
        ("--seed", "-1", "0 to 4294967295"),
    ],
)
def test_setting_out_of_range_is_one_line_by_the_name_of_its_option(option, value, range_in_words, tmp_path):
    arguments = [*write_files(tmp_path), "--out", str(tmp_path / "out"), option, value]
    result = CliRunner().invoke(main, ["train", *arguments])
    assert result.exit_code == 2
    assert result.stderr == f"error: {option} must be {range_in_words}; got {value}\n"


def test_setting_out_of_range_has_the_name_of_its_field_where_the_library_is_used():
    with pytest.raises(ValueError, match=r"^batch_size must be 2 to 65536; got 0$"):
        TrainConfig(batch_size=0)
    with pytest.raises(ValueError, match=r"^widths must be 1 or more each; got \(0,\)$"):
        TrainConfig(widths=(0,))


@pytest.mark.usefixtures("ctrl_c_is_heard")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_leaves_nothing_half_written_and_what_resume_needs(tiny_base_folder, tmp_path, monkeypatch, number):
    out = tmp_path / "models" / "tuned"
    arguments = [*write_files(tmp_path), "--base", str(tiny_base_folder), "--out", str(out)]
    real = trainer.ProgressBar.on_step_end

    def signal_in_the_second_epoch(self, args, state, control, **context):
        real(self, args, state, control, **context)
        if 1 < state.epoch < 2:
            assert signal.getsignal(number) is not signal.SIG_DFL  # it would end the tests
            signal.raise_signal(number)

    monkeypatch.setattr(trainer.ProgressBar, "on_step_end", signal_in_the_second_epoch)
    result = CliRunner().invoke(main, ["train", *arguments, "--epochs", "2", "--device", "cpu"])
    assert result.exit_code == 128 + number
    assert "questions, epoch 1 " in result.stdout
    assert "the same command with --resume goes on from here" in result.stdout
    assert [path.name for path in out.parent.iterdir()] == [".tuned.run"]
    assert (out.parent / ".tuned.run" / "run.json").is_file()


def test_of_many_questions_no_more_are_held_out_than_tell_something():
    corpus = {f"c{number}": f"page {number}" for number in range(8000)}
    queries = {f"q{doc_id}": f"about {text}" for doc_id, text in corpus.items()}
    many = RetrievalDataset(queries, corpus, {f"q{doc_id}": (doc_id,) for doc_id in corpus})
    training, validation = keep_apart(many, None, 13, silent)
    assert (len(training), len(validation)) == (7000, 1000)


def test_validation_about_the_chunks_that_training_is_about_is_told():
    other_words = replace(VALIDATION, queries={q: f"tell me {text}" for q, text in VALIDATION.queries.items()})
    for asked, about_the_same in ((TRAINING, []), (dataset(NOUNS[:3], VERBS), ["6 of 20 validation questions"])):
        lines: list[str] = []
        keep_apart(asked, other_words, 13, lines.append)
        assert [line.partition(" are about")[0] for line in lines] == about_the_same


def joined(one, other):
    return RetrievalDataset(
        {**one.queries, **other.queries},
        {**one.corpus, **other.corpus},
        {**one.relevant_docs, **other.relevant_docs},
    )


def test_model_made_of_a_tuned_one_has_seen_what_that_learned_from(tuned, tmp_path):
    one_epoch = replace(CONFIG, epochs=1)
    first = tuned(one_epoch, keep_worse=True)
    later = dataset(NOUNS, ["copied", "deleted"])
    base = {"base": str(first.folder), "config": one_epoch, "keep_worse": True}
    again = train(later, VALIDATION, tmp_path / "again", **base)
    learned = {query_digest(text) for text in TRAINING.queries.values()}
    assert learned <= set(again.manifest["data"]["seen_queries"])

    lines: list[str] = []
    for given in ((later, joined(TRAINING, VALIDATION)), (joined(TRAINING, later), None)):
        report = train(*given, tmp_path / "chosen", say=lines.append, **base)
        chose = set(report.tuned.material.validation.queries.values())
        assert chose.isdisjoint(TRAINING.queries.values())
        assert "not to choose by: 40 questions that the base model learned from" in lines
    assert not any(line.startswith("left out of training") for line in lines)  # said already: they are held out
    with pytest.raises(TrainingError, match="guard other: all of its questions are training questions, or the base"):
        train(later, VALIDATION, tmp_path / "none", automatic=Automatic(guards={"other": TRAINING}), **base)
    with pytest.raises(TrainingError, match="the base model learned from 40 of 40 questions to choose by"):
        train(TRAINING, None, tmp_path / "none", **base)
