"""`embtune chunks`, `harvest` and `synthesize`: chunks and questions from where the users have them."""

import os
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import click

from docsgpt_embtune.cli.common import EXIT_NO, EmbtuneCommand, refuse_unwritable
from docsgpt_embtune.data.dataset import RetrievalDataset, load_corpus, save_dataset
from docsgpt_embtune.errors import GenerationError
from docsgpt_embtune.files import PRIVATE
from docsgpt_embtune.progress import Bar
from docsgpt_embtune.sources import candidates as harvesting
from docsgpt_embtune.sources.chunks import QDRANT_COLLECTION, Chunk
from docsgpt_embtune.sources.language_model import KEY_VARIABLE
from docsgpt_embtune.sources.masking import PHONE_REGIONS
from docsgpt_embtune.sources.review import MIN_WEIGHT
from docsgpt_embtune.sources.urls import without_credentials
from docsgpt_embtune.wording import clock, counted


@click.command(cls=EmbtuneCommand)
@click.option("--indexes", type=click.Path(path_type=Path), help="DocsGPT's indexes folder, or one source's (FAISS).")
@click.option("--pgvector", metavar="URI", help="PostgreSQL with DocsGPT's vectors; opened read-only.")
@click.option("--qdrant", metavar="URL", help="Qdrant's URL, or an embedded one's folder; QDRANT_API_KEY is its key.")
@click.option("--collection", default=QDRANT_COLLECTION, show_default=True, help="Qdrant's collection.")
@click.option("--documents", type=click.Path(path_type=Path, exists=True), help="Markdown, text, rst and HTML to cut.")
@click.option(
    "--tokenizer",
    default="bundled",
    show_default=True,
    help="Counts the sizes of --documents: cl100k as DocsGPT does (needs tiktoken), or a model's: hub name, folder.",
)
@click.option("--max-tokens", type=click.IntRange(min=1), default=1250, show_default=True, help="Of a cut chunk.")
@click.option("--min-tokens", type=click.IntRange(min=0), default=150, show_default=True, help="Smaller are merged.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The corpus file to write.")
@click.option("--document-of", type=click.Path(path_type=Path), help="Also write which document each chunk is of.")
def chunks(
    indexes: Path | None,
    pgvector: str | None,
    qdrant: str | None,
    collection: str,
    documents: Path | None,
    tokenizer: str,
    max_tokens: int,
    min_tokens: int,
    out: Path,
    document_of: Path | None,
) -> None:
    """Write the corpus: the chunks of a deployment's store, or of documents cut as its `recursive` strategy cuts."""
    from docsgpt_embtune.data.tokens import token_counter
    from docsgpt_embtune.sources import chunks as stores

    if min_tokens > max_tokens:
        raise click.UsageError(f"--min-tokens {min_tokens} is more than --max-tokens {max_tokens}")
    places = [place for place in (indexes, pgvector, qdrant, documents) if place is not None]
    if len(places) != 1:
        raise click.UsageError("say where the chunks are: one of --indexes, --pgvector, --qdrant or --documents")
    refuse_unwritable(out, document_of)
    found: Iterable[Chunk]
    if indexes is not None:
        found, source = stores.faiss_chunks(indexes), str(indexes)
    elif pgvector is not None:
        found, source = stores.pgvector_chunks(pgvector), f"PostgreSQL {_shown(pgvector)}".strip()
    elif qdrant is not None:
        found = stores.qdrant_chunks(qdrant, collection=collection, api_key=os.environ.get("QDRANT_API_KEY"))
        source = f"Qdrant {without_credentials(qdrant)}, {collection!r}"
    else:
        assert documents is not None
        counter = token_counter(tokenizer)
        found = stores.document_chunks(documents, count_tokens=counter, max_tokens=max_tokens, min_tokens=min_tokens)
        source = str(documents)
    saved = stores.save_chunks(found, out, document_of=document_of, source=source)
    click.echo(
        f"{out}: {counted(saved.chunks, 'chunk')} of {counted(saved.documents, 'document')}; kept with the text of an "
        f"earlier one: {saved.repeated:,}; left out as blank: {saved.blank:,}"
    )
    if documents is not None:
        _say_what_was_not_read(documents)


def _shown(postgres: str) -> str:
    # Nothing in libpq's other spelling, host=… password=…, tells where a password ends.
    return without_credentials(postgres) if postgres.startswith("postgres") else ""


