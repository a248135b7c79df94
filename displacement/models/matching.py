"""What two images say when matched in small windows of several sizes: a network's other inputs.

For Gaussian windows of about 1, 2, 5 and 9 px, dense, by gradient least squares
(`displacement.correlators.lk`). Each is an honest little correlator, precise to hundredths of a
pixel where one motion rules its window, and smeared over it where two do. The two wide ones twice:
on the whitened images, the better choice where the dates differ in what is coarse (light, crops),
and on smooth ones, the better choice where the finest detail is noise or folded back (aliased).
Nothing here is learned. Which of them to believe, and on which side of a fault, is left to the
network.
"""

import jax
import jax.numpy as jnp

from displacement.correlators.lk import refiner, residual_at, saturated, search
from displacement.models import cells
from displacement.models.cells import Matches
from displacement.normalise import Normalised, gaussian_mean

SIGMAS_PX = (1.0, 2.25, 4.5, 9.0, 4.5, 9.0)  # of the windows
SCALES = len(SIGMAS_PX)
WIDEST = 3  # of those on whitened images
_SMOOTH = (4, 5)
# How each scale is found, in this order: (scale, where it starts, iterations). None searches for
# the whole-pixel shift; the finest would find only noise, the coarsest gains nothing by it.
_SEARCHED = (1, 2)
_PLAN = ((1, None, 2), (0, 1, 1), (2, None, 2), (3, 2, 1), (4, 2, 1), (5, 3, 1))
_WIDE_PX = 4.5  # from here on windows are about cells of 2 x 2 px, not about pixels


def match(images: Normalised, *, radius: int) -> Matches:
    """Matches a pair in windows of several sizes.

    Args:
      images: the pair, normalised.
      radius: reach of the whole-pixel search in px, 2 or more.

    Returns:
      Displacement and what to know about it, for every window size.
    """
    valid = images.valid
    sigmas = [SIGMAS_PX[s] for s in _SEARCHED]
    starts = search(images.white, valid, radius=radius, sigmas=sigmas)
    start = dict(zip(_SEARCHED, starts, strict=True))
    white, smooth = (
        (cells.cut(image, valid), residual_at(image, valid))
        for image in (images.white, images.smooth)
    )
    refine = refiner(images.white, valid)
    found, matches = {}, {}
    for scale, origin, iterations in _PLAN:
        cut, compare = smooth if scale in _SMOOTH else white
        displacement = start[scale] if origin is None else found[origin]
        sigma = SIGMAS_PX[scale]
        if sigma < _WIDE_PX:
            displacement, smaller = refine(displacement, sigma, iterations)
            texture = jnp.log(jnp.maximum(smaller, 0.0) + 1e-3)
        else:
            motion, _, _, texture = cells.measure(
                cut, cells.at_cells(displacement), sigma=sigma, iterations=iterations
            )
            displacement, texture = cells.at_pixels(motion), cells.at_pixels(texture)
        displacement = jnp.clip(displacement, -radius - 0.5, radius + 0.5)
        residual = jnp.nan_to_num(compare(displacement))
        misfit = gaussian_mean(saturated(residual**2), sigma=sigma)
        found[scale] = displacement
        matches[scale] = (displacement, residual, misfit, texture)
    # Inputs, not a layer: nothing here has parameters.
    columns = zip(*(matches[scale] for scale in range(SCALES)), strict=True)
    return jax.lax.stop_gradient(Matches(*(jnp.stack(column) for column in columns)))
