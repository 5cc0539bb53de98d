import pytest
import torch

from docsgpt_embtune.base_models import BaseModel
from docsgpt_embtune.positions import first_position_of
from docsgpt_embtune.serving import packing
from docsgpt_embtune.serving.packing import (
    attend_within_texts,
    embed_packed,
    is_packing,
    packing_where_possible,
    rows_of_tokens,
)
from docsgpt_embtune.training.losses import LOSSES, make_loss
from docsgpt_embtune.training.trainer import load_base, set_up_for_training
from tests.conftest import TEXTS


@pytest.fixture
def model(tiny_base_folder):
    return load_base(BaseModel("tiny", tiny_base_folder), "cpu").eval()


def padded_tokens(model):
    return rows_of_tokens(model.preprocess([*TEXTS, "logs", " ".join(TEXTS) * 3]))


def test_no_more_tokens_are_read_than_there_are_positions_for(model_of, tmp_path):
    claims_all = model_of("roberta")
    claims_all.max_seq_length = 130
    claims_all.save(str(tmp_path / "base"))
    model = load_base(BaseModel("roberta", tmp_path / "base"), "cpu")
    assert model.max_seq_length == 129  # of 130 positions, one is the padding's
    assert model.encode(" ".join(TEXTS * 9)).shape == (32,)


@pytest.mark.parametrize("tokens_in_a_pass", [2048, 12])
@pytest.mark.parametrize("name", LOSSES)
def test_loss_and_gradients_are_the_librarys_own(model, name, tokens_in_a_pass, monkeypatch):
    monkeypatch.setattr(packing, "TOKENS_PER_THREAD", tokens_in_a_pass // torch.get_num_threads())
    labels, columns = torch.tensor([1, 0, 0]), ([TEXTS[0], TEXTS[1], "logs"], [TEXTS[2], TEXTS[3], TEXTS[0]])
    results = []
    with set_up_for_training(model, "fp32"):
        assert is_packing(model)
        packed = make_loss(model, name)([model.preprocess(texts) for texts in columns], labels)
        packed.backward()
        results.append((packed.detach(), [p.grad.clone() for p in model.parameters() if p.grad is not None]))
    model.zero_grad()
    plain = LOSSES[name](model)([model.preprocess(texts) for texts in columns], labels)
    plain.backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert torch.allclose(results[0][0], plain, atol=1e-6)
    assert len(results[0][1]) == len(gradients) > 0
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(results[0][1], gradients, strict=True))


def test_texts_of_almost_one_length_attend_each_to_its_own_tokens():
    torch.manual_seed(0)
    lengths = [3, 5, 15, 16, 16, 17, 40]
    # The texts end to end in bf16, and each alone in fp32.
    packed = [torch.randn(1, 2, sum(lengths), 8, dtype=torch.bfloat16, requires_grad=True) for _ in range(3)]
    alone = [tensor.detach().float().requires_grad_() for tensor in packed]
    ends = torch.tensor([0, *lengths]).cumsum(0)
    found, _ = attend_within_texts(torch.nn.Module(), *packed, None, **{packing.BOUNDARIES: ends})
    texts = zip(*(tensor.split(lengths, dim=2) for tensor in alone), strict=True)
    expected = torch.cat([torch.nn.functional.scaled_dot_product_attention(*text) for text in texts], dim=2)
    assert torch.allclose(found.float(), expected.transpose(1, 2), atol=0.02)
    found.float().square().sum().backward()
    expected.square().sum().backward()
    assert all(torch.allclose(p.grad.float(), a.grad, atol=0.1) for p, a in zip(packed, alone, strict=True))


def test_what_was_encoded_can_be_trained_on(model):
    model.train()
    tokens = padded_tokens(model)
    with packing_where_possible(model), torch.autocast("cpu", torch.bfloat16):
        with torch.inference_mode():
            embed_packed(model, tokens, 0)
        embed_packed(model, tokens, 0).sum().backward()
    assert model[0].auto_model.embeddings.word_embeddings.weight.grad is not None


def test_model_that_counts_positions_from_the_paddings_is_packed(model_of):
    model = model_of("roberta")
    tokens = padded_tokens(model)
    expected = model(dict(tokens))["sentence_embedding"]
    with packing_where_possible(model) as packs:
        assert packs
        assert torch.allclose(embed_packed(model, tokens, first_position_of(model)), expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["modernbert", "mpnet"])  # attends to near tokens; adds what it learned of distances
def test_model_whose_attention_is_another_is_padded(model_of, kind):
    model = model_of(kind)
    usual = model[0].auto_model.config._attn_implementation
    expected = model(padded_tokens(model))["sentence_embedding"]
    with packing_where_possible(model) as packs:
        assert not packs
        assert not is_packing(model)
        assert torch.equal(model(padded_tokens(model))["sentence_embedding"], expected)
    assert model[0].auto_model.config._attn_implementation == usual


def test_padded_batches_are_right_while_it_packs(model):
    expected = model(padded_tokens(model))["sentence_embedding"]
    with packing_where_possible(model) as packs:
        assert packs
        assert torch.allclose(model(padded_tokens(model))["sentence_embedding"], expected, atol=1e-6)


def test_model_that_cannot_be_tried_is_padded_and_goes_on_training(model, monkeypatch):
    def refuse(*_: object) -> None:
        raise ValueError("no such attention")

    usual = model[0].auto_model.config._attn_implementation
    monkeypatch.setattr(packing, "embed_packed", refuse)
    model.train()
    with packing_where_possible(model) as packs:
        assert not packs
        assert model.training
        assert model[0].auto_model.config._attn_implementation == usual


def test_model_is_as_it_was_afterwards(model):
    usual, expected = model[0].auto_model.config._attn_implementation, model.encode(list(TEXTS))
    with packing_where_possible(model) as packs:
        assert packs
    assert model[0].auto_model.config._attn_implementation == usual
    assert (model.encode(list(TEXTS)) == expected).all()


def test_nothing_is_dropped_and_no_luck_is_drawn_for_it(model):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    with set_up_for_training(model, "fp32"):
        model.train()
        make_loss(model, "multiple-negatives-ranking")(
            [model.preprocess(TEXTS[:2]), model.preprocess(TEXTS[2:4])], None
        )
        assert torch.equal(torch.get_rng_state(), before)
    rates = {layer.p for layer in model.modules() if isinstance(layer, torch.nn.Dropout)}
    assert rates != {0.0}
    assert not torch.equal(torch.nn.Dropout(0.5)(torch.ones(100)), torch.ones(100))
