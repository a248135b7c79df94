"""The figures draw without a warning, say what they show, and no text runs into another."""

import itertools

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from displacement import drawing, figures
from displacement.types import Estimate

SHAPES = [(120, 120), (300, 90), (60, 400), (101, 140)]


def estimate_of(displacement, holes=True):
    valid = np.ones(displacement.shape[:2], bool)
    if holes:
        valid[:7, :9] = False
    displacement = np.where(valid[..., None], displacement, np.nan).astype(np.float32)
    return Estimate(displacement, None, valid, "cnn", {})


@pytest.fixture(params=SHAPES, ids=str)
def scene(request):
    """A slanting fault with 1 px of slip along it: image, truth, distance, slip direction."""
    height, width = request.param
    row, col = np.mgrid[:height, :width]
    slip = np.array([-0.6, 0.8])
    distance = (row - height / 2) * 0.8 + (col - width / 2) * 0.6
    truth = 0.5 * np.sign(distance)[..., None] * slip
    image = np.random.default_rng(0).normal(size=(height, width))
    image[:7, :9] = np.nan
    return image, truth, distance, slip


def texts(figure):
    """Everything written in the figure outside the legends, with its box in display units."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    found = [text for text in figure.texts if text.get_text()]
    for axis in figure.axes:
        found += [axis.title, axis.xaxis.label, axis.yaxis.label, *axis.texts]
        for scale, index in ((axis.xaxis, 0), (axis.yaxis, 1)):
            low, high = scale.get_view_interval()  # ticks beyond it are kept, but not drawn
            labels = scale.get_ticklabels()
            found += [label for label in labels if low <= label.get_position()[index] <= high]
    found = [text for text in found if text.get_text() and text.get_visible()]
    return [(text.get_text(), text.get_window_extent(renderer)) for text in found]


def check_layout(figure):
    width, height = figure.get_size_inches() * figure.dpi
    for (one, first), (other, second) in itertools.combinations(texts(figure), 2):
        overlap = min(first.x1, second.x1) - max(first.x0, second.x0) > 1
        overlap &= min(first.y1, second.y1) - max(first.y0, second.y0) > 1
        assert not overlap, (one, other)
    for text, box in texts(figure):
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height, text


@pytest.mark.parametrize("units", ["m", "px"])
def test_displacement_figure(scene, units, tmp_path):
    image, truth, _, _ = scene
    size = (10.0, 10.0) if units == "m" else (1.0, 1.0)
    figure = figures.displacement_figure(
        estimate_of(truth), image, pixel_size=size, units=units, title="a.tif to b.tif (cnn)"
    )
    check_layout(figure)
    words = " ".join(text.replace("\n", " ") for text, _ in texts(figure))
    assert f"East-west displacement, east positive [{units}]" in words
    assert f"North-south displacement, north positive [{units}]" in words
    assert "grey: not measured" in words
    path = tmp_path / "new" / "figure.png"
    figures.save(figure, path)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert [entry.name for entry in path.parent.iterdir()] == ["figure.png"]


def test_maps_show_metres_east_and_north(scene):
    image, truth, _, _ = scene
    figure = figures.displacement_figure(
        estimate_of(truth, holes=False), image, pixel_size=(10.0, 20.0)
    )
    drawn = [axis.images[0] for axis in figure.axes[:3]]
    east, north = (np.ma.filled(part.get_array(), np.nan) for part in drawn[1:])
    np.testing.assert_allclose(east, 10 * truth[..., 1], rtol=1e-6)
    np.testing.assert_allclose(north, -20 * truth[..., 0], rtol=1e-6)
    assert drawn[1].get_clim() == drawn[2].get_clim()
    assert drawn[1].get_clim()[0] == -drawn[1].get_clim()[1]
    assert drawn[1].origin == "upper"


@pytest.mark.parametrize("count", [0, 1, 4])
def test_comparison_figure(scene, count):
    image, truth, distance, slip = scene
    names = ["CNN", "Phase correlation, 32 px", "NCC, 15 px", "Patch regression"][:count]
    figure = figures.comparison_figure(
        image,
        truth,
        {name: estimate_of(truth) for name in names},
        distance,
        slip_direction=slip,
        pixel_size=(10.0, 10.0),
        title="A simulated earthquake",
    )
    check_layout(figure)
    assert len(figure.axes) == 2 * (count + 1) + 3
    profile = figure.axes[-1]
    assert [line.get_label() for line in profile.lines[: count + 1]] == ["Truth", *names]
    assert profile.get_xlabel() == "Distance to the fault [m]"
    x, y = profile.lines[0].get_data()
    np.testing.assert_allclose(y[(x > 0) & np.isfinite(y)], 5.0)
    np.testing.assert_allclose(y[(x < 0) & np.isfinite(y)], -5.0)


def test_profile_is_the_median_along_the_fault():
    rng = np.random.default_rng(0)
    distance = np.broadcast_to(np.arange(-100, 101)[None] + 0.5, (50, 201)).copy()
    displacement = rng.normal(size=(50, 201, 2))
    displacement[:46, 100] = np.nan  # too few left
    distance[:, 0] = np.nan
    centres, medians = figures.profile(displacement, distance, np.array([1.0, 0.0]))
    np.testing.assert_allclose(centres, np.arange(-24, 24) + 0.5)
    expected = np.median(displacement[:, 76:124, 0], axis=0)
    expected[24] = np.nan
    np.testing.assert_allclose(medians, expected)


def test_nothing_measured_and_a_flat_image_can_be_drawn():
    nothing = estimate_of(np.full((50, 50, 2), np.nan))
    nothing.valid[:] = False
    figures.displacement_figure(nothing, np.zeros((50, 50)), pixel_size=(10.0, 10.0))
    zero = estimate_of(np.zeros((50, 50, 2)))
    check_layout(figures.displacement_figure(zero, np.ones((50, 50)), pixel_size=(0.5, 0.5)))


def test_large_images_are_thinned_out():
    large = estimate_of(np.ones((20, 9000, 2)))
    figure = figures.displacement_figure(large, np.ones((20, 9000)), pixel_size=(10.0, 10.0))
    assert max(figure.axes[1].images[0].get_array().shape) <= drawing.MAX_DRAWN_PX


def test_a_dollar_in_a_file_name_is_no_formula():
    sheet = drawing.new_sheet(4.0, 3.0, "be$fo_re__x.tif to af$ter.tif")
    FigureCanvasAgg(sheet).draw()
    assert sheet.texts[0].get_text() == "be$fo_re__x.tif to af$ter.tif"
