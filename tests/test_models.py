"""The networks' parts: normalisation, matching, layers, and dense equals patch by patch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scipy.special import softmax

from displacement.models import candidates, create_model, refinement
from displacement.models.layers import Conv, _conv, doubled, kept
from displacement.models.matching import SCALES, WIDEST, match
from displacement.normalise import gaussian_mean, normalise, normalise_twice

KEY = jax.random.key(7)
SIZE = 24
clean = jax.jit(normalise)


@pytest.fixture
def pair(rng):
    return rng.standard_normal((1, SIZE, SIZE, 2)).astype(np.float32)


def _random(variables):
    """Parameters of size one: the last layer of a fresh network is almost zero."""
    leaves, tree = jax.tree.flatten(variables)
    keys = jax.random.split(KEY, len(leaves))
    return tree.unflatten(
        [0.2 * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)]
    )


@pytest.mark.parametrize("patch", [16, 15, 8])
def test_dense_network_is_what_patch_by_patch_gives(pair, patch):
    pair[0, 5:9, 11:13, 1] = np.nan
    model = create_model("patch", patch=patch, width=4)
    variables = _random(jax.jit(model.init)(KEY, pair))
    dense, sigma = jax.jit(model.apply)(variables, pair)
    assert sigma is None
    before = patch // 2
    padding = [(0, 0), (before, patch - 1 - before), (before, patch - 1 - before), (0, 0)]
    padded = np.pad(np.asarray(clean(pair)[0]), padding)
    cut = np.lib.stride_tricks.sliding_window_view(padded[0], (patch, patch), axis=(0, 1))
    patches = np.moveaxis(cut, 2, -1).reshape(-1, patch, patch, 2)
    single = jax.jit(functools.partial(model.apply, method="patches"))(variables, patches)
    assert single.shape == (SIZE * SIZE, 1, 1, 2)
    np.testing.assert_allclose(dense.reshape(-1, 2), single[:, 0, 0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("radius", [0, 2])
def test_unet_gives_displacement_and_scale_at_every_pixel(pair, radius):
    pair[0, :6, :, 0] = np.nan
    model = create_model("unet", widths=[4, 4], radius=radius)
    (displacement, log_scale), _ = jax.jit(model.init_with_output)(KEY, pair)
    assert displacement.shape == log_scale.shape == (1, SIZE, SIZE, 2)
    assert np.isfinite(displacement).all()
    # It says nothing of its own, and chooses among what the windows say.
    assert (np.abs(displacement) < radius + 1.0).all()
    assert ((log_scale >= -7.0) & (log_scale <= 3.0)).all()


@pytest.mark.parametrize("name", ["unet", "iterative"])
def test_whatever_the_weights_a_uniform_move_is_found(texture, name):
    # It only chooses among what windows measured, so that here it cannot be wrong.
    shift = np.float32([0.3, -1.4])
    model = create_model(name, widths=[4, 4])
    (displacement, _), _ = jax.jit(model.init_with_output)(KEY, texture.pair(shift)[None])
    error = np.asarray(displacement)[0, 32:-32, 32:-32] - shift
    assert np.abs(error).mean() < 0.02
    assert np.abs(np.median(error, axis=(0, 1))).max() < 0.005


def test_unet_names_the_sizes_that_it_takes():
    model = create_model("unet", widths=(4, 4, 4))
    with pytest.raises(ValueError, match="multiples of 4 px, not 24 x 26"):
        model.init(KEY, jnp.zeros((1, 24, 26, 2)))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("unett", {}, "Unknown model 'unett'.*patch.*unet"),
        ("patch", {"widths": [3]}, "no option.*widths.*patch.*width"),
        ("unet", {"parent": None}, "no option.*parent"),
        ("unet", {"widths": []}, r"widths=\(\) of model 'unet' must be a list of whole numbers"),
        ("unet", {"widths": [8, 0.5]}, "widths=.*above 0"),
        ("unet", {"radius": 1}, "radius=1 .* must be 0, for no matching, or 2 px or more"),
        ("iterative", {"refinements": -1}, "refinements=-1 .* 0 or more"),
        ("iterative", {"radius": 0}, "nothing to look at again; use 'unet'"),
        ("unet", {"radius": 0, "refinements": 2}, "nothing to look at again.*without refinements"),
        ("unet", {"widths": [4] * 6}, "6 resolutions; 5 at most: .* multiples of 16 px"),
        ("cells", {"widths": [4] * 5}, "5 resolutions; 4 at most"),
        ("patch", {"patch": 2}, "patch=2 .* 3 px or more"),
    ],
)
def test_unknown_network_or_option_is_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        create_model(name, **options)


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_gradients_are_those_of_the_plain_convolution(rng, padding, size):
    image = rng.standard_normal((2, 9, 7, 3)).astype(np.float32)
    kernel = rng.standard_normal((size, size, 3, 5)).astype(np.float32)

    def plain(image, kernel):
        layout = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            image, kernel, (1, 1), padding, dimension_numbers=layout
        )

    expected, expected_pull = jax.vjp(plain, image, kernel)
    found, found_pull = jax.vjp(functools.partial(_conv, padding=padding), image, kernel)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    gradient = rng.standard_normal(expected.shape).astype(np.float32)
    for ours, theirs in zip(found_pull(gradient), expected_pull(gradient), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("planes", [(True, False), (False, True), (True, True)])
def test_planes_give_what_channels_last_give(rng, planes):
    image = rng.standard_normal((2, 6, 5, 3)).astype(np.float32)
    model = Conv(4, size=1)
    variables = _random(model.init(KEY, image))
    expected = np.asarray(model.apply(variables, image))
    given = np.moveaxis(image, -1, 0) if planes[0] else image
    found = np.asarray(model.clone(planes=planes).apply(variables, given))
    found = np.moveaxis(found, 0, -1) if planes[1] else found
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_doubling_is_that_of_jax(rng):
    image = rng.standard_normal((2, 6, 5, 3)).astype(np.float32)
    expected = jax.image.resize(image, (2, 12, 10, 3), method="bilinear")
    np.testing.assert_allclose(doubled(image), expected, atol=1e-6)


def test_what_is_kept_is_the_same(rng):
    values = rng.standard_normal((3, 4)).astype(np.float32)

    def both(one, others):
        return [one + other for other in others], one.sum()

    expected = both(values, (values, -values))
    found = jax.jit(lambda one: kept(both, one, (one, -one)))(values)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), found, expected)
    # It is left out of gradients, which a loop of unknown end has none of.
    gradient = jax.jit(jax.grad(lambda one: (one + kept(jnp.square, one)).sum()))(values)
    np.testing.assert_array_equal(gradient, np.ones_like(values))


find = jax.jit(lambda pair: match(normalise_twice(pair), radius=3))
CLEAR = 10  # px from the edge, where the widest window but one sees little of it


@pytest.mark.parametrize("shift", [(0, 0), (2, -1), (-2, 2)])
def test_matching_finds_whole_pixels_exactly(texture, shift):
    found = find(texture.pair(shift)[None, :48, :48])
    middle = np.asarray(found.displacement)[:, :, 0, CLEAR:-CLEAR, CLEAR:-CLEAR]
    error = np.abs(middle - np.float32(shift)[:, None, None]).max(1)
    assert np.median(error) < 0.01
    assert (error[1:] < 0.05).mean() > 0.98  # the smallest window may be mistaken now and then
    residual = np.asarray(found.residual)[:, 0, CLEAR:-CLEAR, CLEAR:-CLEAR]
    assert np.median(np.abs(residual)) < 0.02


def test_matching_finds_parts_of_a_pixel(texture):
    found = find(texture.pair((0.3, -1.4))[None, :48, :48]).displacement
    error = np.asarray(found)[1:, :, 0] - np.float32([0.3, -1.4])[:, None, None]
    error = error[..., CLEAR:-CLEAR, CLEAR:-CLEAR]
    assert np.abs(np.median(error, axis=(2, 3))).max() < 0.02
    assert np.abs(error).mean() < 0.1


def test_what_a_sensor_folds_back_draws_smooth_windows_half_as_much(rng):
    shift, oversampling = 0.25, 4
    size = 96 * oversampling
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)) + 1 / size
    waves = np.fft.rfft2(rng.standard_normal((size, size))) / frequency
    seen = np.fft.irfft2(waves * np.exp(-2 * (0.4 * oversampling * np.pi * frequency) ** 2))
    dates = [seen, np.roll(seen, round(shift * oversampling), axis=1)]
    pair = np.stack([date[::oversampling, ::oversampling] for date in dates], axis=-1)
    found = find((pair / pair.std())[None].astype(np.float32)).displacement
    col = np.asarray(found)[:, 1, 0, CLEAR:-CLEAR, CLEAR:-CLEAR]
    bias = np.abs(np.median(col, axis=(1, 2)) - shift)
    assert bias[WIDEST] > 0.015  # else this ground shows nothing
    assert bias[5] < 0.5 * bias[WIDEST]


def test_matching_of_no_data_is_finite_and_stays_put(pair):
    pair[0, 3:20, 2:22, 0] = np.nan
    pair[0, :, :9, 1] = np.nan
    for values in find(pair):
        assert np.isfinite(values).all()
    nothing = find(np.full_like(pair, np.nan))
    assert np.abs(np.asarray(nothing.displacement)).max() <= 3.5
    assert (np.asarray(nothing.residual) == 0.0).all()


def test_candidates_are_the_windows_beside_the_pixel(rng):
    maps = rng.standard_normal((SCALES, 2, 1, 40, 40)).astype(np.float32)
    found = np.stack(candidates.beside(maps))
    assert found.shape == (candidates.COUNT, 2, 1, 40, 40)
    expected = [maps[0, :, 0, 20, 20]]
    for scale, reach in ((1, 4), (2, 8), (3, 16), (4, 8)):
        for row in (-reach, 0, reach):
            for col in (-reach, 0, reach):
                expected.append(maps[scale, :, 0, 20 + row, 20 + col])
    expected.append(maps[5, :, 0, 20, 20])
    np.testing.assert_array_equal(found[:, :, 0, 20, 20], expected)


def test_mean_of_candidates_is_that_by_softmax(rng):
    logits = rng.normal(scale=3.0, size=(5, 1, 4, 6)).astype(np.float32)
    motions = rng.standard_normal((5, 2, 1, 4, 6)).astype(np.float32)
    expected = np.einsum("kbhw,kcbhw->cbhw", softmax(logits, axis=0), motions)
    np.testing.assert_allclose(candidates.mean(logits, motions), expected, atol=1e-6)


def test_on_either_side_of_a_fault_its_own_motion_fits(texture):
    sides = np.array([[0.6, 0.0], [-0.9, 0.0]])
    pairs = [texture.pair(tuple(motion))[:48, :48] for motion in sides]
    pair = np.where(np.arange(48)[:, None, None] < 24, *pairs)[None]
    image, valid = clean(pair)
    motions = np.ones((2, 2, 1, 48, 48), np.float32) * sides[:, :, None, None, None]
    fit = np.asarray(jax.jit(candidates.misfits)(image, valid, motions))[:, 0, 6:-6, 6:-6]
    right = fit[0] < fit[1]
    assert right[:16].mean() > 0.95  # from two pixels off the trace on
    assert right[20:].mean() < 0.05
    unknown = jax.jit(candidates.misfits)(image, 0.0 * valid, motions)
    np.testing.assert_allclose(unknown, np.log1p(1e-3), atol=1e-6)


@pytest.mark.parametrize("sigma", [1.0, 9.0])
def test_gaussian_mean_is_scipys_with_its_edges_left_out(rng, sigma):
    values = rng.standard_normal((2, 31, 44)).astype(np.float32)
    blur = functools.partial(
        gaussian_filter, sigma=(0, sigma, sigma), mode="constant", truncate=3.0
    )
    expected = blur(values) / blur(np.ones_like(values))
    np.testing.assert_allclose(gaussian_mean(values, sigma=sigma), expected, atol=2e-6)


def test_normalisation_takes_out_gain_and_offset(pair):
    pair[0, 4, 5, 0] = np.nan
    changed = pair * np.float32([1.5, 0.7]) + np.float32([0.3, -0.4])
    for expected, found in zip(clean(pair), clean(changed), strict=True):
        np.testing.assert_allclose(found, expected, atol=2e-3)  # the floor's share


def test_normalised_no_data_is_zero_and_neighbours_hardly_change(pair):
    whole, _ = clean(pair)
    pair[0, 10, 12, 1] = np.nan
    holed, valid = clean(pair)
    assert np.isfinite(holed).all()
    assert holed[0, 10, 12, 1] == 0.0 == valid[0, 10, 12, 1]
    assert valid.sum() == valid.size - 1
    np.testing.assert_array_equal(holed[..., 0], whole[..., 0])
    others = np.asarray(valid) > 0
    assert np.abs(np.asarray(holed - whole))[others].max() < 0.1


def test_smoothed_first_is_smoothed_less_the_same_mean(pair):
    pair[0, 4, 5, 0] = np.nan
    known = np.isfinite(pair)

    def mean(values, sigma):
        options = {"sigma": sigma, "radius": int(3 * sigma), "axes": (1, 2), "mode": "constant"}
        share = gaussian_filter(known.astype(float), **options)
        return gaussian_filter(np.where(known, values, 0.0), **options) / share

    centred = mean(pair, 0.7) - mean(pair, 1.5)
    expected = centred / np.sqrt(mean(centred**2, 6.0) + 1e-4)
    found, _ = normalise(pair, mean_px=1.5, smooth_px=0.7)
    np.testing.assert_allclose(found, np.where(known, expected, 0.0), atol=1e-4)


def test_normalisation_reaches_36_pixels(rng):
    image = rng.standard_normal((1, 100, 16, 2)).astype(np.float32)
    whole, _ = clean(image)
    part, _ = clean(image[:, :80])
    # Mean, then scatter about it, each over 18 px: beyond both, a tile is as good as the whole.
    np.testing.assert_allclose(part[:, :44], whole[:, :44], atol=1e-6)
    assert np.abs(np.asarray(part[:, 79] - whole[:, 79])).max() > 1e-3


@pytest.mark.parametrize(("zone_px", "better"), [(0.5, False), (3.0, True), (6.0, True)])
def test_a_zone_of_shear_shows_along_the_fault(texture, zone_px, better):
    """Its dates agree better under a step that is smeared; those of a sharp one do not."""
    earlier = texture.moved((0.0, 0.0))
    below = np.arange(128) - 63.5
    moved = np.tanh(2.0 * below / zone_px)  # px, along the columns
    turned = np.exp(-2j * np.pi * np.fft.rfftfreq(128) * moved[:, None])
    later = np.fft.irfft(np.fft.rfft(earlier) * turned, 128)
    images = normalise_twice(jnp.asarray(np.stack([earlier, later], -1)[None], jnp.float32))
    step = np.broadcast_to(np.sign(below)[:, None], (1, 128, 128))
    step = jnp.asarray(np.stack([0.0 * step, step]), jnp.float32)
    choices = [step, *refinement.smeared(step)]
    fit = candidates.misfits(images.white, images.valid, choices)
    along = np.asarray(refinement.fit_along(fit, refinement.SMEARS))[:, 0, 62:66, 20:-20]
    assert (along.min(0) < -0.4).mean() > 0.95 if better else (along > 0.1).mean() > 0.95
