from docsgpt_embtune.training.corpus_questions import LONGEST, SHORTEST, questions_from_corpus

CORPUS = {
    "long": "  The worker is restarted\nevery night, and the log is kept for seven days on the disk of the server. ",
    "short": "Only four words here",
    "heading": "Backups",
    "chinese": "备份每天晚上自动运行并保存在服务器上七天之后删除",
}


def test_question_is_a_run_of_words_of_its_chunk():
    for seed in range(20):
        made = questions_from_corpus(CORPUS, seed)
        for query_id, text in made.queries.items():
            (doc_id,) = made.relevant_docs[query_id]
            assert text in CORPUS[doc_id]
            assert text.strip() == text != CORPUS[doc_id].strip()
        assert SHORTEST <= len(made.queries["words of long"].split()) <= LONGEST


def test_chunk_that_says_no_more_than_its_question_would_is_not_asked_for():
    made = questions_from_corpus(CORPUS, 0)
    assert set(made.queries) == {"words of long", "words of short", "words of chinese"}
    assert len(made.queries["words of short"].split()) == 2
    assert made.corpus is CORPUS


def test_script_without_spaces_is_cut_too():
    assert 6 <= len(questions_from_corpus(CORPUS, 0).queries["words of chinese"]) <= 12


def test_seed_decides_and_doc_ids_choose():
    assert questions_from_corpus(CORPUS, 1).queries == questions_from_corpus(CORPUS, 1).queries
    assert questions_from_corpus(CORPUS, 1).queries != questions_from_corpus(CORPUS, 2).queries
    assert list(questions_from_corpus(CORPUS, 1, doc_ids=["short"]).queries) == ["words of short"]
