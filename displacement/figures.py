"""Figures of a displacement: maps with north up, a scale bar, and profiles across the fault.

Figures are objects of their own (no pyplot, no global state): draw one, then `save` it.
Displacement arrives in pixels, (row, col), and is drawn in `units`, east and north positive.
"""

import os
import textwrap
from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from displacement import drawing
from displacement.files import atomic_path
from displacement.types import Estimate

PROFILE_REACH_PX = 24  # on either side of the fault
MIN_PROFILE_COUNT = 5  # pixels in one bin of distance; fewer have no meaningful median
LINE_COLOURS = ("#d1495b", "#9a9a9a", "#2e6f95", "#e0a030", "#4f9d69", "#7b5ea7")

# In inches.
HEAD_HEIGHT, TITLE_HEIGHT = 0.95, 0.55
WIDE = 1.6  # width over height from which panels go below each other


def displacement_figure(
    estimate: Estimate,
    image: np.ndarray,
    *,
    pixel_size: tuple[float, float],
    units: str = "m",
    title: str = "",
) -> Figure:
    """Draws the earlier image and the two components of the displacement.

    Args:
      estimate: of an `(H, W)` pair.
      image: `(H, W)`, the earlier image, NaN where invalid.
      pixel_size: (width, height) of a pixel in `units`, positive; (1, 1) where units is "px".
      units: "m" or "px".
      title: above the figure.

    Returns:
      The figure: panels beside each other, or below each other for wide images.
    """
    north, east = _north_east(estimate.displacement, pixel_size)
    limit = drawing.colour_limit([north, east])
    extent = drawing.extent(image.shape, pixel_size)
    wide = extent[1] / extent[3] > WIDE
    width, height = drawing.panel_size(extent, 9.0, 5.0)
    cell = max(width, 2.4) + drawing.GAP  # room for the titles of narrow panels
    step = (0.0, height + TITLE_HEIGHT) if wide else (cell, 0.0)
    top = HEAD_HEIGHT
    sheet = drawing.new_sheet(
        2 * drawing.MARGIN + 2 * step[0] + cell - drawing.GAP,
        top + 2 * step[1] + height + drawing.BAR_HEIGHT + drawing.MARGIN,
        title,
    )
    left = drawing.MARGIN + (cell - drawing.GAP - width) / 2
    axes = [
        drawing.place_axes(sheet, left + index * step[0], top + index * step[1], width, height)
        for index in range(3)
    ]
    drawing.draw_image(axes[0], image, extent, stretched=estimate.valid)  # no cloud rules it
    drawing.scale_bar(axes[0], extent, units)
    axes[0].set_title("Earlier image")
    line = " " if wide else "\n"
    drawing.draw_map(axes[1], east, extent, limit)
    axes[1].set_title(f"East-west displacement,{line}east positive [{units}]")
    drawing.draw_map(axes[2], north, extent, limit)
    axes[2].set_title(f"North-south displacement,{line}north positive [{units}]")
    missing = float(np.mean(~estimate.valid))
    drawing.colour_bar(sheet, left + 1.5 * step[0] + width / 2, limit, units, missing)
    return sheet


