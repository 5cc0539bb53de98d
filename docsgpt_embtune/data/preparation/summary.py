"""The report of a preparation as text, to be read in a minute."""

from collections.abc import Mapping
from pathlib import Path

from docsgpt_embtune.data.preparation.fault_check import Remedy
from docsgpt_embtune.data.preparation.prepare import Fault, PreparationReport
from docsgpt_embtune.wording import counted

_WIDTH = 110
_REMEDIES: Mapping[Remedy, tuple[str, str]] = {
    "drop question": ("drops the question", "question dropped"),
    "drop chunk": ("drops the chunk", "chunk dropped"),
    "drop judgment": ("drops the judgment", "judgment dropped"),
    "drop bad mark": ("drops the bad mark, keeps the good one", "bad mark dropped"),
    "mark as good": ("marks them as good", "marked as good"),
    "join": ("joins the copies under the first id", "joined under the first id"),
    "none": ("leaves them: for you to decide", ""),
}


def summary(source: Path, report: PreparationReport) -> str:
    """Return a report as text: sizes, faults (the serious ones first), notes, and what was written."""
    sizes = report.sizes
    lines = [
        f"{source}: {counted(sizes['questions'], 'question')}, {counted(sizes['chunks'], 'chunk')}, "
        f"{sizes['good']:,} good and {sizes['bad']:,} bad judgments"
    ]
    for fault in sorted(report.faults, key=lambda each: (each.fixed, not each.serious)):
        lines += ["", *_fault_lines(fault)]
    lines += ["", "nothing wrong found"] if not report.faults else []
    lines += ["", *(f"note: {note}" for note in report.notes)] if report.notes else []
    if report.split:
        parted = ", ".join(f"{split} {size:,}" for split, size in report.split.sizes.items())
        lines += [
            "",
            f"split: {parted} questions; the largest group that stays together has {report.split.largest_group:,}",
        ]
        if report.split.left_out:
            lines.append(
                f"left out, as newer questions share their answer: {counted(report.split.left_out, 'question')}"
            )
        lines.append(f"written: {', '.join(map(str, report.files))}")
    if not report.usable:
        lines += ["", "something serious is left; nothing was written. With --fix and --out FOLDER it is mended"]
    return "\n".join(lines)


def _fault_lines(fault: Fault) -> list[str]:
    would, did = _REMEDIES[fault.remedy]
    label = "fixed  " if fault.fixed else "SERIOUS" if fault.serious else "warning"
    done = did if fault.fixed else f"--fix {would}"
    examples = [f"           {example[:_WIDTH]}{'…' if len(example) > _WIDTH else ''}" for example in fault.examples]
    return [f"{label}  {fault.what}: {fault.count:,} ({fault.name}); {done}", *examples]
