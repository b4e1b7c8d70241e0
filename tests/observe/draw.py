"""Draws docs/grafana/fabstird.png: the board's panels, each query answered by a real Prometheus that has scraped a real
daemon for some minutes. Matplotlib draws in Grafana's place; it is no dependency of anything else:

    .venv/bin/pip install matplotlib; .venv/bin/python -m tests.observe.draw --minutes 6
"""

from __future__ import annotations

import argparse
import json
import math
import random
import re
import tempfile
import time
from pathlib import Path
from typing import Any

import trio

from tests.observe.scene import BOARD, Prometheus, Step, busy, prometheus

STEP = 5  # seconds between two points
RATE = "30s"
COLOURS = ("#73bf69", "#f2cc0c", "#5794f2", "#ff9830", "#b877d9", "#f2495c", "#8ab8ff", "#96d98d", "#fade2a", "#ffa6b0")
PAPER, PANEL, INK, FAINT = "#111217", "#181b1f", "#ccccdc", "#2c3235"


async def scrape(minutes: float) -> list[tuple[dict[str, Any], list[tuple[str, list[tuple[float, float]]]]]]:
    """Each panel, and its series as (name, points)."""
    with tempfile.TemporaryDirectory(prefix="fabstir-board-") as directory:
        async with busy() as (alice, steps), prometheus(alice, Path(directory), "2s") as server:
            began = time.time()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(load, steps)
                await trio.sleep(minutes * 60)
                nursery.cancel_scope.cancel()
            return [(panel, await series(server, panel, began, time.time())) for panel in panels()]


async def load(steps: list[Step]) -> None:
    """Busy and less busy times."""
    drawn = random.Random(7)
    while True:
        for _ in range(drawn.randint(1, 6)):
            await drawn.choices(steps, [4, 6, 2, 3, 1, 2])[0]()
        await trio.sleep(0.4 + 0.35 * math.sin(time.time() / 30))


def panels() -> list[dict[str, Any]]:
    return list(json.loads(BOARD.read_text())["panels"])


async def series(
    server: Prometheus, panel: dict[str, Any], began: float, ended: float
) -> list[tuple[str, list[tuple[float, float]]]]:
    found = []
    for target in panel.get("targets", ()):
        text = target["expr"].replace("$__rate_interval", RATE).replace("$instance", ".*")
        data = await server.get("query_range", query=text, start=str(began + 10), end=str(ended), step=str(STEP))
        for one in data["result"]:
            name = re.sub(r"{{(\w+)}}", lambda label, one=one: one["metric"].get(label[1], "-"), target["legendFormat"])
            found.append((name, [(float(at) - began, float(value)) for at, value in one["values"]]))
    return sorted(found, key=lambda pair: -max((v for _, v in pair[1] if v == v), default=0))


def shown(value: float, unit: str) -> str:
    if value == 0 or unit == "percentunit":
        return f"{value:.0%}" if unit == "percentunit" else "0"
    if unit == "s":
        return f"{value:g} s" if value >= 1 else f"{value * 1000:g} ms" if value >= 1e-3 else f"{value * 1e6:g} µs"
    if unit in ("bytes", "Bps"):
        for size, name in ((2**20, "MiB"), (2**10, "KiB"), (1, "B")):
            if value >= size:
                return f"{value / size:.3g} {name}" + ("/s" if unit == "Bps" else "")
    return f"{value:g}" + ("/s" if unit == "ops" else "")


def draw(found: list[tuple[dict[str, Any], list[tuple[str, list[tuple[float, float]]]]]], out: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    mpl.rcParams.update({"font.size": 8, "text.color": INK, "axes.labelcolor": INK, "font.family": "DejaVu Sans"})
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel, _ in found)
    figure = plt.figure(figsize=(15, rows * 0.28), facecolor=PAPER)
    for panel, lines in found:
        place = panel["gridPos"]
        left, width = place["x"] / 24, place["w"] / 24
        top, height = 1 - place["y"] / rows, place["h"] / rows
        if panel["type"] == "row":
            figure.text(left + 0.008, top - height / 2, f"▾ {panel['title']}", va="center", fontsize=11, weight="bold")
            continue
        box = (left + 0.004, top - height + 0.002, width - 0.008, height - 0.004)
        figure.add_artist(
            mpl.patches.Rectangle(box[:2], box[2], box[3], facecolor=PANEL, edgecolor=FAINT, lw=0.8, zorder=-1)
        )
        figure.text(box[0] + 0.006, top - 0.0085, panel["title"], va="center", fontsize=9, weight="bold")
        axes = figure.add_axes((box[0] + 0.038, box[1] + 0.028, box[2] - 0.046, box[3] - 0.046), facecolor=PANEL)
        defaults = panel["fieldConfig"]["defaults"]
        unit = defaults["unit"]
        lines = [(name, points) for name, points in lines if any(v == v for _, v in points)]
        if defaults["custom"]["stacking"]["mode"] == "normal":
            times = sorted({at for _, points in lines for at, _ in points})
            heights = [[dict(points).get(at, 0.0) for at in times] for _, points in lines]
            heights = [[0.0 if v != v else v for v in one] for one in heights]
            axes.stackplot(times, heights, colors=COLOURS, alpha=0.55, labels=[name for name, _ in lines], lw=0)
        else:
            for number, (name, points) in enumerate(lines):
                at, values = zip(*points, strict=True)
                axes.plot(at, values, color=COLOURS[number % len(COLOURS)], lw=1.2, label=name)
        axes.set_ylim(bottom=0, top=defaults.get("max"))
        axes.yaxis.set_major_locator(mpl.ticker.MaxNLocator(4))
        axes.yaxis.set_major_formatter(lambda value, _, unit=unit: shown(float(f"{value:.3g}"), unit))
        axes.xaxis.set_major_formatter(lambda seconds, _: f"{int(seconds) // 60}:{int(seconds) % 60:02}")
        axes.xaxis.set_major_locator(mpl.ticker.MultipleLocator(60))
        axes.grid(color=FAINT, lw=0.6)
        axes.tick_params(colors=INK, length=0, labelsize=7)
        for side in axes.spines.values():
            side.set_visible(False)
        shown_lines = lines[:6]
        handles = axes.get_legend_handles_labels()[0][: len(shown_lines)]
        names = [name for name, _ in shown_lines] + ([f"and {len(lines) - 6} more"] if len(lines) > 6 else [])
        if len(lines) > 6:
            handles.append(mpl.lines.Line2D([], [], alpha=0))
        axes.legend(handles, names, loc="upper left", bbox_to_anchor=(-0.08, -0.1), ncol=4, frameon=False, fontsize=6.5,
                    handlelength=1, columnspacing=1, labelspacing=0.2)  # fmt: skip
    figure.savefig(out, dpi=110, facecolor=PAPER)


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw the Grafana board from a real scrape.")
    parser.add_argument("--minutes", type=float, default=6)
    parser.add_argument("--out", type=Path, default=BOARD.with_suffix(".png"))
    options = parser.parse_args()
    draw(trio.run(scrape, options.minutes), options.out)
    print(options.out)


if __name__ == "__main__":
    main()
