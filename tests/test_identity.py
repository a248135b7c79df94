"""Files and weights told apart, and dates in names."""

import hashlib
import os
import types

import numpy as np
import pytest

from displacement import checkpoint, identity


@pytest.mark.parametrize(
    ("name", "date"),
    [
        ("LC08_L1TP_041035_20190708_20200827_02_T1_B8.TIF", "2019-07-08"),
        ("T11SMV_20190628T182921_B04.jp2", "2019-06-28"),
        ("folder_20200101/20160529.tif", "2016-05-29"),
        ("scene_20191399.tif", None),
        ("scene_120190708.tif", None),
        ("before.tif", None),
    ],
)
def test_dates_in_names(name, date):
    assert identity.date_in_name(name) == date


@pytest.mark.parametrize(
    ("name", "band"),
    [
        ("LC08_L1TP_041035_20190708_20200827_02_T1_B8.TIF", "B8"),
        ("T11SMV_20190628T182921_B04.jp2", "B04"),
        ("x/T11SMV_20190628T182921_B8A_10m.jp2", "B8A"),
        ("B04/before.tif", None),
        ("NEB04.tif", None),
    ],
)
def test_bands_in_names(name, band):
    assert identity.band_in_name(name) == band


def test_a_changed_file_is_another(tmp_path):
    path = tmp_path / "a.tif"
    path.write_text("one")
    first = identity.file_identity(path)
    assert first == identity.file_identity(path)
    os.utime(path, (1, 1))
    assert identity.file_identity(path) != first
    assert identity.file_identity("zip://a.zip!b.tif") == {"path": "zip://a.zip!b.tif"}


@pytest.mark.parametrize(
    "name", ["zip://{}!b.tif", "/vsizip/{}/b.tif", "/vsizip//vsigzip/{}/b.tif", 'NETCDF:"{}":b']
)
def test_of_what_lies_in_a_container_the_container_tells(tmp_path, name):
    path = tmp_path / "a.zip"
    path.write_text("one")
    first = identity.file_identity(name.format(path))
    assert first["in"] == identity.file_identity(path)
    os.utime(path, (1, 1))
    assert identity.file_identity(name.format(path)) != first


def test_sources_that_do_not_matter_do_not_count(tmp_path):
    def package(folder):
        folder.mkdir(exist_ok=True)
        (folder / "a.py").write_text("one")
        found = types.ModuleType(folder.name)
        found.__file__ = str(folder / "__init__.py")
        return found

    outer, inner = package(tmp_path), package(tmp_path / "inner")
    digest = identity.sources.__wrapped__
    whole, without = digest(outer), digest(outer, without=(inner,))
    (tmp_path / "inner" / "a.py").write_text("two")
    assert digest(outer) != whole and digest(outer, without=(inner,)) == without
    (tmp_path / "a.py").write_text("two")
    assert digest(outer, without=(inner,)) != without


def test_weights_have_a_hash(tmp_path):
    shipped = (checkpoint.SHIPPED / "cnn" / "params.npz").read_bytes()
    assert identity.weights_hash("cnn") == hashlib.sha256(shipped).hexdigest()
    checkpoint.export(tmp_path / "w", {"a": np.ones(3)}, {"name": "unet", "options": {}}, {})
    assert identity.weights_hash(str(tmp_path / "w")) != identity.weights_hash("cnn")
    with pytest.raises(ValueError, match="No weights"):
        identity.weights_hash(str(tmp_path / "gone"))