def _say_what_was_not_read(documents: Path) -> None:
    from docsgpt_embtune.sources.documents import unread_suffixes

    unread = unread_suffixes(documents)
    if unread:
        kinds = ", ".join(f"{count:,} {suffix or 'without a suffix'}" for suffix, count in unread.items())
        click.echo(
            f"{counted(sum(unread.values()), 'file')} of {documents} not read here: {kinds}; for documents among them, "
            "upload them to DocsGPT and take the chunks from its store"
        )


@click.command(cls=EmbtuneCommand)
@click.option("--postgres", metavar="URI", help="DocsGPT's POSTGRES_URI, 0.17 or later; opened read-only.")
@click.option(
    "--mongo-export",
    "mongo_exports",
    multiple=True,
    type=click.Path(path_type=Path),
    help="mongoexport's file of `conversations` or `feedback`, before 0.17. Repeatable.",
)
@click.option("--corpus", required=True, type=click.Path(path_type=Path), help="The chunks, from `embtune chunks`.")
@click.option("--review", type=click.Path(path_type=Path), help="Write candidates for a person to judge: .csv, .jsonl.")
@click.option("--reviewed", type=click.Path(path_type=Path), help="Read them back, with verdicts: good or bad.")
@click.option("--out", type=click.Path(path_type=Path), help="The dataset to write.")
@click.option("--accept-unreviewed", is_flag=True, help="Let thumbs count where no person has judged a question.")
@click.option("--min-weight", type=float, default=MIN_WEIGHT, show_default=True, help="That they must reach then.")
@click.option(
    "--suggest",
    type=click.IntRange(min=0),
    default=harvesting.SUGGESTED,
    show_default=True,
    help="Chunks found by search to judge beside those that were shown.",
)
@click.option(
    "--phone-region",
    "phone_regions",
    multiple=True,
    default=PHONE_REGIONS,
    show_default=True,
    help="Country whose national phone numbers are masked. Repeatable.",
)
@click.option("--yes", is_flag=True, help="Read users' questions without asking.")
def harvest(
    postgres: str | None,
    mongo_exports: tuple[Path, ...],
    corpus: Path,
    review: Path | None,
    reviewed: Path | None,
    out: Path | None,
    accept_unreviewed: bool,
    min_weight: float,
    suggest: int,
    phone_regions: tuple[str, ...],
    yes: bool,
) -> None:
    """Make training candidates of rated answers: to a review file, from it to a dataset.

    A thumb rates an answer and not a chunk, so nothing becomes a dataset that no person has looked at, unless
    --accept-unreviewed says so.
    """
    from docsgpt_embtune.sources.review import (
        carry_over,
        dataset_from_candidates,
        read_review,
        refuse_other_suffix,
        write_review,
    )

    refuse_unwritable(out, review, read=[reviewed, corpus])
    if review is not None:
        refuse_other_suffix(review)
    chunk_texts = load_corpus(corpus)
    if reviewed is not None:
        if out is None or postgres or mongo_exports or review:
            raise click.UsageError("--reviewed takes --out and --corpus, and no place to harvest from")
        found = read_review(reviewed)
    else:
        if (review is None and out is None) or (out is not None and not accept_unreviewed):
            raise click.UsageError(
                "what thumbs say about chunks is weak: write --review FILE, and read it --reviewed; or take them as "
                "they are with --out FILE --accept-unreviewed"
            )
        earlier = read_review(review) if review is not None and review.exists() else []
        harvested = _harvest(postgres, mongo_exports, chunk_texts, suggest, phone_regions, yes)
        found = carry_over(earlier, harvested.candidates)
        click.echo(
            f"{counted(harvested.answers, 'rated answer')} to {counted(harvested.questions, 'question')}; retrieved "
            f"texts that are no chunk of {corpus}: {harvested.unknown_sources:,} of {harvested.sources:,}"
        )
    if review is not None:
        write_review(found, review)
        judged = sum(bool(row.verdict) for row in found)
        kept = f" (judged before, and kept: {judged:,})" if judged else ""
        click.echo(
            f"{review}: {counted(len(found), 'row')} to judge{kept}; write good or bad in the column 'verdict', then"
        )
        click.echo(f"embtune harvest --reviewed {review} --corpus {corpus} --out train.json")
    if out is not None:
        made = dataset_from_candidates(
            found,
            chunk_texts,
            accept_unreviewed=accept_unreviewed,
            min_weight=min_weight,
            sources=(str(reviewed or "harvested"), str(corpus)),
        )
        _save_private(made.dataset, out)
        click.echo(
            f"questions judged by a person: {made.reviewed:,}, by thumbs alone: {made.unreviewed:,}, left out without "
            f"a good chunk: {made.left_out:,}"
        )
        if made.odd_dates:
            click.echo(
                f"dates left out of {counted(made.odd_dates, 'question')}: 'asked_on' is not as 2024-01-31 there, as "
                "harvest wrote it; spreadsheets keep it in a column that is set to text"
            )


