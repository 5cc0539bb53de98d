"""Distil a tuned model into a smaller one, for machines on which it is too slow, and measure what that costs.

The smaller model has some of the tuned model's layers, or none at all, and learns the tuned model's vectors of this
deployment's texts. Keywords beside the tuned model's numbers are put beside the smaller one's, too, at a weight of
their own.
"""

import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from sentence_transformers import SentenceTransformer

from docsgpt_embtune.base_models import BUNDLED, BaseModel, resolve_base
from docsgpt_embtune.data.dataset import RetrievalDataset
from docsgpt_embtune.data.split import groups_by_answer, hold_out
from docsgpt_embtune.embeddings import TunedEmbeddings
from docsgpt_embtune.errors import ModelFolderError, TrainingError
from docsgpt_embtune.evaluation.best_of_many import Choice, mean_ndcg
from docsgpt_embtune.evaluation.decision import Decision, Trial, decision_lines, judgment_in_words
from docsgpt_embtune.evaluation.metrics import QueryScores, mean_scores
from docsgpt_embtune.evaluation.verdict import DECIDING, Judgment, judge
from docsgpt_embtune.manifest import Manifest
from docsgpt_embtune.model_folder import check_destination, verify
from docsgpt_embtune.model_writing import write_model_folder
from docsgpt_embtune.seen_questions import data_record, without_learned
from docsgpt_embtune.serving.keywords import Keywords, load_keywords
from docsgpt_embtune.serving.reading import Encode, Reading, document_encoder, question_encoder, recorded_reading
from docsgpt_embtune.static_model import is_static_folder
from docsgpt_embtune.tokenizer import text_preparation
from docsgpt_embtune.training.config import SEED
from docsgpt_embtune.training.held_out import FEWEST_GROUPS, answers_asked_about, asked_in_their_place, keep_apart
from docsgpt_embtune.training.keywords.weights import KeywordsAtEachWeight
from docsgpt_embtune.training.large_corpora import part_worth_ranking
from docsgpt_embtune.training.smaller.layered_students import layer_count, layered_students, refuse_count
from docsgpt_embtune.training.smaller.static_students import NEEDS, static_students
from docsgpt_embtune.training.smaller.students import Lesson, Student, vectors_of
from docsgpt_embtune.training.trainer import load_base
from docsgpt_embtune.training.validation import score_vectors
from docsgpt_embtune.wording import Say, counted, silent

MOST_RANKED = 10_000  # chunks: a quarter of an hour on one core with all-MiniLM-L6-v2
_TIMED_QUESTIONS = 50


@dataclass(frozen=True)
class DistillationReport:
    """What a smaller model is worth, and where it is.

    Attributes:
        decision: The untuned model, the tuned one and the smaller ones, each against the first.
        against_tuned: Judgment of the smaller model that validation prefers, against the tuned one.
        folder: Where it was written; None if it finds less than the untuned model, beyond chance.
        manifest: What was written beside it; empty if nothing was.
        milliseconds: "tuned" and "distilled" -> median time of one question on this machine; empty if nothing was
            written.
    """

    decision: Decision
    against_tuned: Judgment
    folder: Path | None
    manifest: Manifest
    milliseconds: Mapping[str, float]


@dataclass(frozen=True)
class _Candidate:
    """A smaller model, the keywords beside its vectors, and its scores on the validation questions."""

    name: str
    student: Student
    keywords: Keywords | None
    scores: QueryScores


@dataclass(frozen=True)
class _Comparison:
    """The candidate that validation prefers, compared with the untuned and the tuned model."""

    best: _Candidate
    decision: Decision
    against_untuned: Judgment
    against_tuned: Judgment


