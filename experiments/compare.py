"""Compares methods on exactly the same pairs: error near the fault against scatter far from it.

./launch.sh compare --output=FOLDER
./launch.sh compare --method=cnn,patch,phase,ncc --window=8,16,32,64 --samples=64 --output=FOLDER
./launch.sh compare --scenes=bank.npz --only=cupertino --scene_scale=1,1.35 --output=FOLDER

Each correlator is a curve over its windows, each network a point. The folder then holds
tradeoff.png, scores.json, scores.csv and report.html, which needs nothing else to be read.
Intervals are 95 %, by bootstrap over the faults.
"""

import base64
import csv
import html
import json
import pathlib
import sys

import numpy as np
from absl import app, flags, logging
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

from displacement import figures, metrics
from displacement.files import atomic_path
from experiments import evaluate
from experiments import flags as shared
from experiments.logs import RunLog
from experiments.tables import score_table

_COLOURS = {"phase": "#2e6f95", "ncc": "#4f9d69", "lk": "#e0a030"}
_NETWORKS = ("#d1495b", "#7b5ea7", "#8c564b", "0.3")
# What is given with an interval: (name of the column, band, figure).
_FIGURES = (
    ("near MAE [px]", "near", "mae"),
    ("near slip bias", "near", "slip_bias"),
    ("far NMAD [px]", "far", "nmad"),
)
_SLICES = {"near": metrics.NEAR, "far": metrics.FAR}


def _slip(sample) -> float:
    return float(np.linalg.norm(sample.slip, axis=-1).max())


def bound(
    samples: list, windows: np.ndarray, *, noise_fraction: float
) -> tuple[np.ndarray, np.ndarray]:
    """What a window that assumes one shift could reach: smear near the fault, noise far from it.

    Far: the Cramer-Rao bound of two noisy dates, sigma >= sqrt(2) / (s N) with s the rms gradient
    over the noise of one date. Near: a step smeared linearly over N pixels is off by
    slip (1/2 - |x| / N) inside the window, averaged over |x| < 8 px.

    Args:
      samples: pairs with their truth.
      windows: `(K,)` px.
      noise_fraction: noise of one date, as a share of the image's standard deviation.

    Returns:
      near error and far scatter `(K,)` px.
    """
    ratios = []
    for sample in samples:
        earlier = np.where(sample.valid, sample.pair[..., 0], np.nan)
        down, right = np.gradient(earlier)
        gradient = np.sqrt(np.nanmean(down**2 + right**2) / 2.0)
        ratios.append(gradient / (noise_fraction * np.nanstd(earlier)))
    slip = np.mean([_slip(sample) for sample in samples]) * 2.0 / np.pi  # mean of a component
    far = np.sqrt(2.0) / (np.median(ratios) * windows)
    x = np.linspace(0.0, 8.0, 200)[:, None]
    return slip * np.clip(0.5 - x / windows, 0.0, None).mean(0), far


def _families(scores: dict) -> dict[str, list[str]]:
    """Names of the scores by method: those of one correlator in the order of their windows."""
    families = {}
    for name in scores:
        families.setdefault(name.split()[0], []).append(name)
    return families


def trade_off_figure(scores: dict, intervals: dict, guide: tuple[np.ndarray, np.ndarray]) -> Figure:
    """Near-fault MAE against far NMAD.

    Args:
      scores: for each name, `metrics.summary`.
      intervals: for each name, {column: (low, high)}.
      guide: from `bound`.
    """
    sheet = Figure(figsize=(7.2, 5.4), layout="constrained")
    axis = sheet.subplots()
    networks = iter(_NETWORKS)
    for family, names in _families(scores).items():
        far = [scores[name]["far"]["nmad"] for name in names]
        near = [scores[name]["near"]["mae"] for name in names]
        curve = family in _COLOURS
        colour = _COLOURS[family] if curve else next(networks, "0.3")
        low, high = np.transpose([intervals[name]["near MAE [px]"] for name in names])
        spread = np.abs(np.stack([np.subtract(near, low), np.subtract(high, near)]))
        axis.errorbar(
            far,
            near,
            yerr=spread,
            color=colour,
            marker="o" if curve else "*",
            markersize=5 if curve else 15,
            linewidth=1.4 if curve else 0,
            elinewidth=0.8,
            label=family,
        )
        for name, x, y in zip(names, far, near, strict=True):
            if curve and len(name.split()) > 1:
                axis.annotate(name.split()[1], (x, y), (4, 4), textcoords="offset points", size=8)
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
    measured = [scores[name]["far"]["nmad"] for name in scores]
    axis.set_xlim(0.7 * min(measured), 1.4 * max(measured))
    axis.set_xlabel("Scatter far from the fault, NMAD beyond 32 px [px]")
    axis.set_ylabel("Error near the fault, MAE within 8 px [px]")
    axis.set_title("Better is down and to the left; numbers are windows in px")
    axis.grid(which="both", color="0.92")
    axis.legend(frameon=False)
    return sheet


def _strata(parts: dict, samples: list) -> dict[str, dict[str, dict]]:
    """Near-fault MAE by slip, in three equal groups of the pairs that have a fault."""
    slips = np.array([_slip(sample) for sample in samples])
    order = np.flatnonzero(slips > 0)[np.argsort(slips[slips > 0])]
    groups = {}
    for group in np.array_split(order, 3):
        if len(group):
            groups[f"slip {slips[group[0]]:.2f} to {slips[group[-1]]:.2f} px"] = group
    return {
        label: {
            name: evaluate.summarise([found[i] for i in group])["near"]
            for name, found in parts.items()
        }
        for label, group in groups.items()
    }