def comparison_figure(
    image: np.ndarray,
    truth: np.ndarray,
    estimates: Mapping[str, Estimate],
    distance: np.ndarray,
    *,
    slip_direction: np.ndarray,
    pixel_size: tuple[float, float],
    units: str = "m",
    title: str = "",
) -> Figure:
    """Draws several estimates of one displacement beside the truth, and a profile of each.

    Args:
      image: `(H, W)`, the earlier image.
      truth: `(H, W, 2)`, the true displacement in pixels, (row, col).
      estimates: one per method, the key is the name in the figure.
      distance: `(H, W)`, signed distance to the fault in pixels; the trace is where it is 0.
      slip_direction: `(2,)`, unit vector along the fault in pixels, (row, col).
      pixel_size: (width, height) of a pixel in `units`, positive.
      units: "m" or "px".
      title: above the figure.

    Returns:
      The figure: above the maps, one column for the truth and each method; below the image with
      the trace, and the displacement along the fault against the distance from it.
    """
    fields = {"Truth": truth, **{name: found.displacement for name, found in estimates.items()}}
    maps = {name: _north_east(field, pixel_size) for name, field in fields.items()}
    limit = drawing.colour_limit(list(maps["Truth"]))
    extent = drawing.extent(image.shape, pixel_size)
    wide = extent[1] / extent[3] > WIDE
    width, height = drawing.panel_size(extent, 4.6 if wide else 2.6, 3.2)
    cell = max(width, 1.5) + drawing.GAP
    rows, cols = (len(fields), 2) if wide else (2, len(fields))
    image_width, image_height = drawing.panel_size(extent, 3.8, 2.7)
    profile_left = drawing.MARGIN + max(image_width, 2.1) + 1.0
    label_width = 1.2 if wide else 0.25
    sheet_width = max(
        2 * drawing.MARGIN + label_width + cols * cell, profile_left + 5.0 + drawing.MARGIN
    )
    top = HEAD_HEIGHT
    bar_top = top + rows * (height + drawing.GAP)
    below = bar_top + drawing.BAR_HEIGHT + TITLE_HEIGHT
    sheet = drawing.new_sheet(sheet_width, below + 2.7 + 0.7, title)
    first = (sheet_width + label_width - cols * cell + cell - width) / 2
    for index, (name, (north, east)) in enumerate(maps.items()):
        label = textwrap.fill(name, 24)
        for component, (values, side) in enumerate(((east, "East-west"), (north, "North-south"))):
            row, col = (index, component) if wide else (component, index)
            axis = drawing.place_axes(
                sheet, first + col * cell, top + row * (height + drawing.GAP), width, height
            )
            drawing.draw_map(axis, values, extent, limit)
            if row == 0:
                axis.set_title(side if wide else label)
            if col == 0 and wide:
                axis.set_ylabel(textwrap.fill(name, 14), rotation=0, ha="right", va="center")
            elif col == 0:
                axis.set_ylabel(side)
    missing = float(np.mean([np.mean(~found.valid) for found in estimates.values()] or 0.0))
    drawing.colour_bar(sheet, sheet_width / 2, limit, units, missing, top=bar_top)

    axis = drawing.place_axes(
        sheet, drawing.MARGIN + max(0.0, 2.1 - image_width) / 2, below, image_width, image_height
    )
    drawing.draw_image(axis, image, extent)
    if np.nanmin(distance) < 0 < np.nanmax(distance):
        x, y = drawing.centres(image.shape, pixel_size)
        axis.contour(x, y, distance, [0.0], colors="#ffd23f", linewidths=1.6)
    drawing.scale_bar(axis, extent, units)
    axis.set_title("Earlier image and fault")
    axis = drawing.place_axes(
        sheet, profile_left, below, sheet_width - profile_left - drawing.MARGIN, 2.7
    )
    _draw_profiles(
        axis,
        fields,
        distance,
        slip_direction=slip_direction,
        pixel_size=pixel_size,
        units=units,
    )
    return sheet


def profile(
    displacement: np.ndarray, distance: np.ndarray, slip_direction: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Takes the median displacement along the fault in bins of 1 px of distance from it.

    Args:
      displacement: `(H, W, 2)`, (row, col), NaN where not measured.
      distance: `(H, W)`, signed distance to the fault in pixels.
      slip_direction: `(2,)`, unit vector (row, col).

    Returns:
      The centres of the bins in pixels, and the medians in the units of `displacement`; NaN
      where fewer than 5 pixels were measured.
    """
    edges = np.arange(-PROFILE_REACH_PX, PROFILE_REACH_PX + 1)
    along = displacement @ np.asarray(slip_direction)
    usable = np.isfinite(along) & (np.abs(distance) < PROFILE_REACH_PX)
    bins = np.floor(distance[usable]).astype(int) + PROFILE_REACH_PX
    along = along[usable]
    medians = np.full(len(edges) - 1, np.nan)
    for index in range(len(medians)):
        inside = along[bins == index]
        if inside.size >= MIN_PROFILE_COUNT:
            medians[index] = np.median(inside)
    return edges[:-1] + 0.5, medians


def save(figure: Figure, path: str | os.PathLike, *, dpi: int = 150) -> None:
    """Writes a figure, in the format of the suffix of `path`; whole or not at all."""
    with atomic_path(path) as partial:
        figure.savefig(partial, dpi=dpi)


def _north_east(
    displacement: np.ndarray, pixel_size: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray]:
    width, height = pixel_size
    return -displacement[..., 0] * height, displacement[..., 1] * width


def _draw_profiles(
    axis: Axes,
    fields: Mapping[str, np.ndarray],
    distance: np.ndarray,
    *,
    slip_direction: np.ndarray,
    pixel_size: tuple[float, float],
    units: str,
) -> None:
    """One line per field: displacement along the fault against distance from it, in `units`."""
    size = np.array([pixel_size[1], pixel_size[0]])  # of a row and a column
    direction = np.asarray(slip_direction) * size
    direction = direction / np.linalg.norm(direction)
    colours = dict(zip(fields, ("black", *LINE_COLOURS), strict=False))
    for name, field in fields.items():
        centres, medians = profile(field * size, distance, direction)
        axis.plot(
            centres * float(np.mean(size)),
            medians,
            color=colours.get(name),
            label=name,
            linewidth=2.4 if name == "Truth" else 1.6,
            zorder=2 if name == "Truth" else 3,
        )
    axis.axvline(0.0, color="0.6", linewidth=0.8, linestyle=":", zorder=1)
    axis.set_xlim(-PROFILE_REACH_PX * np.mean(size), PROFILE_REACH_PX * np.mean(size))
    axis.set_xlabel(f"Distance to the fault [{units}]")
    axis.set_ylabel(f"Displacement along the fault [{units}]")
    axis.set_title("Profile across the fault (median along the trace)")
    axis.grid(color="0.9")
    axis.legend(frameon=False)
    axis.spines[["top", "right"]].set_visible(False)
