"""A static model out of a tuned one, for machines on which a transformer is too slow, and what it costs.

A text's vector becomes the mean of its tokens' rows in a table: no layers, and nothing of the order of its words. The
table begins with what the tuned model says of each token by itself, and is then taught where the tuned model puts the
texts of this deployment; validation chooses how far. Keywords that the tuned model has beside its numbers stand beside
the table's, too, at a weight of their own.
"""

import random
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, StaticEmbedding

from docsgpt_embtune.base_models import BaseModel, resolve_base
from docsgpt_embtune.data.corpus_questions import questions_from_corpus
from docsgpt_embtune.data.dataset import RetrievalDataset
from docsgpt_embtune.data.split import groups_by_answer, hold_out
from docsgpt_embtune.embeddings import TunedEmbeddings
from docsgpt_embtune.errors import ModelFolderError, TrainingError
from docsgpt_embtune.evaluation.choice import Choice, mean_ndcg
from docsgpt_embtune.evaluation.metrics import QueryScores, mean_scores
from docsgpt_embtune.evaluation.verdict import DECIDING, Judgment, judge
from docsgpt_embtune.exporting.quality import Decision, Trial
from docsgpt_embtune.exporting.summary import decision_lines
from docsgpt_embtune.learned import data_record, without_learned
from docsgpt_embtune.model_folder import ADAPTER_KEY, take_destination, verify
from docsgpt_embtune.model_writing import write_model_folder
from docsgpt_embtune.precision import resolve_precision
from docsgpt_embtune.serving.encoding import Encoder, Vectors
from docsgpt_embtune.serving.keywords import Keywords, load_keywords
from docsgpt_embtune.serving.reading import Encode, Reading, WindowReader, document_encoder, question_encoder
from docsgpt_embtune.token_table import is_static_folder, tokens_read
from docsgpt_embtune.tokenizer import text_preparation
from docsgpt_embtune.training.held_out import FEWEST_GROUPS, answers_asked_about, keep_apart
from docsgpt_embtune.training.keyword_weights import WeighedKeywords
from docsgpt_embtune.training.known_vectors import KnownVectors
from docsgpt_embtune.training.token_regression import Tokens, means, taught_tables
from docsgpt_embtune.training.trainer import load_base
from docsgpt_embtune.training.validation import score_vectors
from docsgpt_embtune.wording import Say, counted, silent

MAX_TEXTS = 6000  # taught with: memory grows with their square (600 MB), time with their cube
_TIMED_QUESTIONS = 50
NEEDS = "sentence-transformers 3.2 or later: DocsGPT 0.13 or later"


@dataclass(frozen=True)
class DistillationReport:
    """What a static model is worth, and where it is.

    Attributes:
        decision: The untuned model, the tuned one and the static ones, each against the first.
        against_tuned: The static model that validation prefers against the tuned one.
        folder: Where it was written; None if it finds less than the untuned model, beyond chance.
        manifest: What was written beside it; empty if nothing was.
        milliseconds: "tuned" and "static" -> median time of one question on this machine; empty if nothing was written.
    """

    decision: Decision
    against_tuned: Judgment
    folder: Path | None
    manifest: Mapping[str, Any]
    milliseconds: Mapping[str, float]


@dataclass(frozen=True)
class _Candidate:
    """A table, what stands beside its vectors, and how it did on the validation questions."""

    name: str
    table: np.ndarray
    keywords: Keywords | None
    scores: QueryScores


