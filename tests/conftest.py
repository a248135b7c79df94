"""Eight small devices on any machine, no network, and the textures that the tests measure."""

import os

import jax
import numpy as np
import pytest

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