def _harvest(
    postgres: str | None,
    mongo_exports: tuple[Path, ...],
    corpus: dict[str, str],
    suggest: int,
    phone_regions: tuple[str, ...],
    yes: bool,
) -> harvesting.Harvest:
    from docsgpt_embtune.sources.conversations import mongo_answers, postgres_answers
    from docsgpt_embtune.sources.masking import known_phone_regions, mask

    if bool(postgres) == bool(mongo_exports):
        raise click.UsageError("say where the conversations are: --postgres or --mongo-export")
    phone_regions = known_phone_regions(phone_regions)
    if not yes:
        click.echo(
            "This reads the questions that users asked, what was retrieved for them, and their thumbs; no user ids and "
            "no answers. E-mail addresses, phone numbers and keys are masked, names of people are not. It stays on "
            "this machine, in files that only you can read."
        )
        click.confirm("read them?", abort=True)
    answers = postgres_answers(postgres) if postgres else mongo_answers(mongo_exports)
    return harvesting.find_candidates(
        Bar(answers, desc="reading answers", unit=" answers"),
        corpus,
        mask=lambda question: mask(question, phone_regions=phone_regions),
        suggested=suggest,
    )


def _save_private(dataset: RetrievalDataset, out: Path) -> None:
    save_dataset(dataset, out, mode=PRIVATE)
    click.echo(f"{out}: {dataset.describe()}")


@click.command(cls=EmbtuneCommand)
@click.option("--corpus", type=click.Path(path_type=Path), help="The chunks, from `embtune chunks`.")
@click.option("--out", type=click.Path(path_type=Path), help="The dataset to write; answers are kept beside it.")
@click.option("--llm-base-url", metavar="URL", help="A server of OpenAI's protocol, e.g. http://localhost:8000/v1.")
@click.option("--llm-model", metavar="NAME", help=f"The model there. Its key, if any, comes from {KEY_VARIABLE}.")
@click.option("--questions-per-chunk", type=click.IntRange(1, 20), default=3, show_default=True, help="Asked for.")
@click.option("--prompts", type=click.Path(path_type=Path), help="Folder with prompts of your own.")
@click.option("--write-prompts", type=click.Path(path_type=Path), help="Only copy the prompts there, to be changed.")
@click.option("--concurrency", type=click.IntRange(min=1), default=4, show_default=True, help="Requests at a time.")
@click.option("--requests-per-minute", type=click.FloatRange(min=0, min_open=True), help="At most.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=120.0,
    show_default=True,
    help="Seconds of silence from the server after which a request is sent again; one that writes may take longer.",
)
@click.option(
    "--first-wait",
    type=click.FloatRange(min=0),
    default=1.0,
    show_default=True,
    help="Seconds before a failed request is sent again; twice as long each time.",
)
@click.option("--price-input", type=click.FloatRange(min=0), help="Of a million input tokens, in any currency.")
@click.option("--price-output", type=click.FloatRange(min=0), help="Of a million output tokens.")
@click.option("--yes", is_flag=True, help="Begin without asking.")
@click.option("--offline", is_flag=True, help="No server: headings and first sentences. Weaker.")
@click.option("--generator", type=click.Path(path_type=Path), help="No server: a query generator's folder. Weaker.")
def synthesize(
    corpus: Path | None,
    out: Path | None,
    llm_base_url: str | None,
    llm_model: str | None,
    questions_per_chunk: int,
    prompts: Path | None,
    write_prompts: Path | None,
    offline: bool,
    generator: Path | None,
    **settings: Any,
) -> None:
    """Make questions for every chunk with a language model, judged by it; resumes where it was stopped."""
    if write_prompts is not None:
        from docsgpt_embtune.sources.prompts import write_prompts as copy_prompts

        written = copy_prompts(write_prompts)
        click.echo("\n".join(map(str, written)) or f"{write_prompts}: has both files already; they stay as they are")
        return
    if corpus is None or out is None:
        raise click.UsageError("--corpus and --out are needed")
    refuse_unwritable(out, read=[corpus])
    chunk_texts = load_corpus(corpus)
    if offline or generator:
        _synthesize_offline(chunk_texts, out, generator, questions_per_chunk)
        return
    if (settings["price_input"] is None) != (settings["price_output"] is None):
        raise click.UsageError("give both --price-input and --price-output, or neither: what is paid is their sum")
    if not llm_base_url or not llm_model:
        raise click.UsageError("give --llm-base-url and --llm-model; without a server --offline or --generator")
    _synthesize_online(chunk_texts, out, llm_base_url, llm_model, questions_per_chunk, prompts, **settings)


