"""Compares methods on exactly the same pairs: error near the fault against scatter far from it.

./launch.sh compare --output=FOLDER
./launch.sh compare --flagfile=experiments/configs/benchmark.flags --output=FOLDER
./launch.sh compare --method=cnn,patch,phase,ncc --window=8,16,32,64 --samples=64 --output=FOLDER
./launch.sh compare --flagfile=experiments/configs/two_dates.flags --scenes=bank.npz --output=FOLDER
./launch.sh compare --results=ours=FOLDER_OF_MAPS --output=FOLDER
./launch.sh compare --where_measured="phase 32" --output=FOLDER

Each correlator is a curve over its windows, each network a point. The folder then holds
tradeoff.png, details.png, scores.json, scores.csv, scores.md and report.html, which needs nothing
else to be read. Intervals are 95 %, by bootstrap over the faults. The same command goes on where it
stopped, and measures anew only what changed.
"""

import csv
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from displacement import figures, metrics
from displacement.correlators.lk import residual_at
from displacement.files import atomic_path
from displacement.normalise import gaussian_mean, normalise
from displacement.warp import quick_gradient
from experiments import flags as shared
from experiments import kept, report, run, scoring
from experiments.logs import RunLog
from experiments.tables import characteristics_table, score_table

_BANDS = {"near": metrics.NEAR, "far": metrics.FAR}
_NEAR_PX = metrics.BAND_EDGES[metrics.NEAR.stop]
_GROUPS = ("low", "middle", "high")  # of a stratum, of equally many pairs


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
      near error and far scatter `(K,)` px; NaN where nothing is valid.
    """
    ratios, slips = [], []
    for sample in samples:
        if not sample.valid.any():
            continue
        earlier = np.where(sample.valid, sample.pair[..., 0], np.nan)
        slopes = quick_gradient(jnp.nan_to_num(earlier, nan=np.nanmean(earlier)))
        gradient = np.sqrt(np.mean([slope[sample.valid] ** 2 for slope in map(np.array, slopes)]))
        ratios.append(gradient / (noise_fraction * np.nanstd(earlier)))
        beside = sample.valid & (np.abs(sample.distance) < _NEAR_PX)
        slips.append(np.linalg.norm(sample.slip[beside], axis=-1))
    if not ratios:
        return np.full_like(windows, np.nan), np.full_like(windows, np.nan)
    slips = np.concatenate(slips)
    slip = slips.mean() * 2.0 / np.pi if len(slips) else 0.0  # mean of a component
    far = np.sqrt(2.0) / (np.median(ratios) * windows)
    x = np.linspace(0.0, _NEAR_PX, 200)[:, None]
    return slip * np.clip(0.5 - x / windows, 0.0, None).mean(0), far


@jax.jit
def _agreement(pair: jax.Array, truth: jax.Array, valid: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Correlation of the dates under the true motion, and the rms gradient of the ground.

    Both after local normalisation: what noise and change left alike, and how fine its texture is
    [standard deviations per px].
    """
    image, known = normalise(pair[None])
    value = image[..., 0] - residual_at(image, known)(jnp.moveaxis(truth, -1, 0)[:, None])
    weight = jnp.isfinite(value) * valid
    value = jnp.nan_to_num(value)
    cross = (weight * image[..., 0] * value).sum()
    power = (weight * image[..., 0] ** 2).sum() * (weight * value**2).sum()
    down, right = jnp.diff(image[0, ..., 0], axis=0), jnp.diff(image[0, ..., 0], axis=1)
    return cross / jnp.sqrt(power + 1e-12), jnp.sqrt((down**2).mean() + (right**2).mean())


def _relief(sample) -> float:
    """Share of the ground's variance that is coarser than 8 px: ridges and fields, not thickets."""
    earlier = np.where(np.isfinite(sample.pair[..., 0]), sample.pair[..., 0], np.nan)
    level = np.nan_to_num(earlier - np.nanmean(earlier))
    return float(
        np.asarray(gaussian_mean(jnp.asarray(level), sigma=8.0)).var() / (level.var() + 1e-12)
    )


def _strata(parts: dict, samples: list) -> dict[str, dict[str, dict]]:
    """Near-fault scores in equal groups of the pairs that have a fault."""
    measured = [_agreement(s.pair, jnp.nan_to_num(s.displacement), s.valid) for s in samples]
    traits = {
        "slip": [_slip(sample) for sample in samples],
        "correlation": [float(alike) for alike, _ in measured],
        "texture": [float(fine) for _, fine in measured],
        "relief": [_relief(sample) for sample in samples],
    }
    faults = np.flatnonzero([_slip(sample) > 0 for sample in samples])
    groups = {}
    for trait, values in traits.items():
        order = faults[np.argsort(np.asarray(values)[faults])]
        for name, group in zip(_GROUPS, np.array_split(order, len(_GROUPS)), strict=True):
            if len(group):
                low, high = values[group[0]], values[group[-1]]
                groups[f"{trait}, {name}: {low:.2f} to {high:.2f}"] = group
    return {
        label: {
            name: metrics.summary(scoring.together([found[i] for i in group]))["near"]
            for name, found in parts.items()
        }
        for label, group in groups.items()
    }


