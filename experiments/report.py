"""What a comparison looks like: its figures, its tables, and one page that holds them all."""

import base64
import html
import json
import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

_COLOURS = {"phase": "#2e6f95", "ncc": "#4f9d69", "lk": "#e0a030"}
_NETWORKS = ("#d1495b", "#7b5ea7", "#8c564b", "0.3")
# What is given with an interval: (name of the column, band, figure).
FIGURES = (
    ("near MAE [px]", "near", "mae"),
    ("near slip bias", "near", "slip_bias"),
    ("far NMAD [px]", "far", "nmad"),
)


class Comparison(NamedTuple):
    """What was found, by name of the contender.

    Attributes:
      scores: `metrics.summary`.
      characteristics: `metrics.characteristics`.
      curves: `metrics.curves`.
      intervals: {column of `FIGURES`: (low, high)}.
      strata: for each stratum and name, the "near" row of the summary.
      seconds: that it took.
    """

    scores: dict[str, dict]
    characteristics: dict[str, dict]
    curves: dict[str, dict]
    intervals: dict[str, dict]
    strata: dict[str, dict[str, dict]]
    seconds: dict[str, float]


def _families(scores: dict) -> dict[str, list[str]]:
    """Names of the scores by method: those of one correlator in the order of their windows."""
    families = {}
    for name in scores:
        family = " ".join(word for word in name.split() if not word.isdigit()) or name
        families.setdefault(family, []).append(name)
    return families


def _correlator_colour(name: str) -> str | None:
    return _COLOURS.get(name.split(maxsplit=1)[0])


def _line_style(name: str) -> str:
    """Dashed where something was added to a method."""
    return "--" if len([word for word in name.split() if not word.isdigit()]) > 1 else "-"


def _best(scores: dict) -> list[str]:
    """Of each method the contender with the least error near the fault."""
    return [_least(scores, names) for names in _families(scores).values()]


def _least(scores: dict, names: Iterable[str]) -> str:
    """The contender with the least error near the fault; not one that measured nothing there."""

    def error(name):
        found = scores[name]["near"]["mae"]
        return math.inf if math.isnan(found) else found

    return min(names, key=error)


def trade_off_figure(found: Comparison, guide: tuple[np.ndarray, np.ndarray]) -> Figure:
    """Near-fault MAE against far NMAD, with the bound of what a window can reach.

    Args:
      found: what to draw.
      guide: near error and far scatter [px] of one bound, over its windows.
    """
    scores, intervals = found.scores, found.intervals
    sheet = Figure(figsize=(8.6, 5.4), layout="constrained")
    axis = sheet.subplots()
    left, networks = iter(_NETWORKS), {}
    for family, names in _families(scores).items():
        far = [scores[name]["far"]["nmad"] for name in names]
        near = [scores[name]["near"]["mae"] for name in names]
        curve = _correlator_colour(family) is not None
        method = family.split(maxsplit=1)[0]
        if not curve and method not in networks:
            networks[method] = next(left, "0.3")
        colour = _correlator_colour(family) or networks[method]
        low, high = np.transpose([intervals[name]["near MAE [px]"] for name in names])
        spread = np.abs(np.stack([np.subtract(near, low), np.subtract(high, near)]))
        axis.errorbar(
            far,
            near,
            yerr=spread,
            color=colour,
            marker="o" if curve else "*",
            markersize=5 if curve else 15,
            # Hollow: a network to which something was added, such as views.
            markerfacecolor=colour if curve or family == method else "white",
            linewidth=1.4 if curve else 0,
            elinewidth=0.8,
            linestyle=_line_style(family),
            label=family,
        )
        for name, x, y in zip(names, far, near, strict=True):
            window = next((word for word in name.split() if word.isdigit()), None)
            if curve and window:
                axis.annotate(window, (x, y), (4, 4), textcoords="offset points", size=8)
    axis.plot(
        guide[1], guide[0], color="0.6", linestyle=":", label="one shift a window, Cramer-Rao"
    )
    axis.set_xscale("log")
    axis.set_yscale("log")
    for side in (axis.xaxis, axis.yaxis):
        side.set_major_locator(LogLocator(subs=(1, 2, 5)))
        side.set_major_formatter(FormatStrFormatter("%g"))
        side.set_minor_formatter(NullFormatter())
    # The bound goes on to windows that no one would use; what was measured fills the figure.
    far = np.array([scores[name]["far"]["nmad"] for name in scores])
    if (measured := far[np.isfinite(far) & (far > 0)]).size:
        axis.set_xlim(0.7 * measured.min(), 1.4 * measured.max())
    axis.set_xlabel("Scatter far from the fault, NMAD beyond 32 px [px]")
    axis.set_ylabel("Error near the fault, MAE within 8 px [px]")
    axis.set_title("Better is down and to the left; numbers are windows in px")
    axis.grid(which="both", color="0.92")
    sheet.legend(loc="outside right upper", frameon=False)  # inside, points lie under it
    return sheet


