import numpy as np

from docsgpt_embtune.data.dataset import RetrievalDataset
from docsgpt_embtune.evaluation.ranking import Ranking
from docsgpt_embtune.training.negatives import mine_negatives


def at(degrees: float) -> list[float]:
    return [np.cos(np.radians(degrees)), np.sin(np.radians(degrees))]


# Cosine to the question at 0 degrees falls with the angle.
ANGLES = {"closer": 5.0, "good": 20.0, "copy": 22.0, "near": 40.0, "middle": 55.0, "far": 80.0}
CORPUS = np.array([at(angle) for angle in ANGLES.values()], dtype=np.float32)


def mined(per_good: int, irrelevant_docs: dict | None = None, question: str = "?", **options):
    dataset = RetrievalDataset({"q": question}, {d: d for d in ANGLES}, {"q": ("good",)}, irrelevant_docs or {})
    return mine_negatives(dataset, np.array([at(0)], dtype=np.float32), CORPUS, per_good=per_good, **options)


def test_hardest_first_without_the_good_its_copy_and_what_scores_like_it():
    assert mined(10) == {"q": ("near", "middle", "far")}


def test_no_more_than_wanted():
    assert mined(1) == {"q": ("near",)}


def test_no_more_than_a_row_holds():
    assert mined(10, most=2) == {"q": ("near", "middle")}
    assert mined(10, {"q": ("near",)}, most=1) == {}


def test_given_bad_chunks_count_and_are_not_mined_again():
    assert mined(2, {"q": ("near",)}) == {"q": ("middle",)}
    assert mined(1, {"q": ("near",)}) == {}


def test_every_second_comes_from_the_keywords():
    by_words = Ranking(["q"], list(ANGLES), np.array([[5, 0, 1, 2, -1]]))  # far, closer, good, copy
    assert mined(3, keywords=by_words) == {"q": ("near", "far", "middle")}


def test_chunk_that_holds_the_question_is_an_answer():
    assert mined(1, question="nea") == {"q": ("middle",)}


def test_no_window_of_a_judged_chunk_is_a_bad_one():
    assert mined(1, chunk_of={"near": "a", "good": "a"}) == {"q": ("middle",)}


def test_hardest_of_a_question_whose_good_chunk_is_the_other_way_is_the_nearest_too():
    vectors = np.array([at(angle) for angle in (5, 40, 100, 170)], dtype=np.float32)
    dataset = RetrievalDataset({"q": "?"}, dict.fromkeys("abcd", "x") | {"c": "y"}, {"q": ("c",)})
    question = np.array([at(0)], dtype=np.float32)
    assert mine_negatives(dataset, question, vectors, per_good=1, ceiling=np.inf) == {"q": ("a",)}
    assert mine_negatives(dataset, question, vectors, per_good=1) == {"q": ("d",)}  # all others may be answers
