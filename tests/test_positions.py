import pytest
import transformers
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from transformers import AutoTokenizer

from docsgpt_embtune.embeddings import StockEmbeddings
from docsgpt_embtune.errors import ModelFolderError
from docsgpt_embtune.positions import possible_length


@pytest.mark.parametrize("architecture", ["Bert", "Roberta", "XLMRoberta", "Camembert", "MPNet"])
def test_positions_before_the_first_are_no_room_for_text(tiny_base_folder, tmp_path, architecture):
    tokenizer = AutoTokenizer.from_pretrained(str(tiny_base_folder))
    tokenizer.save_pretrained(tmp_path)
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    positions = {"max_position_embeddings": 34, "pad_token_id": 1}
    config = getattr(transformers, f"{architecture}Config")(vocab_size=len(tokenizer), **positions, **shape)
    getattr(transformers, f"{architecture}Model")(config).save_pretrained(tmp_path)
    transformer = Transformer(str(tmp_path), max_seq_length=16)
    model = SentenceTransformer(modules=[transformer, Pooling(16, "mean")], device="cpu")
    possible = possible_length(model)
    assert possible == (34 if architecture == "Bert" else 32)
    model.max_seq_length = possible
    assert model.encode("logs " * 40).shape == (16,)
    model.max_seq_length = possible + 1
    with pytest.raises((IndexError, RuntimeError)):
        model.encode("logs " * 40)
    if architecture == "Bert":  # sentence-transformers sees that, as it loads it
        return
    model.save(str(tmp_path / "saved"))
    stock = StockEmbeddings(tmp_path / "saved")
    assert len(stock.embed_query("logs")) == 16
    with pytest.raises(
        ModelFolderError, match=f"claims to read {possible + 1} tokens and has positions for {possible}"
    ):
        stock.embed_documents(["logs " * 40])
