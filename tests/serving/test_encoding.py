import importlib
import sys

import numpy as np
import pytest

from docsgpt_embtune.base_models import BaseModel
from docsgpt_embtune.serving import encoding, packing
from docsgpt_embtune.serving.encoding import Encoder
from docsgpt_embtune.serving.packing import is_packing, packing_where_possible
from docsgpt_embtune.training.trainer import load_base
from tests.conftest import TEXTS

MANY = [*TEXTS, "logs", " ".join(TEXTS) * 3, TEXTS[0]]


@pytest.fixture
def model(tiny_base_folder):
    return load_base(BaseModel("tiny", tiny_base_folder), "cpu")  # as it comes, which is not quite in eval mode


@pytest.fixture
def passes(monkeypatch):
    seen = []

    def spy(*arguments):
        seen.append(arguments)
        return embed(*arguments)

    embed = encoding.embed_in_passes
    monkeypatch.setattr(encoding, "embed_in_passes", spy)
    return seen


def test_vectors_are_the_librarys_own_without_padding(model, passes):
    vectors = Encoder(model, "fp32")(MANY)
    assert np.allclose(vectors, model.encode(MANY), atol=1e-6)
    assert passes
    assert not is_packing(model)


def test_encodes_in_the_midst_of_a_fit(model, passes):
    expected = model.encode(MANY)
    with packing_where_possible(model):
        assert np.allclose(Encoder(model, "fp32")(MANY), expected, atol=1e-6)
        assert is_packing(model)
    assert passes


def test_model_with_a_prompt_of_its_own_keeps_it(model, passes):
    plain = model.encode(MANY)
    model.prompts, model.default_prompt_name = {"passage": "logs of "}, "passage"
    vectors = Encoder(model, "fp32")(MANY)
    assert np.allclose(vectors, model.encode(MANY), atol=1e-6)
    assert not np.allclose(vectors, plain, atol=1e-3)
    assert not passes


def test_transformers_without_replaceable_attention_pads(model, passes, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "transformers.masking_utils", None)  # there since 4.53
        importlib.reload(packing)
    try:
        vectors = Encoder(model, "fp32")(MANY)
    finally:
        importlib.reload(packing)
    assert np.allclose(vectors, model.encode(MANY), atol=1e-6)
    assert not passes


def test_sentence_transformers_without_preprocess_pads(model, monkeypatch):
    owner = next(kind for kind in type(model).__mro__ if "preprocess" in vars(kind))
    monkeypatch.delattr(owner, "preprocess")  # there since 5.4
    with packing_where_possible(model) as packs:
        assert not packs
