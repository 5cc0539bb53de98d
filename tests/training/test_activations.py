import pytest
import torch

from docsgpt_embtune.precision import arithmetic
from docsgpt_embtune.training import activations
from docsgpt_embtune.training.activations import Room, bytes_kept
from docsgpt_embtune.training.losses import make_loss
from docsgpt_embtune.training.trainer import set_up_for_training
from tests.conftest import TEXTS

NUMBERS = 1000
COLUMNS = ([*TEXTS[:3], "logs"], [*TEXTS[2:], TEXTS[0] * 2], [TEXTS[1] * 2, *TEXTS[:3]])


@pytest.fixture
def memory_of(monkeypatch, tmp_path):
    """Say what a container may use."""

    def limit(size: object) -> None:
        (tmp_path / "memory.max").write_text(f"{size}\n")
        monkeypatch.setattr(activations, "CONTAINER_LIMITS", (tmp_path / "nowhere", tmp_path / "memory.max"))

    return limit


def steps(model, precision):
    """Loss and gradient of a batch, what it keeps, and the room that it had."""
    with set_up_for_training(model, precision):
        loss = make_loss(model.train(), "multiple-negatives-ranking")
        features = [model.preprocess(texts) for texts in COLUMNS]

        def compute() -> torch.Tensor:
            with arithmetic(precision, model.device):
                return loss([dict(column) for column in features], None)

        model.zero_grad()
        value = compute()
        value.backward()
        gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        return value.detach(), gradient, bytes_kept(compute), loss.room


def test_what_autograd_keeps_is_counted_once():
    numbers = torch.ones(NUMBERS, requires_grad=True)
    assert bytes_kept(lambda: numbers * 2.0) == 0
    assert bytes_kept(lambda: numbers.exp()) == 4 * NUMBERS  # its result
    assert bytes_kept(lambda: (numbers * numbers).sum()) == 4 * NUMBERS  # the same twice
    with torch.no_grad():
        assert bytes_kept(lambda: numbers.exp()) == 0


def test_container_says_how_much_room_there_is(memory_of):
    text = {"attention_mask": torch.ones(1, 10)}
    kept = torch.ones(10, NUMBERS, requires_grad=True)

    def room() -> Room:
        return Room.of(lambda tokens: [kept[:10].exp() for _ in tokens["attention_mask"]], text)

    memory_of("max")
    of_machine = room()
    memory_of(1_000_000)
    of_container = room()
    assert of_container.bytes_per_token == of_machine.bytes_per_token == 4 * NUMBERS
    assert of_container.tokens == 100  # .4 of it
    assert of_machine.tokens > 1000


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("kind", ["roberta", "mpnet"])  # packed, and padded
def test_batch_without_room_learns_the_same_and_keeps_little(model_of, memory_of, kind, precision):
    model = model_of(kind)
    value, gradient, kept, room = steps(model, precision)
    memory_of(int(room.bytes_per_token * 30 / activations.SHARE_FOR_ACTIVATIONS))
    other_value, other_gradient, other_kept, narrow = steps(model, precision)
    assert narrow.tokens == pytest.approx(30, abs=1)
    assert other_kept < kept / 20
    tolerance = 1e-5 if precision == "fp32" else 5e-2
    assert torch.allclose(value, other_value, rtol=tolerance)
    assert (gradient - other_gradient).norm() < tolerance * gradient.norm()


def test_cut_vectors_are_computed_once_as_their_loss_hands_out_what_it_has(model_of, memory_of):
    memory_of(1)
    model = model_of("roberta")
    loss = make_loss(model, "multiple-negatives-ranking", (8,))
    loss([model.preprocess(texts) for texts in COLUMNS], None).backward()
    assert model[0].auto_model.embeddings.word_embeddings.weight.grad is not None
