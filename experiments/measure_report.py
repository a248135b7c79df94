"""What `measure` says about a result: on the screen, in a figure, a style and a log."""

import dataclasses
import json
import os
from collections.abc import Iterable
from typing import Any

import numpy as np

from displacement import drawing, raster
from displacement.files import atomic_path, is_virtual
from displacement.identity import band_in_name, date_in_name
from displacement.pairs import OpenPair
from displacement.style import write_style
from displacement.types import Estimate
from experiments.flags import provenance

THINNED_PX = drawing.MAX_DRAWN_PX  # longer side of what is kept in memory for figure and medians
COMPANIONS = (".png", ".qml", ".json")


@dataclasses.dataclass(frozen=True)
class Thinned:
    """Every `step`-th pixel of the result and of the earlier image, and the share measured."""

    step: int
    estimate: Estimate
    image: np.ndarray
    share: float


def print_pair(pair: OpenPair) -> None:
    """Prints what is measured, and on which grid."""
    for word, path, size in zip(("Earlier", "Later"), pair.paths, pair.sizes, strict=True):
        print(f"{word:10} {path}, {size[0]} x {size[1]} px (rows x columns)")
    width, height = pair.pixel_size
    crs = f", {pair.crs.to_string()}" if pair.crs is not None else ""
    rows, cols = pair.shape
    print(f"Overlap    {rows} x {cols} px of {width:g} x {height:g} {pair.units}{crs}")
    print_notes(notes(pair))


def notes(pair: OpenPair) -> list[str]:
    """What was assumed of a pair, and what is odd about its dates, one sentence each."""
    found = list(pair.notes)
    dates = [date_in_name(path) for path in pair.paths]
    if all(dates) and dates[0] > dates[1]:
        found.append(
            f"The earlier image is of {dates[0]}, the later one of {dates[1]}: signs are those of"
            " going back in time. Exchange --earlier and --later for the other."
        )
    bands = [band_in_name(path) for path in pair.paths]
    if all(bands) and bands[0] != bands[1]:
        found.append(
            f"By their names the earlier image is of band {bands[0]}, the later one of {bands[1]}."
            " Two bands agree less than one."
        )
    return found


def print_notes(told: Iterable[str]) -> None:
    """Prints what was assumed, or is to be known, a line each."""
    for note in told:
        print(f"Note       {note}")


def print_result(thinned: Thinned, pair, units, seconds, tags) -> dict[str, Any]:
    """Prints what was found; returns it for the log."""
    estimate = thinned.estimate
    told = estimate.details.keys() - {"prealign_px", "network_options"}
    details = {name: value for name, value in estimate.details.items() if name in told}
    settings = ", ".join(
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in details.items()
    )
    print(f"Method     {estimate.method}" + (f" ({settings})" if settings else ""))
    if estimate.sigma is not None and "sigma_factor" not in details:
        print("Sigma      not calibrated: train to the end, and give the run or its export")
    row, col = estimate.details["prealign_px"]
    print(f"Aligned    by whole pixels first: {row:+d} rows, {col:+d} columns")
    for word, name in (("Ramp", "RAMP"), ("Afterwards", "POSTPROCESSING")):
        if tags[name] != "none":
            print(f"{word:10} {json.dumps(tags[name])}")
    print(f"Measured   {thinned.share:.1%} of the pixels in {seconds:.1f} s")
    step_row, step_col = raster.map_step(pair.transform, pair.crs, units)
    moved = estimate.displacement[estimate.valid]
    summary = {"measured": thinned.share, "seconds": round(seconds, 1), "units": units}
    for name, values in (("East", moved[:, 1] * step_col), ("North", moved[:, 0] * step_row)):
        if not values.size:  # measured only between the pixels that are looked at here
            continue
        median = float(np.median(values))
        nmad = float(1.4826 * np.median(np.abs(values - median)))
        print(f"{name:10} {median:+.3f} {units} median, {nmad:.3f} {units} NMAD")
        summary[name.lower()] = {"median": median, "nmad": nmad}
    return summary


def write_companions(output, thinned: Thinned, pair, *, units, figure, log) -> None:
    """Style, log and figure beside the result."""
    estimate = thinned.estimate
    steps = np.abs(raster.map_step(pair.transform, pair.crs, units))
    components = np.moveaxis(estimate.displacement * steps, -1, 0)
    write_style(output.with_suffix(".qml"), drawing.colour_limit(list(components)), units)
    files = [name if is_virtual(name) else os.path.abspath(name) for name in pair.paths]
    log |= {"rows": pair.shape[0], "columns": pair.shape[1]}
    log |= {"earlier": files[0], "later": files[1], "provenance": provenance()}
    with atomic_path(output.with_suffix(".json")) as partial:
        partial.write_text(json.dumps(log, indent=2) + "\n")
    if figure:
        from displacement import figures  # matplotlib is slow to import

        # On the thinned grid a pixel is larger by the step, and a displacement smaller in it.
        thin = dataclasses.replace(estimate, displacement=estimate.displacement / thinned.step)
        picture = figures.displacement_figure(
            thin,
            thinned.image,
            pixel_size=tuple(float(size) * thinned.step for size in steps[::-1]),
            units=units,
            title=f"{os.path.basename(pair.paths[0])} to {os.path.basename(pair.paths[1])}"
            f" ({estimate.method})",
        )
        figures.save(picture, output.with_suffix(".png"))
    written = [suffix for suffix in COMPANIONS if figure or suffix != ".png"]
    print(f"           and beside it {', '.join(written)}")
