"""Measure which share of faults `embtune prepare` finds, with 200 faults of each kind planted in real data.

    python scripts/bench_prepare_faults.py ../shared/data/feedbackqa

Each kind is planted separately in the training questions, of which 200 get two random bad chunks each. The findings
without planted faults are printed first; some of them are real faults of the data.
"""

import json
import random
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import click

from docsgpt_embtune.data.dataset import load_corpus, load_dataset
from docsgpt_embtune.data.formats.content import DatasetContent
from docsgpt_embtune.data.formats.native import write_explicit
from docsgpt_embtune.data.formats.options import ReadOptions
from docsgpt_embtune.data.preparation.checks import CHECKS
from docsgpt_embtune.data.preparation.fault_check import Check, CheckSettings, find_offenders
from docsgpt_embtune.data.preparation.finders import find_near_duplicates
from docsgpt_embtune.data.preparation.store import opened

Found = dict[str, set[tuple[str, str]]]  # check -> (query_id, doc_id)
Planted = tuple[DatasetContent, set[tuple[str, str]]]
Plant = Callable[[DatasetContent, random.Random, int], Planted]
_GERMAN = (
    "Wie lange werden die Unterlagen aufbewahrt, und wer darf sie einsehen?",
    "Wo kann ich einen Antrag auf Unterstützung stellen?",
    "Muss ich zu Hause bleiben, wenn ich mich krank fühle?",
    "Welche Regeln gelten beim Besuch im Krankenhaus?",
)


def find(
    content: DatasetContent, held_out: DatasetContent, settings: CheckSettings, checks: Sequence[Check] = CHECKS
) -> Found:
    """Run checks on content, and return each check's findings."""
    found: Found = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data.json"
        write_explicit(content, path)
        with opened(path, ReadOptions()) as store:
            store.add_held_out(held_out)
            if any(check.slow for check in checks):
                find_near_duplicates(store)
            for check in checks:
                find_offenders(store, check, settings)
                found[check.name] = set(store.query("SELECT query_id, doc_id FROM offenders"))
    return found


def with_bad_chunks(content: DatasetContent, draw: random.Random, questions: int) -> DatasetContent:
    """Give some questions two random bad chunks each."""
    doc_ids = list(content.corpus)
    bad = {
        query_id: tuple(d for d in draw.sample(doc_ids, 2) if d not in content.relevant_docs[query_id])
        for query_id in draw.sample(list(content.queries), questions)
    }
    return replace(content, irrelevant_docs=bad)


def good_and_bad(content: DatasetContent, draw: random.Random, number: int) -> Planted:
    """Mark a good chunk as bad as well."""
    chosen = draw.sample(list(content.queries), number)
    bad = {q: (*content.irrelevant_docs.get(q, ()), content.relevant_docs[q][0]) for q in chosen}
    planted = {(q, content.relevant_docs[q][0]) for q in chosen}
    return replace(content, irrelevant_docs={**content.irrelevant_docs, **bad}), planted


def duplicate_chunk(content: DatasetContent, draw: random.Random, number: int) -> Planted:
    """Add a copy of a chunk under a second id, in capitals and with other spacing."""
    copies = {f"copy-{d}": f"  {content.corpus[d].upper()}\n" for d in draw.sample(list(content.corpus), number)}
    return replace(content, corpus={**content.corpus, **copies}), {("", doc_id) for doc_id in copies}


def bad_that_answers(content: DatasetContent, draw: random.Random, number: int) -> Planted:
    """Mark as bad a copy of the good chunk without every tenth word."""
    chosen = draw.sample(list(content.queries), number)
    edits = {f"edit-{q}": _without_every_tenth(content.corpus[content.relevant_docs[q][0]]) for q in chosen}
    bad = {q: (*content.irrelevant_docs.get(q, ()), f"edit-{q}") for q in chosen}
    planted = {(q, f"edit-{q}") for q in chosen}
    return replace(
        content, corpus={**content.corpus, **edits}, irrelevant_docs={**content.irrelevant_docs, **bad}
    ), planted


