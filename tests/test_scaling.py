"""The benchmark of whole scenes: its ground moves as it says, and every run is accounted for."""

import numpy as np
import pytest
import rasterio

import displacement
from experiments import scaling


def test_the_ground_moves_as_it_says_and_repeats(tmp_path):
    earlier, later = scaling.write_pair(tmp_path, 620)
    with rasterio.open(earlier) as first, rasterio.open(later) as second:
        assert first.shape == second.shape == (620, 620) and first.dtypes == ("uint16",)
        assert first.transform == second.transform and first.crs == second.crs
        pair = first.read(1), second.read(1)
    np.testing.assert_array_equal(pair[0][500:, 500:], pair[0][:120, :120])
    found = displacement.estimate(pair[0][:128, :128], pair[1][:128, :128], method="lk")
    middle = np.nanmedian(found.displacement[32:-32, 32:-32], axis=(0, 1))
    np.testing.assert_allclose(middle, scaling._MOTION_PX, atol=0.02)


def test_a_scene_is_timed_from_file_to_file(tmp_path):
    lines = []
    rows = scaling.time_scenes(tmp_path, methods=["lk"], sizes=[160], report=lines.append)
    row = rows["lk 160"]
    assert row["seconds"] > row["alone"] > 0 and 0.05 < row["peak_gb"] < 20
    assert row["megapixels_per_s"] == pytest.approx(1e-6 * 160**2 / row["seconds"])
    assert len(lines) == 1 and (tmp_path / "lk_160.tif").exists()


def test_a_run_that_fails_says_why(tmp_path):
    with pytest.raises(ChildProcessError, match="earlier"):
        scaling._run(["experiments.measure", f"--earlier={tmp_path}/none.tif"])
