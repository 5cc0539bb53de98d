"""`embtune synthesize`: make questions with a language model, a query generator or the chunks' own headings."""

import os
import sys
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click
from tqdm import tqdm

from docsgpt_embtune.cli.command import EXIT_NO, EmbtuneCommand
from docsgpt_embtune.cli.options import refuse_unwritable
from docsgpt_embtune.data.dataset import load_corpus, save_dataset
from docsgpt_embtune.errors import GenerationError
from docsgpt_embtune.openai_client.client import Patience
from docsgpt_embtune.sources.language_model import KEY_VARIABLE, LONGEST_ANSWER
from docsgpt_embtune.stopping import told_when_stopped
from docsgpt_embtune.wording import clock, counted

if TYPE_CHECKING:
    from docsgpt_embtune.sources.language_model import Spent
    from docsgpt_embtune.sources.synthesis import Synthesis, Synthesizer


@click.command(cls=EmbtuneCommand)
@click.option("--corpus", type=click.Path(path_type=Path), help="The chunks, from `embtune chunks`.")
@click.option("--out", type=click.Path(path_type=Path), help="The dataset to write; answers are kept beside it.")
@click.option("--llm-base-url", metavar="URL", help="A server of OpenAI's protocol, e.g. http://localhost:8000/v1.")
@click.option("--llm-model", metavar="NAME", help=f"The model there. Its key, if any, comes from {KEY_VARIABLE}.")
@click.option(
    "--questions-per-chunk", type=click.IntRange(1, 20), default=3, show_default=True, help="Questions to ask for."
)
@click.option("--prompts", type=click.Path(path_type=Path), help="Folder with prompts of your own.")
@click.option("--write-prompts", type=click.Path(path_type=Path), help="Only copy the prompts there, to be changed.")
@click.option("--concurrency", type=click.IntRange(min=1), default=4, show_default=True, help="Requests at a time.")
@click.option("--requests-per-minute", type=click.FloatRange(min=0, min_open=True), help="Limit on the requests sent.")
@click.option(
    "--max-tokens",
    type=click.IntRange(min=1),
    default=LONGEST_ANSWER,
    show_default=True,
    help="Longest answer, thoughts included: some models never end.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=Patience.silence,
    show_default=True,
    help="Seconds of silence from the server after which a request is sent again; one that writes may take longer.",
)
@click.option(
    "--first-wait",
    type=click.FloatRange(min=0),
    default=Patience.first_wait,
    show_default=True,
    help="Seconds before a failed request is sent again; twice as long each time.",
)
@click.option("--price-input", type=click.FloatRange(min=0), help="Price of a million input tokens, in any currency.")
@click.option("--price-output", type=click.FloatRange(min=0), help="Price of a million output tokens.")
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
    """Make questions for every chunk with a language model.

    The model judges them, too. Stopped anywhere, the same command goes on from there.
    """
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
    price = _price(settings.pop("price_input"), settings.pop("price_output"))
    if not llm_base_url or not llm_model:
        raise click.UsageError("give --llm-base-url and --llm-model; without a server --offline or --generator")
    _synthesize_online(chunk_texts, out, llm_base_url, llm_model, questions_per_chunk, prompts, price, **settings)


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
    asked_for = {doc_id for doc_ids in dataset.relevant_docs.values() for doc_id in doc_ids}
    click.echo(f"{out}: {dataset.describe()}\nmade by {made_by}")
    click.echo(f"chunks that gave no question: {len(corpus) - len(asked_for):,} of {len(corpus):,}")


def _synthesize_online(
    corpus: dict[str, str],
    out: Path,
    base_url: str,
    name: str,
    per_chunk: int,
    prompts: Path | None,
    price: "_Price | None",
    *,
    concurrency: int,
    requests_per_minute: float | None,
    max_tokens: int,
    timeout: float,
    first_wait: float,
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
            longest_answer=max_tokens,
            requests_per_minute=requests_per_minute,
            patience=Patience(first_wait=first_wait, silence=timeout),
            say=partial(tqdm.write, file=sys.stderr),
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

        def tell(_: BaseException) -> None:
            kept = f"what was answered is kept ({journal.path}): the same command goes on from there"
            click.echo(f"stopped     {'nothing was answered yet' if journal.is_empty else kept}", err=True)
            click.echo(_spent(model.spent, started, price), err=True)

        with told_when_stopped(tell):
            _tell_what_it_takes(synthesizer, len(corpus), price, ask=not yes)
            made = synthesizer.run()
    save_dataset(made.dataset, out, made_by=f"the language model {name}")
    click.echo(f"{out}: {made.dataset.describe()}")
    click.echo(f"kinds       {_counted(made.kinds)}")
    click.echo(f"thrown out  {_counted(made.thrown_out)}")
    click.echo(_spent(model.spent, started, price))
    _end_if_unanswered(made)


def _end_if_unanswered(made: "Synthesis") -> None:
    if made.unanswered:
        doc_id, reason = next(iter(made.unanswered.items()))
        click.echo(
            f"no usable answer for {counted(len(made.unanswered), 'chunk')} (first: {doc_id!r}: {reason}); "
            "the same command asks for them again"
        )
        sys.exit(EXIT_NO)


class _Price(NamedTuple):
    """Price of a million tokens."""

    input: float
    output: float

    def of(self, input_tokens: int, output_tokens: int) -> float:
        return (input_tokens * self.input + output_tokens * self.output) / 1e6


def _price(of_input: float | None, of_output: float | None) -> _Price | None:
    if of_input is None and of_output is None:
        return None
    if of_input is None or of_output is None:
        raise click.UsageError("give both --price-input and --price-output, or neither: what is paid is their sum")
    return _Price(of_input, of_output)


def _tell_what_it_takes(synthesizer: "Synthesizer", chunks: int, price: _Price | None, *, ask: bool) -> None:
    estimate = synthesizer.estimate()
    tokens = _tokens(estimate.input_tokens, estimate.output_tokens, price)
    click.echo(
        f"chunks without questions yet: {estimate.chunks:,} of {chunks:,}; to ask takes about "
        f"{counted(estimate.requests, 'request')}, {tokens}, {clock(estimate.seconds)}"
    )
    if estimate.requests and ask:
        click.confirm("begin?", abort=True)


def _spent(spent: "Spent", started: float, price: _Price | None) -> str:
    tokens = "tokens that the server did not count"
    if spent.input_tokens or spent.output_tokens or not spent.answers:
        tokens = _tokens(spent.input_tokens, spent.output_tokens, price)
    return f"spent       {counted(spent.requests, 'request')}, {tokens}, {clock(time.monotonic() - started)}"


def _tokens(input_tokens: int, output_tokens: int, price: _Price | None) -> str:
    tokens = f"{input_tokens:,} input and {output_tokens:,} output tokens"
    return f"{tokens}, {price.of(input_tokens, output_tokens):,.2f} in money" if price else tokens


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.items()) or "none"
