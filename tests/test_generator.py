"""simulate: truth, determinism, devices, and the sensor, against closed forms and SciPy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from data_gen import sensor, textures
from data_gen.config import GeneratorConfig, plain
from data_gen.generator import example_keys, simulate, simulate_batch
from data_gen.scenes import CELL, TILE, SceneBank, join, procedural_bank
from displacement import parallel
from displacement.warp import bspline_coefficients

SMALL = GeneratorConfig(size=48)
FAULT = plain(
    size=96,
    scene_scale=(1.0, 1.0),
    noise_fraction=(1e-6, 1e-6),
    illumination=0.0,
    gain=(1.0, 1.0),
    gamma=(1.0, 1.0),
    offset_fraction=0.0,
    quantisation=(1e-6, 1e-6),
    mtf_nyquist=(0.3, 0.3),
    ramp_px=0.0,
    slip_px=(3.0, 3.0),
    oblique_deg=0.0,
    locking_px=(1e5, 1e5),
)
CLEAN = dataclasses.replace(FAULT, fault_fraction=0.0)
run = jax.jit(simulate, static_argnums=1)


@pytest.fixture(scope="module")
def batch():
    keys = example_keys(jax.random.key(0), 0, jnp.arange(8))
    return jax.device_get(jax.jit(simulate_batch, static_argnums=1)(keys, SMALL))


def test_shapes_and_finite_truth(batch):
    assert batch.pair.shape == (8, 48, 48, 2) and batch.pair.dtype == np.float32
    assert batch.displacement.shape == (8, 48, 48, 2)
    assert batch.distance.shape == batch.valid.shape == (8, 48, 48)
    assert np.isfinite(batch.displacement).all() and np.isfinite(batch.slip).all()
    assert not np.isnan(batch.distance).any()
    assert np.isfinite(batch.pair[batch.valid]).all()
    assert batch.valid.mean() > 0.5


def test_samples_differ_and_repeat(batch):
    again = run(example_keys(jax.random.key(0), 0, jnp.arange(8))[3], SMALL)
    np.testing.assert_allclose(again.displacement, batch.displacement[3], atol=1e-5)
    np.testing.assert_allclose(again.pair, batch.pair[3], atol=2e-3)
    assert np.abs(batch.displacement[0] - batch.displacement[1]).max() > 0.01


@pytest.mark.parametrize("devices", [1, 2, 8])
def test_same_samples_on_any_number_of_devices(batch, devices):
    def mean_of(key, examples):
        sample = simulate_batch(example_keys(key, 0, examples), SMALL)
        return jax.lax.all_gather(sample, parallel.AXIS)

    mapped = jax.pmap(
        mean_of,
        axis_name=parallel.AXIS,
        in_axes=(None, 0),
        out_axes=None,
        devices=jax.local_devices()[:devices],
    )
    sample = mapped(jax.random.key(0), parallel.example_indices(8, devices))
    for name in ("displacement", "distance", "valid"):
        found = np.asarray(getattr(sample, name)).reshape(getattr(batch, name).shape)
        np.testing.assert_allclose(found, getattr(batch, name), atol=1e-4)


def _blob_bank(sigma):
    """A scene of well-separated Gaussian hills, of which the centres can be measured."""
    scene = np.zeros((TILE, TILE), np.float32)
    scene[12::24, 12::24] = 1.0
    scene = ndimage.gaussian_filter(scene, sigma)
    coefficients = bspline_coefficients(jnp.asarray(scene / scene.std()))
    return SceneBank(
        jnp.broadcast_to(coefficients, (1, 2, TILE, TILE)),
        jnp.zeros((1, 2, 3)),
        jnp.zeros(1),
        jnp.ones((1, TILE // CELL, TILE // CELL)),
    )


def _centres(image):
    """Centres `(N, 2)` of bright hills away from the image's edges, by Gaussian-weighted moments.

    Symmetric weights about a symmetric hill: where the mean offset is 0 is the hill's centre.
    """
    marked, count = ndimage.label(image > 0.5 * image.max())
    start = np.array(ndimage.center_of_mass(marked > 0, marked, range(1, count + 1)))
    start = start[((start > 14) & (start < image.shape[0] - 15)).all(1)]
    pixels = np.stack(np.meshgrid(*map(np.arange, image.shape), indexing="ij"), -1)
    refined = []
    for first in start:
        centre = first
        for _ in range(30):
            offset = pixels - centre
            weight = image * np.exp(-0.5 * (offset**2).sum(-1) / 9.0)
            centre = centre + 1.5 * (weight[..., None] * offset).sum((0, 1)) / weight.sum()
        refined.append(centre)
    return np.array(refined)


@pytest.mark.parametrize("seed", range(4))
def test_hills_are_found_where_the_truth_says(seed):
    sample = jax.device_get(run(jax.random.key(seed), CLEAN, _blob_bank(2.5)))
    earlier, later = (sample.pair[..., date] - sample.pair[..., date].min() for date in (0, 1))
    before, after = _centres(earlier), _centres(later)
    moved = sample.displacement[0, 0]  # uniform here
    gap = np.linalg.norm(before[:, None] + moved - after, axis=-1)
    matched = gap.min(1) < 3
    assert matched.sum() >= 5
    found = after[gap.argmin(1)][matched] - before[matched]
    np.testing.assert_allclose(np.median(found, 0), moved, atol=0.01)


@pytest.mark.parametrize("seed", range(3))
def test_each_side_of_a_fault_moves_as_the_truth_says(seed):
    sample = jax.device_get(run(jax.random.key(seed), FAULT, _blob_bank(1.5)))
    earlier, later = (sample.pair[..., date] - sample.pair[..., date].min() for date in (0, 1))
    before, after = _centres(earlier), _centres(later)
    checked = 0
    for centre in before:
        row, col = np.round(centre).astype(int)
        if abs(sample.distance[row, col]) < 14:  # the hill itself is cut
            continue
        expected = centre + sample.displacement[row, col]
        gap = np.linalg.norm(after - expected, axis=1).min()
        if gap < 2:
            checked += 1
            assert gap < 0.03
    assert checked >= 3


def test_the_sensor_blurs_by_its_mtf():
    """A wave at Nyquist of a quarter of the sampling passes with the Gaussian's transfer."""
    size, frequency = 48, 0.125
    positions = np.asarray(sensor.ground_positions(size))
    ground = np.cos(2 * np.pi * frequency * positions[..., 1])
    sigma = float(sensor.sigma_for_mtf(0.2))
    image = sensor.expose(jnp.asarray(ground), sigma, size=size)
    expected = np.exp(-2 * (np.pi * sigma * frequency) ** 2) * np.cos(
        2 * np.pi * frequency * np.arange(size)
    )
    np.testing.assert_allclose(image[5], expected, atol=2e-3)
    assert np.exp(-2 * (np.pi * sigma * 0.5) ** 2) == pytest.approx(0.2, rel=1e-5)


