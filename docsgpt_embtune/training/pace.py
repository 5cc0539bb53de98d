"""Take two real steps, which change no weight, to see how fast a machine is and how much memory a run takes."""

import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import NamedTuple

import psutil
import torch
from sentence_transformers import SentenceTransformer

from docsgpt_embtune.precision import arithmetic
from docsgpt_embtune.static_model import beginnings_read
from docsgpt_embtune.training.activations import Room
from docsgpt_embtune.training.known_vectors import characters_read
from docsgpt_embtune.training.losses import make_loss
from docsgpt_embtune.training.stage import Stage
from docsgpt_embtune.training.trainer import set_up_for_training
from docsgpt_embtune.training.tuning_run import TuningRun

PROBE_ROWS = 16
# Size to which the C library's heap grows, in units of the largest step: batches differ in size, and it keeps the gaps
# between them. Four runs on one and two threads came to 0.9 to 1.3. A GPU's allocator is measured by what is in use.
HEAP_OF_STEP = 1.3
CHECKPOINTING_SLOWDOWN = 4 / 3  # checkpointing adds a forward pass, and a backward pass takes twice as long as one


@dataclass(frozen=True)
class Pace:
    """How long a machine takes for each character.

    Attributes:
        training: Seconds of a training step per character that it reads.
        encoding: Seconds of encoding per character.
    """

    training: float
    encoding: float

    def slower(self, times: float) -> "Pace":
        """Return the pace of a machine that takes this many times as long."""
        return Pace(self.training * times, self.encoding * times)


@dataclass(frozen=True)
class Memory:
    """The peak memory of a run.

    Attributes:
        bytes: Memory of the process, or of the GPU, in bytes.
        checkpoints: Whether steps use gradient checkpointing, as there is no room for their activations.
    """

    bytes: int
    checkpoints: bool

    @classmethod
    def of(cls, model: SentenceTransformer, at_rest: int, step: float, checkpoints: bool) -> "Memory":
        """Add up the memory before a step, the step's own, and the optimizer's."""
        step *= 1.0 if model.device.type == "cuda" else HEAP_OF_STEP
        optimizer = 2 * sum(parameter.nbytes for parameter in model.parameters())
        return cls(round(at_rest + step) + optimizer, checkpoints)

    def __str__(self) -> str:
        so = ", with activations recomputed to fit (slower)" if self.checkpoints else ""
        return f"{self.bytes / 2**30:.1f} GiB of memory at its peak{so}"


def probe(run: TuningRun, stage: Stage) -> tuple[Pace, Memory]:
    """Measure how fast the machine is, and how much memory a run takes, by two real steps that change no weight."""
    rows = min(PROBE_ROWS, stage.config.batch_size)
    at_rest = _memory_at_rest(run.model)
    loss = make_loss(run.model, stage.config.loss, stage.config.widths)
    largest, usual = _take_two_steps(run, stage, loss, rows)
    scale = stage.config.batch_size / rows
    step, seconds = (_peak_memory(run.model) - at_rest) * scale, usual.seconds
    room: Room | None = getattr(loss, "room", None)
    checkpoints = room is not None and scale * largest.tokens > room.tokens
    if room is not None and checkpoints:
        step = room.bytes_per_pass
        seconds *= 1.0 if usual.tokens > room.tokens else CHECKPOINTING_SLOWDOWN
    memory = Memory.of(run.model, at_rest, step, checkpoints)
    return Pace(seconds / usual.characters, run.vectors.seconds / run.vectors.characters), memory


class _Step(NamedTuple):
    """What a step read, and how long it took."""

    tokens: int
    characters: float
    seconds: float


def _take_two_steps(run: TuningRun, stage: Stage, loss: torch.nn.Module, rows: int) -> tuple[_Step, _Step]:
    """Take one step with the longest chunks, for its memory, and one with random chunks, for its time."""
    drawn = random.Random(stage.config.seed)
    queries, corpus = list(stage.questions.queries.values()), list(stage.questions.corpus.values())
    columns_of_chunks = 1 + stage.config.negatives
    longest = sorted(corpus, key=len, reverse=True)[: rows * columns_of_chunks]
    others = drawn.sample(corpus, k=len(longest))

    def step_with(chunks: Sequence[str]) -> _Step:
        columns = [drawn.choices(queries, k=rows)]
        endless = cycle(chunks)  # the corpus may have fewer chunks than are needed
        columns += [list(islice(endless, rows)) for _ in range(columns_of_chunks)]
        return _take_step(run, loss, columns)

    run.model.train()
    with set_up_for_training(run.model, run.precision):
        steps = step_with(longest), step_with(others)
    run.model.zero_grad(set_to_none=True)
    run.model.eval()
    return steps


def _take_step(run: TuningRun, loss: torch.nn.Module, columns: Sequence[list[str]]) -> _Step:
    """Take a forward and a backward pass."""
    started = time.monotonic()
    features = [_on_device(run.model, column) for column in columns]
    with arithmetic(run.precision, run.model.device):
        value = loss(features, torch.zeros(len(columns[0]), device=run.model.device))
    value.backward()
    value.item()  # waits for the GPU
    seconds = time.monotonic() - started
    masks = [column["attention_mask"] for column in features if "attention_mask" in column]  # a static model has none
    characters = characters_read((text for column in columns for text in column), run.model)
    return _Step(sum(int(mask.sum()) for mask in masks), characters, seconds)


def _on_device(model: SentenceTransformer, texts: list[str]) -> dict[str, torch.Tensor]:
    features = model.preprocess(beginnings_read(model, texts))
    return {key: value.to(model.device) for key, value in features.items() if torch.is_tensor(value)}


def _memory_at_rest(model: SentenceTransformer) -> int:
    """Tell how many bytes are in use now, from where the peak of what follows is measured."""
    if model.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(model.device)  # else that of embedding the corpus
    return _peak_memory(model)


def _peak_memory(model: SentenceTransformer) -> int:
    if model.device.type == "cuda":
        return torch.cuda.max_memory_allocated(model.device)
    try:
        import resource
    except ModuleNotFoundError:  # on Windows
        return int(psutil.Process().memory_info().peak_wset)  # type: ignore[attr-defined]  # only there
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