def distill(
    folder: str | Path,
    training: RetrievalDataset,
    validation: RetrievalDataset | None,
    out: Path,
    *,
    baseline: str = "bundled",
    keep_worse: bool = False,
    seed: int = 13,
    say: Say = silent,
) -> DistillationReport:
    """Make a static model of a tuned one and write it, unless it is worse than an untuned model.

    Args:
        folder: A tuned folder.
        training: Questions and chunks to teach with; its judgments are not looked at.
        validation: Questions to choose by, without those that the tuned model learned from; None holds some of the
            training questions out for it, about answers that it did not learn of.
        out: The model folder; a tuned folder there is replaced in one step, anything else is left alone.
        baseline: The untuned model to stand beside: "bundled", a folder or a hub name.
        keep_worse: Write the folder even if it is worse than the untuned model.
        seed: Of what is held out and drawn.
        say: Takes one line of plain text before each stage.

    Raises:
        ModelFolderError: If the folder is not whole, is a static model, has a query adapter, a default prompt or no
            tokenizer.json, or the destination is something else.
        TrainingError: If every training question is a validation question too, or the tuned model learned from so many
            of the questions that too few are left to choose by.
    """
    folder = Path(folder).expanduser().resolve()
    take_destination(out, say)
    manifest = verify(folder)
    _refuse(folder, manifest)
    training, validation = _apart(training, validation, manifest, seed, say)
    say(f"training    {training.describe()}")
    say(f"validation  {validation.describe()}")
    teacher = load_base(BaseModel(str(folder), folder), "cpu")
    tokens, vectors = Tokens(folder), _vectors_of(teacher)
    texts = _texts(folder, training, tokens_read(teacher), seed)
    say(f"embedding   {len(tokens):,} tokens and {len(texts):,} texts with the tuned model")
    start = tokens.embed(teacher)  # (V, D)
    keywords = load_keywords(folder)
    candidates = list(_candidates(tokens, start, texts, vectors.of(texts), validation, keywords, say))
    best = max(candidates, key=lambda candidate: mean_ndcg(candidate.scores))
    say(f"comparing   with {baseline} and the tuned model")
    as_served = document_encoder(folder, Reading.of(manifest), vectors.of, keywords)
    tuned = _score(question_encoder(vectors.of, keywords), as_served, validation)
    base = _vectors_of(load_base(resolve_base(baseline), "cpu"))
    untuned = _score(base.of, base.of, validation)
    groups = groups_by_answer(validation)
    others = {"tuned": tuned, **{candidate.name: candidate.scores for candidate in (candidates[0], best)}}
    judgments = {name: judge(untuned, scores, groups=groups) for name, scores in others.items()}
    choice = Choice(untuned, [candidate.scores for candidate in candidates], best.scores, groups)
    judgments[best.name] = choice.judgment
    trials = [Trial(f"{baseline}, untuned", mean_scores(untuned))]
    trials += [Trial(name, mean_scores(scores), judgments[name]) for name, scores in others.items()]
    decision = Decision(best.name, "validation prefers it", tuple(trials), len(validation))
    against_tuned = judge(tuned, best.scores, groups=groups)
    if judgments[best.name].verdict == "worse" and not keep_worse:
        return DistillationReport(decision, against_tuned, None, {}, {})
    details = _details(manifest, decision, against_tuned, training, validation)
    written = write_model_folder(_static_model(tokens, best.table), folder, out, details, best.keywords)
    questions = list(validation.queries.values())[:_TIMED_QUESTIONS]
    milliseconds = {name: _milliseconds(each, questions) for name, each in (("tuned", folder), ("static", out))}
    return DistillationReport(decision, against_tuned, out, written, milliseconds)


def _apart(
    training: RetrievalDataset,
    validation: RetrievalDataset | None,
    manifest: Mapping[str, Any],
    seed: int,
    say: Say,
) -> tuple[RetrievalDataset, RetrievalDataset]:
    """Take the questions that choose from those that the tuned model did not learn from.

    They are not taught to the table; what the tuned model has learned from is.
    """
    given = training if validation is None else validation
    unlearned = without_learned(given, manifest)
    learned = len(given) - len(unlearned)
    if not learned:
        return keep_apart(training, validation, seed, say)
    if validation is None:
        unlearned = _about_other_answers(training, unlearned)
    if (answers := answers_asked_about(unlearned)) < FEWEST_GROUPS:
        raise TrainingError(
            f"the tuned model learned from {learned:,} of {counted(len(given), 'question')}, which leaves "
            f"{counted(answers, 'answer')} to choose by: fewer than {FEWEST_GROUPS} cannot tell any gain from luck; "
            "give --val with questions that it did not learn from"
        )
    say(f"left out of validation: {counted(learned, 'question')} that the tuned model learned from")
    if validation is None:
        unlearned = _as_many_as_usual(unlearned, training, seed)
        say(f"no --val given: {len(unlearned)} of the other questions are held out to choose by")
    return keep_apart(training, unlearned, seed, say)


def _about_other_answers(training: RetrievalDataset, unlearned: RetrievalDataset) -> RetrievalDataset:
    """Keep the questions that share no good chunk with one that was learned from."""
    groups = groups_by_answer(training)
    kept = {query_id for group in groups if unlearned.queries.keys() >= set(group) for query_id in group}
    return unlearned.subset(query_id for query_id in unlearned.queries if query_id in kept)


def _as_many_as_usual(unlearned: RetrievalDataset, training: RetrievalDataset, seed: int) -> RetrievalDataset:
    """Hold out as many as `keep_apart` would of questions that no model learned from; all, where there are fewer."""
    _, usual = keep_apart(training, None, seed, silent)
    return unlearned if len(unlearned) <= len(usual) else hold_out(unlearned, len(usual) / len(unlearned), seed)[1]


def _refuse(folder: Path, manifest: Mapping[str, Any]) -> None:
    if ADAPTER_KEY in manifest:
        raise ModelFolderError(f"{folder}: has a query adapter; distill the model that it was made for")
    if is_static_folder(folder):
        raise ModelFolderError(f"{folder}: is a static model already; distill the model that it was made of")
    if prompt := text_preparation(folder)(""):
        raise ModelFolderError(
            f"{folder}: puts {prompt!r} before every text, which a static model cannot do; tune a base model without "
            "a default prompt, and distill that"
        )
    if not (folder / "tokenizer.json").is_file():
        raise ModelFolderError(f"{folder}: has no tokenizer.json, which a static model needs; tune a base that has one")


def _vectors_of(model: SentenceTransformer) -> KnownVectors:
    return KnownVectors(Encoder(model, resolve_precision("auto", model.device)))


