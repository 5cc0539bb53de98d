"""The manifest's record of the questions that a model learned from, so that it is not evaluated on memorised questions.

`data.seen_queries` holds the digests of all questions used to make the model. `data.chosen_by` is the subset that was
only used to choose it, and not to train it.
"""

from collections.abc import Collection
from pathlib import Path

from docsgpt_embtune.data.dataset import RetrievalDataset, query_digest
from docsgpt_embtune.manifest import DataRecord, DatasetRecord, Manifest


def digests_of(questions: RetrievalDataset) -> set[str]:
    """Return the questions' digests, which do not reveal their texts."""
    return {query_digest(text) for text in questions.queries.values()}


def seen_digests(manifest: Manifest) -> frozenset[str]:
    """Return the digests of all questions that a model learned from or was chosen by."""
    return frozenset(manifest.get("data", {}).get("seen_queries", ()))


def leave_out(questions: RetrievalDataset, digests: Collection[str]) -> RetrievalDataset:
    """Drop the questions with these digests, possibly all of them; the corpus stays."""
    return questions.subset(
        query_id for query_id, text in questions.queries.items() if query_digest(text) not in digests
    )


def without_learned(questions: RetrievalDataset, manifest: Manifest) -> RetrievalDataset:
    """Drop the questions that a model learned from; keep unseen ones, and those that it was only chosen by.

    Args:
        questions: The questions to filter; possibly none remain. The corpus stays.
        manifest: The model folder's manifest.
    """
    return leave_out(questions, seen_digests(manifest).difference(manifest.get("data", {}).get("chosen_by", ())))


def data_record(
    training: RetrievalDataset | None,
    validation: RetrievalDataset | None,
    made_of: Manifest | None = None,
) -> DataRecord:
    """Return the manifest's record of a model's data: file names, hashes and digests.

    It holds no texts, because questions are private and the folder may be passed on.

    Args:
        training: Questions that the model learned from.
        validation: Questions that it was chosen by and did not learn from.
        made_of: Manifest of the model that it was made from, if any; all questions which that has seen count as seen.
    """
    learned, chose = (digests_of(dataset) if dataset is not None else set() for dataset in (training, validation))
    return {**_datasets(training, validation), **_seen((made_of or {}).get("data", {}), learned, chose)}


def adapter_data_record(training: RetrievalDataset, validation: RetrievalDataset | None) -> DataRecord:
    """Return the record of a query adapter's data, without digests, which `with_learned_too` adds.

    The adapter learns from all its questions, so `chosen_by` is empty.
    """
    return {**_datasets(training, validation), "chosen_by": []}


def with_learned_too(manifest: Manifest, learned: Collection[str]) -> Manifest:
    """Add the digests of further questions learned from to a manifest, and remove them from `chosen_by`."""
    data = manifest.get("data", {})
    return {**manifest, "data": {**data, **_seen(data, learned, ())}}


def with_chosen_by_too(manifest: Manifest, questions: RetrievalDataset) -> Manifest:
    """Add the digests of questions to a manifest by which a further choice was made without learning from them."""
    data = manifest.get("data", {})
    return {**manifest, "data": {**data, **_seen(data, (), digests_of(questions))}}


def _seen(before: DataRecord, learned: Collection[str], chose: Collection[str]) -> DataRecord:
    """Add digests to a record: what was learned once stays learned, and was not only chosen by."""
    seen, chosen_by = set(before.get("seen_queries", ())), set(before.get("chosen_by", ()))
    return {
        "seen_queries": sorted(seen.union(learned, chose)),
        "chosen_by": sorted(chosen_by.difference(learned).union(set(chose) - seen)),
    }


def _datasets(training: RetrievalDataset | None, validation: RetrievalDataset | None) -> DataRecord:
    record: DataRecord = {}
    if training is not None:
        record["training"] = _dataset(training)
    if validation is not None:
        record["validation"] = _dataset(validation)
    return record


def _dataset(dataset: RetrievalDataset) -> DatasetRecord:
    return {
        "files": [Path(source).name for source in dataset.sources],
        "sha256": dataset.fingerprint,
        "queries": len(dataset),
        "corpus": len(dataset.corpus),
    }
