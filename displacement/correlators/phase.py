"""Phase correlation with a Hann taper and a robust weighted fit of the phase plane.

The cross-power spectrum of two windows shifted by u has the phase -2 pi k . u. Its inverse
transform peaks at the whole-pixel shift; there the later window is cut anew, and the plane of the
remaining phase is fitted by weighted least squares with a few robust iterations, in the manner of
frequency-domain practice (Leprince et al. 2007, IEEE TGRS 45(6), "COSI-Corr"). A taper that stays
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
      displacement `(N, 2)` px, later minus earlier, and quality `(N,)`, the weighted mean cosine of
      the phase residuals; 1 is perfect.
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
        # Power would be best against white noise; changes of light and ground, which are strongest
        # where the image is, let amplitude do better on real pairs.
        strength = jnp.where(used, jnp.sqrt(jnp.abs(cross)), 0.0)
        strength = strength / (strength.sum((-2, -1), keepdims=True) + 1e-20)
        # Coarse before fine: high frequencies wrap until the shift is nearly known.
        robust = (0.5 + 0.5 * jnp.cos(residual)) ** 2
        weight = strength * jnp.where(iteration < 2, low, 1.0) * jnp.where(iteration < 1, 1, robust)
        moment = jnp.einsum("nhw,hwc,hwd->ncd", weight, k, k) + 1e-9 * jnp.eye(2)
        right = jnp.einsum("nhw,hwc,nhw->nc", weight, k, residual)
        update = -jnp.linalg.solve(moment, right[..., None])[..., 0] / (2 * jnp.pi)
        quality = (strength * jnp.cos(residual)).sum((-2, -1))
        return jnp.clip(shift + update, -2.0, 2.0), quality

    start = jnp.zeros((earlier.shape[0], 2)), jnp.zeros(earlier.shape[0])
    return jax.lax.fori_loop(0, _ITERATIONS, fit, start)


@functools.partial(jax.jit, static_argnames=("window", "step"))
def phase(pair: jax.Array, *, window: int = 32, step: int = 4) -> tuple[jax.Array, jax.Array]:
    """Measures a pair by phase correlation.

    Args:
      pair: `(H, W, 2)` earlier and later image, NaN invalid.
      window: even height and width of the windows in px, 8 or more.
      step: spacing of the windows in px; 1 is dense.

    Returns:
      displacement `(H, W, 2)` px, (row, col), later minus earlier, NaN where too little is valid
      or the shift comes up to a quarter of the window, and quality `(H, W)` in [-1, 1].
    """
    if window < 8 or window % 2:
        raise ValueError(f"phase needs an even window of 8 px or more, got {window}.")
    earlier_image, later_image = map(windows.without_specks, jnp.moveaxis(pair, -1, 0))
    hann = _hann(jnp.zeros((1, 2)), window)

    def at(centres):
        earlier = windows.extract(earlier_image, centres, window=window)

        def cut(shift):
            later = windows.extract(later_image, centres + shift, window=window)
            valid = jnp.isfinite(earlier) & jnp.isfinite(later)
            both = (jnp.where(valid, image, 0.0) for image in (earlier, later))
            return *both, _solid(valid)

        whole = whole_pixel_peak(*cut(0))
        *matched, solid = cut(whole)
        shift, quality = phase_plane(*matched, solid)
        share = (solid * hann).sum((-2, -1)) / hann.sum()
        known = (share >= _SMALLEST_SHARE) & (jnp.abs(whole) < window // 4).all(-1)
        shift = jnp.where(known[:, None], whole + shift, jnp.nan)
        return shift, jnp.where(known, quality, jnp.nan)

    shape = earlier_image.shape
    displacement, quality = windows.over_nodes(at, shape, step)
    displacement = windows.to_pixels(displacement, shape, step)
    return displacement, windows.to_pixels(quality[..., None], shape, step)[..., 0]
