"""From two files to a file in metres and a figure, with a pretended estimator: what is passed on,
printed, written, and refused."""

import dataclasses
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import rasterio
from affine import Affine
from matplotlib.figure import Figure

import displacement
from displacement import estimator, figures, pairs, raster
from displacement.finish import Finish
from displacement.methods import METHODS
from experiments import measure
from tests.conftest import GRID, UTM, Texture, measured


def test_measures_writes_and_says_what_it_did(stub, paths, capsys):
    image = rasterio.open(paths[0]).read(1)
    image[32:] = 0
    raster.write_image(paths[0], image, transform=GRID, crs=UTM, nodata=0)
    found = measured(paths, window=48)
    assert stub.options["window"] == 48
    said = capsys.readouterr().out
    for words in (
        "a.tif, 64 x 80 px",
        "64 x 80 px of 10 x 10 m, EPSG:32611",
        "+0 rows, +0 columns",
        "50.0% of the pixels",
        "East       +3.000 m median, 0.00",
        "North      -2.000 m median",
        str(paths[2]),
        ".png, .qml, .json",
    ):
        assert words in said
    with rasterio.open(paths[2]) as source:
        np.testing.assert_allclose(source.read(1)[0], 3.0, atol=0.01)
        np.testing.assert_allclose(source.read(2)[0], -2.0, atol=0.01)
        assert np.isnan(source.read(1)[-1]).all()
        tags = source.tags()
    assert (tags["EARLIER"], tags["METHOD"], tags["WINDOW_PX"]) == ("a.tif", "phase", "48")
    assert found.valid.sum() == 32 * 80
    names = ["moved.json", "moved.png", "moved.qml", "moved.tif"]
    assert sorted(os.listdir(paths[2].parent)) == names
    log = json.loads((paths[2].parent / "moved.json").read_text())
    assert abs(log["east"]["median"] - 3.0) < 0.01
    assert log["tags"]["METHOD"] == "phase" and log["tags"]["RAMP"] == "none"
    assert log["earlier"] == str(paths[0]) and "command" in log["provenance"]


def test_figure_can_be_left_out(stub, paths):
    measured(paths, figure=False)
    assert sorted(os.listdir(paths[2].parent)) == ["moved.json", "moved.qml", "moved.tif"]


def test_everything_that_flags_ask_for_is_done_and_recorded(stub, paths, tmp_path):
    image = rasterio.open(paths[1]).read(1)
    lake = np.zeros(image.shape, np.uint8)
    lake[:10, :20] = 1
    raster.write_image(tmp_path / "lake.tif", lake, transform=GRID, crs=UTM)
    raster.write_image(tmp_path / "stable.tif", 1 - lake, transform=GRID, crs=UTM)
    shifted = Affine(10.0, 0.0, 500_003.0, 0.0, -10.0, 4_000_000.0)
    raster.write_image(paths[1], image, transform=shifted, crs=UTM)
    options = {
        "reading": {"align": True, "mask": tmp_path / "lake.tif"},
        "stable": tmp_path / "stable.tif",
        "finish": Finish(ramp="linear", consistency_px=5.0, median_px=3, destripe_deg=0.0),
        "units": "px",
    }
    found = measured(paths, **options)
    assert not found.valid[:10, :20].any()
    assert found.valid[14:-3, 24:-3].all()
    assert np.abs(np.nanmedian(found.displacement, (0, 1))).max() < 1e-3  # it is all ramp
    with rasterio.open(paths[2]) as source:
        tags, units = source.tags(), source.units
    assert units[0] == tags["UNITS"] == "px"
    assert tags["MASK"] == "lake.tif"
    assert tags["STABLE"] == "stable.tif"
    assert "lanczos" in tags["ALIGNMENT"]
    ramp = json.loads(tags["RAMP"])
    assert abs(ramp["row_px"][0] - 0.2) < 1e-3
    assert abs(ramp["col_px"][0] - 0.3) < 1e-3
    assert json.loads(tags["POSTPROCESSING"])["median_px"] == 3
    assert not list(paths[2].parent.glob(".*"))
    for name, layout in (("moved.nc", None), ("classic.tif", "classic")):
        other, stub.quality = paths[2].with_name(name), 0.8
        measure.measure_files(*paths[:2], other, method="phase", layout=layout, **options)
    with rasterio.open(other) as source:
        assert source.descriptions == ("east_west", "north_south", "snr")
        assert np.nanmin(source.read(3)) == np.float32(0.8)


