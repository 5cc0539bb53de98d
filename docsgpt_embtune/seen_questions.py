"""The manifest's record of the questions that a model learned from, so that it is not evaluated on memorised questions.

`data.seen_queries` holds the digests of all questions used to make the model. `data.chosen_by` is the subset that was
only used to choose it, and not to train it.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from docsgpt_embtune.data.dataset import RetrievalDataset, query_digest


def digests_of(questions: RetrievalDataset) -> set[str]:
    """Return the questions' digests, which do not reveal their texts."""
    return {query_digest(text) for text in questions.queries.values()}


def seen_digests(manifest: Mapping[str, Any]) -> frozenset[str]:
    """Return the digests of all questions that a model learned from or was chosen by."""
    return frozenset(manifest.get("data", {}).get("seen_queries", ()))


def leave_out(questions: RetrievalDataset, digests: Collection[str]) -> RetrievalDataset:
    """Drop the questions with these digests, possibly all of them; the corpus stays."""
    return questions.subset(
        query_id for query_id, text in questions.queries.items() if query_digest(text) not in digests
    )


def without_learned(questions: RetrievalDataset, manifest: Mapping[str, Any]) -> RetrievalDataset:
    """Drop the questions that a model learned from; keep unseen ones, and those that it was only chosen by.

    Args:
        questions: The questions to filter; possibly none remain. The corpus stays.
        manifest: The model folder's manifest.
    """
    return leave_out(questions, seen_digests(manifest).difference(manifest.get("data", {}).get("chosen_by", ())))


def data_record(
    training: RetrievalDataset | None,
    validation: RetrievalDataset | None,
    made_of: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the manifest's record of a model's data: file names, hashes and digests.

    It holds no texts, because questions are private and the folder may be passed on.

    Args:
        training: Questions that the model learned from.
        validation: Questions that it was chosen by and did not learn from.
        made_of: Manifest of the model that it was made from, if any; all questions which that has seen count as seen.
    """
    learned, chose = (digests_of(dataset) if dataset is not None else set() for dataset in (training, validation))
    before = (made_of or {}).get("data", {})
    return {
        **_datasets(training, validation),
        "seen_queries": sorted({*before.get("seen_queries", ()), *learned, *chose}),
        "chosen_by": sorted({*before.get("chosen_by", ())}.difference(learned) | chose),
    }


def adapter_data_record(training: RetrievalDataset, validation: RetrievalDataset | None) -> dict[str, Any]:
    """Return the record of a query adapter's data, without digests, which `with_learned_too` adds.

    The adapter learns from all its questions, so `chosen_by` is empty.
    """
    return {**_datasets(training, validation), "chosen_by": []}


def with_learned_too(manifest: Mapping[str, Any], learned: Collection[str]) -> dict[str, Any]:
    """Add the digests of further questions learned from to a manifest, and remove them from `chosen_by`."""
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
    """Add the digests of questions to a manifest by which a further choice was made without learning from them."""
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
