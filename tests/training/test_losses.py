import pytest
import torch

from docsgpt_embtune.base_models import BaseModel
from docsgpt_embtune.errors import TrainingError
from docsgpt_embtune.training.losses import (
    LOSSES,
    EachTextOnce,
    loss_of_vectors,
    make_loss,
    unique_texts,
)
from docsgpt_embtune.training.trainer import load_base
from tests.conftest import TEXTS

ANCHORS = ["How long are logs kept?", "How long are logs kept?", "Who restarts a worker?"]
CHUNKS = [TEXTS[0], TEXTS[3], TEXTS[0]]


@pytest.fixture
def model(tiny_base_folder):
    return load_base(BaseModel("tiny", tiny_base_folder), "cpu").eval()


@pytest.mark.parametrize("name", LOSSES)
def test_loss_and_gradients_are_the_librarys_own(model, name):
    labels = torch.tensor([1, 0, 0])
    gradients = []
    for loss in (make_loss(model, name), LOSSES[name](model)):
        model.zero_grad()
        value = loss([model.preprocess(ANCHORS), model.preprocess(CHUNKS)], labels)
        value.backward()
        gradients.append((value.detach(), [p.grad.clone() for p in model.parameters() if p.grad is not None]))
    (once, once_gradients), (plain, plain_gradients) = gradients
    assert torch.allclose(once, plain, atol=1e-6)
    assert len(once_gradients) == len(plain_gradients) > 0
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(once_gradients, plain_gradients, strict=True))


@pytest.mark.parametrize("name", LOSSES)
def test_loss_at_several_widths_is_the_sum_of_the_losses_of_cut_vectors(model, name):
    labels = torch.tensor([1, 0, 0])
    features = [model.preprocess(ANCHORS), model.preprocess(CHUNKS)]
    value = make_loss(model, name, (8, 16))([dict(column) for column in features], labels)
    vectors = [model(dict(column))["sentence_embedding"] for column in features]
    cut = [[torch.nn.functional.normalize(side[:, :width]) for side in vectors] for width in (32, 16, 8)]
    expected = sum(LOSSES[name](model).compute_loss_from_embeddings(sides, labels) for sides in cut)
    assert torch.allclose(value, expected, atol=1e-5)


def test_each_distinct_text_is_encoded_once(model):
    loss, columns = make_loss(model, "online-contrastive"), [model.preprocess(ANCHORS), model.preprocess(CHUNKS)]
    loss(columns, torch.tensor([1, 0, 0]))  # with the first batch it also measures how much memory a text takes
    rows = []
    model.register_forward_pre_hook(lambda _, arguments: rows.append(len(arguments[0]["input_ids"])))
    loss(columns, torch.tensor([1, 0, 0]))
    assert sum(rows) == 4  # two questions and two chunks, where the columns hold six texts


def test_unique_texts_finds_its_way_back(model):
    features = [model.preprocess(ANCHORS), model.preprocess(CHUNKS)]
    tokens, place = unique_texts(features, 0)
    assert place.tolist()[0] == place.tolist()[1]
    assert place.tolist()[3] == place.tolist()[5]
    length = features[1]["input_ids"].shape[1]
    assert torch.equal(tokens["input_ids"][place[3:], :length], features[1]["input_ids"])


def test_rows_that_are_alike_but_for_padding_are_one_text_and_a_padding_token_in_a_text_is_none():
    def column(ids, mask):
        return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}

    short, long = column([[5, 6], [5, 7]], [[1, 1], [1, 1]]), column([[5, 6, 1], [5, 7, 1]], [[1, 1, 0], [1, 1, 1]])
    tokens, place = unique_texts([short, long], pad_token_id=1)
    assert place[0] == place[2]
    assert len({*place.tolist()}) == len(tokens["input_ids"]) == 3
    assert tokens["attention_mask"][place].tolist() == [[1, 1, 0], [1, 1, 0], [1, 1, 0], [1, 1, 1]]


def test_room_for_a_batch_is_measured_with_its_longest_text(model):
    short, long = "logs", "logs are kept for a week on the second disk " * 4

    def bytes_per_token(*columns):
        loss = make_loss(model, "multiple-negatives-ranking")
        loss([model.preprocess([text]) for text in columns], None)
        return loss.room.bytes_per_token

    assert bytes_per_token(short, long) == bytes_per_token(long, short) == bytes_per_token(long, long)
    assert bytes_per_token(short, long) != bytes_per_token(short, short)


def test_width_above_the_models_own_is_refused(model):
    with pytest.raises(TrainingError, match="the model is 32 wide and cannot be cut to 33; give --widths up to 32"):
        make_loss(model, "online-contrastive", (16, 33))
    make_loss(model, "online-contrastive", (16, 32))


def test_left_padded_models_keep_the_librarys_way(model):
    model.tokenizer.padding_side = "left"
    assert not isinstance(make_loss(model, "online-contrastive"), EachTextOnce)


@pytest.mark.parametrize("side", ["right", "left"])
def test_distance_to_given_vectors_is_the_librarys_mean_squared_error(model, side):
    model.tokenizer.padding_side = side
    wanted = torch.nn.functional.normalize(torch.randn(3, 32, generator=torch.Generator().manual_seed(0)))
    value = loss_of_vectors(model)([model.preprocess(CHUNKS)], wanted)
    vectors = model(model.preprocess(CHUNKS))["sentence_embedding"]
    assert torch.allclose(value, torch.nn.functional.mse_loss(vectors, wanted), atol=1e-6)
