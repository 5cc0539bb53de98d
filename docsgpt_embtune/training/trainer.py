"""Training with sentence-transformers' trainer, set up for a few thousand questions on a few cores."""

import ctypes
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.modules import Normalize
from transformers import PrinterCallback
from transformers.trainer_utils import get_last_checkpoint

from docsgpt_embtune.base_models import BaseModel
from docsgpt_embtune.errors import TrainingError
from docsgpt_embtune.loading import load_model, without_transformers_bars, without_transformers_notes
from docsgpt_embtune.positions import possible_length
from docsgpt_embtune.precision import Precision
from docsgpt_embtune.serving.packing import can_attend_otherwise, packing_where_possible
from docsgpt_embtune.static_model import beginnings_read
from docsgpt_embtune.training.callbacks import (
    AtEpochEnd,
    ProgressBar,
    SaveNowAndThen,
    StopEarlyUnless,
    StopOnBrokenLoss,
)
from docsgpt_embtune.training.config import TrainConfig
from docsgpt_embtune.training.examples import TrainingExamples, sampler_factory
from docsgpt_embtune.training.losses import make_loss
from docsgpt_embtune.training.processes import own_gpu, process_count

_MIXED_PRECISION = "ACCELERATE_MIXED_PRECISION"
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


def load_base(base: BaseModel, device: str | None = None) -> SentenceTransformer:
    """Load a base model for tuning: no remote code, fp32, full-width vectors, Normalize last.

    DocsGPT ranks by L2 over what the model returns, which agrees with cosine only for unit-norm vectors. A base that
    truncates its vectors (`truncate_dim`) is tuned at full width, as the written folder has no such setting; `shrink`
    cuts vectors.

    Args:
        base: From `resolve_base`.
        device: torch's name; None takes a GPU if there is one.

    Raises:
        ModelFolderError: If it cannot be loaded.
    """
    # oneDNN reads this once, before its first product. It caches a kernel for each shape: a thousand of them among the
    # activations fragmented the heap, by a GiB in twelve steps. So many kernels are enough for the shapes that the
    # layers of a step share (see LENGTHS_ALIKE of `packing`).
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
    model = load_model(base.folder, device=_device_to_train_on(device), model_kwargs={"dtype": torch.float32})
    model.truncate_dim = None
    # Some models of CamemBERT's kind state a length of 514, the number of their positions. The first two of these are
    # not used, and a text of so many tokens would end the run.
    possible = possible_length(model)
    if possible is not None and model.max_seq_length is not None and model.max_seq_length > possible:
        model.max_seq_length = possible
    if not isinstance(model[-1], Normalize):
        model.append(Normalize())
    return model


def _device_to_train_on(device: str | None) -> str | None:
    """Name the device that the trainer is going to use: in one process the first GPU that it sees, whatever it is told.

    Raises:
        TrainingError: If another GPU is asked for.
    """
    if device is None:
        return own_gpu() if torch.cuda.is_available() else None
    wanted = torch.device(device)
    if wanted.type == "cuda" and process_count() > 1:
        return own_gpu()
    if wanted.type == "cuda" and wanted.index:
        raise TrainingError(
            f"{device}: training uses the first GPU that it sees; set CUDA_VISIBLE_DEVICES={wanted.index} and give cuda"
        )
    return device


def fit(
    model: SentenceTransformer,
    examples: TrainingExamples,
    config: TrainConfig,
    precision: Precision,
    *,
    at_epoch_end: Callable[[int], None] = lambda epoch: None,
    goes_on: Callable[[], bool] | None = None,
    checkpoints: Path | None = None,
    loss: torch.nn.Module | None = None,
    name: str = "training",
) -> None:
    """Train a model in place.

    Args:
        model: From `load_base`.
        examples: Rows and batches.
        config: Loss, epochs, batch size, learning rate, warm-up and seed.
        precision: "fp32" or "bf16".
        at_epoch_end: Called after each epoch with its number, from 1, while the model has the weights of its end.
        goes_on: Called once, after the first steps (see `StopEarlyUnless`); training ends there if it returns
            False.
        checkpoints: Folder to save to every minute, and to resume from if a killed run saved there.
        loss: Loss to minimise in place of the config's.
        name: Label of the progress bar.

    Raises:
        TrainingError: If the loss is not finite.
    """
    with (
        tempfile.TemporaryDirectory(prefix="embtune-") as scratch,
        set_up_for_training(model, precision),
        _mixed_precision(precision),
        without_transformers_notes(),
    ):
        trainer = _Trainer(
            model=model,
            args=_arguments(model, examples, config, precision, Path(scratch), checkpoints),
            train_dataset=examples.rows,
            loss=loss or make_loss(model, config.loss, config.widths),
            callbacks=[StopOnBrokenLoss(), AtEpochEnd(at_epoch_end), ProgressBar(name)],
        )
        trainer.remove_callback(PrinterCallback)
        if goes_on is not None:
            trainer.add_callback(StopEarlyUnless(goes_on))
        if checkpoints is not None:
            trainer.add_callback(SaveNowAndThen())
        trainer.train(resume_from_checkpoint=_last_whole_checkpoint(checkpoints))
        # accelerate leaves the model's forward wrapped in autocast, so that it would go on computing in bf16. It also
        # marks the model, so that the next fit would not wrap it and would run in fp32, at half the speed.
        trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False)
        vars(model).pop("_is_accelerate_prepared", None)
    model.eval()


