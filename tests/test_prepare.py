"""From a folder of scenes to a bank, by file and directly, and what is said about each scene."""

import numpy as np
import pytest
import rasterio
from affine import Affine
from scipy import ndimage

from data_gen import prepare
from data_gen.scenes import CELL, TILE

SIZE = TILE + 40


def _write(path, image, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    profile = options | {"driver": "GTiff", "count": 1}
    profile |= {"height": image.shape[0], "width": image.shape[1]}
    with rasterio.open(
        path,
        "w",
        dtype="float32",
        crs="EPSG:32611",
        transform=Affine(10, 0, 0, 0, -10, 0),
        **profile,
    ) as file:
        file.write(image.astype(np.float32), 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A single scene, one too small, a pair that is off and changed in a corner, an unlike pair."""
    root = tmp_path_factory.mktemp("scenes")
    rng = np.random.default_rng(1)
    ground = ndimage.gaussian_filter(rng.standard_normal((SIZE, SIZE)), 1.2)
    other = ndimage.gaussian_filter(rng.standard_normal((SIZE, SIZE)), 1.2)
    later = ndimage.shift(ground, (0.4, -0.3), order=5, mode="mirror")
    later[:120, :120] = other[:120, :120]
    _write(root / "singles" / "desert.tif", 100 + 10 * ground)
    _write(root / "singles" / "small.tif", 100 + 10 * ground[:99])
    _write(root / "pairs" / "town" / "2016_B04.tif", 100 + 10 * ground)
    _write(root / "pairs" / "town" / "2018_B04.tif", 90 + 12 * later)
    _write(root / "pairs" / "forest" / "2016.tif", 100 + 10 * ground)
    _write(root / "pairs" / "forest" / "2018.tif", 100 + 10 * other)
    return root


def test_scenes_become_tiles_and_each_is_reported(folder, tmp_path):
    lines = []
    path = tmp_path / "bank.npz"
    count = prepare.write_bank(folder, path, report=lines.append)
    text = "\n".join(lines)
    assert "small.tif: left out" in text
    assert "off by (+0.40, -0.30) px" in text
    assert "of single dates" in next(line for line in lines if "forest" in line)
    bank = prepare.read_bank(path)
    assert len(bank.two_dates) == bank.coefficients.shape[0] == count
    town = prepare.read_bank(path, only=("town",))
    assert (np.asarray(town.two_dates) == 1).all()
    np.testing.assert_allclose(town.affine[:, :, 0], [[0.4, -0.3]] * len(town.affine), atol=0.03)
    first = np.asarray(town.agree[0])
    assert first.shape == (TILE // CELL, TILE // CELL)
    assert not first[:4, :4].any() and first[10:, 10:].all()
    without = prepare.read_bank(path, exclude=("town", "forest"))
    assert (np.asarray(without.two_dates) == 0).all()
    direct = prepare.read_bank(folder, only=("town",), report=lambda _: None)
    for a, b in zip(direct, town, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_what_is_no_bank_is_refused(folder, tmp_path):
    with pytest.raises(ValueError, match="nowhere is no folder"):
        prepare.read_bank(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"No scene of .* has 'lake' in its name"):
        prepare.read_bank(folder, only=("lake",), report=lambda _: None)
    with pytest.raises(ValueError, match="has 'tawn' in its name"):  # else it is trained on
        prepare.read_bank(folder, exclude=("forest", "tawn"), report=lambda _: None)
    with pytest.raises(ValueError, match=r"No usable scene.*contains small"):
        prepare.read_bank(folder, only=("small",), report=lambda _: None)
    (tmp_path / "flat").mkdir()
    with pytest.raises(ValueError, match=r"No usable scene.*TIFFs in singles/"):
        prepare.read_bank(tmp_path / "flat", report=lambda _: None)
    bad = tmp_path / "bad.npz"
    np.savez(bad, version=np.array(-1))
    with pytest.raises(ValueError, match=r"bad.npz is no bank.*Run prepare again"):
        prepare.read_bank(bad)


def test_an_edge_of_data_is_no_ground_that_stays(tmp_path):
    """Both dates end at the same place: matched, that edge would say that nothing is off."""
    rng = np.random.default_rng(2)
    ground = ndimage.gaussian_filter(rng.standard_normal((SIZE, SIZE)), 1.2)
    later = ndimage.shift(ground, (0.6, 0.6), order=5, mode="mirror")
    sea = np.arange(SIZE) >= TILE + 10
    for image, name in ((ground, "2016"), (later, "2018")):
        coast = np.where(sea, 0.0, 100 + 10 * image)
        _write(tmp_path / "pairs" / "coast" / f"{name}.tif", coast, nodata=0)
    bank = prepare.read_bank(tmp_path, report=lambda _: None)
    assert (np.asarray(bank.two_dates) == 1).all() and len(bank.two_dates)
    np.testing.assert_allclose(bank.affine[:, :, 0], 0.6, atol=0.03)
    np.testing.assert_allclose(bank.affine[:, :, 1:], 0.0, atol=3e-4)
