"""Phase correlation with a Hann taper and a robust weighted fit of the phase plane.

The cross-power spectrum of two windows shifted by u has the phase -2 pi k . u. Its inverse
transform peaks at the whole-pixel shift; there the later window is cut anew, and the plane of the
remaining phase is fitted by weighted least squares with a few robust iterations, in the manner of
frequency-domain practice (Leprince et al. 2007, IEEE TGRS 45(6), "COSI-Corr"): frequencies of low
log-amplitude are masked, and a coarse window may say where the fine one looks. A taper that stays
where it is while the ground moves under it pulls the answer towards zero, by 4 to 10 % at windows
of 32 to 16 px; so at every iteration the later window's taper is moved along by the shift found.
The mean is taken under the taper, so that it is of the same ground too.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from displacement.correlators import windows

_ITERATIONS = 10  # of the robust fit, each with the taper moved by the shift found before
_SMALLEST_SHARE = 0.4  # of the taper that must lie on what is valid in both images
_LEAST_POWER = 1e-2  # of the strongest frequency's; what is weaker is noise, and masked
# Below, nothing was measured. On simulated pairs with changed patches and on two dates it masks
# half (window 16) to nine tenths (32) of changed ground, and under 1 % of what is right to 0.3 px.
LEAST_SNR = 0.75


@functools.cache
def _frequencies(window: int) -> tuple[np.ndarray, np.ndarray]:
    """Frequencies `(w, w // 2 + 1, 2)` [cycles per px], and which of them take part in the fit."""
    rows = np.fft.fftfreq(window)[:, None]
    cols = np.fft.rfftfreq(window)[None, :]
    k = np.stack(np.broadcast_arrays(rows, cols), axis=-1).astype(np.float32)
    radius = np.hypot(k[..., 0], k[..., 1])
    used = (radius > 0) & (np.abs(k) < 0.5).all(-1)
    used[window // 2 + 1 :, 0] = False  # column 0 holds both k and -k: count them once
    return k, used


def _hann(shift: jax.Array, window: int) -> jax.Array:
    """Hann tapers `(N, w, w)` centred at index w / 2 + `shift` `(N, 2)` [px], 0 outside."""
    offset = (jnp.arange(window) - window / 2) - shift[..., None]  # (N, 2, w)
    lines = jnp.where(
        jnp.abs(offset) < window / 2, 0.5 + 0.5 * jnp.cos(2 * jnp.pi * offset / window), 0.0
    )
    return lines[:, 0, :, None] * lines[:, 1, None, :]


def _box_sum(image: jax.Array, size: int) -> jax.Array:
    return jax.lax.reduce_window(image, 0.0, jax.lax.add, (1, size, size), (1, 1, 1), "SAME")


def _solid(valid: jax.Array) -> jax.Array:
    """Smooth weights `(N, w, w)`: 1 well inside the valid part, 0 within 1 px of its edge.

    A hard edge of the data stays where it is while the ground moves, and pulls the answer towards
    zero as a taper does; a smooth one can be moved along.
    """
    padded = jnp.pad(valid.astype(jnp.float32), ((0, 0), (3, 3), (3, 3)), mode="edge")
    inside = (_box_sum(padded, 7) > 48.5).astype(jnp.float32)
    return (_box_sum(inside, 5) / 25)[:, 3:-3, 3:-3]


def _moved(weight: jax.Array, shift: jax.Array) -> jax.Array:
    """Smooth weights `(N, w, w)` moved by `shift` `(N, 2)`, by 1 px at most, linearly."""
    for axis in (1, 2):
        part = jnp.clip(shift[:, axis - 1], -1.0, 1.0)[:, None, None]
        pad = [(0, 0)] * 3
        pad[axis] = (1, 1)
        padded = jnp.pad(weight, pad, mode="edge")
        size = weight.shape[axis]
        before, after = (jax.lax.slice_in_dim(padded, k, k + size, axis=axis) for k in (0, 2))
        beside = jnp.where(part > 0, before, after)
        weight = weight + jnp.abs(part) * (beside - weight)
    return weight


def _spectrum(values: jax.Array, weight: jax.Array) -> jax.Array:
    """Spectrum `(N, w, w // 2 + 1)` of weighted windows less their weighted mean."""
    mean = (values * weight).sum((-2, -1), keepdims=True)
    mean = mean / (weight.sum((-2, -1), keepdims=True) + 1e-12)
    return jnp.fft.rfft2((values - mean) * weight)


def whole_pixel_peak(earlier: jax.Array, later: jax.Array, solid: jax.Array) -> jax.Array:
    """Whole-pixel shift `(N, 2)`, up to a quarter of the window, at the peak of the correlation.

    Args:
      earlier: `(N, w, w)`, invalid pixels 0.
      later: `(N, w, w)` likewise.
      solid: `(N, w, w)` smooth weights, 0 where either is invalid.
    """
    window = earlier.shape[-1]
    weight = solid * _hann(jnp.zeros((1, 2)), window)
    cross = jnp.conj(_spectrum(earlier, weight)) * _spectrum(later, weight)
    # Between plain and phase-only correlation: sharp, and not ruled by frequencies of pure noise.
    surface = jnp.fft.irfft2(cross / jnp.sqrt(jnp.abs(cross) + 1e-20), s=(window, window))
    reach = np.r_[-(window // 4) : window // 4 + 1]
    peak = surface[:, reach[:, None], reach].reshape(-1, len(reach) ** 2).argmax(-1)
    return jnp.stack([peak // len(reach), peak % len(reach)], axis=-1) - window // 4


def phase_plane(
    earlier: jax.Array, later: jax.Array, solid: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Fits the plane of the cross-power spectrum's phase.

    Args:
      earlier: `(N, w, w)`, invalid pixels 0.
      later: `(N, w, w)` likewise, displaced by less than about 1 px.
      solid: `(N, w, w)` smooth weights, 0 where either is invalid.

    Returns:
      displacement `(N, 2)` px, later minus earlier, and the SNR `(N,)` of Leprince et al. (eq. 21
      and after): 1 - sum W |Q - exp(-2 pi i k . u)|^2 / (4 sum W) with the normalised cross-power
      spectrum Q. Here W is the amplitude where it is not masked; 1 is perfect, pure noise has 1/2.
    """
    window = earlier.shape[-1]
    k, used = _frequencies(window)
    low = np.float32(np.hypot(k[..., 0], k[..., 1]) < 0.25)
    first = jnp.conj(_spectrum(earlier, solid * _hann(jnp.zeros((1, 2)), window)))

    def fit(iteration, state):
        shift, _ = state
        cross = first * _spectrum(later, _moved(solid, shift) * _hann(shift, window))
        cross = cross * jnp.exp(2j * jnp.pi * jnp.einsum("hwc,nc->nhw", k, shift))
        residual = jnp.angle(cross)
        # Power would be best against white noise; changes of ground, which are strongest where the
        # image is, let amplitude do better on real pairs.
        power = jnp.where(used, jnp.abs(cross), 0.0)
        strongest = power.max((-2, -1), keepdims=True)
        strength = jnp.where(power >= _LEAST_POWER * strongest, jnp.sqrt(power), 0.0)
        strength = strength / (strength.sum((-2, -1), keepdims=True) + 1e-20)
        # Coarse before fine: high frequencies wrap until the shift is nearly known.
        robust = (0.5 + 0.5 * jnp.cos(residual)) ** 2
        weight = strength * jnp.where(iteration < 2, low, 1.0) * jnp.where(iteration < 1, 1, robust)
        moment = jnp.einsum("nhw,hwc,hwd->ncd", weight, k, k) + 1e-9 * jnp.eye(2)
        right = jnp.einsum("nhw,hwc,nhw->nc", weight, k, residual)
        update = -jnp.linalg.solve(moment, right[..., None])[..., 0] / (2 * jnp.pi)
        quality = 0.5 + 0.5 * (strength * jnp.cos(residual)).sum((-2, -1))
        return jnp.clip(shift + update, -2.0, 2.0), quality

    start = jnp.zeros((earlier.shape[0], 2)), jnp.zeros(earlier.shape[0])
    return jax.lax.fori_loop(0, _ITERATIONS, fit, start)


