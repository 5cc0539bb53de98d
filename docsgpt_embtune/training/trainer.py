"""From a dataset to a model folder: mine what is missing, train, keep the best epoch, write it."""

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.modules import Normalize
from tqdm.auto import tqdm
from transformers import PrinterCallback, TrainerCallback, set_seed

from docsgpt_embtune.data.dataset import RetrievalDataset
from docsgpt_embtune.errors import TrainingError
from docsgpt_embtune.evaluation.metrics import QueryScores
from docsgpt_embtune.evaluation.verdict import Judgment, judge
from docsgpt_embtune.training.base_models import BaseModel
from docsgpt_embtune.training.config import Precision, TrainConfig
from docsgpt_embtune.training.encoding import Encoder, resolve_precision
from docsgpt_embtune.training.examples import TrainingExamples, build_examples, questions_of, sampler_factory
from docsgpt_embtune.training.losses import make_loss
from docsgpt_embtune.training.negatives import mine_negatives
from docsgpt_embtune.training.validation import CHOSEN_BY, ValidationPool, mean_ndcg


@dataclass(frozen=True)
class TunedModel:
    """A model after training, and how each epoch did on the validation questions.

    Attributes:
        model: Carries the weights of the best epoch, in fp32.
        baseline: Scores of the base model on the validation questions.
        epochs: The same after each epoch.
        precision: In which was trained.
        mined: Bad chunks that were mined for want of given ones.
        seconds: Of mining, training and validation, without loading and writing.
    """

    model: SentenceTransformer
    baseline: QueryScores
    epochs: list[QueryScores]
    precision: Precision
    mined: int
    seconds: float

    @property
    def best_epoch(self) -> int:
        """Number of the epoch that was kept, from 1; of equal ones the first."""
        ndcg = [mean_ndcg(scores) for scores in self.epochs]
        return ndcg.index(max(ndcg)) + 1

    @property
    def judgment(self) -> Judgment:
        """The best epoch against the base model, on the validation questions, which chose that epoch."""
        return judge(self.baseline, self.epochs[self.best_epoch - 1])

    @property
    def improved(self) -> bool:
        """Whether validation prefers the best epoch to the base model."""
        return mean_ndcg(self.epochs[self.best_epoch - 1]) > mean_ndcg(self.baseline)


def load_base(base: BaseModel, device: str | None = None) -> SentenceTransformer:
    """Load a base model for tuning: no remote code, fp32, Normalize last.

    DocsGPT ranks by L2 over what the model returns; only unit-norm vectors rank there as they do by cosine.

    Args:
        base: From `resolve_base`.
        device: torch's name; None takes a GPU where there is one.
    """
    model = SentenceTransformer(
        str(base.folder), device=device, local_files_only=True, model_kwargs={"dtype": torch.float32}
    )
    if not isinstance(model[-1], Normalize):
        model.append(Normalize())
    return model


def tune(
    model: SentenceTransformer,
    training: RetrievalDataset,
    validation: RetrievalDataset,
    config: TrainConfig,
    say: Callable[[str], None] = lambda line: None,
) -> TunedModel:
    """Tune a model in place and leave it at its best epoch by validation nDCG@10.

    Args:
        model: From `load_base`.
        training: Questions to learn from.
        validation: Questions to choose the epoch by; none of them may be in `training`.
        config: Settings.
        say: Takes one line of plain text before each stage, and after each epoch.

    Raises:
        TrainingError: If bad chunks are needed and none can be mined, or the loss is not finite.
    """
    started = time.monotonic()
    set_seed(config.seed)
    precision = resolve_precision(config.precision, model.device)
    encode = Encoder(model, precision)
    say(f"computing   in {precision} on {model.device}")
    vectors = _BaseVectors(encode, training, validation)
    pool = ValidationPool(validation, vectors.queries(validation), vectors.corpus(validation))
    baseline = pool.score(encode)
    mined = _mine_where_needed(training, config, vectors)
    if mined:
        say(f"mined       {sum(map(len, mined.values())):,} bad chunks for {len(mined):,} questions that had too few")
    examples = build_examples(questions_of(training, mined), config.loss)
    say(f"baseline    validation {CHOSEN_BY} {mean_ndcg(baseline):.3f} (a pool of {len(pool.doc_ids):,} chunks)")
    best = KeepBestEpoch(pool, encode, say)
    with _no_dropout(model), _attention_for(model, precision):
        _run_trainer(model, examples, config, precision, best)
    best.restore(model)
    return TunedModel(
        model=model,
        baseline=baseline,
        epochs=best.epochs,
        precision=precision,
        mined=sum(map(len, mined.values())),
        seconds=time.monotonic() - started,
    )


class _BaseVectors:
    """The base model's vectors of every text at hand, encoded once for mining and for the validation pool."""

    def __init__(self, encode: Encoder, *datasets: RetrievalDataset) -> None:
        texts = [text for dataset in datasets for side in (dataset.queries, dataset.corpus) for text in side.values()]
        self._row_of = {text: row for row, text in enumerate(dict.fromkeys(texts))}
        self._matrix = encode(self._row_of, show_progress=True)

    def queries(self, dataset: RetrievalDataset) -> np.ndarray:
        return self._matrix[[self._row_of[text] for text in dataset.queries.values()]]

    def corpus(self, dataset: RetrievalDataset) -> np.ndarray:
        return self._matrix[[self._row_of[text] for text in dataset.corpus.values()]]


