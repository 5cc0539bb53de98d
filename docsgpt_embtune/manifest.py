"""The manifest of a tuned model's folder, `embtune.json`: what each of its fields is, and how it is read and written.

It is plain JSON, and a `dict` once it is read. Fields that this version does not know are kept when a folder is written
again, so that they survive an older version.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypedDict, get_args, get_origin, get_type_hints, is_typeddict

from docsgpt_embtune.errors import ModelFolderError
from docsgpt_embtune.files import write_text_atomically

MANIFEST = "embtune.json"
SCHEMA = 1
_IN_WORDS = {dict: "an object", list: "a list", str: "a string", int: "a whole number", float: "a number"}


class BaseRecord(TypedDict):
    """The model that a folder's model was tuned from."""

    name: str
    fingerprint: str


class DatasetRecord(TypedDict):
    """One of the datasets that made a model. It holds no texts, because the folder may be passed on."""

    files: list[str]  # names without their folders
    sha256: str
    queries: int
    corpus: int


class DataRecord(TypedDict, total=False):
    """The questions that made a model, so that it is not evaluated on what it knows."""

    training: DatasetRecord
    validation: DatasetRecord
    seen_queries: list[str]  # digests of all questions that had a part in it
    chosen_by: list[str]  # those of them that it was only chosen by, and did not learn from


class GraphRecord(TypedDict):
    """A graph for onnxruntime."""

    file: str  # below the folder
    sha256: str  # of the graph and its weights


class ServingRecord(TypedDict, total=False):
    """How a folder is served, where that is not the model's original way."""

    engine: str  # the engine that the export chose
    reading: dict[str, Any]  # how chunks are read: `serving.reading.Reading` by the names of its fields
    graphs: dict[str, GraphRecord]  # by engine
    decisions: list[dict[str, Any]]  # what the export measured


class FittingRecord(TypedDict, total=False):
    """How a query adapter, or the keywords before a server, were fitted."""

    training: dict[str, Any]
    cross_validation: dict[str, Any]
    validation: dict[str, Any]  # instead of it, where nobody asked anything
    data: DataRecord
    versions: dict[str, str]


class AdapterRecord(FittingRecord, total=False):
    """A linear map on question vectors."""

    file: str
    sha256: str
    document_fingerprint: str  # of the model that embeds the chunks; for a server's model it is in `ServerRecord`


class KeywordsRecord(FittingRecord, total=False):
    """Keywords that are appended to the model's vectors. How they were fitted is only there for a server's model."""

    weight: float
    width: int


class ServerRecord(TypedDict):
    """The server whose model an adapter or keywords are for."""

    url: str  # without credentials
    model: str
    dimension: int  # of the server's vectors, before keywords are appended
    probe: list[float]  # the server's vector of a fixed text
    document_fingerprint: str


class Manifest(TypedDict, total=False):
    """Everything that a folder says of its model.

    `schema`, `fingerprint` and `dimension` are in every manifest, and the other fields only if they apply. An empty one
    stands for a model that is not tuned.
    """

    schema: int
    fingerprint: str  # of everything that determines the vectors: see `model_folder.fingerprint`
    dimension: int  # of a vector, keywords included
    max_seq_length: int  # how many tokens the model reads at a time, originally
    keywords: KeywordsRecord
    query_adapter: AdapterRecord
    server: ServerRecord  # the folder adapts this server's model and holds no model itself
    serving: ServingRecord
    base: BaseRecord
    training: dict[str, Any]  # the settings, and what the run did
    validation: dict[str, Any]  # the scores of all candidates
    data: DataRecord
    versions: dict[str, str]  # of the packages that trained it
    distilled: dict[str, Any]  # from which model, and what that cost
    shrunk: dict[str, Any]  # likewise


def read_manifest(folder: str | Path) -> Manifest:
    """Read `embtune.json`.

    Raises:
        ModelFolderError: If the folder or the manifest is missing, closed to this user, broken, or of a newer schema,
            or if one of the fields above is of another type.
    """
    path = Path(folder) / MANIFEST
    if not path.parent.is_dir():
        raise ModelFolderError(f"{folder}: no such model folder; give a folder that `embtune train` wrote")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        schema, _ = manifest["schema"], manifest["fingerprint"]
    except FileNotFoundError as error:
        raise ModelFolderError(
            f"{folder}: not a tuned model (it has no {MANIFEST}); give a folder that `embtune train` wrote"
        ) from error
    except PermissionError as error:
        raise ModelFolderError(
            f"{path}: cannot be read ({error.strerror}); let the user who runs this read the folder"
        ) from error
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModelFolderError(
            f"{path}: broken ({type(error).__name__}: {error}); train or copy the folder again"
        ) from error
    if schema != SCHEMA:
        raise ModelFolderError(f"{path}: schema {schema!r}, this version reads {SCHEMA}; upgrade docsgpt-embtune")
    if "dimension" not in manifest:
        raise ModelFolderError(f"{path}: broken (no dimension in it); train or copy the folder again")
    if wrong := next(_of_another_type(manifest, Manifest), None):
        raise ModelFolderError(f"{path}: broken ({wrong}); train or copy the folder again")
    read: Manifest = manifest
    return read


def _of_another_type(value: Any, expected: Any, key: str = "") -> Iterator[str]:
    """Yield what is not as the annotations say, by its key; a field that is missing, or not known, is left alone."""
    kind = dict if is_typeddict(expected) else get_origin(expected) or expected
    if kind is Any:
        return
    kinds: Any = (int, float) if kind is float else kind
    if not isinstance(value, kinds):
        yield f"{key} must be {_IN_WORDS[kind]}, and is {json.dumps(value):.40}"
        return
    if kind is dict:
        below = get_type_hints(expected) if is_typeddict(expected) else dict.fromkeys(value, get_args(expected)[1])
        for name in filter(below.__contains__, value):
            yield from _of_another_type(value[name], below[name], f"{key}.{name}" if key else name)
    elif kind is list:
        for place, item in enumerate(value):
            yield from _of_another_type(item, get_args(expected)[0], f"{key}[{place}]")


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `embtune.json`."""
    write_text_atomically(folder / MANIFEST, json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")