def _write_csv(path: pathlib.Path, scores: dict, intervals: dict) -> None:
    with atomic_path(path) as partial, partial.open("w", newline="") as file:
        writer = csv.writer(file)
        figure_names = list(next(iter(scores.values()))["near"])
        writer.writerow(["method", "band", *figure_names, "near_mae_low", "near_mae_high"])
        for name, rows in scores.items():
            for band, row in rows.items():
                ends = intervals[name]["near MAE [px]"] if band == "near" else ("", "")
                writer.writerow([name, band, *row.values(), *ends])


def _table(head: list[str], rows: list[list[str]]) -> str:
    cells = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    lines = [f"<tr>{cells}</tr>"]
    for row in rows:
        lines.append("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>")
    return "<table>" + "".join(lines) + "</table>"


def _report(scores: dict, intervals: dict, strata: dict, picture: bytes, about: dict) -> str:
    """One HTML page with everything in it."""
    best = min(scores, key=lambda name: scores[name]["near"]["mae"])
    head = ["method", *(column for column, _, _ in _FIGURES), "pixels near", "pixels far"]
    rows = []
    for name, found in scores.items():
        row = [name]
        for column, band, figure in _FIGURES:
            low, high = intervals[name][column]
            row.append(f"{found[band][figure]:.3f} ({low:.3f} to {high:.3f})")
        row += [f"{found[band]['count']:,}" for band in ("near", "far")]
        rows.append(row)
    by_slip = [[name, *(f"{strata[s][name]['mae']:.3f}" for s in strata)] for name in scores]
    image = base64.b64encode(picture).decode()
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Comparison of estimators</title><style>
body {{ font: 15px/1.5 sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em; }}
table {{ border-collapse: collapse; margin: 1em 0; }} img {{ max-width: 100%; }}
td, th {{ padding: 0.25em 0.8em; text-align: right; border-bottom: 1px solid #ddd; }}
td:first-child, th:first-child {{ text-align: left; }} pre {{ white-space: pre-wrap; color: #555; }}
@media print {{ body {{ margin: 0; font-size: 11px; }} table, img {{ break-inside: avoid; }} }}
</style></head><body>
<h1>Comparison of estimators</h1>
<p>Least error within 8 px of the fault: <b>{html.escape(best)}</b>. Near is within 8 px of the
trace, far beyond 32 px. Slip bias: share of the slip, 0 is right, negative is underestimated. In
brackets 95 % intervals, by bootstrap over the faults.</p>
<img alt="Near-fault error against far-field scatter" src="data:image/png;base64,{image}">
<h2>Near and far</h2>{_table(head, rows)}
<h2>MAE [px] within 8 px, by slip</h2>{_table(["method", *strata], by_slip)}
<h2>How it was made</h2><pre>{html.escape(json.dumps(about, indent=2))}</pre>
</body></html>
"""


def _compare():
    values = flags.FLAGS
    folder = pathlib.Path(values.output or "comparison")
    chosen = evaluate.candidates(values)
    samples = evaluate.simulated(values)
    parts, seconds = evaluate.score(chosen, samples, progress=sys.stderr.isatty())
    scores = {name: evaluate.summarise(found) for name, found in parts.items()}
    intervals = {
        name: {
            column: metrics.interval(found, band=_SLICES[band], name=figure)
            for column, band, figure in _FIGURES
        }
        for name, found in parts.items()
    }
    print(score_table(scores, seconds))
    strata = _strata(parts, samples)
    about = shared.provenance() | {"pairs": len(samples)}
    noise = float(np.sqrt(np.prod([float(x) for x in values.noise_fraction])))
    guide = bound(samples, np.linspace(6.0, 64.0, 100), noise_fraction=noise)
    figure = trade_off_figure(scores, intervals, guide)
    figures.save(figure, folder / "tradeoff.png")
    _write_csv(folder / "scores.csv", scores, intervals)
    record = {"scores": scores, "intervals": intervals, "strata": strata, "seconds": seconds}
    with atomic_path(folder / "scores.json") as partial:
        partial.write_text(json.dumps(record | {"provenance": about}, indent=2) + "\n")
    picture = (folder / "tradeoff.png").read_bytes()
    with atomic_path(folder / "report.html") as partial:
        partial.write_text(_report(scores, intervals, strata, picture, about))
    print(f"Look at {folder / 'report.html'}")
    if values.wandb_mode != "disabled":
        config = values.flag_values_dict()
        with RunLog(folder, wandb_mode=values.wandb_mode, config=config, job="compare") as log:
            log.write(0, scores)


def main(argv):
    """Compares what the flags name."""
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    logging.set_verbosity(logging.WARNING)
    try:
        _compare()
    except ValueError as error:
        sys.exit(f"compare: {error}")


if __name__ == "__main__":
    import jax

    jax.config.config_with_absl()
    evaluate.define_flags()
    flags.FLAGS.set_default("method", ["cnn", "phase", "ncc", "lk"])
    flags.FLAGS.set_default("window", ["8", "12", "16", "24", "32", "48", "64"])
    flags.FLAGS["output"].help = "Folder to write to."
    app.run(main)