def _mine_where_needed(
    dataset: RetrievalDataset, config: TrainConfig, vectors: _BaseVectors
) -> dict[str, tuple[str, ...]]:
    """Fill up bad chunks, where the loss cannot learn from good ones alone or needs as many in every row."""
    some_given = bool(dataset.irrelevant_docs)
    if not (config.loss == "online-contrastive" or (config.loss == "multiple-negatives-ranking" and some_given)):
        return {}
    mined = mine_negatives(dataset, vectors.queries(dataset), vectors.corpus(dataset), per_good=config.negatives)
    if not (some_given or mined):
        raise TrainingError(
            f"no bad chunks are given and none could be mined from {len(dataset.corpus)} chunks; give the whole "
            "corpus, or bad chunks, or --loss multiple-negatives-ranking"
        )
    return mined


def _run_trainer(
    model: SentenceTransformer,
    examples: TrainingExamples,
    config: TrainConfig,
    precision: Precision,
    best: "KeepBestEpoch",
) -> None:
    model.model_card_data.generate_widget_examples = False  # for a card that is not written
    with tempfile.TemporaryDirectory(prefix="embtune-") as scratch:
        arguments = SentenceTransformerTrainingArguments(
            output_dir=scratch,
            num_train_epochs=config.epochs,
            per_device_train_batch_size=config.batch_size,
            learning_rate=config.learning_rate,
            warmup_steps=config.warmup,
            seed=config.seed,
            bf16=precision == "bf16",
            use_cpu=model.device.type == "cpu",
            batch_sampler=sampler_factory(
                examples, in_batch_negatives=config.loss == "multiple-negatives-ranking", seed=config.seed
            ),
            save_strategy="no",
            logging_strategy="steps",
            logging_steps=10,
            logging_nan_inf_filter=False,  # it would hide from the log what must end the run
            report_to=[],
            disable_tqdm=True,
            optim="adamw_torch_fused",
        )
        trainer = SentenceTransformerTrainer(
            model=model,
            args=arguments,
            train_dataset=examples.rows,
            loss=make_loss(model, config.loss),
            callbacks=[StopOnBrokenLoss(), best, ProgressBar()],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        # accelerate leaves the model's forward wrapped in autocast: without this it would go on computing in bf16.
        trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False)


@contextmanager
def _no_dropout(model: SentenceTransformer) -> Iterator[None]:
    """Train without dropout: it costs a quarter of a step on a CPU, and the best epoch is the first or second."""
    layers = [module for module in model.modules() if isinstance(module, torch.nn.Dropout)]
    rates = [layer.p for layer in layers]
    for layer in layers:
        layer.p = 0.0
    try:
        yield
    finally:
        for layer, rate in zip(layers, rates, strict=True):
            layer.p = rate


@contextmanager
def _attention_for(model: SentenceTransformer, precision: Precision) -> Iterator[None]:
    """Use plain attention for bf16 on a CPU: torch's fused kernel takes a third of the step there, in its backward."""
    transformer: Any = model[0].auto_model
    usual = transformer.config._attn_implementation
    if precision == "bf16" and model.device.type == "cpu":
        transformer.set_attn_implementation("eager")
    try:
        yield
    finally:
        transformer.set_attn_implementation(usual)


class KeepBestEpoch(TrainerCallback):
    """Validate after each epoch and hold on to the best weights.

    In memory rather than as checkpoints: the trainer's own loading of the best checkpoint logs its errors and
    goes on with the last weights instead.
    """

    def __init__(self, pool: ValidationPool, encode: Encoder, say: Callable[[str], None]) -> None:
        self.pool = pool
        self.encode = encode
        self.say = say
        self.epochs: list[QueryScores] = []
        self._best: dict[str, torch.Tensor] = {}

    def on_epoch_end(self, args: Any, state: Any, control: Any, **context: Any) -> None:
        """Measure; copy the weights if they are the best so far, a tie going to the earlier epoch."""
        model: SentenceTransformer = context["model"]
        model.eval()
        scores = self.pool.score(self.encode)
        model.train()
        if not self.epochs or mean_ndcg(scores) > max(map(mean_ndcg, self.epochs)):
            self._best = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        self.epochs.append(scores)
        self.say(f"epoch {len(self.epochs)}     validation {CHOSEN_BY} {mean_ndcg(scores):.3f}")

    def restore(self, model: SentenceTransformer) -> None:
        """Put the best weights back into the model."""
        model.load_state_dict(self._best)
        model.eval()


class StopOnBrokenLoss(TrainerCallback):
    """End the run at once when the loss is no longer a number."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Raise TrainingError if the logged loss is not finite."""
        if not np.isfinite(logs.get("loss", 0.0)):
            raise TrainingError(f"the loss became {logs['loss']} at step {state.global_step}; lower --learning-rate")


class ProgressBar(TrainerCallback):
    """One line with time left: steps, epoch, loss, and validation after each epoch."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Open the bar."""
        self.bar = tqdm(total=state.max_steps, desc="training", unit="step", dynamic_ncols=True)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Move it."""
        self.bar.update(state.global_step - self.bar.n)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Show epoch and loss."""
        if "loss" in logs:
            self.bar.set_postfix(epoch=f"{state.epoch:.1f}", loss=f"{float(logs['loss']):.3f}")

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Close it."""
        self.bar.close()