def distill(
    folder: str | Path,
    training: RetrievalDataset,
    validation: RetrievalDataset | None,
    out: Path,
    *,
    layers: int | None = None,
    baseline: str = BUNDLED,
    keep_worse: bool = False,
    seed: int = SEED,
    say: Say = silent,
) -> DistillationReport:
    """Distil a tuned model into a smaller one and write it, unless it is worse than an untuned model.

    Args:
        folder: A tuned folder.
        training: Questions and chunks to teach with; the judgments are not used.
        validation: Questions to choose by; those that the tuned model learned from are left out. None holds out some of
            the training questions, about answers that the tuned model did not learn.
        out: The model folder; a tuned folder there is replaced in one step, anything else is left alone.
        layers: How many of the tuned model's layers to keep; None makes a static model, a table of token vectors.
        baseline: The untuned model to compare with: "bundled", a folder or a hub name.
        keep_worse: Write the folder even if it is worse than the untuned model.
        seed: Seed of the hold-out and of all sampling.
        say: Takes one line of plain text before each stage.

    Raises:
        ModelFolderError: If the folder is not whole, is a static model, has a query adapter or no tokenizer.json, has a
            default prompt (which a static model cannot put before a text), the destination is something else, or the
            baseline is not found.
        TrainingError: If the tuned model has no more layers than are to be kept, every training question is also a
            validation question, or the tuned model learned from so many questions that too few are left to choose by.
    """
    folder = Path(folder).expanduser().resolve()
    check_destination(out, say, made_of=folder)
    manifest = verify(folder)
    _refuse(folder, manifest, layers)
    untuned = BaseModel(baseline, resolve_base(baseline).folder)  # before the work, as it may not be found
    teacher = load_base(BaseModel(str(folder), folder))
    if layers is not None:
        refuse_count(layer_count(teacher), layers)
    asked = _apart(folder, manifest, training, validation, with_layers=layers is not None, seed=seed, say=say)
    lesson = _lesson(folder, teacher, Reading.of(manifest), asked, seed, say)
    # The students keep its files mapped, and Windows removes no such file.
    with tempfile.TemporaryDirectory(prefix="embtune-", ignore_cleanup_errors=True) as scratch:
        students = static_students(lesson) if layers is None else layered_students(lesson, layers, Path(scratch))
        candidates = list(_candidates(students, lesson))
        say(f"comparing   with {baseline} and the tuned model")
        found = _compare(candidates, lesson, untuned)
        if found.against_untuned.verdict == "worse" and not keep_worse:
            return DistillationReport(found.decision, found.against_tuned, None, {}, {})
        details = _details(manifest, found, lesson, is_static=layers is None)
        student, keywords = found.best.student, found.best.keywords or load_keywords(folder)
        written = write_model_folder(student.model(), student.files, out, details, keywords)
    timed = lesson.questions[:_TIMED_QUESTIONS]
    milliseconds = {name: _milliseconds(each, timed) for name, each in (("tuned", folder), ("distilled", out))}
    return DistillationReport(found.decision, found.against_tuned, out, written, milliseconds)


class _Asked(NamedTuple):
    """Questions to teach a smaller model with, and questions to choose it by."""

    training: RetrievalDataset
    validation: RetrievalDataset
    by_words: bool  # whether the validation questions are the chunks' own words


def _lesson(folder: Path, teacher: SentenceTransformer, reading: Reading, asked: _Asked, seed: int, say: Say) -> Lesson:
    teacher.max_seq_length = reading.max_seq_length
    training, validation, by_words = asked
    say(f"training    {training.describe()}")
    say(f"validation  {validation.describe()}")
    ranked = part_worth_ranking(validation, MOST_RANKED, seed)
    if len(ranked.corpus) < len(validation.corpus):
        say(f"            over {len(ranked.corpus):,} of the chunks: three models have to read them")
    keywords = None if by_words else load_keywords(folder)
    return Lesson(folder, teacher, reading, training, ranked, by_words, keywords, seed, say)


