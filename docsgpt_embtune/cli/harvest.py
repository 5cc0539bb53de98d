"""`embtune harvest`: collect candidates from users' questions and ratings, and make a dataset of the reviewed ones."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from docsgpt_embtune.cli.command import EmbtuneCommand
from docsgpt_embtune.cli.options import refuse_unwritable
from docsgpt_embtune.data.dataset import load_corpus, save_dataset
from docsgpt_embtune.files import PRIVATE
from docsgpt_embtune.progress import Bar
from docsgpt_embtune.sources import candidates as harvesting
from docsgpt_embtune.sources.masking import PHONE_REGIONS
from docsgpt_embtune.sources.review import MIN_WEIGHT
from docsgpt_embtune.wording import counted

if TYPE_CHECKING:
    from docsgpt_embtune.sources.review import ReviewedDataset


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
@click.option("--min-weight", type=float, default=MIN_WEIGHT, show_default=True, help="Least weight that counts then.")
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
    """Make training candidates of what users asked and rated.

    They go to a review file, and from it, judged, to a dataset.
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

    refuse_unwritable(out, review, read=[reviewed, corpus, *mongo_exports])
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
        _tell_how_to_judge(found, review, corpus)
    if out is not None:
        made = dataset_from_candidates(
            found,
            chunk_texts,
            accept_unreviewed=accept_unreviewed,
            min_weight=min_weight,
            sources=(str(reviewed or "harvested"), str(corpus)),
        )
        save_dataset(made.dataset, out, mode=PRIVATE)
        _tell_what_was_made(made, out)


def _tell_how_to_judge(candidates: Sequence[harvesting.Candidate], review: Path, corpus: Path) -> None:
    judged = sum(bool(row.verdict) for row in candidates)
    kept = f" (judged before, and kept: {judged:,})" if judged else ""
    click.echo(
        f"{review}: {counted(len(candidates), 'row')} to judge{kept}; write good or bad in the column 'verdict', then"
    )
    click.echo(f"embtune harvest --reviewed {review} --corpus {corpus} --out train.json")


def _tell_what_was_made(made: "ReviewedDataset", out: Path) -> None:
    click.echo(f"{out}: {made.dataset.describe()}")
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
    from docsgpt_embtune.sources.conversations import MongoAnswers, postgres_answers
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
    exported = MongoAnswers(mongo_exports)
    harvested = harvesting.find_candidates(
        Bar(postgres_answers(postgres) if postgres else exported, desc="reading answers", unit=" answers"),
        corpus,
        mask=lambda question: mask(question, phone_regions=phone_regions),
        suggested=suggest,
    )
    if exported.repeated:
        click.echo(f"exports overlap: {counted(exported.repeated, 'rated answer')} left out that had been read already")
    return harvested