def test_step_in_the_tags_is_that_of_windows_not_of_the_training(paths):
    with pairs.open_pair(*paths[:2]) as pair:
        instrument = estimator.create_instrument("cnn")
        assert instrument.details["step"] >= 1  # of the training
        _, facts = measure._identity(pair, instrument, {}, [])
        assert not {"STEP_PX", "WINDOW_PX"} & facts.keys()
        assert len(facts["WEIGHTS_SHA256"]) == 64
        _, facts = measure._identity(pair, estimator.create_instrument("ncc", step=6), {}, [])
    assert (facts["STEP_PX"], facts["WINDOW_PX"]) == ("6", "31")
    assert "WEIGHTS_SHA256" not in facts


def test_the_method_that_is_told_is_that_of_the_weights(paths, capsys):
    image = 900.0 + 9.0 * Texture(1).moved((0.0, 0.0))[:64, :80]
    for path in paths[:2]:
        raster.write_image(path, image.astype(np.float32), transform=GRID, crs=UTM)
    measure.measure_files(*paths, method="cnn", weights="patch", figure=False)
    assert "Method     patch (weights patch" in capsys.readouterr().out
    with rasterio.open(paths[2]) as source:
        assert source.tags()["METHOD"] == "patch"


def test_large_scenes_are_drawn_thinned_out(stub, paths, monkeypatch):
    monkeypatch.setattr("experiments.measure_report.THINNED_PX", 30)
    drawn = {}

    def draw(estimate, image, *, pixel_size, **_):
        drawn.update(estimate=estimate, image=image, size=pixel_size)
        return Figure()

    monkeypatch.setattr(figures, "displacement_figure", draw)
    found = measured(paths)
    assert drawn["size"] == (30.0, 30.0)
    whole = rasterio.open(paths[0]).read(1)
    np.testing.assert_array_equal(drawn["image"], whole[::3, ::3])
    metres = drawn["estimate"].displacement * 30.0
    np.testing.assert_allclose(metres, 10.0 * found.displacement[::3, ::3], rtol=1e-5)


def test_streamed_is_what_the_whole_array_gives(monkeypatch, texture, tmp_path):
    """A real method, tiles and all, from files and from arrays."""
    tiles = dataclasses.replace(METHODS["ncc"], tiles=lambda _: {"tile": 128, "margin": 48})
    monkeypatch.setitem(METHODS, "ncc", tiles)
    earlier, later = np.moveaxis(np.tile(texture.pair((3.4, -2.3)), (2, 2, 1))[:150, :190], -1, 0)
    earlier = earlier.copy()
    earlier[60:80, 20:50] = np.nan
    paths = [tmp_path / name for name in ("a.tif", "b.tif", "moved.tif")]
    for path, image in zip(paths, (1000 + 50 * earlier, 2000 + 30 * later), strict=False):
        raster.write_image(path, image.astype(np.float32), transform=GRID, crs=UTM)
    options = {"method": "ncc", "window": 9, "step": 5, "search": 1}
    measure.measure_files(*paths, figure=False, **options)
    found = raster.read_displacement(paths[2])
    whole = displacement.estimate(*(rasterio.open(path).read(1) for path in paths[:2]), **options)
    assert whole.details["prealign_px"] == [3, -2]
    assert found.details == whole.details
    np.testing.assert_array_equal(found.valid, whole.valid)
    np.testing.assert_allclose(found.displacement, whole.displacement, atol=1e-5)
    np.testing.assert_allclose(found.quality, whole.quality, atol=1e-5)


def test_what_makes_a_result_doubtful_is_said_and_kept_in_the_log(stub, paths, tmp_path, capsys):
    good = np.zeros((64, 80), np.uint8)
    good[:20] = 1  # of a mask that says what to keep
    raster.write_image(tmp_path / "mask.tif", 1 - good, transform=GRID, crs=UTM)
    raster.write_image(paths[1], rasterio.open(paths[0]).read(1), transform=GRID, crs=UTM)
    for reading, words in (
        ({"mask": tmp_path / "mask.tif"}, "Only 31% of the pixels are valid in both"),
        ({}, "the same, value for value"),
    ):
        measured(paths, reading=reading)
        assert words in capsys.readouterr().out
        notes = json.loads(paths[2].with_suffix(".json").read_text())["notes"]
        assert any(words in note for note in notes)


