from itertools import product

import pytest

from docsgpt_embtune.data.corpus_questions import (
    LONGEST,
    PLAIN,
    SHORTEST,
    questions_from_corpus,
    questions_of_both_kinds,
)

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


def test_any_six_to_twelve_words_of_a_long_chunk_may_ask_for_it():
    chunk = " ".join(f"word{number}" for number in range(30))
    made = [questions_from_corpus({"c": chunk}, seed).queries["words of c"].split() for seed in range(400)]
    assert {len(run) for run in made} == set(range(6, 13))
    assert {run[0] for run in made} | {run[-1] for run in made} == set(chunk.split())


def test_chunk_that_says_no_more_than_its_question_would_is_not_asked_for():
    made = questions_from_corpus(CORPUS, 0)
    assert set(made.queries) == {"words of long", "words of short", "words of chinese"}
    assert len(made.queries["words of short"].split()) == 2
    assert made.corpus is CORPUS


def test_script_without_spaces_is_cut_too():
    assert 6 <= len(questions_from_corpus(CORPUS, 0).queries["words of chinese"]) <= 12


def test_seed_decides():
    assert questions_from_corpus(CORPUS, 1).queries == questions_from_corpus(CORPUS, 1).queries
    assert questions_from_corpus(CORPUS, 1).queries != questions_from_corpus(CORPUS, 2).queries


PAGES = {
    "backups": "Backups run at two. Copies are kept for seven days elsewhere. Nobody has to ask.",
    "disks": "Disks are checked once a week. A disk that fails its check is replaced within the hour. It is shredded.",
    "footer": "Printed in Ulm. All rights to these pages and pictures are reserved. Write to the office for one.",
    "imprint": "Bound in Ulm. All rights to these pages and pictures are reserved. Ask at the office for another.",
}


def cut_from(corpus, seed):
    """Return what asks for chunks by what they no longer have: doc_id -> question, and the corpus."""
    made = questions_of_both_kinds(corpus, seed, count=len(corpus) // 2)
    asked = {doc_id: made.questions.queries.get(f"cut from {doc_id}", "") for doc_id in corpus}
    return {doc_id: text for doc_id, text in asked.items() if text}, made.questions.corpus


@pytest.mark.parametrize("seed", range(10))
def test_half_ask_by_words_of_their_own_and_half_by_a_sentence_that_is_gone(seed):
    made = questions_of_both_kinds(PAGES, seed, count=2)
    assert len(made.by_own_words) == 2
    for query_id, text in made.questions.queries.items():
        (doc_id,) = made.questions.relevant_docs[query_id]
        assert text in PAGES[doc_id]
        if doc_id in made.by_own_words:
            assert made.questions.corpus[doc_id] == PAGES[doc_id]
        else:
            assert text.endswith(".")
            assert len(text.split()) >= SHORTEST
            assert made.questions.corpus[doc_id].split() == PAGES[doc_id].replace(text, " ").split()
    assert len(made.questions) == 4
    assert questions_of_both_kinds(PAGES, seed, count=2).questions.queries == made.questions.queries


def test_any_chunk_may_be_asked_for_in_either_way_and_no_more_than_wanted():
    drawn = [questions_of_both_kinds(PAGES, seed, count=1) for seed in range(40)]
    assert all(len(made.questions) == 2 for made in drawn)
    asked = {query_id for made in drawn for query_id in made.questions.queries}
    assert asked == {f"{kind} {doc_id}" for kind in ("words of", "cut from") for doc_id in PAGES}


@pytest.mark.parametrize("seed", range(10))
def test_a_sentence_that_two_chunks_have_asks_for_neither(seed):
    asked, _ = cut_from(PAGES, seed)
    assert not [text for text in asked.values() if text.startswith("All rights")]


def test_chunks_with_sentences_ask_first_and_runs_of_words_fill_up():
    several = {f"{doc_id} {number}": f"{number} {text}" for doc_id, text in PAGES.items() for number in (1, 2)}
    without = {f"{number}": f"Only four words {number}" for number in range(4)}
    asked, corpus = cut_from({**several, **without}, 0)
    assert len(asked) == 6
    assert min(len(text.split()) for text in asked.values()) == 2  # of four, where sentences do not suffice
    assert all(corpus[doc_id] != {**several, **without}[doc_id] for doc_id in asked)


def test_what_is_cut_out_is_gone_and_leaves_something():
    twice = "The disk is full again now."
    repeated = {
        "table": "n/a n/a n/a n/a",
        "run": f"{twice[:-1]} {twice[:-1]}",
        "sentence": f"{twice} {twice} Then what?",
    }
    for seed in range(20):
        asked, corpus = cut_from({**repeated, **PAGES}, seed)
        assert all(question not in corpus[doc_id] for doc_id, question in asked.items())
        assert all(text.strip() for text in corpus.values())


MIXED = {
    "code": "for key, value in self._rows.items():\n    rows[key] = f(value, x=1)\n    n_rows += len(value[0])\n" * 3,
    "table": "| 2019 | 4.1 % | 12,400 |\n| 2020 | 3.9 % | 11,900 |\n| 2021 | 4.4 % | 13,050 |\n" * 3,
    "both": "x = f(y[0], z=1); w += g(x_1)\n" * 9 + "The rows are kept until the next night, when it runs again.",
}


def test_sentence_that_is_too_long_to_type_is_not_asked_for_whole():
    words = ["".join(pair) for pair in product("abcdefghij", repeat=2)]
    corpus = {str(n): f"{' '.join(words[:40])} {n}. {' '.join(words[40:])} {n}." for n in range(4)}
    asked, _ = cut_from(corpus, 0)
    assert len(asked) == 2
    assert max(len(text.split()) for text in asked.values()) <= LONGEST


def test_of_programs_and_numbers_nothing_is_asked():
    programs = {
        str(n): "\n".join(f"x{i} = f(y[{n}], z={i}); w_{i} += g(x_{n}) + h(k[{i}])." for i in range(9))
        for n in range(4)
    }
    tables = {f"t{n}": "\n".join(f"{n}{i} 4.1 12,400 3.{i} 11,900 {i}." for i in range(9)) for n in range(4)}
    assert not len(questions_of_both_kinds({**programs, **tables}, 0, count=4).questions)


def test_only_prose_asks_where_that_is_wanted():
    assert questions_from_corpus(MIXED, 0).relevant_docs.keys() == {f"words of {doc_id}" for doc_id in MIXED}
    for seed in range(20):
        made = questions_from_corpus(MIXED, seed, of_prose=True)
        (question,) = made.queries.values()
        assert made.relevant_docs == {"words of both": ("both",)}
        words = question.split()
        assert sum(word.strip(".,").isalpha() for word in words) >= PLAIN * len(words)
        asked, _ = cut_from(MIXED, seed)
        assert set(asked) <= {"both"}


@pytest.mark.parametrize(
    "text",
    [
        "Error 0042 occurs where module M3 does not answer within 2.5 seconds; see page 17 of chapter A4.",
        "Le taux n'est que de 3,5 % aujourd'hui, c'est-à-dire qu'il a baissé de moitié depuis l'année 2019.",
    ],
)
def test_numbers_and_names_with_numbers_are_prose(text):
    for seed in range(10):
        assert len(questions_from_corpus({"c": text}, seed, of_prose=True)) == 1


def test_marks_and_quotes_around_words_are_prose():
    text = "“Well-known” isn’t it? (Yes, it's known): the so-called “night watch”, again; and again… "
    assert len(questions_from_corpus({"c": text * 3}, 1, of_prose=True)) == 1
