"""The report's plots, as SVG with colours from the page's style sheet, for light mode, dark mode and print."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import matplotlib.ticker
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from docsgpt_embtune.evaluation.comparison import UNTUNED, Comparison
from docsgpt_embtune.evaluation.metrics import share_answered
from docsgpt_embtune.evaluation.summary import TITLES, shown_metrics
from docsgpt_embtune.evaluation.verdict import HEADLINE

# matplotlib needs fixed colours, but the page has themes: each placeholder is replaced by a CSS variable.
_STAND_INS = {"ink": "#010203", "muted": "#010204", "line": "#010205", "baseline": "#010206", "bm25": "#010207"}
_STAND_INS |= {"tuned": "#010208", "loss": "#010209", "hybrid": "#01020a"}
_BOUNDS = (1, 2, 3, 6, 11, 21, 101)  # first rank of each class
_CLASSES = ("1", "2", "3–5", "6–10", "11–20", "21–100", "beyond")
_STYLE: Any = {  # matplotlib's type for it lists every key that it knows
    "svg.fonttype": "none",  # text stays text: searchable, and in the page's font
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": _STAND_INS["ink"],
    "axes.labelcolor": _STAND_INS["muted"],
    "axes.edgecolor": _STAND_INS["line"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _STAND_INS["line"],
    "grid.linewidth": 0.6,
    "xtick.color": _STAND_INS["muted"],
    "ytick.color": _STAND_INS["muted"],
}


def recall_plot(comparison: Comparison) -> str:
    """Draw the share of questions answered by the first K chunks, with an arrow from the baseline's K to the tuned."""
    with mpl.rc_context(_STYLE):
        figure, axes = _figure(7.2, 3.8)
        for name, title in TITLES.items():
            if name in comparison.rankings:
                share = share_answered(comparison.rankings[name], comparison.dataset.relevant_docs)
                ks = np.arange(1, len(share))
                style = "--" if name in UNTUNED else "-"
                # With a corpus of one chunk, the line has no length, so a dot is drawn.
                dot = "o" if len(ks) == 1 else None
                axes.plot(ks, share[1:], style, marker=dot, color=_STAND_INS[name], linewidth=2, label=title)
        _draw_arrow(axes, comparison)
        axes.set_xscale("log")
        ticks = [k for k in (1, 2, 3, 5, 10, 20, 50, 100) if k <= comparison.rankings["tuned"].depth]
        axes.set_xticks(ticks, [str(k) for k in ticks])
        axes.minorticks_off()
        axes.set_ylim(0, 1.02)
        axes.yaxis.set_major_formatter(mpl.ticker.PercentFormatter(1.0))
        axes.set_xlabel("K: chunks fed to the language model")
        axes.set_ylabel("questions with an answer among them")
        axes.legend(frameon=False, loc="lower right", bbox_to_anchor=(1.0, 0.08))  # above the "K = …" labels
        return _svg(figure, "recall")


def difference_plot(comparison: Comparison) -> str:
    """Draw tuned minus baseline and its interval for each metric."""
    with mpl.rc_context(_STYLE):
        metrics = shown_metrics(comparison)
        figure, axes = _figure(7.2, 0.34 * len(metrics) + 0.9)
        for row, metric in enumerate(metrics):
            found = comparison.judgment.differences[metric]
            colour = _STAND_INS["loss" if found.mean < 0 else "tuned"]
            axes.plot([found.low, found.high], [row, row], color=colour, linewidth=3 if metric in HEADLINE else 1.5)
            axes.plot(found.mean, row, "o", color=colour, markersize=7 if metric in HEADLINE else 5)
        axes.axvline(0, color=_STAND_INS["ink"], linewidth=1)
        axes.set_yticks(range(len(metrics)), [f"{m} *" if m in HEADLINE else m for m in metrics])
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("tuned minus baseline, with the 95 % interval   (* decides the verdict)")
        return _svg(figure, "difference")


def rank_plot(ranks: Mapping[str, Sequence[int | None]], what: str) -> str:
    """Draw a histogram of a chunk's rank, for the baseline beside the tuned model.

    Args:
        ranks: "baseline" and "tuned" -> a rank per question, None beyond the depth.
        what: Which chunk is ranked, e.g. "first good chunk".
    """
    with mpl.rc_context(_STYLE):
        figure, axes = _figure(7.2, 2.6)
        places = np.arange(len(_CLASSES))
        for offset, name in ((-0.2, "baseline"), (0.2, "tuned")):
            classes = [int(np.searchsorted(_BOUNDS, rank, side="right")) - 1 if rank else 6 for rank in ranks[name]]
            counts = np.bincount(classes, minlength=len(_CLASSES))
            bars = axes.bar(places + offset, counts, width=0.38, color=_STAND_INS[name], label=TITLES[name])
            axes.bar_label(bars, padding=1, fontsize=8, color=_STAND_INS["muted"])
        axes.margins(y=0.12)
        axes.yaxis.set_major_locator(mpl.ticker.MaxNLocator(integer=True))
        axes.set_xticks(places, _CLASSES)
        axes.grid(visible=False, axis="x")
        axes.set_xlabel(f"rank of a question's {what}")
        axes.set_ylabel("questions")
        axes.legend(frameon=False)
        return _svg(figure, what.replace(" ", "-"))


def _draw_arrow(axes: Axes, comparison: Comparison) -> None:
    share = comparison.headline_share
    needed = comparison.k_for_recall[share]
    axes.axhline(share, color=_STAND_INS["muted"], linewidth=0.8, linestyle=":")
    start, end = needed["baseline"], needed["tuned"]
    for k, name in ((start, "baseline"), (end, "tuned")):
        if k is not None:
            axes.plot([k, k], [0, share], color=_STAND_INS[name], linewidth=1, linestyle=":")
    for k, name in {start: "baseline", end: "tuned"}.items():  # a single label if both are equal
        if k is not None:
            # On the side away from the other label, and never over the axis.
            side = -1 if 1 < k < max(start or k, end or k) else 1
            place: Any = {"xytext": (4 * side, 0), "textcoords": "offset points", "ha": "right" if side < 0 else "left"}
            axes.annotate(f"K = {k}", (k, 0.02), color=_STAND_INS[name], **place)
    if start is not None and end is not None and start != end:
        axes.annotate(
            "",
            xy=(end, share),
            xytext=(start, share),
            arrowprops={"arrowstyle": "-|>", "color": _STAND_INS["ink"], "linewidth": 1.5, "shrinkA": 0, "shrinkB": 0},
        )


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _svg(figure: Figure, name: str) -> str:
    # The salt makes ids unique among the plots of one page, and reproducible.
    with mpl.rc_context({"svg.hashsalt": name}):
        content = io.StringIO()
        figure.savefig(content, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = content.getvalue()
    for variable, stand_in in _STAND_INS.items():
        svg = svg.replace(stand_in, f"var(--{variable})")
    return svg[svg.index("<svg") :]
