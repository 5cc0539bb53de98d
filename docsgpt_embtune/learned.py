"""What a manifest says was learned: how a model does on questions that it has by heart does not tell how on others.

`data.seen_queries` holds the digests of all questions that had a part in the making of the model, and `data.chosen_by`
those among them that only chose it.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from docsgpt_embtune.data.dataset import RetrievalDataset, query_digest


def digests_of(questions: RetrievalDataset) -> set[str]:
    """Name the questions without telling them."""
    return {query_digest(text) for text in questions.queries.values()}


def seen_digests(manifest: Mapping[str, Any]) -> frozenset[str]:
    """Return the digests of the questions that a model learned from or was chosen by."""
    return frozenset(manifest.get("data", {}).get("seen_queries", ()))


def leave_out(questions: RetrievalDataset, digests: Collection[str]) -> RetrievalDataset:
    """Keep the questions that have none of these digests, which may be none; the corpus stays."""
    return questions.subset(
        query_id for query_id, text in questions.queries.items() if query_digest(text) not in digests
    )


def without_learned(questions: RetrievalDataset, manifest: Mapping[str, Any]) -> RetrievalDataset:
    """Keep the questions that a model has not learned from: those that only chose it, and those that it has not seen.

    Args:
        questions: Any number of them, which may be none afterwards; the corpus stays.
        manifest: The model folder's, with digests of the questions seen and, among them, of those that chose.
    """
    return leave_out(questions, seen_digests(manifest).difference(manifest.get("data", {}).get("chosen_by", ())))


def data_record(
    training: RetrievalDataset | None,
    validation: RetrievalDataset | None,
    made_of: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Say what a model learned from in names, hashes and digests: questions are private, and the folder travels.

    Args:
        training: Questions that it learned from.
        validation: Questions that chose it, and that it did not learn from.
        made_of: The manifest of the model that it was made of, if any: what that has seen, it has seen.
    """
    learned, chose = (digests_of(dataset) if dataset is not None else set() for dataset in (training, validation))
    before = (made_of or {}).get("data", {})
    return {
        **_datasets(training, validation),
        "seen_queries": sorted({*before.get("seen_queries", ()), *learned, *chose}),
        "chosen_by": sorted({*before.get("chosen_by", ())}.difference(learned) | chose),
    }


def adapter_data_record(training: RetrievalDataset, validation: RetrievalDataset | None) -> dict[str, Any]:
    """Say what a query adapter learned from, which is all that chose it; `with_learned_too` adds the digests."""
    return {**_datasets(training, validation), "chosen_by": []}


def with_learned_too(manifest: Mapping[str, Any], learned: Collection[str]) -> dict[str, Any]:
    """Add to a manifest the digests of what its model learned from later, and take them out of what only chose."""
    data = manifest.get("data", {})
    return {
        **manifest,
        "data": {
            **data,
            "seen_queries": sorted({*data.get("seen_queries", ()), *learned}),
            "chosen_by": sorted(set(data.get("chosen_by", ())).difference(learned)),
        },
    }


def with_chosen_by_too(manifest: Mapping[str, Any], questions: RetrievalDataset) -> dict[str, Any]:
    """Add to a manifest the digests of questions that chose something of its model later, and taught it nothing."""
    data, chose = manifest.get("data", {}), digests_of(questions)
    seen, chosen_by = set(data.get("seen_queries", ())), set(data.get("chosen_by", ()))
    return {
        **manifest,
        "data": {
            **data,
            "seen_queries": sorted(seen | chose),
            "chosen_by": sorted(chosen_by | (chose - seen)),
        },
    }


def _datasets(training: RetrievalDataset | None, validation: RetrievalDataset | None) -> dict[str, Any]:
    given = {"training": training, "validation": validation}
    return {
        name: {
            "files": [Path(source).name for source in dataset.sources],
            "sha256": dataset.fingerprint,
            "queries": len(dataset),
            "corpus": len(dataset.corpus),
        }
        for name, dataset in given.items()
        if dataset is not None
    }
