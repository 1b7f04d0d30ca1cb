# SPDX-License-Identifier: Apache-2.0
"""Draws the ratios of the last `run peers` as ratios.svg: one bar for each pair, on a logarithmic axis around 1."""

import html
import math

import results

WIDTH, LEFT, RIGHT, ROW, TOP, HEADING = 880, 360, 90, 26, 46, 30
GOOD, BAD, INK, RULE, TARGET = "#2f7d5b", "#b5523b", "#222222", "#c8c8c8", "#222222"


class Axis:
    """Ratio -> x, logarithmic, wide enough for all ratios and targets."""

    def __init__(self, values):
        self.low = min(0.25, *values) / 1.2
        self.high = max(4, *values) * 1.2

    def x(self, ratio):
        span = math.log(self.high / self.low)
        return LEFT + (WIDTH - LEFT - RIGHT) * math.log(ratio / self.low) / span

    def ticks(self):
        candidates = [m * 10.0**e for e in range(-3, 4) for m in (1, 2, 5)]
        return [tick for tick in candidates if self.low <= tick <= self.high]


def text(x, y, words, anchor="start", weight="normal", size=13):
    return (f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}" font-size="{size}">'
            f"{html.escape(words)}</text>")


def line(x, top, bottom, colour, width=1, dash=""):
    style = f' stroke-dasharray="{dash}"' if dash else ""
    return f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top:.1f}" y2="{bottom:.1f}" stroke="{colour}" stroke-width="{width}"{style}/>'


def bar(axis, row, y):
    """The bar from 1 to the median, the spread as a thin line, the target as a dashed mark."""
    better = row["ratio"] >= 1 if row["higher_is_better"] else row["ratio"] <= 1
    one, median = axis.x(1), axis.x(row["ratio"])
    low, high = axis.x(row["ratio_low"]), axis.x(row["ratio_high"])
    parts = [
        text(LEFT - 10, y + 13, row["peer_name"], anchor="end"),
        f'<rect x="{min(one, median):.1f}" y="{y + 3:.1f}" width="{max(1, abs(median - one)):.1f}" height="14" '
        f'fill="{GOOD if better else BAD}"/>',
        f'<rect x="{low:.1f}" y="{y + 9:.1f}" width="{max(1, high - low):.1f}" height="2" fill="{INK}"/>',
        text(WIDTH - RIGHT + 12, y + 14, f"{row['ratio']:.2f}", weight="bold"),
    ]
    if row["target"] is not None:
        parts.append(line(axis.x(row["target"]), y - 1, y + 21, TARGET, 2, "3 2"))
    return parts


def draw(figures):
    rows = figures["rows"]
    axis = Axis([row[key] for row in rows for key in ("ratio_low", "ratio_high")])
    quantities = list(dict.fromkeys(row["quantity"] for row in rows))
    height = TOP + len(quantities) * HEADING + len(rows) * ROW + 40
    bottom = height - 30
    parts = [text(16, 24, "Software device / peer, median of the rounds of one run", weight="bold", size=15)]
    for tick in axis.ticks():
        parts += [line(axis.x(tick), TOP, bottom, INK if tick == 1 else RULE),
                  text(axis.x(tick), bottom + 16, f"{tick:g}", anchor="middle", size=12)]
    y = TOP
    for quantity in quantities:
        group = [row for row in rows if row["quantity"] == quantity]
        direction = "right of 1 is faster" if group[0]["higher_is_better"] else "left of 1 is faster"
        parts.append(text(16, y + 19, f"{quantity} ({direction})", weight="bold"))
        y += HEADING
        for row in group:
            parts += bar(axis, row, y)
            y += ROW
    parts.append(text(WIDTH - 16, 24, f"{figures['date']}; dashed: target", anchor="end", size=12))
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" '
        f'font-family="sans-serif" fill="{INK}">',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>', *parts, "</svg>", "",
    ])


def main():
    figures = results.load("peers")
    if not figures or not figures["rows"]:
        raise SystemExit("nothing to draw: run `Benchmarks/run peers` first")
    path = results.BENCHMARKS / "ratios.svg"
    path.write_text(draw(figures))
    print(path)


if __name__ == "__main__":
    main()