def _line(axis: Axes, name: str, x, y, networks: dict) -> None:
    colour = _COLOURS.get(name.split(maxsplit=1)[0]) or networks[name]
    style = {"linestyle": _line_style(name), "linewidth": 1.4, "marker": ".", "markersize": 4}
    axis.plot(x, y, color=colour, label=name, **style)


def details_figure(found: Comparison) -> Figure:
    """Bias across the fault, error by sub-pixel phase, and what sigma promises and keeps."""
    best = _best(found.scores)
    others = [name for name in best if not _correlator_colour(name)]
    networks = {name: _NETWORKS[i % len(_NETWORKS)] for i, name in enumerate(others)}
    sheet = Figure(figsize=(11.0, 3.6), layout="constrained")
    across, locking, calibration = sheet.subplots(1, 3)
    for name in best:
        _line(across, name, *found.curves[name]["profile"], networks)
        _line(locking, name, *found.curves[name]["locking"], networks)
        levels = found.characteristics[name]["calibration"]
        if np.isfinite(list(levels.values())).any():
            _line(calibration, name, [float(x) for x in levels], list(levels.values()), networks)
    across.set_xlim(-24, 24)
    across.set_xlabel("Signed distance to the fault [px]")
    across.set_ylabel("Mean error along slip [share of slip]")
    locking.set_xlabel("Fraction of a pixel that the ground moved [px]")
    locking.set_ylabel("Mean error away from the fault [px]")
    calibration.plot([0, 1], [0, 1], color="0.6", linestyle=":")
    calibration.set_xlabel("Share of errors that sigma promises")
    calibration.set_ylabel("Share that it holds")
    for axis in (across, locking):
        axis.axhline(0.0, color="0.6", linewidth=0.8)
    across.legend(frameon=False, fontsize=8)
    return sheet


def _table(head: list[str], rows: list[list[str]]) -> str:
    cells = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    lines = [f"<tr>{cells}</tr>"]
    for row in rows:
        lines.append("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>")
    return "<table>" + "".join(lines) + "</table>"


def _rows(found: Comparison) -> list[list[str]]:
    rows = []
    for name, scores in found.scores.items():
        row = [name]
        for column, band, figure in FIGURES:
            low, high = found.intervals[name][column]
            row.append(f"{scores[band][figure]:.3f} ({low:.3f} to {high:.3f})")
        traits = found.characteristics[name]
        row.append(f"{traits['fault']['smear_px']:.1f}")
        row.append(f"{scores['far']['outliers']:.2%}")
        row += [f"{scores[band]['count']:,}" for band in ("near", "far")]
        row.append(f"{found.seconds[name]:.1f}")
        rows.append(row)
    return rows


_HEAD = [
    "method",
    *(column for column, _, _ in FIGURES),
    "smear [px]",
    "far > 1 px",
    "pixels near",
    "pixels far",
    "time [s]",
]


def markdown(found: Comparison) -> str:
    """The table of the page, for a document."""
    rule = ["---"] + ["---:"] * (len(_HEAD) - 1)
    lines = [_HEAD, rule, *_rows(found)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _image(picture: bytes, caption: str) -> str:
    code = base64.b64encode(picture).decode()
    return f'<img alt="{html.escape(caption)}" src="data:image/png;base64,{code}">'


def page(found: Comparison, pictures: dict[str, bytes], about: dict) -> str:
    """One HTML page with everything in it.

    Args:
      found: what to tell.
      pictures: PNG by caption.
      about: what made it.
    """
    scores, strata = found.scores, found.strata
    best = _least(scores, scores)
    by_stratum = [[name, *(f"{strata[s][name]['mae']:.3f}" for s in strata)] for name in scores]
    images = "".join(_image(picture, caption) for caption, picture in pictures.items())
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Comparison of estimators</title><style>
body {{ font: 15px/1.5 sans-serif; max-width: 66em; margin: 2em auto; padding: 0 1em; }}
table {{ border-collapse: collapse; margin: 1em 0; }} img {{ max-width: 100%; }}
td, th {{ padding: 0.25em 0.7em; text-align: right; border-bottom: 1px solid #ddd; }}
td:first-child, th:first-child {{ text-align: left; }} pre {{ white-space: pre-wrap; color: #555; }}
@media print {{ body {{ margin: 0; font-size: 10px; }} table, img {{ break-inside: avoid; }} }}
</style></head><body>
<h1>Comparison of estimators</h1>
<p>Least error within 8 px of the fault: <b>{html.escape(best)}</b>. Near is within 8 px of the
trace, far beyond 32 px. Slip bias: share of the slip, 0 is right, negative is underestimated.
Smear: distance beyond which the bias along slip stays under 10 % of slip. In brackets 95 %
intervals, by bootstrap over the faults.</p>
{images}
<h2>Near and far</h2>{_table(_HEAD, _rows(found))}
<h2>MAE [px] within 8 px, by slip, by how well the dates agree, by texture, by relief</h2>
<p>Thirds of the pairs. Texture: rms gradient in local standard deviations. Relief: share of the
variance that is coarser than 8 px.</p>
{_table(["method", *strata], by_stratum)}
<h2>How it was made</h2><pre>{html.escape(json.dumps(about, indent=2))}</pre>
</body></html>
"""