def test_power_law_has_the_slope_it_was_given():
    fields = [
        np.asarray(textures.power_law(jax.random.key(i), jnp.float32(1.5), size=256))
        for i in range(4)
    ]
    power = np.mean([np.abs(np.fft.rfft2(f)) ** 2 for f in fields], 0)
    radius = np.hypot(np.fft.fftfreq(256)[:, None], np.fft.rfftfreq(256)[None])
    used = (radius > 0.03) & (radius < 0.4)
    slope = np.polyfit(np.log(radius[used]), np.log(power[used]), 1)[0]
    assert slope == pytest.approx(-3.0, abs=0.2)  # power is amplitude squared


def test_two_dates_are_used_with_their_misregistration():
    """The later date lies (0.5, -0.25) px off; the truth must not contain that."""
    scene = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(TILE, TILE)), 3)
    shifted = ndimage.shift(scene, (0.5, -0.25), order=5, mode="mirror")
    both = jnp.asarray(np.stack([scene, shifted]) / scene.std(), jnp.float32)
    affine = jnp.array([[[0.5, 0.0, 0.0], [-0.25, 0.0, 0.0]]])
    cells = TILE // CELL
    agree = jnp.ones((1, cells, cells)).at[:, : cells // 2].set(0.0)
    bank = SceneBank(bspline_coefficients(both)[None], affine, jnp.ones(1), agree)
    config = dataclasses.replace(CLEAN, two_date_fraction=1.0, offset_px=0.0)
    share = []
    for seed in range(4):  # both orders of the dates occur
        sample = run(jax.random.key(seed), config, bank)
        assert np.abs(sample.displacement).max() == 0.0
        inner = np.asarray(sample.pair[8:-8, 8:-8])
        assert np.abs(inner[..., 0] - inner[..., 1]).max() < 0.05 * inner.std()
        share.append(sample.valid.mean())
    assert 0.1 < np.mean(share) < 0.9  # where the dates disagree nothing is learned


def test_banks_join():
    bank = procedural_bank(jax.random.key(0), SMALL, tiles=1)
    both = join(bank, bank)
    assert both.coefficients.shape == (2, 2, TILE, TILE)
    sample = run(jax.random.key(1), SMALL, both)
    assert np.isfinite(sample.pair[sample.valid]).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"slip_px": (0.1, float("inf"))}, "slip_px=.* must be finite"),
        ({"offset_px": -0.5}, r"offset_px=-0\.5 is a length; give 0 or more"),
        ({"mtf_nyquist": (0.1, 1.0)}, "mtf_nyquist=.* a share: 0 to 1"),
        ({"mtf_nyquist": (-0.1, 0.4)}, "mtf_nyquist=.* a share: 0 to 1"),
        ({"scene_scale": (0.5, 2.0)}, "scene_scale=.* 1 or more"),
        ({"slip_variation": 3.0}, "slip_variation=.* of the slip"),
        ({"edge_clearance": 0.6}, r"edge_clearance=0\.6 .* 0 to 0\.5"),
        ({"parallel_fraction": 0.6, "branch_fraction": 0.5}, "add up to 1.2"),
    ],
)
def test_ranges_without_a_meaning_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        GeneratorConfig(**changes)