def _candidates(
    tokens: Tokens,
    start: np.ndarray,
    texts: Sequence[str],
    vectors: Vectors,
    validation: RetrievalDataset,
    keywords: Keywords | None,
    say: Say,
) -> Iterator[_Candidate]:
    """Yield the table as it begins, then as it is taught, the least changed first, each with its best keywords."""
    weights = tokens.weights()
    begun = weights[:, None] * start  # (V, D)
    questions, chunks = list(validation.queries.values()), list(validation.corpus.values())
    shares_of_questions, shares_of_chunks = tokens.shares(questions), tokens.shares(chunks)
    weighed = WeighedKeywords(keywords, questions, chunks) if keywords else None

    def at_each_weight(name: str, table: np.ndarray) -> Iterator[_Candidate]:
        vectors = means(shares_of_questions, table), means(shares_of_chunks, table)
        if weighed is None:
            yield _Candidate(name, table, None, score_vectors(validation, *vectors))
            return
        for each, asked, searched in weighed.beside(*vectors):
            scores = score_vectors(validation, asked, searched)
            yield _Candidate(f"{name}, keywords {each.weight:.0%}", table, each, scores)

    def candidate(name: str, table: np.ndarray) -> _Candidate:
        best = max(at_each_weight(name, table), key=lambda candidate: mean_ndcg(candidate.scores))
        say(f"{best.name:<11} validation {DECIDING} {mean_ndcg(best.scores):.3f}")
        return best

    yield candidate("static, tokens alone", begun)
    for strength, table in taught_tables(begun, weights, tokens.shares(texts), vectors):
        yield candidate(f"static, taught (strength {strength:g})", table)


def _texts(folder: Path, training: RetrievalDataset, max_seq_length: int, seed: int) -> list[str]:
    """Take the chunks, in windows that the tuned model reads whole, some words of each chunk, and the questions."""
    reader = WindowReader(folder, max_seq_length)
    windows = [window for chunk in training.corpus.values() for window in reader.windows_of(chunk)]
    asked = questions_from_corpus(training.corpus, seed).queries.values()
    texts = list(dict.fromkeys([*training.queries.values(), *windows, *asked]))
    return texts if len(texts) <= MAX_TEXTS else random.Random(seed).sample(texts, MAX_TEXTS)


def _score(of_questions: Encode, of_documents: Encode, dataset: RetrievalDataset) -> QueryScores:
    return score_vectors(
        dataset, of_questions(list(dataset.queries.values())), of_documents(list(dataset.corpus.values()))
    )


def _static_model(tokens: Tokens, table: np.ndarray) -> SentenceTransformer:
    rows = torch.from_numpy(table.astype(np.float32))
    return SentenceTransformer(modules=[StaticEmbedding(tokens.tokenizer, rows), Normalize()], device="cpu")


def _details(
    manifest: Mapping[str, Any],
    decision: Decision,
    against_tuned: Judgment,
    training: RetrievalDataset,
    validation: RetrievalDataset,
) -> dict[str, Any]:
    data = data_record(training, validation, made_of=manifest)
    distilled = {
        "from": manifest["fingerprint"],
        "needs": NEEDS,
        **decision.to_dict(),
        "against_tuned": {"difference": asdict(against_tuned.differences[DECIDING]), "verdict": against_tuned.verdict},
    }
    kept = {key: manifest[key] for key in ("base", "training", "validation", "versions") if key in manifest}
    return {**kept, "distilled": distilled, "data": data}


def _milliseconds(folder: Path, questions: list[str]) -> float:
    embeddings = TunedEmbeddings(str(folder), question_cache=0)

    def one(question: str) -> float:
        started = time.perf_counter()
        embeddings.embed_query(question)
        return 1000 * (time.perf_counter() - started)

    return statistics.median(one(question) for question in (questions[0], *questions))


def summary(report: DistillationReport) -> str:
    """Say what the static model finds beside the others, what it costs, and where it is."""
    lines = list(decision_lines(report.decision))
    loss = report.against_tuned.differences[DECIDING]
    lines.append(
        f"against the tuned model: {DECIDING} {loss.mean:+.4f} ({loss.low:+.4f} to {loss.high:+.4f}), "
        f"{report.against_tuned.verdict}"
    )
    if report.folder is None:
        lines.append("no model    it is worse than the untuned model, so nothing was written (--keep-worse writes it)")
        return "\n".join(lines)
    megabytes = sum(file.stat().st_size for file in report.folder.glob("*_*/*.safetensors")) / 1e6
    speed = ", ".join(f"{name} {value:.2f} ms" for name, value in report.milliseconds.items())
    return "\n".join(
        [
            *lines,
            f"model       {report.folder.resolve()} ({report.manifest['fingerprint'][:12]}), {megabytes:.0f} MB",
            f"a question  {speed}; `embtune export` makes it quicker, without torch",
            f"needs {NEEDS}; stored chunks have to be embedded again (embtune reembed)",
        ]
    )
