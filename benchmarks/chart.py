"""A chart of the ratios of one run."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from .harness import Row
from .peers import OURS


def draw(rows: list[Row], path: Path) -> None:
    """Draw each ratio as a bar on a logarithmic axis, with its goal; SVG or PNG by the ending.

    Raises:
        SystemExit: matplotlib is not installed.
    """
    try:
        plt: Any = importlib.import_module("matplotlib.pyplot")
    except ImportError:
        raise SystemExit("a chart needs matplotlib: pip install durable-storage[bench]") from None
    plt.switch_backend("svg" if path.suffix == ".svg" else "agg")
    bars = [row for row in rows if row.ratio is not None and row.ratio > 0]
    if not bars:
        raise SystemExit("no suite that was run compares anything: there is nothing to draw")
    figure, axes = plt.subplots(figsize=(11, 1.2 + 0.22 * len(bars)), layout="constrained")
    case = None
    labels = []
    for place, row in enumerate(bars):
        ours = row.contender.startswith(OURS)
        color = ("tab:red" if row.met is False else "tab:blue") if ours else "lightgrey"
        axes.barh(place, row.ratio, color=color, height=0.8)
        axes.text(row.ratio, place, f" {row.ratio:.2g}", va="center", fontsize=7)
        if row.goal is not None and not row.absolute:
            axes.plot([row.goal, row.goal], [place - 0.45, place + 0.45], color="black", lw=2)
        title = f"{row.suite}: {row.case}"
        labels.append(f"{title}   {row.contender}" if title != case else row.contender)
        case = title
    axes.axvline(1, color="black", lw=0.7, ls=":")
    axes.set_xscale("log")
    axes.set_yticks(range(len(bars)), labels, fontsize=7)
    axes.set_ylim(len(bars) - 0.4, -0.6)
    axes.set_xlabel("cost relative to the base of the case (less is better); black mark: goal")
    figure.savefig(path)
    plt.close(figure)
