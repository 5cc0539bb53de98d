import numpy as np

from docsgpt_embtune.data.dataset import RetrievalDataset
from docsgpt_embtune.evaluation.ranking import Ranking
from docsgpt_embtune.training.config import TrainConfig
from docsgpt_embtune.training.negatives import MINING_DEPTH, MOST_IN_A_ROW, mine_negatives, most_mined


def at(degrees: float) -> list[float]:
    return [np.cos(np.radians(degrees)), np.sin(np.radians(degrees))]


# Cosine to the question at 0 degrees falls with the angle.
ANGLES = {"closer": 5.0, "good": 20.0, "copy": 37.0, "near": 40.0, "middle": 55.0, "far": 80.0, "as near": -24.0}
CORPUS = np.array([at(angle) for angle in ANGLES.values()], dtype=np.float32)


def mined(per_good: int, irrelevant_docs: dict | None = None, question: str = "?", good=("good",), **options):
    dataset = RetrievalDataset({"q": question}, {d: d for d in ANGLES}, {"q": good}, irrelevant_docs or {})
    return mine_negatives(dataset, np.array([at(0)], dtype=np.float32), CORPUS, per_good=per_good, **options)


def test_hardest_first_without_the_good_its_copy_and_what_scores_like_it():
    assert mined(10) == {"q": ("near", "middle", "far")}


def test_no_more_than_wanted():
    assert mined(1) == {"q": ("near",)}


def test_each_good_chunk_wants_its_own_and_none_of_them_makes_another_a_bad_one():
    assert mined(1, good=("good", "far")) == {"q": ("near", "middle")}  # less than 95 % of the nearer one's score
    assert mined(3, good=("good", "middle")) == {"q": ("far",)}  # "copy" and "near" are copies of one or the other


def test_each_question_has_its_own():
    dataset = RetrievalDataset({"p": "?", "q": "?"}, {d: d for d in ANGLES}, {"p": ("good",), "q": ("far",)})
    asked = np.array([at(0), at(90)], dtype=np.float32)
    assert mine_negatives(dataset, asked, CORPUS, per_good=1) == {"p": ("near",), "q": ("middle",)}
    by_words = Ranking(["p", "q"], list(ANGLES), np.array([[5, 4], [1, 0]]))
    found = mine_negatives(dataset, asked, CORPUS, per_good=2, keywords=by_words)
    assert found == {"p": ("near", "far"), "q": ("middle", "good")}


def test_rows_of_the_ranking_loss_hold_few_unless_more_are_asked_for():
    ranking, contrastive = "multiple-negatives-ranking", "online-contrastive"
    wanted = [
        most_mined(TrainConfig(loss=loss, negatives=count)) for loss in (ranking, contrastive) for count in (1, 9)
    ]
    assert wanted == [MOST_IN_A_ROW, 9, MINING_DEPTH, MINING_DEPTH]


def test_no_more_than_a_row_holds():
    assert mined(10, most=2) == {"q": ("near", "middle")}
    assert mined(10, {"q": ("near",)}, most=1) == {}


def test_given_bad_chunks_count_and_are_not_mined_again():
    assert mined(2, {"q": ("near",)}) == {"q": ("middle",)}
    assert mined(1, {"q": ("near",)}) == {}


def test_every_second_comes_from_the_keywords():
    by_words = Ranking(["q"], list(ANGLES), np.array([[5, 0, 1, 2, -1]]))  # far, closer, good, copy
    assert mined(10, keywords=by_words) == {"q": ("near", "far", "middle")}
    assert mined(10, keywords=Ranking(["q"], list(ANGLES), np.full((1, 5), -1))) == mined(10)


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
    all_nearer = np.array([at(angle) for angle in (5, 40, 170, 70)], dtype=np.float32)
    assert mine_negatives(dataset, question, all_nearer, per_good=1) == {"q": ("d",)}  # the least likely of answers
