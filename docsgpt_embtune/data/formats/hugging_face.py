"""Datasets of Hugging Face: a folder that `save_to_disk` wrote, or one on the hub."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from docsgpt_embtune.data.formats import table
from docsgpt_embtune.data.formats.content import Row
from docsgpt_embtune.data.formats.format import row_format
from docsgpt_embtune.data.formats.options import ReadOptions
from docsgpt_embtune.data.formats.source import HUB, Record, Source, arrow_errors
from docsgpt_embtune.errors import DatasetError
from docsgpt_embtune.files import folder_written_whole


class HuggingFaceSource(Source):
    """A Hugging Face dataset, read like a table.

    Args:
        path: A folder, or "hub:" and a name.

    Raises:
        DatasetError: If it cannot be loaded, or has several splits and none is named.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._dataset = _from_hub(str(path).removeprefix(HUB)) if self.container == "hub" else _from_disk(path)

    @property
    def fields(self) -> frozenset[str]:
        """The dataset's columns."""
        return frozenset(self._dataset.column_names)

    def records(self) -> Iterator[Record]:
        """Stream the rows."""
        with arrow_errors(self.path):
            # Arrow maps the files into memory unchecked, and following a damaged offset would crash the process.
            self._dataset.data.validate(full=True)
            yield from self._dataset


def rows(source: Source, options: ReadOptions) -> Iterator[Row]:
    """Stream the rows of a folder or of a dataset on the hub."""
    return table.rows(HuggingFaceSource(source.path), options)


def write_rows(rows: Iterable[Row], path: Path) -> None:
    """Write a folder that `datasets.load_from_disk` reads."""
    import datasets

    records = [table.record(row) for row in rows]
    names = dict.fromkeys(name for record in records for name in record)
    columns = {name: [record.get(name) for record in records] for name in names}
    with folder_written_whole(path) as folder:
        datasets.Dataset.from_dict(columns).save_to_disk(folder)


def _recognises(source: Source) -> bool:
    described = ("dataset_info.json", "dataset_dict.json")
    return source.container == "hub" or (
        source.container == "folder" and any((source.path / name).is_file() for name in described)
    )


def _from_disk(path: Path) -> Any:
    import datasets

    try:
        return _one_split(path, datasets.load_from_disk(path), f"{path}/")
    except DatasetError:
        raise
    except Exception as error:  # datasets raises its own, Arrow's, JSON's and the file system's errors
        raise DatasetError(f"{path}: not a dataset folder that can be read ({error})") from error


def _from_hub(name: str) -> Any:
    import datasets

    repository, _, split = name.partition("#")
    try:
        return _one_split(name, datasets.load_dataset(repository, split=split or None), f"{HUB}{repository}#")
    except DatasetError:
        raise
    except Exception as error:  # the hub client raises its own, its transport's and the cache's errors
        raise DatasetError(f"{HUB}{name}: the hub gave nothing ({type(error).__name__}: {error})") from error


def _one_split(name: object, loaded: Any, prefix: str) -> Any:
    if not isinstance(loaded, dict):  # a DatasetDict is one
        return loaded
    if len(loaded) == 1:
        return next(iter(loaded.values()))
    raise DatasetError(f"{name}: has several splits; name one: {', '.join(prefix + split for split in loaded)}")


HUGGING_FACE = row_format(
    name="hugging-face",
    layout="folder of datasets.save_to_disk, or hub:NAME[#SPLIT]: question, good[, bad][, score][, date][, document]",
    recognises=_recognises,
    rows=rows,
    write_rows=write_rows,
    takes_columns=True,
)
