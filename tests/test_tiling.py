"""Tiles: their plan and order, several devices, and what happens when one fails or is stopped."""

import itertools
import signal
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from displacement import methods, tiling
from displacement.tiling import measured_tiles, padded_window, plan_tiles


def map_tiles(function, pair, **sizes):
    """What tiles give, put together; each pixel must come from exactly one."""

    def read(*window):
        return padded_window(pair, *window)

    whole, count = None, np.zeros(pair.shape[:2], int)
    for tile, values in measured_tiles(function, read, plan_tiles(pair.shape[:2], **sizes)):
        assert values.shape[:2] == tile.kept
        if whole is None:
            whole = np.empty((*pair.shape[:2], values.shape[-1]), values.dtype)
        place = tuple(slice(a, a + n) for a, n in zip(tile.first, tile.kept, strict=True))
        whole[place] = values
        count[place] += 1
    assert (count == 1).all()
    return whole


@pytest.mark.parametrize("shape", [(64, 64), (65, 200), (150, 97), (33, 64), (31, 95)])
def test_tiles_give_what_the_whole_gives(rng, shape):
    pair = rng.standard_normal((*shape, 2)).astype(np.float32)
    reach = np.arange(-16, 17)

    def local(pair):  # depends on 16 px around, and on rows and cols by their place alone
        padded = np.pad(pair, ((16, 16), (16, 16), (0, 0)), constant_values=np.nan)
        size = pair.shape
        rows = sum(np.nan_to_num(padded[16 + k : 16 + k + size[0], 16:-16]) for k in reach)
        cols = sum(np.nan_to_num(padded[16:-16, 16 + k : 16 + k + size[1]]) for k in reach)
        return np.concatenate([rows, cols], axis=-1)

    found = map_tiles(local, pair, tile=64, margin=16)
    assert found.shape == (*shape, 4)
    np.testing.assert_allclose(found, local(pair), atol=1e-4)


def test_every_tile_has_the_same_shape(rng):
    shapes = set()

    def function(pair):
        shapes.add(pair.shape)
        return pair[..., :1]

    map_tiles(function, rng.standard_normal((100, 130, 2)), tile=48, margin=16)
    assert shapes == {(48, 48, 2)}
    with pytest.raises(ValueError, match="multiples of 16"):
        map_tiles(function, np.zeros((64, 64, 2)), tile=60, margin=16)
    with pytest.raises(ValueError, match="more than two margins"):
        map_tiles(function, np.zeros((64, 64, 2)), tile=64, margin=32)


def test_tiles_are_spread_over_the_devices_and_come_in_order(rng, monkeypatch):
    count = jax.local_device_count()  # 8, by conftest.py
    monkeypatch.setattr(tiling, "measuring_devices", lambda _: jax.local_devices())
    pair = rng.standard_normal((64, 32 * (2 * count + 1), 2)).astype(np.float32)
    together = threading.Barrier(count, timeout=60)  # passed only by as many tiles at once
    calls, used = itertools.count(), set()

    def function(tile):
        used.update(jnp.asarray(tile).devices())
        if next(calls) < count:
            together.wait()
        return tile

    found = map_tiles(function, pair, tile=64, margin=16)
    np.testing.assert_array_equal(found, pair)
    assert len(used) == count > 1


def test_of_cpu_devices_one_measures_and_a_chosen_device_is_kept_to():
    assert tiling.measuring_devices() == jax.local_devices()[:1]
    assert tiling.measuring_devices(2) == jax.local_devices()[:1] * 2
    with jax.default_device(jax.local_devices()[3]):
        assert tiling.measuring_devices() == jax.local_devices()[3:4]


def test_what_is_in_work_when_it_is_interrupted_is_finished():
    main, calls, finished = threading.main_thread().ident, [], []

    def function(tile):
        calls.append(tile)
        if len(calls) == 3:
            for _ in range(2):  # and again, by someone who does not wait
                time.sleep(0.2)  # until the main thread waits for this tile
                signal.pthread_kill(main, signal.SIGINT)
            time.sleep(0.2)
        return tile

    def read(*window):
        return np.zeros((64, 64, 2))

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a background job
    try:
        with pytest.raises(KeyboardInterrupt):
            tiles = plan_tiles((64, 640), tile=64, margin=16)
            for tile, _ in measured_tiles(function, read, tiles):
                finished.append(tile)
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(finished) == 3


def test_an_error_in_a_tile_ends_the_rest():
    read, measured = [], []

    def function(tile):
        measured.append(tile)
        raise ValueError("this one")

    def reader(*window):
        read.append(window)
        return np.zeros((64, 64, 2))

    tiles = plan_tiles((64, 64 * 40), tile=64, margin=16)
    with pytest.raises(ValueError, match="this one"):
        list(measured_tiles(function, reader, tiles))
    assert len(measured) <= len(read) <= 2


def test_windows_reach_outside(rng):
    image = rng.standard_normal((20, 30))
    whole = np.pad(image, 50, constant_values=np.nan)
    for row, col, height, width in [
        (-5, 3, 10, 10),
        (15, 25, 12, 9),
        (-50, -50, 120, 130),
        (4, 5, 3, 2),
    ]:
        np.testing.assert_array_equal(
            padded_window(image, row, col, height, width),
            whole[50 + row :, 50 + col :][:height, :width],
        )
    for row, col in [(-40, 0), (21, 0), (0, 31), (0, -12)]:
        assert np.isnan(padded_window(image, row, col, 10, 10)).all()


@pytest.mark.parametrize(("reach", "step"), [(20, 1), (24, 4), (70, 5), (300, 100)])
def test_nodes_of_all_tiles_are_those_of_the_whole(reach, step):
    tiles = methods.tiles_about(reach, step)
    assert tiles["margin"] >= reach
    assert (tiles["tile"] - 2 * tiles["margin"]) % step == 0
    assert tiles["tile"] % 16 == tiles["margin"] % 16 == 0


def test_of_several_tiles_that_is_taken_which_measures_least():
    sizes = {"tile": (640, 768, 1024), "margin": 64}
    for shape, expected in [((1000, 1000), 1008), ((1400, 1400), 768), ((200, 300), 208)]:
        plan = plan_tiles(shape, **sizes)
        assert plan[0].shape[0] == expected
        assert sum(height * width for height, width in (t.kept for t in plan)) == np.prod(shape)
