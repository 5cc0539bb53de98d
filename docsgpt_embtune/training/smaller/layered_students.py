"""Students with fewer layers: the cost of a text falls with their number, in every engine and on every machine.

The layers that are kept begin with the tuned model's weights, and are then trained to give the tuned model's vectors.
The training texts are chunks, runs of their words, and questions; no judgments are needed.
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer

from docsgpt_embtune.base_models import BaseModel
from docsgpt_embtune.errors import TrainingError
from docsgpt_embtune.files import PARTIAL
from docsgpt_embtune.precision import resolve_precision
from docsgpt_embtune.serving.reading import document_encoder
from docsgpt_embtune.static_model import is_static
from docsgpt_embtune.training.config import TrainConfig
from docsgpt_embtune.training.examples import TrainingExamples
from docsgpt_embtune.training.losses import loss_of_vectors
from docsgpt_embtune.training.smaller.students import Lesson, Student, Students, vectors_of
from docsgpt_embtune.training.trainer import fit, load_base
from docsgpt_embtune.vectors import Vectors
from docsgpt_embtune.wording import counted

WEIGHTS_FILE = "model.safetensors"
RUNS_OF_WORDS = 4  # of each chunk: as short as questions, and so cheap
MOST_TEXTS = 20_000
READINGS = 40_000  # texts read in all epochs together, at most, but each text at least once
MOST_EPOCHS = 8
BATCH = 32
LEARNING_RATE = 5e-4


def layered_students(lesson: Lesson, count: int, scratch: Path) -> Students:
    """Yield a student with the given number of the tuned model's layers, after teaching.

    Args:
        lesson: The tuned model, and what to teach with.
        count: How many layers to keep, fewer than there are.
        scratch: An empty folder, for the student's files.
    """
    total = layer_count(lesson.teacher)
    write_with_layers(lesson.folder, lesson.teacher, evenly_spaced(total, count), scratch)
    student = load_base(BaseModel(str(scratch), scratch))
    own_length, student.max_seq_length = student.max_seq_length, lesson.reading.max_seq_length
    texts = lesson.texts(runs_of_words=RUNS_OF_WORDS, most=MOST_TEXTS)
    epochs = min(MOST_EPOCHS, max(1, READINGS // len(texts)))
    lesson.say(f"embedding   {counted(len(texts), 'text')} with the tuned model")
    vectors = lesson.of_teacher.embed(texts)
    lesson.say(f"teaching    {count} of {total} layers, with {counted(len(texts), 'text')}, {epochs} times")
    teach(student, texts, vectors, epochs=epochs, seed=lesson.seed)
    encode = vectors_of(student).embed
    query_embeddings = encode(lesson.questions)
    chunk_embeddings = document_encoder(lesson.folder, lesson.reading, encode, None)(lesson.chunks)
    student.max_seq_length = own_length
    yield Student(f"{count} of {total} layers", query_embeddings, chunk_embeddings, lambda: student, scratch)


def layer_count(model: SentenceTransformer) -> int:
    """Count a transformer's layers; 0 if none are found."""
    return _prefix_and_count(model)[1]


def _prefix_and_count(model: SentenceTransformer) -> tuple[str, int]:
    """Return the common prefix of the layers' weight names, and the number of layers."""
    if is_static(model):
        return "", 0
    transformer: Any = model[0].auto_model
    total = getattr(transformer.config, "num_hidden_layers", 0)
    for name, module in transformer.named_modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == total:
            return f"{name}.", total
    return "", 0


def refuse_count(total: int, count: int) -> None:
    """Raise TrainingError unless at least one layer is kept and at least one is left out."""
    if total < 2:
        raise TrainingError("the tuned model has no layers that could be left out; distill it without --layers")
    if not 0 < count < total:
        raise TrainingError(
            f"the tuned model has {total} layers, of which {count} cannot be kept; set --layers to 1 up to {total - 1}"
        )


def evenly_spaced(total: int, count: int) -> list[int]:
    """Return the layers to keep, evenly spaced from the first to the last; the first alone if only one is kept."""
    return [round(number * (total - 1) / max(1, count - 1)) for number in range(count)]


def write_with_layers(folder: Path, model: SentenceTransformer, kept: Sequence[int], out: Path) -> None:
    """Write a folder with a model that has some of another model's layers, so that any loader can read it.

    Args:
        folder: The other model's folder.
        model: The other model.
        kept: Numbers of the layers to keep, from 0, in order.
        out: The folder to write; made if it is not there.
    """
    # All weights are copied, as a Dense layer's file has the same name; the transformer's is overwritten at the end.
    shutil.copytree(folder, out, dirs_exist_ok=True, ignore=shutil.ignore_patterns("onnx", PARTIAL))
    transformer: Any = model[0].auto_model
    path, own_names = out / "config.json", transformer.config.attribute_map
    config = json.loads(path.read_text(encoding="utf-8"))
    config[own_names.get("num_hidden_layers", "num_hidden_layers")] = len(kept)
    if kinds := config.get("layer_types"):
        config["layer_types"] = [kinds[number] for number in kept]
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    prefix, _ = _prefix_and_count(model)
    weights = load_file(folder / WEIGHTS_FILE)
    renamed = {name: name for name in weights if not name.startswith(prefix)}
    for new, old in enumerate(kept):
        of_layer = f"{prefix}{old}."
        renamed |= {
            f"{prefix}{new}.{name.removeprefix(of_layer)}": name for name in weights if name.startswith(of_layer)
        }
    save_file({new: weights[old] for new, old in renamed.items()}, out / WEIGHTS_FILE, metadata={"format": "pt"})


def teach(student: SentenceTransformer, texts: Sequence[str], vectors: Vectors, *, epochs: int, seed: int) -> None:
    """Train a model in place to give texts the given vectors.

    Args:
        student: From `load_base`.
        texts: N texts.
        vectors: Target vectors of the texts (N, D).
        epochs: How often each text is read.
        seed: Seed of the order.

    Source:
        Reimers and Gurevych, "Making monolingual sentence embeddings multilingual using knowledge distillation", 2020,
        whose loss it is.
    """
    rows = Dataset.from_dict({"text": list(texts), "label": list(vectors)})
    each_alone = tuple((n,) for n in range(len(texts)))
    examples = TrainingExamples(rows, each_alone, good_texts=(), turns=each_alone)
    config = TrainConfig(epochs=epochs, batch_size=BATCH, learning_rate=LEARNING_RATE, seed=seed)
    precision = resolve_precision("auto", student.device)
    fit(student, examples, config, precision, loss=loss_of_vectors(student), name="teaching")
