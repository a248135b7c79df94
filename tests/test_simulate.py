"""Export of samples: layouts, signs, resuming, and refusing a folder of other settings."""

import json

import numpy as np
import pytest
import rasterio

from data_gen.config import GeneratorConfig
from data_gen.scenes import SceneBank
from experiments import simulate
from experiments.simulate import write_samples

CONFIG = GeneratorConfig(size=32)


@pytest.fixture
def run(tmp_path):
    """Writes samples of 32 px."""

    def call(count, **options):
        write_samples(tmp_path, config=CONFIG, count=count, **options)
        return tmp_path

    return call


def test_npz_samples_go_on_and_do_not_depend_on_the_batch(run):
    folder = run(3)
    paths = sorted(folder.glob("00000/*.npz"))
    assert [p.stem for p in paths] == ["000000", "000001", "000002"]
    before = np.load(paths[2])
    assert before["displacement"].shape == (32, 32, 2) and before["valid"].dtype == bool
    stamp = paths[0].stat().st_mtime_ns
    paths[2].unlink()
    run(5)
    assert paths[0].stat().st_mtime_ns == stamp  # what is there stays
    again = np.load(paths[2])
    np.testing.assert_allclose(again["earlier"], before["earlier"], atol=2e-3)
    np.testing.assert_allclose(again["displacement"], before["displacement"], atol=1e-5)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["samples"]["count"] == 5 and manifest["samples"]["config"]["size"] == 32
    assert "git" in manifest["provenance"]
    with pytest.raises(ValueError, match=r"seed 0 -> 1.*another --output"):
        run(5, seed=1)
    manifest["samples"]["sources"] = "of another simulator"
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="sources of another simulator"):
        run(5)


def test_what_does_not_fit_leaves_nothing(run, tmp_path, monkeypatch):
    scenes = tmp_path / "bank.npz"
    scenes.touch()
    small = SceneBank(
        coefficients=np.zeros((1, 2, 40, 40), np.float32),
        affine=np.zeros((1, 2, 3), np.float32),
        two_dates=np.zeros(1, np.float32),
        agree=np.ones((1, 3, 3), np.float32),
    )
    monkeypatch.setattr(simulate.prepare, "read_bank", lambda _: small)
    with pytest.raises(ValueError, match="does not fit a tile"):
        run(1, scenes=str(scenes))
    assert list(tmp_path.iterdir()) == [scenes]
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(ValueError, match=r"manifest.json is none of ours\. Use another --output"):
        run(1)


def test_all_layouts_hold_the_same_truth(run):
    folder = run(1)
    truth = np.load(folder / "00000" / "000000.npz")
    (folder / "manifest.json").unlink()
    run(1, layout="faultdeform")
    other = np.load(folder / "000000_F_sample.npy.npz")
    assert set(other.files) == {"int_array_1", "int_array_2", "float_array_1", "float_array_2"}
    np.testing.assert_allclose(other["float_array_1"], truth["displacement"][..., 1], atol=1e-5)
    np.testing.assert_allclose(other["float_array_2"], -truth["displacement"][..., 0], atol=1e-5)
    assert np.issubdtype(other["int_array_1"].dtype, np.integer)
    (folder / "manifest.json").unlink()
    run(1, layout="geotiff")
    with rasterio.open(folder / "00000" / "000000_truth.tif") as file:
        assert file.descriptions[:2] == ("east_west", "north_south")
        valid = file.read(3) == 1
        np.testing.assert_allclose(
            file.read(1)[valid], 10 * truth["displacement"][..., 1][valid], atol=1e-4
        )
    with rasterio.open(folder / "00000" / "000000_later.tif") as file:
        assert file.nodata == 0