def _apart(
    folder: Path,
    manifest: Manifest,
    training: RetrievalDataset,
    validation: RetrievalDataset | None,
    *,
    with_layers: bool,
    seed: int,
    say: Say,
) -> _Asked:
    """Choose validation questions among those that the tuned model did not learn from, and teach with the others.

    Where these are too few, a smaller model with layers is asked for chunks by their own words. A static model is not:
    a table of tokens would find these more easily than what people ask for.
    """
    given = training if validation is None else validation
    unlearned = without_learned(given, manifest)
    learned = len(given) - len(unlearned)
    if not learned:
        return _Asked(*keep_apart(training, validation, seed, say), by_words=False)
    if validation is None:
        unlearned = _about_other_answers(training, unlearned)
    say(f"left out of validation: {counted(learned, 'question')} that the tuned model learned from")
    if (answers := answers_asked_about(unlearned)) < FEWEST_GROUPS:
        if with_layers and (of_chunks := asked_in_their_place(folder, Reading.of(manifest), given.corpus, say)):
            return _Asked(training, of_chunks, by_words=True)
        raise TrainingError(
            f"the tuned model learned from {learned:,} of {counted(len(given), 'question')}, which leaves "
            f"{counted(answers, 'answer')} to choose by: fewer than {FEWEST_GROUPS} cannot tell any gain from luck; "
            "give --val with questions that it did not learn from"
        )
    if validation is None:
        unlearned = _as_many_as_usual(unlearned, training, seed)
        say(f"no --val given: {len(unlearned)} of the other questions are held out to choose by")
    return _Asked(*keep_apart(training, unlearned, seed, say), by_words=False)


def _about_other_answers(training: RetrievalDataset, unlearned: RetrievalDataset) -> RetrievalDataset:
    """Keep the unlearned questions that share no good chunk with one that the tuned model learned from."""
    groups = groups_by_answer(training)
    kept = {query_id for group in groups if unlearned.queries.keys() >= set(group) for query_id in group}
    return unlearned.subset(query_id for query_id in unlearned.queries if query_id in kept)


def _as_many_as_usual(unlearned: RetrievalDataset, training: RetrievalDataset, seed: int) -> RetrievalDataset:
    """Hold out as many of the unlearned questions as `keep_apart` would of all; all of them if there are fewer."""
    _, usual = keep_apart(training, None, seed, silent)
    return unlearned if len(unlearned) <= len(usual) else hold_out(unlearned, len(usual) / len(unlearned), seed)[1]


def _refuse(folder: Path, manifest: Manifest, layers: int | None) -> None:
    if "query_adapter" in manifest:
        raise ModelFolderError(f"{folder}: has a query adapter; distill the model that it was made for")
    if is_static_folder(folder):
        raise ModelFolderError(f"{folder}: is a static model already; distill the model that it was made of")
    if layers is None and (prompt := text_preparation(folder)("")):
        raise ModelFolderError(
            f"{folder}: puts {prompt!r} before every text, which a static model cannot do; keep some --layers, or tune "
            "a base model without a default prompt, and distill that"
        )
    if not (folder / "tokenizer.json").is_file():
        raise ModelFolderError(f"{folder}: has no tokenizer.json, by which texts are cut; tune a base that has one")


def _candidates(students: Iterator[Student], lesson: Lesson) -> Iterator[_Candidate]:
    """Yield each student with keywords at the weight that scores best."""
    weighed = KeywordsAtEachWeight(lesson.keywords, lesson.questions, lesson.chunks) if lesson.keywords else None

    def at_each_weight(student: Student) -> Iterator[_Candidate]:
        if weighed is None:
            scores = score_vectors(lesson.validation, student.query_embeddings, student.chunk_embeddings)
            yield _Candidate(student.name, student, None, scores)
            return
        for each, asked, searched in weighed.beside(student.query_embeddings, student.chunk_embeddings):
            scores = score_vectors(lesson.validation, asked, searched)
            yield _Candidate(f"{student.name}, keywords {each.weight:.0%}", student, each, scores)

    for student in students:
        best = max(at_each_weight(student), key=lambda candidate: mean_ndcg(candidate.scores))
        lesson.say(f"{best.name:<11} validation {DECIDING} {mean_ndcg(best.scores):.3f}")
        yield best