def compared(parts: dict, samples: list, seconds: dict[str, float]) -> report.Comparison:
    """The figures of several contenders.

    Args:
      parts: for each name the sums of every sample.
      samples: what was measured.
      seconds: that each took.
    """
    totals = {name: scoring.together(found) for name, found in parts.items()}
    intervals = {
        name: {
            column: metrics.interval(found, band=_BANDS[band], name=figure)
            for column, band, figure in report.FIGURES
        }
        for name, found in parts.items()
    }
    return report.Comparison(
        scores={name: metrics.summary(total) for name, total in totals.items()},
        characteristics={name: metrics.characteristics(total) for name, total in totals.items()},
        curves={name: metrics.curves(total) for name, total in totals.items()},
        intervals=intervals,
        strata=_strata(parts, samples),
        seconds=seconds,
    )


def _by_band(found: report.Comparison) -> list[list]:
    """Every figure of every contender by band, with a head; for the CSV and W&B."""
    figure_names = list(next(iter(found.scores.values()))["near"])
    table = [["method", "band", *figure_names, "near_mae_low", "near_mae_high"]]
    for name, rows in found.scores.items():
        for band, row in rows.items():
            ends = found.intervals[name]["near MAE [px]"] if band == "near" else (None, None)
            table.append([name, band, *(row[figure] for figure in figure_names), *ends])
    return table


def _by_stratum(found: report.Comparison) -> list[list]:
    table = [["stratum", "method", "near_mae", "pixels"]]
    for stratum, rows in found.strata.items():
        table += [[stratum, name, row["mae"], row["count"]] for name, row in rows.items()]
    return table


def _write(folder: pathlib.Path, found: report.Comparison, guide, about: dict) -> None:
    figures.save(report.trade_off_figure(found, guide), folder / "tradeoff.png")
    figures.save(report.details_figure(found), folder / "details.png")
    images = {
        "Error near the fault against scatter far from it": folder / "tradeoff.png",
        "Bias across the fault, sub-pixel locking, calibration of sigma": folder / "details.png",
    }
    with atomic_path(folder / "scores.csv") as partial, partial.open("w", newline="") as file:
        csv.writer(file).writerows(_by_band(found))
    curves = {
        name: {kind: [list(map(float, axis)) for axis in axes] for kind, axes in both.items()}
        for name, both in found.curves.items()
    }
    shared.write_json(folder / "scores.json", found._asdict() | {"curves": curves} | about)
    pictures = {caption: path.read_bytes() for caption, path in images.items()}
    texts = {
        "scores.md": report.markdown(found),
        "report.html": report.page(found, pictures, shared.provenance() | about),
    }
    for name, text in texts.items():
        with atomic_path(folder / name) as partial:
            partial.write_text(text)


def _log(folder: pathlib.Path, found: report.Comparison, values) -> None:
    config = shared.settings(values)
    with RunLog(folder, wandb_mode=values.wandb_mode, config=config, job="compare") as log:
        log.write(0, {"scores": found.scores, "characteristics": found.characteristics})
        log.show({name: folder / f"{name}.png" for name in ("tradeoff", "details")})
        log.tabulate({"by_band": _by_band(found), "by_stratum": _by_stratum(found)})


def _compare():
    values = flags.FLAGS
    folder = pathlib.Path(values.output)
    contenders = scoring.contenders(values)
    if values.where_measured and values.where_measured not in contenders:
        raise ValueError(
            f"--where_measured={values.where_measured!r} is none of {sorted(contenders)}."
        )
    samples, key = scoring.simulated(values), kept.about(values)
    if values.where_measured:
        pattern = contenders[values.where_measured]
        samples = scoring.where_measured(samples, pattern)
        key |= {"where_measured": pattern.identity}
    parts, seconds, made = {}, {}, {}
    for name, contender in contenders.items():
        parts[name], seconds[name], made[name] = kept.scored(
            contender,
            samples,
            name=name,
            folder=folder / ".scored",
            key=key,
            progress=sys.stderr.isatty(),
        )
    found = compared(parts, samples, seconds)
    print(score_table(found.scores, seconds))
    print(characteristics_table(found.characteristics))
    noise = float(np.sqrt(np.prod([float(x) for x in values.noise_fraction])))
    guide = bound(samples, np.linspace(6.0, 64.0, 100), noise_fraction=noise)
    _write(folder, found, guide, {"pairs": len(samples), "made": made})
    print(f"Look at {folder / 'report.html'}")
    if values.wandb_mode != "disabled":
        _log(folder, found, values)


if __name__ == "__main__":
    jax.config.config_with_absl()
    scoring.define_flags()
    flags.FLAGS.set_default("method", ["cnn", "phase", "ncc", "lk"])
    flags.FLAGS.set_default("window", ["6", "8", "12", "16", "24", "32", "48", "64"])
    flags.FLAGS.set_default("output", "comparison")
    flags.FLAGS["output"].help = "Folder to write to."
    flags.DEFINE_string(
        "where_measured", None, "Score all only where this one of them gives a value, by its name."
    )
    app.run(run.guarded("compare", _compare), flags_parser=run.parse_flags)