def _synthesize_offline(corpus: dict[str, str], out: Path, generator: Path | None, per_chunk: int) -> None:
    from docsgpt_embtune.sources import offline_questions as offline

    if generator is not None:
        dataset = offline.questions_from_generator(corpus, generator, questions_per_chunk=per_chunk)
        made_by = offline.GENERATOR
    else:
        dataset, made_by = offline.questions_from_headings(corpus), offline.HEADINGS
    if not len(dataset):
        raise GenerationError(
            f"{made_by}: not one question came of {counted(len(corpus), 'chunk')}; nothing was written"
        )
    save_dataset(dataset, out, made_by=made_by)
    click.echo(f"{out}: {dataset.describe()}\nmade by {made_by}")


def _synthesize_online(
    corpus: dict[str, str],
    out: Path,
    base_url: str,
    name: str,
    per_chunk: int,
    prompts: Path | None,
    *,
    concurrency: int,
    requests_per_minute: float | None,
    timeout: float,
    first_wait: float,
    price_input: float | None,
    price_output: float | None,
    yes: bool,
) -> None:
    from docsgpt_embtune.sources.answer_journal import AnswerJournal
    from docsgpt_embtune.sources.language_model import LanguageModel
    from docsgpt_embtune.sources.prompts import load_prompts
    from docsgpt_embtune.sources.synthesis import Synthesizer

    started = time.monotonic()
    with (
        LanguageModel(
            base_url,
            name,
            key=os.environ.get(KEY_VARIABLE),
            requests_per_minute=requests_per_minute,
            timeout=timeout,
            first_wait=first_wait,
        ) as model,
        AnswerJournal(out.with_name(f"{out.name}.answers.jsonl"), name) as journal,
    ):
        synthesizer = Synthesizer(
            corpus,
            model,
            journal,
            load_prompts(prompts),
            questions_per_chunk=per_chunk,
            concurrency=concurrency,
            requests_per_minute=requests_per_minute,
        )
        estimate = synthesizer.estimate()
        tokens = _tokens(estimate.input_tokens, estimate.output_tokens, price_input, price_output)
        click.echo(
            f"chunks without questions yet: {estimate.chunks:,} of {len(corpus):,}; to ask takes about "
            f"{counted(estimate.requests, 'request')}, {tokens}, {clock(estimate.seconds)}"
        )
        if estimate.requests and not yes:
            click.confirm("begin?", abort=True)
        made = synthesizer.run()
    save_dataset(made.dataset, out, made_by=f"the language model {name}")
    spent = model.spent
    tokens = _tokens(spent.input_tokens, spent.output_tokens, price_input, price_output)
    click.echo(f"{out}: {made.dataset.describe()}")
    click.echo(f"kinds       {_counted(made.kinds)}")
    click.echo(f"thrown out  {_counted(made.thrown_out)}")
    click.echo(f"spent       {counted(spent.requests, 'request')}, {tokens}, {clock(time.monotonic() - started)}")
    if made.unanswered:
        doc_id, reason = next(iter(made.unanswered.items()))
        click.echo(
            f"no usable answer for {counted(len(made.unanswered), 'chunk')} (first: {doc_id!r}: {reason}); "
            "the same command asks for them again"
        )
        sys.exit(EXIT_NO)


def _tokens(input_tokens: int, output_tokens: int, price_input: float | None, price_output: float | None) -> str:
    counted = f"{input_tokens:,} input and {output_tokens:,} output tokens"
    if price_input is None or price_output is None:
        return counted
    return f"{counted}, {(input_tokens * price_input + output_tokens * price_output) / 1e6:,.2f} in money"


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.items()) or "none"