def bad_that_answers_in_other_words(content: DatasetContent, draw: random.Random, number: int) -> Planted:
    """Mark one of a question's several good chunks as bad, which is hard to find, as they share few words."""
    several = [q for q, ids in content.relevant_docs.items() if len(ids) > 1]
    chosen = draw.sample(several, min(number, len(several)))
    good = {q: ids[:-1] if q in set(chosen) else ids for q, ids in content.relevant_docs.items()}
    bad = {q: (*content.irrelevant_docs.get(q, ()), content.relevant_docs[q][-1]) for q in chosen}
    planted = {(q, content.relevant_docs[q][-1]) for q in chosen}
    return replace(content, relevant_docs=good, irrelevant_docs={**content.irrelevant_docs, **bad}), planted


def two_chunks_answer(content: DatasetContent, draw: random.Random, number: int) -> Planted:
    """Add an edited copy of a good chunk that is not marked as good."""
    chosen = draw.sample(list(content.queries), number)
    edits = {f"edit-{q}": _without_every_tenth(content.corpus[content.relevant_docs[q][0]]) for q in chosen}
    return replace(content, corpus={**content.corpus, **edits}), {(q, f"edit-{q}") for q in chosen}


def copied_question(content: DatasetContent, draw: random.Random, number: int) -> Planted:
    """Replace a question with twelve words of its good chunk and a question mark."""
    chosen = draw.sample(list(content.queries), number)
    spans = {q: " ".join(content.corpus[content.relevant_docs[q][0]].split()[5:17]) + "?" for q in chosen}
    return _asking_instead(content, spans)


def empty_question(content: DatasetContent, draw: random.Random, number: int) -> Planted:
    """Replace a question with a question mark."""
    return _asking_instead(content, dict.fromkeys(draw.sample(list(content.queries), number), " ? "))


def empty_chunk(content: DatasetContent, draw: random.Random, number: int) -> Planted:
    """Replace a chunk with a line of dashes."""
    chosen = draw.sample(list(content.corpus), number)
    return replace(content, corpus={**content.corpus, **dict.fromkeys(chosen, "-----\n")}), {("", d) for d in chosen}


def cut_chunk_anywhere(content: DatasetContent, draw: random.Random, number: int) -> Planted:
    """Cut a chunk off at a random character of its second half, within a word or between words."""
    chosen = draw.sample(list(content.corpus), number)
    cut = {d: _cut(content.corpus[d], draw) for d in chosen}
    return replace(content, corpus={**content.corpus, **cut}), {("", d) for d in chosen}


def cut_question_anywhere(content: DatasetContent, draw: random.Random, number: int) -> Planted:
    """Cut a question off at a random character of its second half."""
    chosen = draw.sample(list(content.queries), number)
    return _asking_instead(content, {q: _cut(content.queries[q], draw) for q in chosen})


