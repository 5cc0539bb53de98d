from docsgpt_embtune.data.dataset import RetrievalDataset
from docsgpt_embtune.embeddings import StockEmbeddings
from docsgpt_embtune.evaluation import truncation
from docsgpt_embtune.evaluation.summary import truncation_in_words
from docsgpt_embtune.evaluation.truncation import audit_truncation, count_cut, parts_read, share_read
from docsgpt_embtune.static_model import beginnings_read


def audit(folder, *texts: str):
    dataset = RetrievalDataset(
        queries={"q": "logs"},
        corpus={str(i): text for i, text in enumerate(texts)},
        relevant_docs={"q": ("0",)},
    )
    return audit_truncation(StockEmbeddings(folder).model, dataset)


def test_wordpieces_are_counted_beyond_what_the_model_reads(tiny_base_folder):
    found = audit(tiny_base_folder, "logs " * 100, "memory " * 62, "disk " * 10)
    assert (found.max_seq_length, found.possible_length) == (64, 64)
    assert (found.chunks, found.chunks_cut, found.good_chunks, found.good_chunks_cut) == (3, 1, 1, 1)
    assert (found.wordpieces, found.wordpieces_seen, found.longest) == (172, 62 + 62 + 10, 100)
    words = truncation_in_words(found)
    assert "1 of 3 chunks are cut, and 1 of the 1 that answer a question" in words
    assert "at most 51 tokens" in words
    assert "up to" not in words  # it reads what its positions allow


def test_a_default_prompt_takes_room_in_every_chunk(tiny_base_folder):
    model = StockEmbeddings(tiny_base_folder).model
    model.prompts, model.default_prompt_name = {"chunk": "disk memory "}, "chunk"
    dataset = RetrievalDataset(queries={"q": "a"}, corpus={"d": "logs " * 62}, relevant_docs={"q": ("d",)})
    audited = audit_truncation(model, dataset)
    assert audited.wordpieces_seen == 60
    assert share_read(model, list(dataset.corpus.values())) == audited.share_seen == 60 / 62


def test_chunks_that_fit_need_no_advice(tiny_base_folder):
    found = audit(tiny_base_folder, "logs " * 62)
    assert found.advice == ""
    assert truncation_in_words(found) == "The model reads every chunk to its end (longest: 62 wordpieces)."


def test_no_advice_where_none_of_the_cut_chunks_answers(tiny_base_folder):
    model = StockEmbeddings(tiny_base_folder).model
    corpus = {"d": "logs", "long": "logs " * 400}
    found = audit_truncation(model, RetrievalDataset({"q": "a"}, corpus, {"q": ("d",)}))
    assert (found.chunks_cut, found.advice) == (1, "")


def test_a_model_that_could_read_more_is_told_apart(tiny_base_folder):
    model = StockEmbeddings(tiny_base_folder).model
    model.max_seq_length = 32
    dataset = RetrievalDataset(queries={"q": "a"}, corpus={"d": "logs " * 40}, relevant_docs={"q": ("d",)})
    assert "up to the 64 wordpieces that this model could read" in audit_truncation(model, dataset).advice


def test_the_part_that_is_read_gives_the_same_vector_and_no_word_more(tiny_base_folder):
    model = StockEmbeddings(tiny_base_folder).model
    model.max_seq_length = 12
    corpus = {"long": "the log is kept every night and the backup is verified by hand on a disk", "short": "the log"}
    read = parts_read(model, corpus)
    assert read["short"] == "the log"
    assert corpus["long"].startswith(read["long"])
    assert len(model.tokenizer(read["long"])["input_ids"]) == 12
    whole, part = model.encode([corpus["long"], read["long"]])
    assert whole.tolist() == part.tolist()


def test_a_good_chunk_that_is_cut_is_said_though_the_sample_missed_it(tiny_base_folder, monkeypatch):
    monkeypatch.setattr(truncation, "_SAMPLE", 1)
    corpus = {"a": "logs", "b": "logs " * 100}
    dataset = RetrievalDataset(queries={"q": "logs"}, corpus=corpus, relevant_docs={"q": ("b",)})
    found = audit_truncation(StockEmbeddings(tiny_base_folder).model, dataset)
    assert (found.chunks_cut, found.good_chunks_cut, found.longest) == (0, 1, 100)
    assert "1 of the 1 that answer a question" in truncation_in_words(found)
    assert found.advice
    whole = audit_truncation(StockEmbeddings(tiny_base_folder).model, dataset, in_windows=True)
    assert (whole.good_chunks_cut, whole.share_seen, whole.advice) == (0, 1.0, "")


def test_chunk_that_answers_two_questions_is_one_chunk(tiny_base_folder):
    dataset = RetrievalDataset({"q": "a", "r": "b"}, {"d": "logs " * 100}, {"q": ("d",), "r": ("d",)})
    found = audit_truncation(StockEmbeddings(tiny_base_folder).model, dataset)
    assert (found.good_chunks, found.good_chunks_cut) == (1, 1)


def test_half_a_character_is_counted_as_the_model_reads_it(tiny_base_folder):
    model = StockEmbeddings(tiny_base_folder).model
    assert share_read(model, ["logs \ud800"]) == 1.0
    assert count_cut(model, ["logs \ud800", "\ud800" + " logs" * 100]) == 1


def test_no_more_chunks_are_counted_than_the_sample_has(tiny_base_folder, monkeypatch):
    monkeypatch.setattr(truncation, "_SAMPLE", 2)
    assert audit(tiny_base_folder, "logs", "memory", "disk").chunks == 2
    assert audit(tiny_base_folder, "logs", "logs", "logs " * 9, "logs").wordpieces == 1 + 9  # evenly spread


def test_a_long_text_is_cut_off_without_another_vector(tiny_base_folder):
    model = StockEmbeddings(tiny_base_folder).model
    model.max_seq_length = 12
    texts = ["  the log\n" + "is kept  every\tnight " * 20, "the log", "a" * 2000]
    cut = beginnings_read(model, texts)
    assert [len(text.split()) for text in cut] == [24, 2, 1]
    assert all(text.startswith(beginning) for text, beginning in zip(texts, cut, strict=True))
    assert model.encode(texts).tolist() == model.encode(cut).tolist()
    model.tokenizer.truncation_side = "left"
    assert beginnings_read(model, texts) == texts
