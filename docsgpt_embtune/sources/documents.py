"""Documents as text: Markdown, plain text, reStructuredText and HTML.

PDF, Office and other kinds are left to DocsGPT: upload them, and take the chunks from its store.
"""

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from docsgpt_embtune.data.text_file import UTF8, reading
from docsgpt_embtune.errors import DatasetError

_AS_IT_STANDS = (".md", ".mdx", ".txt", ".rst")
_HTML = (".html", ".htm")


def find_documents(folder: Path) -> list[Path]:
    """List the documents below a folder, sorted by path and without hidden ones; for a file, list that file.

    Links are followed. A folder that several of them lead to is read once.

    Raises:
        DatasetError: If there is no document of a kind that can be read here.
    """
    if folder.is_file():
        return [folder]
    found = [path for path in sorted(_files(folder)) if path.suffix.lower() in _AS_IT_STANDS + _HTML]
    if not found:
        raise DatasetError(
            f"{folder}: no document in it that can be read here ({', '.join(_AS_IT_STANDS + _HTML)}); for other kinds "
            "upload them to DocsGPT, and read its store: --indexes, --pgvector or --qdrant"
        )
    return found


def unread_suffixes(folder: Path) -> Mapping[str, int]:
    """Count the files that `find_documents` leaves out, except hidden ones: suffix -> files, most frequent first."""
    suffixes = (path.suffix.lower() for path in _files(folder))
    return dict(Counter(suffix for suffix in suffixes if suffix not in _AS_IT_STANDS + _HTML).most_common())


def _files(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder, except hidden ones, and below the folders that links lead to."""
    walked = set(folder.resolve().parents)  # a link to one of these would lead out of the folder, and around
    to_walk = [folder]  # real folders before links to them, so that a document keeps its shortest name
    while to_walk:
        for place, folders, names in os.walk(to_walk.pop(0)):
            here = Path(place)
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            if here.resolve() in walked:
                folders.clear()
                continue
            walked.add(here.resolve())
            to_walk += [here / name for name in folders if (here / name).is_symlink()]
            yield from (here / name for name in names if not name.startswith(".") and (here / name).is_file())


def read_document(path: Path) -> str:
    """Read a document's text; of HTML, the visible text.

    Raises:
        DatasetError: If it cannot be read, is not UTF-8, or is of another kind.
    """
    suffix = path.suffix.lower()
    if suffix not in _AS_IT_STANDS + _HTML:
        raise DatasetError(f"{path}: a {suffix or 'file without a suffix'} is not read here; upload it to DocsGPT")
    with reading(path):
        text = path.read_text(encoding=UTF8)
    return _visible_text(text) if suffix in _HTML else text


def _visible_text(markup: str) -> str:
    try:
        from bs4 import BeautifulSoup
    except ImportError as error:
        raise DatasetError("HTML needs beautifulsoup4; run: pip install 'docsgpt-embtune[gather]'") from error
    return str(BeautifulSoup(markup, "html.parser").get_text("\n"))  # as DocsGPT reads it, one line for each element