def test_no_room_on_the_disk_is_said_before_the_work(stub, paths):
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(OSError, match=r"0\.001 GB are needed.*Make room"):
            measured(paths)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert stub.tiles == 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"output": "moved.jpg"}, r"must end in \.tif"),
        ({"output": "a.tif"}, "is an input"),
        ({"output": "folder.tif"}, "is a folder"),
        ({"output": "a.tif/moved.tif"}, "nothing can be written"),
        ({"later": "a.tif"}, "the same band of the same file"),
        ({"later": "gone.tif"}, "gone.tif does not exist"),
    ],
)
def test_what_will_not_do_is_refused_before_the_work(stub, paths, tmp_path, change, words):
    (tmp_path / "folder.tif").mkdir()
    given = dict(zip(("earlier", "later", "output"), paths, strict=True))
    given |= {name: tmp_path / path for name, path in change.items()}
    with pytest.raises((ValueError, OSError), match=words):
        measure.measure_files(**given, method="phase")
    assert stub.tiles == 0


def test_nothing_measured_is_an_error_and_no_file(monkeypatch, stub, paths):
    monkeypatch.setattr(stub, "measure", lambda pair: np.full(pair.shape, np.nan))
    with pytest.raises(ValueError, match="not a single pixel"):
        measured(paths)
    assert os.listdir(paths[2].parent) == []


def test_a_bound_on_what_the_method_does_not_give_is_refused_before_the_work(stub, paths):
    with pytest.raises(ValueError, match="--max_sigma_px needs a method that gives a sigma"):
        measured(paths, finish=Finish(max_sigma_px=0.5))
    assert stub.tiles == 0


def test_two_dates_may_be_bands_of_one_file(stub, paths):
    images = [rasterio.open(path).read(1) for path in paths[:2]]
    profile = rasterio.open(paths[0]).profile | {"count": 2}
    with rasterio.open(paths[0], "w", **profile) as file:
        file.write(np.stack(images))
    found = measured([paths[0], paths[0], paths[2]], reading={"later_band": 2})
    assert found.valid.all()
    with pytest.raises(ValueError, match=r"the same band of the same file.*--later_band"):
        measured([paths[0], paths[0], paths[2]], reading={"later_band": 1})


def run(*arguments):
    command = [sys.executable, "-m", "experiments.measure", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_from_the_command_line(paths):
    wrong = run(f"--earlier={paths[0]}", f"--later={paths[1]}.gone", f"--output={paths[2]}")
    assert wrong.returncode == 1
    assert wrong.stderr.splitlines()[-1].startswith("measure: ")
    assert "does not exist" in wrong.stderr
    assert len(wrong.stderr.splitlines()) == 1
    suffix = run(f"--earlier={paths[0]}", f"--later={paths[1]}", "--output=moved.png")
    assert suffix.returncode != 0
    assert "must end in .tif" in suffix.stderr
    helped = run("--help")
    assert helped.returncode == 0
    assert "./launch.sh measure --earlier" in helped.stdout
    assert "Correlators: window size [px], odd for ncc; else 32" in helped.stdout
    assert "one of m, px" in helped.stdout
    assert "jax_" not in helped.stdout
    missing = run(f"--earlier={paths[0]}")
    assert missing.returncode != 0
    assert "--later" in missing.stderr


def test_a_pair_that_shares_no_shift_is_told(stub, paths, capsys):
    measured(paths, figure=False)  # the later image of this pair is the earlier one mirrored
    assert "No whole-pixel shift that both images share stands out" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"min_quality": float("nan")}, "--min_quality=nan is no number"),
        ({"min_quality": 2.0}, "--min_quality=2.0 leaves nothing"),
        ({"destripe_deg": float("inf")}, "--destripe_deg=inf is no number"),
    ],
)
def test_bounds_are_numbers(change, words):
    with pytest.raises(ValueError, match=words):
        Finish(**change)
