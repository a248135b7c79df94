"""From two files to a file in metres and a figure, with a pretended estimator: what is passed on,
printed, written, and refused."""

import os
import subprocess
import sys

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.crs import CRS

import displacement
from displacement import raster
from displacement.types import Estimate
from experiments import measure

UTM = CRS.from_epsg(32611)
GRID = Affine(10.0, 0.0, 500_000.0, 0.0, -10.0, 4_000_000.0)


@pytest.fixture
def calls(monkeypatch):
    """The calls of the estimator, which finds 0.2 px down and 0.3 px right on the upper half."""
    seen = []

    def estimate(earlier, later, *, method="cnn", weights=None, progress=False, **options):
        seen.append({"earlier": earlier, "later": later, "method": method, **options})
        valid = np.isfinite(earlier) & np.isfinite(later)
        valid[earlier.shape[0] // 2 :] = False
        moved = np.full((*earlier.shape, 2), np.nan, np.float32)
        moved[valid] = [0.2, 0.3]
        return Estimate(moved, None, valid, method, {"window": 32, "prealign_px": (2, -1)})

    monkeypatch.setattr(displacement, "estimate", estimate, raising=False)
    return seen


@pytest.fixture
def paths(tmp_path):
    image = np.random.default_rng(0).integers(1, 4000, (64, 80)).astype(np.uint16)
    found = [tmp_path / "a.tif", tmp_path / "b.tif", tmp_path / "out" / "moved.tif"]
    raster.write_image(found[0], image, transform=GRID, crs=UTM)
    raster.write_image(found[1], image[:, ::-1].copy(), transform=GRID, crs=UTM)
    return found


def test_measures_writes_and_says_what_it_did(calls, paths, capsys):
    estimate = measure.measure_files(*paths, method="phase", window=48)
    assert (calls[0]["method"], calls[0]["window"]) == ("phase", 48)
    assert calls[0]["earlier"].shape == (64, 80)
    said = capsys.readouterr().out
    for words in (
        "a.tif, 64 x 80 px",
        "64 x 80 px of 10 x 10 m, EPSG:32611",
        "+2 rows, -1 columns",
        "50.0% of the pixels",
        "East       +3.000 m median, 0.000 m NMAD",
        "North      -2.000 m median",
        str(paths[2]),
        "moved.png",
    ):
        assert words in said
    with rasterio.open(paths[2]) as source:
        np.testing.assert_allclose(source.read(1)[0], 3.0, rtol=1e-6)
        np.testing.assert_allclose(source.read(2)[0], -2.0, rtol=1e-6)
        assert np.isnan(source.read(1)[-1]).all()
        assert (source.tags()["EARLIER"], source.tags()["METHOD"]) == ("a.tif", "phase")
    assert estimate.valid.sum() == 32 * 80
    assert sorted(os.listdir(paths[2].parent)) == ["moved.png", "moved.tif"]


def test_figure_can_be_left_out(calls, paths):
    measure.measure_files(*paths, figure=False)
    assert os.listdir(paths[2].parent) == ["moved.tif"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"output": "moved.jpg"}, r"must end in \.tif"),
        ({"output": "a.tif"}, "is an input"),
        ({"output": "folder.tif"}, "is a folder"),
        ({"output": "a.tif/moved.tif"}, "nothing can be written"),
        ({"later": "a.tif"}, "the same file"),
        ({"later": "gone.tif"}, "gone.tif does not exist"),
    ],
)
def test_what_will_not_do_is_refused_before_the_work(calls, paths, tmp_path, change, words):
    (tmp_path / "folder.tif").mkdir()
    given = dict(zip(("earlier", "later", "output"), paths, strict=True))
    given |= {name: tmp_path / path for name, path in change.items()}
    with pytest.raises((ValueError, OSError), match=words):
        measure.measure_files(**given)
    assert calls == []


def test_nothing_measured_is_an_error_and_no_file(monkeypatch, calls, paths):
    def estimate(earlier, later, *, method, **options):
        moved = np.full((*earlier.shape, 2), np.nan, np.float32)
        return Estimate(moved, None, np.zeros(earlier.shape, bool), method, {})

    monkeypatch.setattr(displacement, "estimate", estimate)
    with pytest.raises(ValueError, match="not measure a single pixel"):
        measure.measure_files(*paths)
    assert not paths[2].exists()


def run(*arguments):
    command = [sys.executable, "-m", "experiments.measure", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.skipif(not hasattr(displacement, "METHODS"), reason="needs the estimators")
def test_from_the_command_line(paths):
    wrong = run(f"--earlier={paths[0]}", f"--later={paths[1]}.gone", f"--output={paths[2]}")
    assert wrong.returncode == 1
    assert wrong.stderr.splitlines()[-1].startswith("measure: ")
    assert "does not exist" in wrong.stderr
    assert len(wrong.stderr.splitlines()) == 1
    suffix = run(f"--earlier={paths[0]}", f"--later={paths[1]}", "--output=moved.png")
    assert suffix.returncode != 0
    assert "must end in .tif" in suffix.stderr
    missing = run(f"--earlier={paths[0]}")
    assert missing.returncode != 0
    assert "--later" in missing.stderr
