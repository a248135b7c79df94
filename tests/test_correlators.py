"""The correlators: exact shifts, signs, symmetries, other programs' answers, and no data."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.feature import match_template
from skimage.registration import phase_cross_correlation

from displacement.correlators import windows
from displacement.correlators.lk import lk
from displacement.correlators.ncc import _coefficient, ncc
from displacement.correlators.phase import phase
from tests.conftest import Texture

STEP = 16
METHODS = {
    "phase 32": functools.partial(phase, window=32, step=STEP),
    "phase 16": functools.partial(phase, window=16, step=STEP),
    "ncc 31": functools.partial(ncc, window=31, step=STEP),
    "ncc 15": functools.partial(ncc, window=15, step=STEP),
    "ncc 7 regularised": functools.partial(ncc, window=7, step=4, regularisation=4.0),
    "lk 32": functools.partial(lk, window=32),
    "lk 16": functools.partial(lk, window=16),
}
every = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
wide = pytest.mark.parametrize(
    "method", [METHODS[name] for name in ("phase 32", "ncc 31", "lk 32")]
)


def _inner(method, pair):
    """Displacements `(N, 2)` at the nodes whose windows lie within the image."""
    found = np.asarray(method(jnp.asarray(pair, jnp.float32))[0])
    return found[32:-31:STEP, 32:-31:STEP].reshape(-1, 2)


@every
@pytest.mark.parametrize("shift", [(0.25, -0.4), (0.5, 0.5), (-0.13, 0.71), (2.3, -1.6)])
def test_parts_of_a_pixel_are_found(texture, method, shift):
    error = np.abs(_inner(method, texture.pair(shift)) - shift)
    assert np.median(error) < 0.01
    window = method.keywords["window"]
    assert error.max() < (0.015 if window > 16 else 0.03)


@wide
def test_error_does_not_depend_on_the_part_of_a_pixel(method):
    # As much detail as the sharpest sensor keeps, which is where interpolation draws to halves.
    ground = Texture(2, blur=0.4)
    parts = np.arange(8) / 8
    errors = [np.mean(_inner(method, ground.pair((p, -p))) - (p, -p), axis=0) for p in parts]
    assert np.ptp(errors, axis=0).max() < 0.01


@pytest.mark.parametrize("noise", [0.05, 0.1])
def test_noise_draws_no_motion_to_the_nodes_of_the_interpolation(noise):
    # Bilinear values between quarters of a pixel are smoother than those at them: where their
    # slopes met the residual, the mean of this was off by up to 0.01 and 0.02 px.
    ground, method = Texture(11, 256, slope=1.2, blur=0.3), METHODS["lk 16"]
    rng = np.random.default_rng(3)
    errors = []
    for part in np.arange(8) / 16 + 1 / 32:
        pair = ground.pair((0.0, part)) + noise * rng.standard_normal((256, 256, 2))
        errors.append(np.median(_inner(method, pair)[:, 1]) - part)
    assert np.abs(errors).max() < (0.004 if noise < 0.1 else 0.008)


@every
@pytest.mark.parametrize("shift", [(0, 0), (1, -2), (-3, 2)])
def test_whole_pixels_are_exact(texture, method, shift):
    found = np.asarray(method(jnp.asarray(texture.pair(shift)))[0])
    assert np.abs(found[64, 64] - shift).max() < 1e-3
    # Towards the edge the local normalisation of ncc sees other ground.
    assert np.abs(found[32:-31:STEP, 32:-31:STEP] - shift).max() < 1e-2


@wide
@settings(max_examples=2, deadline=None, derandomize=True)
@given(row=st.floats(-2.5, 2.5), col=st.floats(-2.5, 2.5))
def test_swapped_pair_negates(texture, method, row, col):
    pair = texture.pair((row, col))
    there, back = _inner(method, pair), _inner(method, pair[..., ::-1])
    assert np.abs(np.median(there + back, axis=0)).max() < 1e-3
    assert np.abs(there - [row, col]).max() < 0.015


@wide
def test_flips_and_transposes_commute_with_components(texture, method):
    pair = texture.pair((1.3, -0.4))

    def run(pair):  # nodes fall on nodes when it is flipped, and no shape is compiled anew
        pair = np.pad(pair[:113, :113], ((0, 15), (0, 15), (0, 0)), constant_values=np.nan)
        return np.asarray(method(jnp.asarray(pair))[0])[:113:STEP, :113:STEP]

    plain, window = run(pair), method.keywords["window"]
    inner = np.s_[2:-2, 2:-2]
    np.testing.assert_allclose(
        run(pair.transpose(1, 0, 2))[inner], plain.transpose(1, 0, 2)[inner][..., ::-1], atol=2e-3
    )
    # An even window is centred half a pixel off, so that its flip holds other ground.
    tolerance = 2e-3 if window % 2 else 1e-2
    flipped = run(pair[:, 112::-1])[:, ::-1] * [1, -1]
    np.testing.assert_allclose(flipped[inner], plain[inner], atol=tolerance)


@wide
def test_gain_and_offset_do_not_matter(texture, method):
    pair = texture.pair((0.4, -0.7))
    changed = pair * np.float32([3.0, 0.2]) + np.float32([40.0, -5.0])
    np.testing.assert_allclose(_inner(method, changed), _inner(method, pair), atol=1e-3)


def test_phase_agrees_with_scikit_image(texture):
    pair = texture.pair((0.42, -0.27))
    taper = np.outer(*2 * [np.hanning(65)[:-1]])
    cut = pair[32:96, 32:96]
    earlier, later = np.moveaxis((cut - cut.mean((0, 1))) * taper[..., None], -1, 0)
    # Its shift brings the second image back to the first.
    expected = -phase_cross_correlation(earlier, later, upsample_factor=100)[0]
    found = np.asarray(phase(jnp.asarray(pair), window=64, step=64)[0])[64, 64]
    np.testing.assert_allclose(found, expected, atol=0.05)
    assert np.abs(found - [0.42, -0.27]).max() <= np.abs(expected - [0.42, -0.27]).max() + 1e-3


def test_coefficient_is_that_of_scikit_image(texture, rng):
    earlier = texture.moved((0, 0))[:48, :48].astype(np.float32)
    later = earlier + 0.3 * rng.standard_normal((48, 48)).astype(np.float32)
    expected = match_template(later[14:35, 14:35], earlier[17:32, 17:32])  # shifts of +-3
    for row, col in [(0, 0), (3, -2), (-1, 3)]:
        moved = np.roll(later, (-row, -col), axis=(0, 1))
        known = np.ones_like(earlier)
        found = np.asarray(_coefficient(earlier, known, moved, known, 15))[24, 24]
        assert found == pytest.approx(expected[3 + row, 3 + col], abs=1e-4)


def test_ncc_quality_is_the_correlation_coefficient(texture, rng):
    pair = texture.pair((1, -2)) + 0.2 * rng.standard_normal((128, 128, 2)).astype(np.float32)
    quality = np.asarray(METHODS["ncc 31"](jnp.asarray(pair))[1])[64, 64]
    pair = np.asarray(jax.jit(windows.prepared)(pair))
    whole = np.corrcoef(pair[49:80, 49:80, 0].ravel(), pair[50:81, 47:78, 1].ravel())[0, 1]
    assert whole - 1e-3 < quality < whole + 0.02


@pytest.mark.parametrize("method", [METHODS[name] for name in ("phase 32", "ncc 31")])
def test_nodes_of_a_coarse_step_are_those_of_a_fine_one(texture, method):
    pair = jnp.asarray(texture.pair((0.6, -0.3))[:24, :24])
    window = 8 if method.func is phase else 7
    coarse, dense = (np.asarray(method.func(pair, window=window, step=n)[0]) for n in (4, 1))
    assert coarse.shape == dense.shape == (24, 24, 2)
    assert np.isfinite(coarse[8:17, 8:17]).all()
    np.testing.assert_allclose(coarse[::4, ::4], dense[::4, ::4], atol=1e-4)
    between = 0.5 * (coarse[8, 8] + coarse[8, 12])
    np.testing.assert_allclose(coarse[8, 10], between, atol=1e-5)


@every
def test_windows_without_data_give_nan_and_specks_do_no_harm(texture, rng, method):
    shift = (0.3, -1.45)
    pair = texture.pair(shift)
    pair[:, :64, 1] = np.nan
    found, quality = (np.asarray(x) for x in method(jnp.asarray(pair)))
    assert np.isnan(found[::STEP, :56:STEP]).all()
    assert np.isnan(quality[::STEP, :56:STEP]).all()
    assert np.isfinite(found[32:-32:STEP, 80:-24:STEP]).all()
    assert np.abs(found - shift)[32:-32:STEP, 80:-24:STEP].max() < 0.15
    specked = texture.pair(shift)
    specked[rng.random(specked.shape) < 0.01] = np.nan
    error = np.abs(_inner(method, specked) - shift)
    assert np.median(error) < 0.02
    assert np.quantile(error, 0.95) < 0.1


@wide
def test_flat_ground_gives_nan_or_no_move(method):
    found, quality = (np.asarray(x) for x in method(jnp.ones((128, 128, 2))))
    assert (np.isnan(found) | (np.abs(found) < 1e-3)).all()
    assert (np.isnan(quality) | (np.abs(quality) < 0.01)).all()


@every
def test_shift_beyond_reach_gives_nan(texture, method):
    limit = method.keywords["window"] // 4 if method.func is phase else 4
    found = _inner(method, texture.pair((limit, 0)))
    # In small windows something beside often fits by chance, as well as noisy ground would.
    by_chance = method.func is lk and method.keywords["window"] == 16
    assert np.isnan(found).all(-1).mean() > (0.5 if by_chance else 0.9)


def _slipped(texture):
    """A pair `(128, 128, 2)` whose ground right of column 64 moved by 1 px along columns."""
    still, moved = texture.moved((0, 0)), texture.moved((1.0, 0))
    later = np.where(np.arange(128)[:, None] < 64, still, moved).T
    return np.stack([still.T, later], axis=-1).astype(np.float32)


@pytest.mark.parametrize("method", [METHODS[n] for n in METHODS if "regularised" not in n])
def test_step_is_smeared_over_about_a_window(texture, method):
    """What the network is there to mend: documented, not wanted."""
    pair = jnp.asarray(_slipped(texture))
    profile = np.median(np.asarray(method(pair)[0])[32:-31:STEP, ::STEP, 1], axis=0)
    reach = -(-method.keywords["window"] // 2 // STEP)
    middle = 64 // STEP
    assert np.abs(profile[2 : middle - reach]).max() < 0.02
    assert np.abs(profile[middle + reach + 1 : -1] - 1.0).max() < 0.02
    inside = profile[middle - reach : middle + reach + 1]
    assert ((inside > 0.03) & (inside < 0.97)).any()
    assert (np.diff(inside) > -0.05).all()


def test_regularisation_smooths_noise_and_keeps_a_step(texture, rng):
    pair = _slipped(texture) + 0.05 * rng.standard_normal((128, 128, 2)).astype(np.float32)

    def run(regularisation):
        found, quality = ncc(jnp.asarray(pair), window=7, step=4, regularisation=regularisation)
        assert np.nanmedian(quality) > 0.9
        return np.asarray(found)[32:-31:4, 32:-31:4, 1]

    alone, together = run(0.0), run(4.0)
    columns = np.arange(32, 97, 4)
    truth, away = columns >= 64, np.abs(columns - 64) > 8
    scatter = [np.nanstd((found - truth)[:, away]) for found in (alone, together)]
    assert scatter[1] < 0.5 * scatter[0]
    near = [np.nanmean(np.abs(found - truth)[:, ~away]) for found in (alone, together)]
    assert near[1] < near[0]


def test_coarse_windows_tell_fine_ones_where_to_look(texture):
    pair = jnp.asarray(texture.pair((6.3, -7.4)))
    alone = np.asarray(phase(pair, window=16, step=STEP)[0])[32:-31:STEP, 32:-31:STEP]
    led = np.asarray(phase(pair, window=16, step=STEP, coarse=48)[0])[32:-31:STEP, 32:-31:STEP]
    assert not (np.abs(alone - [6.3, -7.4]) < 0.1).all(-1).any()
    assert np.abs(led - [6.3, -7.4]).max() < 0.05


def test_changed_ground_is_not_measured_by_phase(texture):
    pair = texture.pair((0.4, -0.3))
    pair[32:96, 64:, 1] = np.roll(pair[32:96, 64:, 1], (29, 31), axis=(0, 1))[::-1]
    found = np.asarray(phase(jnp.asarray(pair), window=16, step=4)[0])
    changed, same = found[44:84:4, 76:116:4, 0], found[32:96:4, 16:48:4]
    assert np.isnan(changed).mean() > 0.4
    assert np.isfinite(same).all()
    assert np.abs(same - [0.4, -0.3]).max() < 0.05


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        (phase, {"window": 31}, "even window of 8 px or more, got 31"),
        (phase, {"window": 6}, "even window of 8 px or more, got 6"),
        (phase, {"window": 16, "coarse": 16}, "more than window=16 px, got 16"),
        (ncc, {"window": 16}, "odd window of 3 px or more, got 16"),
        (ncc, {"window": 1}, "odd window of 3 px or more, got 1"),
        (ncc, {"search": 0}, "search of 1 px or more, got 0"),
        (ncc, {"regularisation": -1.0}, "regularisation of 0 .none. or more, got -1.0"),
    ],
)
def test_bad_windows_are_refused(method, options, message):
    with pytest.raises(ValueError, match=message):
        method(jnp.zeros((32, 32, 2)), **options)


def test_field_between_nodes_is_bilinear(rng):
    nodes = rng.standard_normal((4, 5, 2)).astype(np.float32)
    nodes[2, 3] = np.nan
    field = np.asarray(windows.to_pixels(jnp.asarray(nodes), (14, 18), 4))
    np.testing.assert_allclose(field[12, 2], nodes[3, :2].mean(0), atol=1e-6)
    np.testing.assert_allclose(field[13, 17], nodes[3, 4], atol=1e-6)  # held beyond the last
    np.testing.assert_allclose(field[4, 12], nodes[1, 3], atol=1e-6)  # beside NaN, but a node
    assert np.isnan(field[5:12, 9:16]).all()
    assert np.isfinite(field[:5]).all()