class _Trainer(SentenceTransformerTrainer):
    """A trainer that reads no more of a text than the model does.

    Its checkpoints do not quote the questions, which are private: no model card, no arguments.
    """

    def get_data_collator(self, model: Any, *given: Any, **named: Any) -> Any:
        """Cut the texts of a batch off before they are tokenised."""
        collator: Any = super().get_data_collator(model, *given, **named)
        tokenised = collator.preprocess_fn
        collator.preprocess_fn = lambda texts, **options: tokenised(beginnings_read(model, texts), **options)
        return collator

    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        """Do not collect example texts for a model card."""

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        with without_transformers_bars():
            self.model.save_pretrained(str(output_dir or self.args.output_dir), create_model_card=False)


def _arguments(
    model: SentenceTransformer,
    examples: TrainingExamples,
    config: TrainConfig,
    precision: Precision,
    scratch: Path,
    checkpoints: Path | None,
) -> SentenceTransformerTrainingArguments:
    """Return the trainer's arguments; it saves to `checkpoints`, or nothing and only has `scratch` for its output."""
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(checkpoints or scratch),
        num_train_epochs=config.epochs,
        per_device_train_batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        warmup_steps=_warmup_steps(examples, config),
        seed=config.seed,
        prompts=model.prompts.get(model.default_prompt_name or "") or None,  # as in serving
        bf16=precision == "bf16",
        use_cpu=model.device.type == "cpu",
        batch_sampler=sampler_factory(examples, config.seed),
        save_strategy="steps" if checkpoints else "no",
        save_steps=2**31,  # SaveNowAndThen says when
        save_total_limit=1,
        logging_strategy="steps",
        logging_steps=10,
        logging_nan_inf_filter=False,  # it would hide from the log the NaN that must end the run
        report_to=list(config.report_to),
        dataloader_drop_last=process_count() > 1,
        disable_tqdm=True,
        optim="adamw_torch_fused",
    )
    if arguments.n_gpu > 1:
        # transformers would put the model into DataParallel: other batches than were asked for, fp32, and activations
        # that `Room` does not see. Several GPUs take `torchrun`.
        arguments._n_gpu = 1
    return arguments


def _warmup_steps(examples: TrainingExamples, config: TrainConfig) -> int:
    """Round the warm-up down to whole steps: its first step has a rate of 0, and may be the only step there is."""
    batches = len(sampler_factory(examples, config.seed)(examples.rows, config.batch_size))
    return int(config.warmup * config.epochs * batches / process_count())


def _last_whole_checkpoint(folder: Path | None) -> str | None:
    """Find the checkpoint to resume from, removing any that was being written when the run was killed."""
    while folder is not None and folder.is_dir():
        last: str | None = get_last_checkpoint(str(folder))  # type: ignore[no-untyped-call]
        if last is None or _is_whole(Path(last)):
            return last
        shutil.rmtree(last)
    return None


def _is_whole(checkpoint: Path) -> bool:
    try:
        json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))  # the file that is written last
    except (OSError, ValueError):
        return False
    return True


@contextmanager
def set_up_for_training(model: SentenceTransformer, precision: Precision) -> Iterator[None]:
    """Make steps as fast as this model allows, for the time of the block."""
    _keep_freed_memory()
    with _no_dropout(model), _attention_for(model, precision):
        yield


@contextmanager
def _mixed_precision(precision: Precision) -> Iterator[None]:
    """Overrule what `accelerate launch` was configured with by the precision that was validated, within the block."""
    before = os.environ.get(_MIXED_PRECISION)
    os.environ[_MIXED_PRECISION] = "bf16" if precision == "bf16" else "no"
    try:
        yield
    finally:
        os.environ.pop(_MIXED_PRECISION)
        if before is not None:
            os.environ[_MIXED_PRECISION] = before


def _keep_freed_memory() -> None:
    """Make glibc keep the activations' memory between steps: returning it and faulting it in again costs 5 %."""
    if sys.platform == "linux":
        library = ctypes.CDLL(None)
        mallopt: Callable[[int, int], int] = getattr(library, "mallopt", lambda *_: 0)  # other C libraries have none
        mallopt(M_MMAP_THRESHOLD, 1 << 30)
        mallopt(M_TRIM_THRESHOLD, 1 << 30)


@contextmanager
def _no_dropout(model: SentenceTransformer) -> Iterator[None]:
    """Train without dropout: it costs a quarter of a step on a CPU, and the best epoch is the first or second."""
    layers = [module for module in model.modules() if isinstance(module, torch.nn.Dropout)]
    rates = [layer.p for layer in layers]
    for layer in layers:
        layer.p = 0.0
        layer.forward = _unchanged  # type: ignore[assignment, method-assign]  # torch draws a mask even at rate 0
    try:
        yield
    finally:
        for layer, rate in zip(layers, rates, strict=True):
            layer.p = rate
            del layer.forward


def _unchanged(values: torch.Tensor) -> torch.Tensor:
    return values


@contextmanager
def _attention_for(model: SentenceTransformer, precision: Precision) -> Iterator[None]:
    """On a CPU, pack texts instead of padding them; where the model cannot, avoid torch's fused attention in bf16.

    The backward pass of that kernel takes a third of the step on a CPU. A GPU has faster kernels.
    """
    if model.device.type != "cpu":
        yield
        return
    with packing_where_possible(model) as packs:
        if packs or not can_attend_otherwise(model) or precision != "bf16":
            yield
            return
        transformer: Any = model[0].auto_model
        transformer.set_attn_implementation("eager")
        yield  # packing_where_possible puts the usual one back
