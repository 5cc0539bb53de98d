"""Choose, after a run's last stage, whether to put keywords beside the model's numbers, and at what weight."""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace

from docsgpt_embtune.data.dataset import RetrievalDataset
from docsgpt_embtune.evaluation.best_of_many import gain_and_error, mean_ndcg
from docsgpt_embtune.evaluation.metrics import QueryScores, joined_scores
from docsgpt_embtune.evaluation.verdict import DECIDING, judge
from docsgpt_embtune.serving.keywords import Keywords
from docsgpt_embtune.training.keywords.fitting import NARROW, KeywordFitting
from docsgpt_embtune.training.keywords.weights import (
    WEIGHTS_BESIDE_TAUGHT,
    KindAtWeight,
    UnseenQuestions,
    ignoring_keyword_hits,
    score_weights,
    worth_their_width,
)
from docsgpt_embtune.training.processes import is_main_process
from docsgpt_embtune.training.tuning_run import TuningRun

GuardsHold = Callable[[str], bool]  # judges the run's current state, given a name for it
A_GUARD = "a guard got worse"


def weigh_keywords(
    run: TuningRun,
    corpus: Iterable[str],
    training: RetrievalDataset | None = None,
    guards_hold: GuardsHold = lambda name: True,
    *,
    wide: bool = True,
) -> None:
    """Put keywords beside the best weights' vectors, if the validation questions are answered better for it.

    They make vectors wider, and must be worth that.

    Args:
        run: A run that has finished its stages.
        corpus: Every chunk there is, once.
        training: Questions to learn from how much each word counts.
        guards_hold: Tells whether the guards hold.
        wide: Whether wide keywords are tried, too.
    """
    run.selection.restore()
    fitting = _fitting(run, corpus, wide=wide)
    kinds = fitting.kinds(training)
    every = _unseen(run, fitting, kinds, training)
    alone = joined_scores(unseen.pool.score(unseen.query_embeddings, unseen.chunk_embeddings) for unseen in every)
    scores = score_weights(every)
    better = worth_their_width(scores, alone)
    for best in better:
        run.keywords = replace(kinds[best.kind], weight=best.weight)
        if guards_hold(str(best)):
            named = {str(weighed): each for weighed, each in scores.items()}
            if not run.selection.enter_last(named, str(best)):
                run.keywords = None  # the base model is better still
            return
    highest = max(scores.values(), key=mean_ndcg)
    _leave_out(run, A_GUARD if better else _too_little(run, highest, alone))


def put_usual_keywords(
    run: TuningRun, corpus: Iterable[str], by_own_words: Collection[str], guards_hold: GuardsHold
) -> None:
    """Put keywords at a usual weight beside the best weights' vectors, where no person asked anything.

    Questions made of the chunks cannot tell what keywords are worth. Words that are still in their chunk prefer them
    the more, the more they weigh. Sentences that were cut out of their chunk gain little by them (on a television's
    manual +.006 of nDCG@10, where people's questions gained +.030). So keywords get a lower weight, or are left out,
    only if a guard gets worse, if these sentences are found less often beyond chance, or if the model beats the base
    without them and not with them.

    Args:
        run: A run that has finished its stages.
        corpus: Every chunk there is, once.
        by_own_words: doc_ids of the chunks that validation asks for by their own words. Keywords find these whatever
            they are worth, so that what their questions gain is not counted.
        guards_hold: Tells whether the guards hold.
    """
    run.selection.restore()
    alone = run.score(*run.pools)
    keywords = _fitting(run, corpus).kinds()[NARROW]
    why = ""
    for weight in WEIGHTS_BESIDE_TAUGHT:
        run.keywords = replace(keywords, weight=weight)
        scores = ignoring_keyword_hits(run.score(*run.pools), alone, run.validation, by_own_words)
        name = str(KindAtWeight(NARROW, weight))
        if not guards_hold(name):
            why = A_GUARD
        elif (
            judge(alone, scores, groups=run.groups).verdict == "worse"
            or mean_ndcg(scores) < mean_ndcg(run.to_beat) < mean_ndcg(alone)  # else nothing would be written
        ):
            why = _too_little(run, scores, alone)
        else:
            run.selection.enter_last({name: scores}, name, whatever_it_scores=True)
            return
    _leave_out(run, why)


def _leave_out(run: TuningRun, why: str) -> None:
    run.keywords = None
    run.say(f"keywords    left out: {why}")


def _too_little(run: TuningRun, scores: QueryScores, alone: QueryScores) -> str:
    gain, error = gain_and_error(scores, alone, run.groups)
    return f"validation {DECIDING} {gain:+.3f}, give or take {error:.3f}"


def _fitting(run: TuningRun, corpus: Iterable[str], *, wide: bool = False) -> KeywordFitting:
    model_width = run.vectors.embed(run.pools[0].queries).shape[1]
    return KeywordFitting.of(corpus, model_width, wide=wide, show_progress=is_main_process())


def _unseen(
    run: TuningRun, fitting: KeywordFitting, kinds: Mapping[str, Keywords], training: RetrievalDataset | None
) -> list[UnseenQuestions]:
    vectors = run.unseen_vectors()
    if not run.folds or training is None:
        return [UnseenQuestions(pool, *of_pool, kinds) for pool, of_pool in zip(run.pools, vectors, strict=True)]
    return [
        UnseenQuestions(pool, *of_pool, fitting.kinds(training.subset(fold.learned)))
        for fold, pool, of_pool in zip(run.folds, run.pools, vectors, strict=True)
    ]