def _measure(images, window, centres, before):
    """Displacement `(N, 2)` px and SNR `(N,)` in windows, and where `(N,)` they could be placed.

    Args:
      images: earlier and later, `(H, W)`, NaN invalid.
      window: size in px.
      centres: `(N, 2)` int.
      before: `(N, 2)` int px, about which the whole-pixel peak is looked for.
    """
    earlier_image, later_image = images
    earlier = windows.extract(earlier_image, centres, window=window)

    def cut(shift):
        later = windows.extract(later_image, centres + shift, window=window)
        valid = jnp.isfinite(earlier) & jnp.isfinite(later)
        both = (jnp.where(valid, image, 0.0) for image in (earlier, later))
        return *both, _solid(valid)

    step = whole_pixel_peak(*cut(before))
    *matched, solid = cut(before + step)
    shift, quality = phase_plane(*matched, solid)
    hann = _hann(jnp.zeros((1, 2)), window)
    share = (solid * hann).sum((-2, -1)) / hann.sum()
    known = (share >= _SMALLEST_SHARE) & (jnp.abs(step) < window // 4).all(-1)
    return before + step + shift, quality, known


@functools.partial(jax.jit, static_argnames=("window", "step", "coarse"))
def phase(
    pair: jax.Array,
    *,
    window: int = 32,
    step: int = 4,
    coarse: int = 0,
    least_snr: float = LEAST_SNR,
) -> tuple[jax.Array, jax.Array]:
    """Measures a pair by phase correlation.

    Args:
      pair: `(H, W, 2)` earlier and later image, NaN invalid.
      window: even height and width of the windows in px, 8 or more.
      step: spacing of the windows in px; 1 is dense.
      coarse: even size in px, more than `window`, of windows that are measured first; the later
        fine window is cut as many whole pixels off as they say. 0 is none.
      least_snr: below which nothing counts as measured.

    Returns:
      displacement `(H, W, 2)` px, (row, col), later minus earlier, NaN where too little is valid,
      the shift comes up to a quarter of the (coarse) window or the SNR is too low;
      and the SNR `(H, W)` as quality, see `phase_plane`.
    """
    if window < 8 or window % 2:
        raise ValueError(f"phase needs an even window of 8 px or more, got {window}.")
    if coarse and (coarse <= window or coarse % 2):
        raise ValueError(
            f"phase needs an even coarse window of more than window={window} px, got {coarse}; "
            "0 leaves it out."
        )
    images = jnp.moveaxis(windows.prepared(pair), -1, 0)

    def at(centres):
        before = jnp.zeros_like(centres)
        if coarse:
            shift, snr, known = _measure(images, coarse, centres, before)
            known &= snr >= least_snr
            before = jnp.where(known[:, None], jnp.round(shift).astype(jnp.int32), 0)
        shift, quality, known = _measure(images, window, centres, before)
        known &= quality >= least_snr
        shift = jnp.where(known[:, None], shift, jnp.nan)
        return shift, jnp.where(known, quality, jnp.nan)

    shape = pair.shape[:2]
    displacement, quality = windows.over_nodes(at, shape, step)
    displacement = windows.to_pixels(displacement, shape, step)
    return displacement, windows.to_pixels(quality[..., None], shape, step)[..., 0]
