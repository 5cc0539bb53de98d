"""How much keywords count, by few questions and by many."""

from dataclasses import replace

import numpy as np
import pytest

from docsgpt_embtune.data.dataset import RetrievalDataset
from docsgpt_embtune.evaluation.best_of_many import mean_ndcg
from docsgpt_embtune.evaluation.metrics import joined_scores
from docsgpt_embtune.evaluation.verdict import DECIDING
from docsgpt_embtune.serving.keywords import Keywords
from docsgpt_embtune.training.keywords.fitting import NARROW, STRESSED, WIDE
from docsgpt_embtune.training.keywords.weights import (
    WEIGHTS,
    KindAtWeight,
    UnseenQuestions,
    ignoring_keyword_hits,
    score_weights,
    worth_their_width,
)
from docsgpt_embtune.training.validation import Pool
from docsgpt_embtune.vectors import unit_norm

ALONE = 0.5


def scores(questions: int, value: float):
    return {DECIDING: {f"q{number}": value for number in range(questions)}}


def worth(questions: int, gains: dict[KindAtWeight, float]) -> list[KindAtWeight]:
    return worth_their_width(
        {weighed: scores(questions, ALONE + gain) for weighed, gain in gains.items()}, scores(questions, ALONE)
    )


@pytest.mark.parametrize(("questions", "best"), [(10, [KindAtWeight(NARROW, 0.4)]), (400, [])])
def test_what_other_corpora_gained_counts_where_few_questions_choose(questions, best):
    assert worth(questions, {KindAtWeight(NARROW, weight): 0.0 for weight in WEIGHTS})[:1] == best


def test_many_questions_decide_by_themselves():
    best = KindAtWeight(NARROW, 0.8)  # where other corpora lost
    assert worth(400, {KindAtWeight(NARROW, weight): 0.06 if weight == 0.8 else 0.03 for weight in WEIGHTS})[0] == best


@pytest.mark.parametrize(("gain", "kind"), [(0.036, NARROW), (0.045, WIDE)])
@pytest.mark.parametrize("learned", ["", f"{STRESSED} "])
def test_wide_ones_must_gain_in_proportion_to_what_they_add(gain, kind, learned):
    narrow, wide = KindAtWeight(f"{learned}{NARROW}", 0.3), KindAtWeight(f"{learned}{WIDE}", 0.3)
    assert worth(400, {narrow: 0.03, wide: gain})[0].kind == f"{learned}{kind}"


def test_only_what_asks_for_chunks_by_their_own_words_keeps_the_scores_without_keywords():
    questions = RetrievalDataset({"p": "?", "q": "?"}, {"c": "c", "d": "d"}, {"p": ("c",), "q": ("d",)})
    found = ignoring_keyword_hits({DECIDING: {"p": 1.0, "q": 1.0}}, {DECIDING: {"p": 0.2, "q": 0.3}}, questions, {"d"})
    assert found == {DECIDING: {"p": 1.0, "q": 0.3}}


def test_folds_and_kinds_are_scored_as_each_would_be_by_itself():
    corpus = {str(n): f"code{n} code{n + 40} code{n + 80} means trouble" for n in range(40)}
    drawn = np.random.default_rng(0)
    keywords = Keywords.of(corpus.values(), 384)
    kinds = {NARROW: keywords, WIDE: keywords.wider(384)}

    def unseen(rows: range) -> UnseenQuestions:
        asked = {f"q{n}": f"code{n}" for n in rows}
        questions = RetrievalDataset(asked, {str(n): corpus[str(n)] for n in rows}, {f"q{n}": (str(n),) for n in rows})
        blurred = unit_norm(drawn.standard_normal((2, len(rows), 384)).reshape(-1, 384)).astype(np.float32)
        return UnseenQuestions(Pool.of_all(questions), *np.split(blurred, 2), kinds)

    folds = [unseen(range(20)), unseen(range(20, 40))]
    together = score_weights(folds)
    assert set(together) == {KindAtWeight(kind, weight) for kind in kinds for weight in WEIGHTS}
    for kind, of_kind in kinds.items():
        alone = [score_weights([replace(fold, kinds={kind: of_kind})]) for fold in folds]
        for weighed in alone[0]:
            assert together[weighed] == joined_scores(scores[weighed] for scores in alone)
    assert mean_ndcg(together[KindAtWeight(NARROW, 0.8)]) > 0.9
