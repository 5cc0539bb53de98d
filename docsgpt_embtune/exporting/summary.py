"""The summary of an export, in a few lines."""

from collections.abc import Iterator

from docsgpt_embtune.evaluation.decision import decision_lines
from docsgpt_embtune.exporting.export import ExportReport
from docsgpt_embtune.serving.graphs import graph_files


def summary(report: ExportReport) -> str:
    """Return what was written, what serves, and the measurements behind the decision."""
    return "\n".join(_lines(report))


def _lines(report: ExportReport) -> Iterator[str]:
    for graph in report.graphs:
        size = sum(file.stat().st_size for file in graph_files(graph.path))
        yield f"written     {graph.path} ({size / 1e6:.0f} MB)"
    for decision in report.decisions:
        yield from decision_lines(decision)
    if not report.decisions:
        yield f"measured    nothing: {_why_nothing(report)}"
    yield f"serves      {report.engine}; of a long chunk it reads {report.reading}"
    if report.reading != report.reading_before:
        before = f"not {report.reading_before}, as before"
        yield f"            {before}: stored chunks have to be embedded again (embtune reembed)"


def _why_nothing(report: ExportReport) -> str:
    if len(report.graphs) == 1:
        return "a static model reads every text whole, and int8 would make it no quicker"
    about = "int8" if report.reading != report.reading_before else "int8 and windows"
    return f"give validation questions with --data to decide about {about}"
