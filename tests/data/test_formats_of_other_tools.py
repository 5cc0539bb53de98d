"""Files written, or read, by the other tools' own code; each test is skipped where the tool is not installed."""

import json

import pytest

from docsgpt_embtune.base_models import resolve_base
from docsgpt_embtune.data.dataset import RetrievalDataset, checked, load_dataset
from docsgpt_embtune.data.formats.registry import FORMATS, find_format, read_content
from docsgpt_embtune.data.formats.source import Source

pytestmark = pytest.mark.filterwarnings("ignore")  # what other tools warn of is theirs to mend

QUERIES = {"q1": "How long are logs kept?", "q2": "Who restarts a worker?"}
CORPUS = {"c1": "Logs are kept\nfor a “week”.", "c2": "Workers restart themselves.", "c3": "Invoices can be cancelled."}
GOOD = {"q1": ("c1",), "q2": ("c2", "c3")}
DATASET = RetrievalDataset(QUERIES, CORPUS, GOOD)


@pytest.fixture
def tool():
    """Import a tool, or skip."""

    return lambda name: pytest.importorskip(name, exc_type=ImportError)


def test_llamaindex_reads_ours_and_we_read_its(tmp_path, tool):
    kind = tool("llama_index.finetuning").EmbeddingQAFinetuneDataset
    theirs = kind(queries=QUERIES, corpus=CORPUS, relevant_docs={q: list(ids) for q, ids in GOOD.items()})
    theirs.save_json(str(tmp_path / "theirs.json"))
    assert find_format(Source(tmp_path / "theirs.json")).name == "llamaindex"
    assert load_dataset(tmp_path / "theirs.json", relevant_docs="all-good").fingerprint == DATASET.fingerprint
    FORMATS["llamaindex"].write(DATASET, tmp_path / "ours.json")
    assert kind.from_json(str(tmp_path / "ours.json")) == theirs


def test_beirs_loader_reads_ours(tmp_path, tool):
    FORMATS["beir"].write(DATASET, tmp_path / "beir")
    corpus, queries, qrels = tool("beir.datasets.data_loader").GenericDataLoader(str(tmp_path / "beir")).load("test")
    assert {doc_id: document["text"] for doc_id, document in corpus.items()} == CORPUS
    assert queries == QUERIES
    assert qrels == DATASET.qrels


def test_we_read_what_beirs_own_code_writes(tmp_path, tool):
    """`save_runfile` and `load_tsv` aside, BEIR writes files in `util.write_to_json` and `write_to_tsv`."""
    util = tool("beir.util")
    (tmp_path / "corpus.jsonl").write_text(
        "".join(json.dumps({"_id": d, "title": "", "text": text, "metadata": {}}) + "\n" for d, text in CORPUS.items())
    )
    util.write_to_json(str(tmp_path / "queries.jsonl"), QUERIES)
    (tmp_path / "qrels").mkdir()
    util.write_to_tsv(str(tmp_path / "qrels" / "test.tsv"), DATASET.qrels)
    assert load_dataset(tmp_path).qrels == DATASET.qrels


def test_flag_embeddings_training_reads_ours(tmp_path, tool):
    tool("FlagEmbedding")
    import datasets

    FORMATS["flag-embedding"].write(DATASET, tmp_path / "train.jsonl")
    # What its AbsEmbedderTrainDataset does with a file before it draws from "query", "pos" and "neg".
    rows = datasets.load_dataset(
        "json", data_files=str(tmp_path / "train.jsonl"), split="train", cache_dir=str(tmp_path)
    )
    assert rows["query"] == list(QUERIES.values())
    assert rows["pos"] == [[CORPUS[d] for d in ids] for ids in GOOD.values()]


def test_tevatrons_training_reads_ours(tmp_path, tool):
    processor = tool("tevatron.datasets.preprocessor").TrainPreProcessor
    import datasets
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(resolve_base("bundled").folder)
    FORMATS["tevatron"].write(DATASET, tmp_path / "train.jsonl")
    # As its HFTrainDataset does with a file named in `train_path`.
    rows = datasets.load_dataset(
        "json", data_files=str(tmp_path / "train.jsonl"), split="train", cache_dir=str(tmp_path)
    ).map(processor(tokenizer))
    tokens = {text: tokenizer.encode(text, add_special_tokens=False) for text in (*QUERIES.values(), *CORPUS.values())}
    assert rows["query"] == [tokens[query] for query in QUERIES.values()]
    assert rows["positives"] == [[tokens[CORPUS[d]] for d in ids] for ids in GOOD.values()]


def test_ragas_reads_ours_and_we_read_its(tmp_path, tool):
    ragas = tool("ragas")
    samples = [
        ragas.SingleTurnSample(user_input=QUERIES[q], reference_contexts=[CORPUS[d] for d in ids])
        for q, ids in GOOD.items()
    ]
    theirs = ragas.EvaluationDataset(samples=samples)
    theirs.to_jsonl(tmp_path / "theirs.jsonl")
    theirs.to_csv(tmp_path / "theirs.csv")
    for name in ("theirs.jsonl", "theirs.csv"):
        dataset = load_dataset(tmp_path / name)
        assert list(dataset.queries.values()) == list(QUERIES.values())
        found = {dataset.queries[q]: [dataset.corpus[d] for d in ids] for q, ids in dataset.relevant_docs.items()}
        assert found == {QUERIES[q]: [CORPUS[d] for d in ids] for q, ids in GOOD.items()}
    FORMATS["ragas"].write(DATASET, tmp_path / "ours.jsonl")
    assert ragas.EvaluationDataset.from_jsonl(tmp_path / "ours.jsonl").samples == samples


def test_autorags_own_check_takes_ours(tmp_path, tool):
    check = tool("autorag.utils.preprocess")
    import pandas

    FORMATS["autorag"].write(DATASET, tmp_path / "autorag")
    qa = check.cast_qa_dataset(pandas.read_parquet(tmp_path / "autorag" / "qa.parquet"))
    corpus = check.cast_corpus_dataset(pandas.read_parquet(tmp_path / "autorag" / "corpus.parquet"))
    check.validate_qa_from_corpus_dataset(qa, corpus)
    qa.to_parquet(tmp_path / "qa.parquet")
    corpus.to_parquet(tmp_path / "corpus.parquet")
    assert load_dataset(tmp_path).fingerprint == DATASET.fingerprint


def test_a_dataset_of_sentence_transformers_columns_from_disk(tmp_path):
    import datasets

    pairs = {
        "anchor": list(QUERIES.values()),
        "positive": ["a", "b"],
        "negative_1": ["c", "d"],
        "negative_2": ["e", "f"],
    }
    datasets.Dataset.from_dict(pairs).save_to_disk(tmp_path / "one")
    dataset = load_dataset(tmp_path / "one")
    assert [dataset.corpus[d] for ids in dataset.irrelevant_docs.values() for d in ids] == ["c", "e", "d", "f"]
    datasets.DatasetDict({"train": datasets.Dataset.from_dict(pairs)}).save_to_disk(tmp_path / "dict")
    assert checked(read_content(tmp_path / "dict")).fingerprint == dataset.fingerprint
    both = {name: datasets.Dataset.from_dict(pairs) for name in ("train", "test")}
    datasets.DatasetDict(both).save_to_disk(tmp_path / "both")
    with pytest.raises(Exception, match=r"name one: .*both/train, .*both/test"):
        load_dataset(tmp_path / "both")
    assert load_dataset(tmp_path / "both" / "test").fingerprint == dataset.fingerprint
