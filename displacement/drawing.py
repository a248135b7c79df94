"""The panels that figures are made of: images, maps with north up, colour and scale bars."""

import math

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure
from mpl_toolkits.axes_grid1.anchored_artists import AnchoredSizeBar

NOT_MEASURED = "0.72"
MAX_DRAWN_PX = 2000  # longer sides are thinned out: no screen shows more
# In inches. Axes are placed by hand, so that panels of any shape line up.
MARGIN, GAP, BAR_HEIGHT = 0.3, 0.2, 0.75


def colour_limit(maps: list[np.ndarray]) -> float:
    """The largest absolute value that is not an outlier, rounded up to two digits."""
    values = np.abs(np.concatenate([part[np.isfinite(part)] for part in maps]))
    limit = float(np.percentile(values, 98)) if values.size else 0.0
    if limit <= 0:
        return 1.0
    digit = 10.0 ** (math.floor(math.log10(limit)) - 1)
    return math.ceil(limit / digit) * digit


def extent(shape: tuple[int, int], pixel_size: tuple[float, float]) -> tuple:
    """Left, right, bottom and top of a grid in map units, for `imshow`."""
    return 0.0, shape[1] * pixel_size[0], 0.0, shape[0] * pixel_size[1]


def centres(shape: tuple[int, int], pixel_size: tuple[float, float]) -> tuple:
    """Of the columns and, from the top, of the rows, in the coordinates of `extent`."""
    x = (np.arange(shape[1]) + 0.5) * pixel_size[0]
    y = (shape[0] - 0.5 - np.arange(shape[0])) * pixel_size[1]
    return x, y


def panel_size(extent: tuple, widest: float, highest: float) -> tuple[float, float]:
    """Width and height in inches of a panel that shows this extent within the bounds."""
    scale = min(widest / extent[1], highest / extent[3])
    return extent[1] * scale, extent[3] * scale


def new_sheet(width: float, height: float, title: str) -> Figure:
    """An empty figure of a size in inches, with its title."""
    sheet = Figure(figsize=(width, height))
    place = {"ha": "center", "va": "center", "size": 13, "weight": "bold"}
    # File names stand in it, and a $ in them is no formula.
    sheet.text(0.5, 1 - 0.25 / height, title, parse_math=False, **place)
    return sheet


def place_axes(sheet: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Adds axes at a place in inches from the upper left corner of the sheet."""
    across, down = sheet.get_size_inches()
    return sheet.add_axes((left / across, 1 - (top + height) / down, width / across, height / down))


def _thin(values: np.ndarray) -> np.ndarray:
    step = math.ceil(max(values.shape) / MAX_DRAWN_PX)
    return values[::step, ::step]


def bare(axis: Axes) -> None:
    """Takes the ticks away."""
    axis.set_xticks([])
    axis.set_yticks([])


def draw_image(
    axis: Axes, image: np.ndarray, extent: tuple, *, stretched: np.ndarray | None = None
) -> None:
    """Draws an image in grey, stretched from its 2nd to its 98th percentile.

    Args:
      axis: to draw on.
      image: `(H, W)`.
      extent: of the map.
      stretched: `(H, W)` bool, the pixels whose percentiles count; all without.
    """
    counts = np.isfinite(image)
    if stretched is not None and (counts & stretched).any():
        counts &= stretched
    finite = image[counts]
    low, high = np.percentile(finite, [2, 98]) if finite.size else (0.0, 1.0)
    axis.imshow(
        _thin(image),
        cmap=matplotlib.colormaps["gray"].with_extremes(bad=NOT_MEASURED),
        vmin=low,
        vmax=high if high > low else low + 1,
        extent=extent,
    )
    bare(axis)


def _colours() -> Colormap:
    return matplotlib.colormaps["RdBu_r"].with_extremes(bad=NOT_MEASURED)


def draw_map(axis: Axes, values: np.ndarray, extent: tuple, limit: float) -> None:
    """Draws one component of a displacement, blue to red about zero."""
    axis.imshow(
        _thin(values),
        cmap=_colours(),
        vmin=-limit,
        vmax=limit,
        extent=extent,
        interpolation="nearest",
    )
    bare(axis)


def colour_bar(
    sheet: Figure,
    centre: float,
    limit: float,
    units: str,
    missing: float,
    *,
    top: float | None = None,
) -> None:
    """A colour bar for all maps of the sheet; at the foot of the sheet if no top is given."""
    if top is None:
        top = sheet.get_size_inches()[1] - BAR_HEIGHT - MARGIN + GAP
    width = min(4.2, 2 * (centre - MARGIN))
    axis = place_axes(sheet, centre - width / 2, top, width, 0.14)
    mappable = ScalarMappable(Normalize(-limit, limit), _colours())
    bar = sheet.colorbar(mappable, cax=axis, orientation="horizontal", extend="both")
    note = f"; grey: not measured ({missing:.1%})" if missing else ""
    bar.set_label(f"Displacement, east and north positive [{units}]{note}")


def scale_bar(axis: Axes, extent: tuple, units: str) -> None:
    """A bar of a round length at the lower left, and an arrow where north is known."""
    rough = 0.3 * extent[1]
    digit = 10.0 ** math.floor(math.log10(rough))
    length = max(step * digit for step in (1, 2, 5) if step * digit <= rough)
    label = f"{length:g} {units}"
    if units == "m" and length >= 1000:
        label = f"{length / 1000:g} km"
    inch = extent[1] / (axis.get_position().width * axis.figure.get_figwidth())
    bar = AnchoredSizeBar(
        axis.transData,
        length,
        label,
        "lower left",
        pad=0.3,
        borderpad=0.4,
        sep=3,
        label_top=True,
        size_vertical=0.03 * inch,
        color="black",
        fontproperties={"size": 9},
    )
    box = {"boxstyle": "square,pad=0.2", "facecolor": "white", "edgecolor": "none", "alpha": 0.8}
    bar.patch.set(edgecolor="none", alpha=0.8)
    axis.add_artist(bar)
    if units == "m":
        axis.annotate(
            "N\n\u2191",
            (1, 1),
            (-6, -6),
            xycoords="axes fraction",
            textcoords="offset points",
            ha="right",
            va="top",
            size=9,
            linespacing=0.9,
            bbox=box,
        )