def _compare(candidates: Sequence[_Candidate], lesson: Lesson, base: BaseModel) -> _Comparison:
    best = max(candidates, key=lambda candidate: mean_ndcg(candidate.scores))
    of_tuned, of_untuned = lesson.of_teacher.embed, vectors_of(load_base(base)).embed
    chunks_as_served = document_encoder(lesson.folder, lesson.reading, of_tuned, lesson.keywords)
    tuned = _score(question_encoder(of_tuned, lesson.keywords), chunks_as_served, lesson)
    untuned = _score(of_untuned, of_untuned, lesson)
    groups = groups_by_answer(lesson.validation)
    others = {"tuned": tuned, **{candidate.name: candidate.scores for candidate in (candidates[0], best)}}
    judgments = {name: judge(untuned, scores, groups=groups) for name, scores in others.items()}
    choice = Choice(untuned, [candidate.scores for candidate in candidates], best.scores, groups)
    judgments[best.name] = choice.judgment
    trials = [Trial(f"{base.name}, untuned", mean_scores(untuned))]
    trials += [
        Trial(name, mean_scores(scores), judgments[name], len(candidates) if name == best.name else None)
        for name, scores in others.items()
    ]
    reason = "validation prefers it" if len(candidates) > 1 else "as asked for"
    if lesson.by_words:
        reason += ", the chunks being asked for by their own words, as the model learned from the questions"
    decision = Decision(best.name, reason, tuple(trials), len(lesson.validation))
    return _Comparison(best, decision, choice.judgment, judge(tuned, best.scores, groups=groups))


def _score(of_questions: Encode, of_documents: Encode, lesson: Lesson) -> QueryScores:
    return score_vectors(lesson.validation, of_questions(lesson.questions), of_documents(lesson.chunks))


def _details(manifest: Manifest, found: _Comparison, lesson: Lesson, *, is_static: bool) -> Manifest:
    against_tuned = found.against_tuned
    distilled = {
        "from": manifest["fingerprint"],
        **({"needs": NEEDS} if is_static else {}),
        **found.decision.to_dict(),
        "against_tuned": {"difference": asdict(against_tuned.differences[DECIDING]), "verdict": against_tuned.verdict},
    }
    kept: Manifest = {}
    for key in ("base", "training", "validation", "versions"):
        if key in manifest:
            kept[key] = manifest[key]
    if not is_static and (reading := recorded_reading(manifest)):
        kept["serving"] = {"reading": reading}  # it was taught and chosen with chunks that were read in this way
    chosen_by = None if lesson.by_words else lesson.validation
    return {**kept, "distilled": distilled, "data": data_record(lesson.training, chosen_by, made_of=manifest)}


def _milliseconds(folder: Path, questions: list[str]) -> float:
    embeddings = TunedEmbeddings(str(folder), engine="torch", question_cache=0)  # the tuned one may have graphs

    def one(question: str) -> float:
        started = time.perf_counter()
        embeddings.embed_query(question)
        return 1000 * (time.perf_counter() - started)

    return statistics.median(one(question) for question in (questions[0], *questions))


def summary(report: DistillationReport) -> str:
    """Say what the smaller model finds compared with the others, what it costs, and where it is."""
    lines = list(decision_lines(report.decision))
    loss = report.against_tuned.differences[DECIDING]
    lines.append(
        f"against the tuned model: {DECIDING} {loss.mean:+.4f} ({loss.low:+.4f} to {loss.high:+.4f}), "
        f"{judgment_in_words(report.against_tuned)}"
    )
    if report.folder is None:
        lines.append("no model    it is worse than the untuned model, so nothing was written (--keep-worse writes it)")
        return "\n".join(lines)
    megabytes = sum(file.stat().st_size for file in report.folder.rglob("*.safetensors")) / 1e6
    speed = ", ".join(f"{name} {value:.2f} ms" for name, value in report.milliseconds.items())
    needs = f"needs {report.manifest['distilled']['needs']}; " if is_static_folder(report.folder) else ""
    return "\n".join(
        [
            *lines,
            f"model       {report.folder.resolve()} ({report.manifest['fingerprint'][:12]}), {megabytes:.0f} MB",
            f"a question  {speed}; `embtune export` makes it quicker, without torch",
            f"{needs}stored chunks have to be embedded again (embtune reembed)",
        ]
    )
