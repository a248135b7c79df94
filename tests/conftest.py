"""Eight small devices on any machine, no network, textures, and a method that only pretends."""

import dataclasses
import os

import jax
import numpy as np
import pytest
from affine import Affine
from rasterio.crs import CRS

from displacement import methods, raster
from experiments import measure

os.environ["WANDB_MODE"] = "disabled"
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_disable_most_optimizations", True)  # most of the time goes into compiling


class Texture:
    """A periodic band-limited image of unit scatter, which can be moved exactly in Fourier space.

    Its amplitude falls as a power of frequency and with a sensor's blur, as that of ground does.
    """

    def __init__(self, seed: int, size: int = 128, *, slope: float = 1.2, blur: float = 0.2):
        frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size))
        frequency[0, 0] = 1.0
        noise = np.random.default_rng(seed).standard_normal((size, size))
        self.size = size
        self.spectrum = np.fft.rfft2(noise) * frequency**-slope * blur ** (4.0 * frequency**2)
        self.spectrum[0, 0] = 0.0
        # The phase of a Nyquist frequency has no sign: it cannot be moved.
        self.spectrum[size // 2] = self.spectrum[:, -1] = 0.0
        self.spectrum /= self.moved((0.0, 0.0)).std()

    def moved(self, displacement: tuple[float, float]) -> np.ndarray:
        """`(size, size)` image of the ground after it moved by (row, col) px."""
        row, col = displacement
        rows, cols = np.fft.fftfreq(self.size)[:, None], np.fft.rfftfreq(self.size)
        turned = self.spectrum * np.exp(-2j * np.pi * (rows * row + cols * col))
        return np.fft.irfft2(turned, s=(self.size, self.size))

    def pair(self, displacement: tuple[float, float]) -> np.ndarray:
        """`(size, size, 2)` float32: earlier, and later after the ground moved."""
        both = self.moved((0.0, 0.0)), self.moved(displacement)
        return np.stack(both, axis=-1).astype(np.float32)


@pytest.fixture
def rng():
    """Random numbers, the same in every run."""
    return np.random.default_rng(20190706)


@pytest.fixture(scope="session")
def texture():
    """A band-limited texture of 128 x 128 px."""
    return Texture(1)


UTM = CRS.from_epsg(32611)
GRID = Affine(10.0, 0.0, 500_000.0, 0.0, -10.0, 4_000_000.0)
TILE = {"tile": 48, "margin": 16}


class Stub:
    """A method that finds 0.2 px down and 0.3 px right on the left 50 columns of each tile's pair.

    What it finds also depends on the images, so that a wrong tile shows.
    """

    def __init__(self):
        self.options, self.tiles, self.stop_at, self.quality = None, 0, None, None

    def __call__(self, options):
        self.options = options
        return self.measure, {"window": options.get("window", 32), "coarse": 0}

    def measure(self, pair):
        if self.tiles == self.stop_at:
            raise KeyboardInterrupt
        self.tiles += 1
        moved = np.broadcast_to(np.float32([0.2, 0.3]), pair.shape) + 1e-4 * pair
        if self.quality is not None:
            told = np.broadcast_to([np.nan, np.nan, self.quality], (*pair.shape[:2], 3))
            moved = np.concatenate([moved, told], -1)
        return np.where(np.isfinite(pair).all(-1)[..., None], moved, np.nan)


@pytest.fixture
def stub(monkeypatch):
    """The method that takes the place of phase correlation."""
    method = Stub()
    row = dataclasses.replace(methods.METHODS["phase"], make=method, tiles=lambda _: TILE)
    monkeypatch.setitem(methods.METHODS, "phase", row)
    monkeypatch.setattr("displacement.scene.BLOCK_PX", 48)
    monkeypatch.setattr("displacement.product.BLOCK_PX", 48)
    return method


@pytest.fixture
def paths(tmp_path):
    image = np.random.default_rng(0).integers(1, 4000, (64, 80)).astype(np.uint16)
    found = [tmp_path / "a.tif", tmp_path / "b.tif", tmp_path / "out" / "moved.tif"]
    raster.write_image(found[0], image, transform=GRID, crs=UTM)
    raster.write_image(found[1], image[:, ::-1].copy(), transform=GRID, crs=UTM)
    return found


def measured(paths, **options):
    measure.measure_files(*paths, method="phase", **options)
    return raster.read_displacement(paths[2])
