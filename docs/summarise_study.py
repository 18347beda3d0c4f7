"""Writes docs/studies/NAME.md and its plots from the record of a study of scaling or of preprocessing.

.venv/bin/python docs/summarise_study.py OUT/study/scaling.json
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from markupsafe import Markup

from fruits.assessment.study.frontier import frontier
from fruits.assessment.study.scaling.trials import STAGES
from fruits.report.localisation import LocalisedText
from fruits.report.study.costs import Measured, lay_out
from fruits.report.study.scaling import Line, Mark, Plot, plot_checked, plot_plans, plot_rates

TARGET = Path(__file__).with_name("studies")
_COLOURS = {"up": "#2d7040", "out": "#a97a10", "on": "#2d7040", "off": "#7a887d", "asked": "#a97a10", "even": "#7a887d"}
_LEFT, _TOP, _WIDTH, _HEIGHT = 62, 26, 560, 260


def summary(study: dict[str, Any]) -> tuple[str, dict[str, str]]:
    """Return the page of a study as Markdown, and its plots as SVG by the name of their file."""
    return _scaling(study) if study["study"] == "scaling" else _preprocessing(study)


def _scaling(study: dict[str, Any]) -> tuple[str, dict[str, str]]:
    checked = study["simulation"]
    lines = [
        "# Study: scaling",
        "",
        *_about(study),
        (f"{study['photos']:,} photos of {study['labels']} labels ({study['photo_bytes'] / 1e3:,.0f} kB each), "
        f"{study['backbone']}; {study['repeats']} runs of each, medians with the range. Seconds of reading to writing overlap; "
        "shares are those of the workers' time, and the limiting stage is bold."),
        "",
        _cells("run", "photos", "photos/s", "total, s", "start, s", "read, s", "decode, s", "network, s", "write, s", "merge, s",
               "simulated, s", "error"),
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for row in study["runs"]:
        seconds, simulated = row["seconds"], row["simulated"]
        work = [f"{row['work'][name]:.1f} ({_share(row['occupied'][name])})" for name in STAGES]
        at = STAGES.index(row["limits"])
        work[at] = f"**{work[at]}**"
        lines.append(
            _cells(
                f"{row['workers']} {'local' if row['kind'] == 'up' else 'Spark'}", f"{row['photos']:,}",
                f"{row['photos_per_s']:.0f} ({row['photos_per_s_low']:.0f} to {row['photos_per_s_high']:.0f})",
                f"{seconds['total']:.1f} ({row['total_low']:.1f} to {row['total_high']:.1f})",
                f"{seconds['session'] + seconds['start']:.1f}", *work, f"{seconds['merge']:.2f}", f"{simulated['total']:.1f}",
                f"{_signed(simulated['error'])}{' (fed)' if simulated['fed'] else ''}",
            )
        )  # fmt: skip
    lines += ["", "![Photos per second against workers](scaling-rates.svg)", ""]
    for curve in study["curves"]:
        fitted = ", ".join(f"{name} {_between(curve[name])}" for name in curve["fitted"])
        assumed = (
            f"; {' and '.join(curve['assumed'])} assumed 0, as {curve['points']} numbers of workers cannot tell more"
        )
        kind = "Worker processes" if curve["kind"] == "up" else "Spark workers of one core"
        said = f"{fitted}{assumed if curve['assumed'] else ''}"
        lines.append(f"- {kind}: {curve['speedup']:.2f} times as fast with {curve['workers']}; {said}.")
    if checked["largest_error"] is not None:
        lines += [
            "",
            (
                f"The simulation against {checked['not_fed']} kinds of runs whose measurements it was not given: error "
                f"{_share(checked['median_error'])} at the median, {_share(checked['largest_error'])} at most; "
                f"{checked['within_goal']} of them within {_share(checked['goal'])}."
            ),
        ]
    lines += ["", "![Simulated against measured seconds](scaling-check.svg)"]
    plots = {
        "scaling-rates.svg": svg(plot_rates(study), "Workers", "Photos per second"),
        "scaling-check.svg": svg(plot_checked(study["runs"], checked["goal"]), "Measured seconds", "Simulated seconds"),
    }
    for one in study["projected"]:
        name = f"scaling-plans-{one['photos']}.svg"
        plots[name] = svg(plot_plans(one["plans"]), "Hours", "USD")
        lines += ["", f"## {one['photos']:,} photos", "", f"Prices of {study['prices']}.", ""]
        lines += [f"![Money against hours]({name})", "", "| plan | machines | cores | hours | USD | cores in use | limited by |",
                  "|---|---|---|---|---|---|---|"]  # fmt: skip
        named = {"cheapest": "cheapest", "in_time": f"cheapest within {study['asked']['deadline_h'] or 0:g} hours",
                 "in_budget": f"fastest for {study['asked']['budget_usd'] or 0:g} USD"}  # fmt: skip
        for at, plan in enumerate(one["plans"]):
            marks = "".join(f" **{text}**" for key, text in named.items() if one[key] == at)
            lines.append(
                _cells(
                    f"{at + 1}. {plan['offer']}{marks}", f"{plan['machines']:,}", f"{plan['cores']:,}", f"{plan['hours']:,.2f}",
                    f"{plan['usd']:,.2f}", _share(plan["busy"]), plan["limit"],
                )
            )  # fmt: skip
    return "\n".join(lines) + "\n", plots


def _preprocessing(study: dict[str, Any]) -> tuple[str, dict[str, str]]:
    best = {**study["together"], "name": f"best together: {', '.join(study['together']['treatments'])}", "base": False}
    rows = [*study["treatments"], best]
    at_most = f" (at most {study['sample']} per label)" if study["sample"] else ""
    lines = [
        "# Study: preprocessing",
        "",
        *_about(study),
        (
            f"{study['photos']:,} photos of {study['labels']} labels{at_most}, {study['backbone']} at {study['size']} pixels; "
            f"{study['asked']:,} of them scored in {study['groups']:,} groups by the protocol {study['protocol']}."
        ),
        "",
        "| treatment | right (95 % interval) | gain (95 % interval) | passes | processor ms: pixels + network |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        clear = " **better**" if row["gain_low"] > 0 else " **worse**" if row["gain_high"] < 0 else ""
        gain = f"{_signed(row['gain'], 1)} ({_signed(row['gain_low'], 1)} to {_signed(row['gain_high'], 1)}){clear}"
        lines.append(
            _cells(
                f"{row['name']}{', as the run' if row['base'] else ''}",
                f"{_share(row['accuracy'], 1)} ({_share(row['low'], 1)} to {_share(row['high'], 1)})",
                "" if row["base"] else gain, str(row["passes"]), f"{row['pixels_ms']:.1f} + {row['network_ms']:.1f}",
            )
        )  # fmt: skip
    costs, values = [row["cost_ms"] for row in rows], [row["accuracy"] for row in rows]
    points = [
        Measured(number, row["cost_ms"], row, on, number == len(rows))
        for number, (row, on) in enumerate(zip(rows, frontier(costs, values), strict=True), 1)
    ]
    drawn = lay_out(points)
    plot = Plot(
        [
            Mark(str(one.number), one.x, one.y, one.low, one.high, "on" if one.frontier else "off")
            for one in drawn.points
        ],
        [Line(drawn.line, "up")],
        [(tick.at, _plain(f"{tick.value:g}")) for tick in drawn.costs],
        [(tick.at, _plain(_share(tick.value))) for tick in drawn.values],
    )
    halves = "; ".join(", ".join(names) for names in study["together"]["chosen_by_halves"])
    lines += [
        "",
        "![Accuracy against processor milliseconds](preprocessing-cost.svg)",
        "",
        (
            f"Points are numbered as the rows. The two halves of the groups chose: {halves}. Chosen and scored on the same "
            f"photos, the best together would be {_share(study['together']['optimistic_accuracy'], 1)}."
        ),
    ]
    return "\n".join(lines) + "\n", {"preprocessing-cost.svg": svg(plot, "Processor ms for a photo", "Right answers")}


def _about(study: dict[str, Any]) -> list[str]:
    machine = study["machine"]
    busy = f", **while other programs were running** (load {machine['load']})" if machine["busy"] else ""
    return [
        (
            f"Measured on {study['started'][:10]} on {machine['cpu']}, {machine['cores']} cores{busy}. "
            "[Studies](../studies.md) explains the figures; this page is written by `docs/summarise_study.py`."
        ),
        "",
        # Without the folders of this machine.
        "    " + re.sub(r"(?<= )/[^ ]*/([^ /]+)", r"\1", study["command"]),
        "",
    ]


def svg(plot: Plot, across: str, down: str) -> str:
    """Return a plot as an SVG file."""

    def x(at: float) -> str:
        return f"{_LEFT + _WIDTH * at / 100:.1f}"

    def y(at: float) -> str:
        return f"{_TOP + _HEIGHT * at / 100:.1f}"

    right, bottom = _LEFT + _WIDTH, _TOP + _HEIGHT
    made = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {right + 20} {bottom + 46}" font-family="sans-serif" '
            'font-size="12">'
        ),
        f'<rect width="100%" height="100%" fill="#fff"/><text x="8" y="14" fill="#55645a">{escape(down)}</text>',
        f'<text x="{(_LEFT + right) / 2}" y="{bottom + 40}" fill="#55645a" text-anchor="middle">{escape(across)}</text>',
    ]
    for at, said in plot.down:
        made.append(f'<path d="M{_LEFT} {y(at)}H{right}" stroke="#d5dfd1"/>')
        made.append(
            f'<text x="{_LEFT - 6}" y="{y(at)}" dy="4" fill="#55645a" text-anchor="end">{said.forms["en"]}</text>'
        )
    for at, said in plot.across:
        made.append(
            f'<text x="{x(at)}" y="{bottom + 18}" fill="#55645a" text-anchor="middle">{said.forms["en"]}</text>'
        )
    made.append(f'<clipPath id="c"><rect x="{_LEFT}" y="{_TOP}" width="{_WIDTH}" height="{_HEIGHT}"/></clipPath>')
    for line in plot.lines:
        points = " ".join(f"{x(float(a))},{y(float(b))}" for a, b in (one.split(",") for one in line.points.split()))
        dash = ' stroke-dasharray="6 4"' if line.kind == "asked" else ""
        made.append(
            f'<polyline clip-path="url(#c)" points="{points}" fill="none" stroke="{_COLOURS[line.kind]}" stroke-width="2"{dash}/>'
        )
    for mark in plot.marks:
        colour = _COLOURS[mark.kind]
        made.append(f'<path d="M{x(mark.x)} {y(mark.low)}V{y(mark.high)}" stroke="{colour}" stroke-width="2"/>')
        made.append(f'<circle cx="{x(mark.x)}" cy="{y(mark.y)}" r="9" fill="{colour}"/>')
        made.append(
            f'<text x="{x(mark.x)}" y="{y(mark.y)}" dy="4" fill="#fff" text-anchor="middle">{escape(mark.text)}</text>'
        )
    return "\n".join([*made, "</svg>"]) + "\n"


def _plain(text: str) -> LocalisedText:
    return LocalisedText({"en": Markup(escape(text))})  # noqa: S704 - escaped just now


def _cells(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _share(value: float, digits: int = 0) -> str:
    return f"{100 * value:.{digits}f} %"


def _signed(value: float, digits: int = 0) -> str:
    return f"{100 * value:+.{digits}f} %"


def _between(one: dict[str, Any]) -> str:
    return f"{one['value']:.3g} ({one['low']:.3g} to {one['high']:.3g})"


def main(arguments: Sequence[str]) -> None:
    """Write the summary of each record."""
    for name in arguments:
        study = json.loads(Path(name).read_text("utf-8"))
        page, plots = summary(study)
        (TARGET / f"{study['study']}.md").write_text(page, "utf-8")
        for file, text in plots.items():
            (TARGET / file).write_text(text, "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
