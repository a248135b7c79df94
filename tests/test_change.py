"""What is not motion: change, clouds, radiometry, and that nothing of it tells the motion."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_gen import change, sensor
from data_gen.config import RANGES, GeneratorConfig, plain
from data_gen.generator import example_keys, simulate_batch
from data_gen.scenes import CELL, TILE, SceneBank
from displacement.warp import bspline_coefficients

batch = jax.jit(simulate_batch, static_argnums=1)
SIZE = 48


@pytest.fixture
def image(rng):
    return jnp.asarray(rng.standard_normal((SIZE, SIZE)), jnp.float32)


def _certain(**changes):
    return plain(size=SIZE, **changes)


def test_clouds_hide_the_ground_and_are_in_the_truth(image):
    pair = jnp.stack([image, image], -1)
    draw = jax.jit(change.clouds, static_argnums=2)
    config = _certain(cloud_fraction=1.0, cloud_mask_fraction=1.0)
    touched = set()
    for seed in range(8):
        clouded, masked, seen = draw(jax.random.key(seed), pair, config)
        assert np.isfinite(clouded).all()
        np.testing.assert_array_equal(masked.any(-1), ~seen)  # all that is opaque is masked
        dates = [bool(np.abs(clouded - pair)[..., i].max() > 0.5) for i in (0, 1)]
        assert sum(dates) <= 1
        touched.add(tuple(dates))
        unmasked = draw(
            jax.random.key(seed), pair, dataclasses.replace(config, cloud_mask_fraction=0.0)
        )
        assert not unmasked[1].any()
        np.testing.assert_array_equal(unmasked[2], seen)  # what cannot be seen is not in the truth
    assert {(True, False), (False, True)} <= touched
    clear, masked, seen = draw(jax.random.key(0), pair, _certain())
    np.testing.assert_array_equal(clear, pair)
    assert seen.all() and not masked.any()


def test_seasons_fade_contrast_and_the_sun_adds_relief(image):
    draw = jax.jit(change.season, static_argnums=2)
    faded = [draw(jax.random.key(seed), image, _certain(season_fraction=1.0)) for seed in range(4)]
    slopes = [float((f * image).mean() / (image**2).mean()) for f in faded]
    assert all(-0.3 < slope < 1.0 for slope in slopes) and min(slopes) < 0.9
    lit = jax.jit(change.sun, static_argnums=2)(
        jax.random.key(0), image, _certain(sun_fraction=1.0)
    )
    added = np.asarray(lit - image)
    assert 0.04 < added.std() < 1.1
    neighbours = np.corrcoef(added[:, 1:].ravel(), added[:, :-1].ravel())[0, 1]
    assert neighbours > 0.3  # slopes, not speckle


def test_new_cover_is_texture_of_its_own(image):
    draw = jax.jit(change.cover, static_argnums=2)
    config = _certain(cover_fraction=1.0, cover_level=(0.5, 0.5))
    added = [np.asarray(draw(jax.random.key(seed), image, config) - image) for seed in range(4)]
    for texture in added:
        assert texture.std() == pytest.approx(0.5, abs=1e-3)
        assert abs(np.corrcoef(texture.ravel(), np.ravel(image))[0, 1]) < 0.3
    assert not np.allclose(added[0], added[1])
    np.testing.assert_array_equal(draw(jax.random.key(0), image, _certain()), image)


def test_radiometry_makes_the_noise_it_is_asked_for(image):
    config = _certain(
        noise_fraction=(0.1, 0.1),
        illumination=0.0,
        gain=(1.0, 1.0),
        gamma=(1.0, 1.0),
        offset_fraction=0.0,
    )
    draw = jax.jit(sensor.radiometry, static_argnums=2)
    noise = np.asarray([draw(jax.random.key(seed), image, config) - image for seed in range(8)])
    assert noise.std() == pytest.approx(0.1 * float(image.std()), rel=0.1)
    striped = dataclasses.replace(config, stripe_fraction=1.0, stripe_level=(0.2, 0.2))
    lines = np.asarray(draw(jax.random.key(0), image, striped) - image)
    along = max(lines.mean(0).std(), lines.mean(1).std())
    assert along == pytest.approx(0.2, rel=0.35)


def test_quantisation_rounds_to_steps_and_digital_numbers_keep_them(image):
    coarse = sensor.quantise(jax.random.key(0), image, _certain(quantisation=(0.25, 0.25)))
    np.testing.assert_allclose(coarse, 0.25 * np.round(np.asarray(image) / 0.25), atol=1e-6)
    holed = np.asarray(image).copy()
    holed[3, 4] = np.nan
    counts = sensor.digital_numbers(holed)
    assert counts.dtype == np.uint16 and counts[3, 4] == 0
    seen = np.isfinite(holed)
    assert counts[seen].min() >= 1
    np.testing.assert_allclose((counts[seen] - 3000.0) / 600.0, holed[seen], atol=1e-3)


def _white_bank():
    """Ground with all its power up to the finest detail: what resampling smooths most."""
    white = np.random.default_rng(0).standard_normal((4, TILE, TILE)).astype(np.float32)
    coefficients = jnp.repeat(bspline_coefficients(jnp.asarray(white))[:, None], 2, axis=1)
    cells = jnp.ones((4, TILE // CELL, TILE // CELL))
    return SceneBank(coefficients, jnp.zeros((4, 2, 3)), jnp.zeros(4), cells)


def _fine_power(image):
    """Power beyond 0.3 cycles a pixel along either axis."""
    window = np.hanning(image.shape[0])[:, None] * np.hanning(image.shape[1])
    power = np.abs(np.fft.fft2(window * (image - image.mean()))) ** 2
    frequency = np.abs(np.fft.fftfreq(len(image)))
    return power[np.maximum.outer(frequency, frequency) > 0.3].sum()


@pytest.mark.parametrize("bank", [None, _white_bank()], ids=["procedural", "white"])
def test_sharpness_does_not_tell_the_shift(bank):
    """The later image is as sharp as the earlier one, whatever the part of a pixel it moved by."""
    config = _certain(
        fault_fraction=0.0,
        offset_px=0.5,
        ramp_px=0.0,
        noise_fraction=(1e-6, 1e-6),
        quantisation=(1e-6, 1e-6),
        illumination=0.0,
        gamma=(1.0, 1.0),
        gain=(1.0, 1.0),
        scene_scale=(1.0, 1.0),
    )
    keys = example_keys(jax.random.key(3), 0, jnp.arange(96))
    sample = jax.device_get(batch(keys, config, bank))
    fraction = (np.sin(np.pi * sample.displacement[:, 0, 0]) ** 2).mean(-1)  # 0 whole, 1 half
    ratio = np.array([_fine_power(p[..., 1]) / _fine_power(p[..., 0]) for p in sample.pair])
    slope, level = np.polyfit(fraction, np.log(ratio), 1)
    assert abs(slope) < 0.08 and abs(level) < 0.05
    # An untouched earlier image beside a resampled later one would give the motion away.
    if bank is not None:
        images = np.asarray(bank.coefficients[0, 0])
        moved = [np.roll(images, 1, 0) / 6 + 2 * images / 3 + np.roll(images, -1, 0) / 6]
        moved += [
            (np.roll(images, 1, 0) + np.roll(images, -2, 0)) / 48
            + 23 / 48 * (images + np.roll(images, -1, 0))
        ]
        assert np.log(_fine_power(moved[1]) / _fine_power(moved[0])) < -0.3


EVENTS = [
    f.name
    for f in dataclasses.fields(GeneratorConfig)
    if f.type is float and f.name.endswith("_fraction") and f.name != "offset_fraction"
]


@pytest.mark.parametrize("named", ["very_small", "large"])
def test_any_event_gives_a_sound_sample(named):
    """With everything happening often, over many seeds at once."""
    often = dict.fromkeys(EVENTS, 0.5) | dict.fromkeys(
        ("parallel_fraction", "stepover_fraction", "branch_fraction"), 0.3
    )
    config = GeneratorConfig(size=32, **often | RANGES[named])
    keys = example_keys(jax.random.key(1), 0, jnp.arange(64))
    samples = jax.device_get(batch(keys, config))
    assert np.isfinite(samples.displacement).all() and np.isfinite(samples.slip).all()
    assert not np.isnan(samples.distance).any()
    assert np.isfinite(samples.pair[samples.valid]).all()
    assert np.abs(samples.displacement).max() < config.reach_px + 2.0 * config.ramp_px
    slip = np.linalg.norm(samples.slip, axis=-1)
    assert slip.max() <= config.slip_px[1] * 1.001
    assert (slip[np.isinf(samples.distance)] == 0.0).all()
    assert 0.2 < samples.valid.mean() < 0.95
