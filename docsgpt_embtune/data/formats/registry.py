"""All dataset formats, and how a file's format is found."""

from dataclasses import replace
from pathlib import Path

from docsgpt_embtune.data.formats.autorag import AUTORAG, CORPUS, QUESTIONS
from docsgpt_embtune.data.formats.beir import BEIR
from docsgpt_embtune.data.formats.content import DatasetContent
from docsgpt_embtune.data.formats.flag_embedding import FLAG_EMBEDDING
from docsgpt_embtune.data.formats.format import Format
from docsgpt_embtune.data.formats.hugging_face import HUGGING_FACE, HuggingFaceSource
from docsgpt_embtune.data.formats.native import ARTICLE, EXPLICIT, LLAMAINDEX
from docsgpt_embtune.data.formats.options import ReadOptions
from docsgpt_embtune.data.formats.ragas import RAGAS
from docsgpt_embtune.data.formats.source import Source
from docsgpt_embtune.data.formats.table import TABLES, has_scores
from docsgpt_embtune.data.formats.tevatron import TEVATRON
from docsgpt_embtune.errors import DatasetError

# Formats of one tool, recognised by keys that only it uses; tables come after them, as they accept any records.
OF_TOOLS = (EXPLICIT, ARTICLE, LLAMAINDEX, BEIR, FLAG_EMBEDDING, TEVATRON, RAGAS, AUTORAG, HUGGING_FACE)
FORMATS: dict[str, Format] = {each.name: each for each in (*OF_TOOLS, *TABLES)}


def find_format(source: Source, name: str | None = None) -> Format:
    """Find a source's format by its content.

    Args:
        source: The file or folder.
        name: Its format, if that is known.

    Raises:
        DatasetError: If it has none of the formats, or could have several; the message says which option helps.
    """
    if name is not None:
        return FORMATS[name]
    possible = [each for each in OF_TOOLS if each.recognises(source)]
    if len(possible) > 1:
        names = [each.name for each in possible]
        raise DatasetError(f"{source.path}: could be {' or '.join(names)}; say which with --from {names[0]}")
    if possible:
        return possible[0]
    for each in TABLES:
        if each.recognises(source):
            return each
    raise DatasetError(_unknown(source))


def read_content(path: Path, options: ReadOptions | None = None, *, name: str | None = None) -> DatasetContent:
    """Read a dataset in any of the formats, unchecked.

    Args:
        path: A file, a folder, or `hub:NAME`.
        options: How to read a file that could mean several things.
        name: The format, if the content does not tell it.

    Raises:
        DatasetError: If it cannot be read, or is ambiguous.
    """
    source, options = Source(path), options or ReadOptions()
    found = find_format(source, name)
    found.refuse_useless(options, path)
    return found.read(source, options)


def read_held_out(path: Path, options: ReadOptions) -> DatasetContent:
    """Read a held-out dataset with the options of the main one, leaving out those that do not fit.

    Args:
        path: A file, a folder, or `hub:NAME`.
        options: Options of the main dataset. Of these, the corpus is used only if this dataset holds no chunks itself,
            a column only if it is there, and the least good score only if there are scores.

    Raises:
        DatasetError: If it cannot be read, or is ambiguous.
    """
    source = Source(path)
    found = find_format(source)
    table = HuggingFaceSource(path) if found is HUGGING_FACE else source
    columns = {role: name for role, name in options.columns.items() if found.takes_columns and name in table.fields}
    fitting = replace(options, columns=columns, corpus=None if found.has_chunks(source) else options.corpus)
    if not (found.takes_columns and has_scores(table, fitting)):
        fitting = replace(fitting, good_score=None)
    return found.read(source, fitting)


def _unknown(source: Source) -> str:
    if source.container == "folder":
        return (
            f"{source.path}: a folder that cannot be read as a dataset: it holds neither corpus.jsonl and "
            f"queries.jsonl (BEIR), nor {QUESTIONS} and {CORPUS} (AutoRAG), nor what datasets.save_to_disk writes"
        )
    return (
        f"{source.path}: has no key 'queries' (it has {sorted(source.fields)[:5]}); if it is JSONL of a single line, "
        "let its name end in .jsonl"
    )
