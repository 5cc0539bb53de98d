"""What a model's tokens find, taught to its vectors."""

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling

from docsgpt_embtune.base_models import BaseModel
from docsgpt_embtune.errors import TrainingError
from docsgpt_embtune.training.examples import Question
from docsgpt_embtune.training.token_teaching import (
    SHARPNESS,
    TaughtByTokens,
    can_be_taught_by_tokens,
    chunks_to_rank,
    rarity_of_tokens,
)
from docsgpt_embtune.training.trainer import load_base

from ..conftest import TEXTS
from ..random_models import build_model

ASKED = ["how long are logs kept", "who restarts a worker"]
# The first question's second chunk is what the other question was taken from.
COLUMNS = [[TEXTS[0], TEXTS[1]], [TEXTS[2], TEXTS[3]]]
LABELS = torch.tensor([[9, 0, 2], [2, 1, 3]])


@pytest.fixture
def model(tiny_base_folder):
    return load_base(BaseModel("tiny", tiny_base_folder), "cpu").eval()


def by_tokens(model, rarity: torch.Tensor, question: str, chunk: str) -> float:
    """The definition, a token at a time."""
    asked, read = (model.encode(text, output_value="token_embeddings").numpy() for text in (question, chunk))
    asked, read = (states / np.linalg.norm(states, axis=1, keepdims=True) for states in (asked, read))
    counts = rarity[model.preprocess([question])["input_ids"][0]].numpy()
    return float((counts * (asked @ read.T).max(axis=1)).sum() / counts.sum())


def loss_of(taught: TaughtByTokens, model: SentenceTransformer, labels: torch.Tensor = LABELS) -> torch.Tensor:
    return taught([model.preprocess(texts) for texts in (ASKED, *COLUMNS)], labels)


def test_rare_tokens_count_most_and_special_ones_nothing(model):
    rarity = rarity_of_tokens(model, TEXTS)
    held = [set(model.tokenizer(text)["input_ids"]) for text in TEXTS]
    special = set(model.tokenizer.all_special_ids)
    for token in set.union(*held):
        count = sum(token in ids for ids in held)
        expected = 0.0 if token in special else np.log(1 + (len(TEXTS) - count + 0.5) / (count + 0.5))
        assert float(rarity[token]) == pytest.approx(expected, rel=1e-5)


def test_loss_is_how_far_the_vectors_ranking_is_from_the_tokens(model):
    rarity = rarity_of_tokens(model, TEXTS)
    chunks = [TEXTS[number] for number in range(4)]
    scores = np.array([[by_tokens(model, rarity, question, chunk) for chunk in chunks] for question in ASKED])
    cosines = model.encode(ASKED) @ model.encode(chunks).T
    left = [[0, 1, 2, 3], [0, 1, 3]]  # the second question's own chunk is ranked for the first alone
    spreads = [np.mean([of[row][left[row]].std() for row in (0, 1)]) for of in (cosines, scores)]
    expected = 0.0
    for row, kept in enumerate(left):
        learned, taught = SHARPNESS * cosines[row][kept], SHARPNESS * spreads[0] / spreads[1] * scores[row][kept]
        learned, taught = (values - np.log(np.exp(values).sum()) for values in (learned, taught))
        expected += float((np.exp(taught) * (taught - learned)).sum()) / 2
    loss = loss_of(TaughtByTokens(model, rarity, "fp32"), model)
    assert loss.item() == pytest.approx(expected, abs=1e-4)


def test_it_is_taught_by_what_the_model_was(model):
    taught = TaughtByTokens(model, rarity_of_tokens(model, TEXTS), "fp32")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    losses = []
    for _ in range(30):
        loss = loss_of(taught, model)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < losses[0] / 3
    by_what_it_is_now = TaughtByTokens(model, rarity_of_tokens(model, TEXTS), "fp32")
    assert loss_of(by_what_it_is_now, model).item() != pytest.approx(loss_of(taught, model).item(), rel=0.01)
    assert len(list(taught.parameters())) == len(list(model.parameters()))  # the teacher's are none of the optimizer's


def test_rows_number_each_chunk_alike_and_hold_as_many():
    questions = [Question("a b", ("own",), ("near", "far")), Question("c d", ("near",), ("own",))]
    rows = chunks_to_rank(questions).rows
    assert rows.column_names == ["anchor", "chunk_1", "chunk_2", "label"]
    number = {}
    for row in rows:
        own = {"a b": "own", "c d": "near"}[row["anchor"]]
        for text, label in zip((own, row["chunk_1"], row["chunk_2"]), row["label"], strict=True):
            assert number.setdefault(text, label) == label
        assert own not in (row["chunk_1"], row["chunk_2"])
    assert len(set(number.values())) == len(number) == 3
    with pytest.raises(TrainingError, match="too few chunks"):
        chunks_to_rank([Question("a b", ("own",), ("near",)), Question("c d", ("near",), ("own",))])


def test_only_means_of_tokens_are_taught(model, tiny_base_folder, tmp_path):
    assert can_be_taught_by_tokens(model)
    roberta = build_model("roberta", tiny_base_folder, tmp_path)
    assert can_be_taught_by_tokens(roberta)
    roberta[1] = Pooling(roberta[0].get_embedding_dimension(), "cls")
    assert not can_be_taught_by_tokens(roberta)
    model.tokenizer.padding_side = "left"
    assert not can_be_taught_by_tokens(model)
