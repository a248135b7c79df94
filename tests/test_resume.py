"""What was measured before a stop is kept, or thrown away and said so; a pretended estimator."""

import os

import numpy as np
import pytest
import rasterio.shutil

from displacement import raster, working
from displacement.files import parts
from displacement.finish import Finish
from tests.conftest import measured


def test_stopped_and_started_again_gives_the_same_file(stub, paths, capsys):
    whole = measured(paths, figure=False)
    tiles, stub.tiles = stub.tiles, 0
    assert tiles > 5
    before = paths[2].read_bytes()
    paths[2].unlink()
    for stop_at in (0, 2, 2):
        stub.stop_at, stub.tiles = stop_at, 0
        with pytest.raises(KeyboardInterrupt):
            measured(paths, figure=False)
        assert not paths[2].exists()
    journal = next(paths[2].parent.glob(".*.journal"))
    with journal.open("a") as file:
        file.write('{"tile": 4')  # a crash in the middle of a line
    stub.stop_at, stub.tiles = None, 0
    again = measured(paths, figure=False)
    assert stub.tiles == tiles - 4
    assert "4 tiles were measured before" in capsys.readouterr().out
    np.testing.assert_array_equal(again.displacement, whole.displacement)
    assert paths[2].read_bytes() == before
    assert not list(paths[2].parent.glob(".*"))


def test_what_other_inputs_left_is_thrown_away(stub, paths, capsys):
    stub.stop_at = 3
    with pytest.raises(KeyboardInterrupt):
        measured(paths)
    stub.stop_at, stub.tiles = None, 0
    measured(paths, window=48)
    assert "other files or flags" in capsys.readouterr().out
    tiles = stub.tiles
    assert tiles > 5
    for path in paths[:2]:
        stub.stop_at, stub.tiles = 3, 0
        with pytest.raises(KeyboardInterrupt):
            measured(paths)
        os.utime(path, (1, 1))  # a file of the same name that has changed
        stub.stop_at, stub.tiles = None, 0
        measured(paths)
        assert stub.tiles == tiles


def test_an_image_may_be_looked_at_meanwhile(stub, paths, capsys):
    stub.stop_at = 3
    with pytest.raises(KeyboardInterrupt):
        measured(paths)
    # As QGIS leaves them: statistics beside it, and overviews.
    paths[0].with_name("a.tif.aux.xml").write_text("<PAMDataset></PAMDataset>")
    overview = np.ones((32, 40), np.uint16)
    raster.write_image(paths[1].with_name("b.tif.ovr"), overview, transform=None, crs=None)
    assert len(parts(paths[0])) == len(parts(paths[1])) == 1
    stub.stop_at = None
    measured(paths)
    said = capsys.readouterr().out
    assert "3 tiles were measured before" in said and "other files" not in said
    # But not be given another value that means no data.
    paths[2].unlink()
    stub.stop_at, stub.tiles = 3, 0
    with pytest.raises(KeyboardInterrupt):
        measured(paths)
    band = '<PAMRasterBand band="1"><NoDataValue>7</NoDataValue></PAMRasterBand>'
    paths[0].with_name("a.tif.aux.xml").write_text(f"<PAMDataset>{band}</PAMDataset>")
    stub.stop_at = None
    measured(paths)
    assert "other files" in capsys.readouterr().out


def test_a_changed_file_behind_a_vrt_begins_anew(stub, paths, capsys):
    virtual = paths[0].with_suffix(".vrt")
    rasterio.shutil.copy(paths[0], virtual, driver="VRT")
    through = (virtual, *paths[1:])
    stub.stop_at = 3
    with pytest.raises(KeyboardInterrupt):
        measured(through)
    os.utime(paths[0], (1, 1))
    stub.stop_at = None
    measured(through)
    assert "other files or flags" in capsys.readouterr().out


def test_a_refused_command_leaves_the_finished_tiles(stub, paths, capsys):
    stub.stop_at = 3
    with pytest.raises(KeyboardInterrupt):
        measured(paths)
    with pytest.raises(ValueError, match="window=99 px is larger"):
        measured(paths, window=99)
    stub.stop_at = None
    measured(paths)
    assert "3 tiles were measured before" in capsys.readouterr().out


def test_two_processes_do_not_write_one_result(stub, paths):
    with (
        working.working_file(paths[2], (64, 80, 5)),
        pytest.raises(ValueError, match="another process"),
    ):
        measured(paths)


def test_a_bound_that_turns_out_vain_loses_nothing(stub, paths, capsys):
    with pytest.raises(ValueError, match="--min_quality needs a method that gives a quality"):
        measured(paths, finish=Finish(min_quality=0.5))  # the stand-in gives none
    tiles, stub.tiles = stub.tiles, 0
    assert tiles > 5
    measured(paths)
    assert stub.tiles == 0
    assert f"{tiles} tiles were measured before" in capsys.readouterr().out


def test_all_that_a_file_is_made_of_is_found(paths):
    folder = paths[0].parent
    inner, outer = folder / "inner.vrt", folder / "outer.vrt"
    rasterio.shutil.copy(paths[0], inner, driver="VRT")
    outer.write_text(inner.read_text().replace(">a.tif<", ">inner.vrt<"))
    assert set(map(str, (inner, paths[0]))) <= set(parts(outer))
    for suffix in (".shp", ".prj", ".dbf"):
        (folder / f"lake{suffix}").write_text("")
    assert parts(folder / "lake.shp") == [str(folder / "lake.dbf"), str(folder / "lake.prj")]
    assert parts(folder / "gone.tif") == []


def test_what_an_input_is_made_of_is_not_written_over(stub, paths):
    virtual = paths[0].parent / "virtual.vrt"
    rasterio.shutil.copy(paths[0], virtual, driver="VRT")
    before = paths[0].read_bytes()
    with pytest.raises(ValueError, match=r"a\.tif is an input, or holds one"):
        measured((virtual, paths[1], paths[0]))
    assert paths[0].read_bytes() == before
