"""Files that hold only texts: a corpus, or BEIR's queries."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from docsgpt_embtune.data.formats.content import digits_as_text, text_fault
from docsgpt_embtune.data.formats.source import Source, json_type
from docsgpt_embtune.data.offences import Offences, refuse
from docsgpt_embtune.errors import DatasetError

ID_FIELDS = ("_id", "doc_id", "docid", "id")
TEXT_FIELDS = ("text", "contents", "document_text", "chunk")


def read_corpus(path: Path) -> dict[str, str]:
    """Read chunks: JSON {doc_id: text}, or rows of an id, a text and perhaps a title.

    Raises:
        DatasetError: If the file cannot be read, or a chunk is not text.
    """
    source = Source(path)
    if source.has_records:
        return read_text_records(source)
    content: Mapping[str, Any] = source.object
    if isinstance(content.get("corpus"), dict):
        content = content["corpus"]
    elif "queries" in content:
        raise DatasetError(f"{path}: holds questions and no chunks; give the file that has the chunks")
    return text_object(path, "corpus", content)


def text_object(path: Path, key: str, value: Any) -> dict[str, str]:
    """Read a JSON object of id -> text.

    Raises:
        DatasetError: If the value is no such object, is empty, or holds something other than text.
    """
    found = json_object(path, key, value)
    if not found:
        raise DatasetError(f"{path}: {key!r} is empty")
    faults = {name: fault for name, text in found.items() if (fault := text_fault(text))}
    for fault in faults.values():
        refuse(path, f"{key}: {fault}", (name for name in faults if faults[name] == fault), len(found))
    return found


def json_object(path: Path, key: str, value: Any) -> dict[str, Any]:
    """Read a JSON object whose keys are ids.

    Raises:
        DatasetError: If the value is no object, or an id is not valid text.
    """
    if not isinstance(value, dict):
        raise DatasetError(f"{path}: {key!r} must be an object, is a JSON {json_type(value)}")
    refuse(path, f"{key}: id holds half a character (a lone surrogate)", filter(text_fault, value), len(value))
    return value


def read_text_records(source: Source) -> dict[str, str]:
    """Read rows of an id, a text and perhaps a title, as BEIR, tevatron and AutoRAG have them.

    Raises:
        DatasetError: If a column is missing, an id stands twice, a text is invalid, or there is no row.
    """
    id_field, text_field = _field(source, ID_FIELDS), _field(source, TEXT_FIELDS)
    title_field = _find_field(source, ("title",)) or "title"  # in JSONL it may first appear in a later row
    offences = Offences(source.path)
    texts: dict[str, str] = {}
    number = 0
    for number, record in source.numbered_records():
        row_id, text = digits_as_text(record.get(id_field)), titled(record.get(title_field), record.get(text_field))
        faults = {id_field: text_fault(row_id), text_field: text_fault(text)}
        if at_fault := [name for name, fault in faults.items() if fault]:
            offences.add(f"{at_fault[0]}: {faults[at_fault[0]]}", source.place(number))
        elif str(row_id) in texts:
            offences.add("the same id stands twice", f"'{row_id}'")
        else:
            texts[str(row_id)] = str(text)
    offences.refuse(number)
    if not texts:
        raise DatasetError(f"{source.path}: is empty")
    return texts


def titled(title: Any, text: Any) -> Any:
    """Prepend a title to its text, as BEIR's and tevatron's own models read the two."""
    return f"{title} {text}" if isinstance(title, str) and title.strip() and isinstance(text, str) else text


def _field(source: Source, names: Sequence[str]) -> str:
    found = _find_field(source, names)
    if found is None:
        raise DatasetError(f"{source.path}: has no column {' or '.join(names)} (it has {sorted(source.fields)[:8]})")
    return found


def _find_field(source: Source, names: Sequence[str]) -> str | None:
    """Return the first of `names` that is a column, as spelled in the source: spreadsheets have ID and Text."""
    as_written = {name.strip().lower(): name for name in sorted(source.fields)}  # of ID and id, the latter
    return next((as_written[name] for name in names if name in as_written), None)