def foreign_question(content: DatasetContent, draw: random.Random, number: int) -> Planted:
    """Replace a question with a German one."""
    chosen = draw.sample(list(content.queries), number // 2)  # more would be 5 %, which counts as a second language
    return _asking_instead(content, {q: f"{draw.choice(_GERMAN)} ({place})" for place, q in enumerate(chosen)})


def held_out_question(held_out: Sequence[str], change: Callable[[str], str]) -> Plant:
    """Return what replaces questions with changed held-out ones."""

    def plant(content: DatasetContent, draw: random.Random, number: int) -> Planted:
        chosen = draw.sample(list(content.queries), number)
        asked = draw.sample(held_out, number)
        return _asking_instead(content, {q: change(text) for q, text in zip(chosen, asked, strict=True)})

    return plant


def unknown_id(content: DatasetContent, draw: random.Random, number: int) -> Planted:
    """Add a judgment of a chunk that does not exist."""
    chosen = draw.sample(list(content.queries), number)
    good = {q: (*ids, "nowhere") if q in set(chosen) else ids for q, ids in content.relevant_docs.items()}
    return replace(content, relevant_docs=good), {(q, "nowhere") for q in chosen}


KINDS: dict[str, tuple[tuple[str, ...], Plant]] = {
    "good and bad": (("good-and-bad",), good_and_bad),
    "same chunk, two ids": (("duplicate-chunk",), duplicate_chunk),
    "bad chunk answers: edited copy": (("bad-chunk-answers", "bad-chunk-may-answer"), bad_that_answers),
    "bad chunk answers: other words": (("bad-chunk-answers", "bad-chunk-may-answer"), bad_that_answers_in_other_words),
    "two chunks answer": (("two-chunks-answer", "two-chunks-may-answer"), two_chunks_answer),
    "question copied": (("copied-question",), copied_question),
    "empty question": (("empty-question",), empty_question),
    "empty chunk": (("empty-chunk",), empty_chunk),
    "cut chunk": (("cut-chunk",), cut_chunk_anywhere),
    "cut question": (("cut-question",), cut_question_anywhere),
    "question in German": (("foreign-question",), foreign_question),
    "judgment of no chunk": (("unknown-id",), unknown_id),
}


def kinds_with_held_out(held_out: Sequence[str]) -> dict[str, tuple[tuple[str, ...], Plant]]:
    """Return all kinds: those that are planted with questions of the test, too."""
    return KINDS | {
        "question of the test": (("seen-question",), held_out_question(held_out, _in_capitals)),
        "nearly a question of the test": (("nearly-seen-question",), held_out_question(held_out, _mistyped)),
    }


def _asking_instead(content: DatasetContent, questions: dict[str, str]) -> Planted:
    return replace(content, queries={**content.queries, **questions}), {(query_id, "") for query_id in questions}


def _in_capitals(text: str) -> str:
    return text.rstrip("?. ").upper() + "!"


def _mistyped(text: str) -> str:
    """Swap two letters."""
    place = len(text) // 2
    return text[:place] + text[place + 1] + text[place] + text[place + 2 :]


def _without_every_tenth(text: str) -> str:
    return " ".join(word for place, word in enumerate(text.split(), 1) if place % 10)


def _cut(text: str, draw: random.Random) -> str:
    return text[: draw.randrange(len(text) // 2, len(text) - 1)].rstrip()


@click.command()
@click.argument("folder", type=click.Path(exists=True, path_type=Path))
@click.option("--number", default=200, show_default=True, help="Faults of each kind.")
@click.option("--model", default="bundled", show_default=True, help="Asked about bad chunks; 'none' for none.")
@click.option("--only", help="Plant this kind alone.")
@click.option("--seed", default=0, show_default=True)
def main(folder: Path, number: int, model: str, only: str | None, seed: int) -> None:
    """Print the share found of each kind, and what is found where nothing was planted."""
    draw = random.Random(seed)
    corpus = load_corpus(folder / "corpus.json")
    train = json.loads((folder / "train.json").read_text(encoding="utf-8"))
    good = {query_id: tuple(ids) for query_id, ids in train["relevant_docs"].items()}
    clean = with_bad_chunks(DatasetContent(train["queries"], corpus, good), draw, number)
    held_out = load_dataset(folder / "test.json", corpus=folder / "corpus.json", relevant_docs="all-good")
    settings = CheckSettings(model=None if model == "none" else model)
    before = find(clean, held_out, settings)
    click.echo(f"clean file: {len(clean.queries):,} questions, {len(corpus):,} chunks, {2 * number} random bad chunks")
    for name, offenders in before.items():
        click.echo(f"  {name:22} {len(offenders):5,} found")
    click.echo(f"\n{number} planted of each kind")
    for kind, (names, plant) in kinds_with_held_out(list(held_out.queries.values())).items():
        if only in (None, kind):
            content, planted = plant(clean, random.Random(f"{seed} {kind}"), number)
            found = find(content, held_out, settings, [check for check in CHECKS if check.name in names])
            after, unplanted = (set().union(*(offenders[name] for name in names)) for offenders in (found, before))
            key = {(q, "") for q, _ in after} | after if ("", "") not in planted else after
            hit = len(planted & key) / len(planted)
            other = len(after - unplanted - planted - {(q, d) for q, d in after if (q, "") in planted})
            click.echo(f"  {kind:32} {hit:6.1%} of {len(planted)} found; {other} others that the clean file had not")


if __name__ == "__main__":
    main()
