"""Put keywords beside a server's vectors where nobody asked anything, so that a store of vectors ranks by both."""

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from docsgpt_embtune import __version__
from docsgpt_embtune.data.corpus_questions import MadeQuestions
from docsgpt_embtune.data.split import groups_by_answer
from docsgpt_embtune.errors import ModelFolderError
from docsgpt_embtune.evaluation.best_of_many import Choice
from docsgpt_embtune.evaluation.vector_cache import embed_both
from docsgpt_embtune.manifest import FittingRecord
from docsgpt_embtune.model_folder import check_destination
from docsgpt_embtune.remote_model import RemoteModel
from docsgpt_embtune.serving.keywords import Keywords
from docsgpt_embtune.training.config import SEED
from docsgpt_embtune.training.held_out import ASKED_OF_CHUNKS, asked_of_chunks
from docsgpt_embtune.training.keywords.fitting import NARROW, KeywordFitting
from docsgpt_embtune.training.keywords.weights import USUAL_WEIGHT, ignoring_keyword_hits
from docsgpt_embtune.training.query_adapter.server_folder import (
    refuse_other_lengths,
    what_it_asks_of_a_deployment,
    write_for_server,
)
from docsgpt_embtune.training.validation import score_vectors
from docsgpt_embtune.urls import is_url
from docsgpt_embtune.vectors import Vectors
from docsgpt_embtune.wording import Say, counted, silent


@dataclass(frozen=True)
class KeywordsReport:
    """What was found and written.

    Attributes:
        keywords: The keywords beside the server's vectors.
        choice: Scores on questions made of the chunks, which can speak against keywords and not for them.
        folder: Where the keywords were written; None if those questions speak against them.
    """

    keywords: Keywords
    choice: Choice
    folder: Path | None


def write_keywords_for_server(
    corpus: Mapping[str, str],
    out: Path,
    *,
    model: str,
    cache: Path | None = None,
    seed: int = SEED,
    keep_worse: bool = False,
    say: Say = silent,
) -> KeywordsReport:
    """Write a folder with keywords of the usual weight for a server's model, unless the chunks speak against it.

    Args:
        corpus: doc_id -> text, of every chunk that is searched.
        out: The folder; a tuned folder there is replaced in one step, anything else is left alone.
        model: The server's model, as URL#MODEL; it is sent the chunks, some of them with a sentence cut out.
        cache: Folder that keeps vectors for the next time; none if not given.
        seed: Seed of the choice of chunks to ask for.
        keep_worse: Write the folder even if the questions made of the chunks speak against it.
        say: Takes one line of plain text before each stage.

    Raises:
        ModelFolderError: If the model is not a server's, its vectors are not of unit norm, or the destination cannot
            be used.
        TrainingError: If there are too few chunks to ask for.
        EvaluationError: If the model gives unusable vectors.
        RemoteModelError: If the server cannot be asked.
    """
    if not is_url(model):
        raise ModelFolderError(
            f"{model}: keywords alone are for a server's model; of one of this machine, `embtune train --corpus` "
            "learns from the chunks and puts them beside it"
        )
    check_destination(out, say)
    made = asked_of_chunks(corpus, seed, say)
    remote = RemoteModel.named(model)
    with closing(remote.load(say)) as server:
        refuse_other_lengths(server.probe, remote.name)
        query_embeddings, corpus_embeddings = embed_both(server, remote.fingerprint, made.questions, cache)
        say(
            f"model       {remote.name}: {corpus_embeddings.shape[1]} wide; keywords of {counted(len(corpus), 'chunk')}"
        )
        fitting = KeywordFitting.of(dict.fromkeys(corpus.values()), corpus_embeddings.shape[1])
        keywords = replace(fitting.kinds()[NARROW], weight=USUAL_WEIGHT)
        choice = _choice(made, query_embeddings, corpus_embeddings, keywords)
        if choice.judgment.verdict == "worse" and not keep_worse:
            return KeywordsReport(keywords, choice, None)
        write_for_server(
            remote,
            server,
            out,
            (list(made.questions.corpus.values()), corpus_embeddings),
            adapter=None,
            keywords=keywords,
            record=_record(choice),
            learned=(),
        )
    return KeywordsReport(keywords, choice, out)


def _choice(made: MadeQuestions, query_embeddings: Vectors, corpus_embeddings: Vectors, keywords: Keywords) -> Choice:
    """Score the questions made of the chunks with keywords beside the server's vectors, against those vectors alone."""
    asked = made.questions
    alone = score_vectors(asked, query_embeddings, corpus_embeddings)
    both = score_vectors(
        asked,
        keywords.beside(query_embeddings, keywords.of_questions(list(asked.queries.values()))),
        keywords.beside(corpus_embeddings, keywords.of_documents(list(asked.corpus.values()))),
    )
    both = ignoring_keyword_hits(both, alone, asked, made.by_own_words)
    return Choice(alone, [both], both, groups_by_answer(asked))


def _record(choice: Choice) -> FittingRecord:
    return {
        "validation": {"asked_by": ASKED_OF_CHUNKS, **choice.to_dict()},
        "versions": {"docsgpt-embtune": __version__},
    }


def summary(report: KeywordsReport) -> str:
    """Say what was put beside the vectors, how it was checked, and what it asks of a deployment."""
    keywords, choice = report.keywords, report.choice
    lines = [
        f"keywords    {keywords.width} numbers, {keywords.weight:.0%} of the score: {choice.line()}",
        f"            {counted(choice.judgment.queries, 'question')} made of the chunks, which can speak against "
        "keywords and hardly for them; a few dozen of people in --train choose better",
    ]
    if report.folder is None:
        reason = "sentences that were cut out are found less often, beyond chance, so nothing was written"
        return "\n".join([*lines, f"no model    {reason} (--keep-worse writes it)"])
    lines.append(f"model       {report.folder.resolve()}")
    return "\n".join([*lines, *(f"            {line}" for line in what_it_asks_of_a_deployment(report.folder))])
