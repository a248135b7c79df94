"""One more look at a displacement field: what lies beside a pixel, and what it still lacks.

A field that already has the step of a fault can be improved where a window's one motion cannot:
the later image is warped back by it, so that a window across the fault sees what each side still
lacks and not the step. Beside a fault the field is blurred or on the wrong side by a pixel or two;
its own values a few pixels further are crisp, and the dates tell which of them holds here. Or the
ground itself is sheared over a few pixels, and the field smeared a little fits better, all along
the fault. (Warping between refinements as in RAFT and MicroFlow; neighbours' values as in
patch-match stereo.)
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from displacement.models import candidates, cells
from displacement.models.cells import Cells
from displacement.models.layers import Conv, doubled, kept
from displacement.normalise import Normalised, gaussian_mean

# Beside the pixel, for one look after the other: of equal ones the field would keep a lattice.
_REACHES_PX = ((2, 5), (3, 7), (2, 4))
_LONGEST_PX = max(max(reaches) for reaches in _REACHES_PX)
_SIGMAS_PX = (4.5, 9.0)  # of the windows that measure what the field lacks
_SMEARS_PX = (1.0, 2.2)  # of the field; zones of shear of some 2.5 and 5.5 px
SMEARS = len(_SMEARS_PX)
_ALONG_PX = 4.0  # a zone goes on along its fault: a smear is judged by its fit over so much ...
_PER_SMEAR = 4.0  # ... as the logarithm of its ratio to that of the field, which is small
_STEP_PX = 6.0  # a pixel's side of a step is that of its difference from the mean over so much ...
CLEAR_PX = 0.03  # ... and is clear where this differs by so much
_PER_LOG = 0.5  # of a log misfit, as an input of order 1
# Before anything is learned: a proposal counts as its mean square misfit to the power of -2 ...
_FIT = -2.0
_KEEP = 2.0  # ... and the field as it is by so much more, as a logit


def above(displacement: jax.Array, *, per_px: float = 1.0) -> jax.Array:
    """By how much a field is above its mean, same shape: half of a step beside one, else little.

    Args:
      displacement: `(2, B, H, W)` px.
      per_px: its nodes per pixel.
    """
    return displacement - gaussian_mean(displacement, sigma=_STEP_PX * per_px)


def side(displacement: jax.Array, *, per_px: float = 1.0) -> jax.Array:
    """1 on the one side of a step of the field, 0 on the other, `(B, H, W)`; 0.5 far from any.

    Args:
      displacement: `(2, B, H, W)` px.
      per_px: its nodes per pixel.
    """
    steps = above(displacement, per_px=per_px)
    row, col = gaussian_mean(steps**2, sigma=2.0 * _STEP_PX * per_px)
    return jax.nn.sigmoid(jnp.where(row > col, *steps) / CLEAR_PX)


def improved(field: jax.Array, lacks: Sequence[jax.Array], own: jax.Array) -> list[jax.Array]:
    """A field `(2, B, H, W)` plus what each window says that it lacks.

    Args:
      field: `(2, B, H, W)`.
      lacks: as `cells.lacking` gives them, at the places of the field.
      own: `(B, H, W)` the side of a step on which each place lies.
    """
    *wholes, one, other = lacks
    return [field + lack for lack in (*wholes, own * one + (1.0 - own) * other)]


def neighbours(
    field: jax.Array, reach: int | jax.Array, *, longest: int | None = None
) -> list[jax.Array]:
    """The eight values about each place of a field `(2, B, H, W)`, see `candidates.about`."""
    ring = candidates.about(field, reach, longest=longest)
    return ring[:4] + ring[5:]


def smeared(field: jax.Array) -> list[jax.Array]:
    """`SMEARS` of `(2, B, H, W)`: what the field would be where its steps are zones of shear."""
    return [gaussian_mean(field, sigma=sigma) for sigma in _SMEARS_PX]


def fit_along(fit: jax.Array, smears: int) -> jax.Array:
    """How much better (negative) or worse each smear fits along the fault, of order 1.

    Args:
      fit: `(K, B, H, W)` log misfit under a field, first, and what it could be, smears last.
      smears: how many.

    Returns:
      `(smears, B, H, W)`.
    """
    square = jnp.exp(jnp.concatenate([fit[:1], fit[-smears:]]))
    along = jnp.log(gaussian_mean(square, sigma=_ALONG_PX))
    return jnp.clip(_PER_SMEAR * (along[1:] - along[:1]), -2.0, 2.0)


def _reaches(looks: int) -> jax.Array:
    """`(looks, 2)` px: how far beside the pixel each look asks."""
    return jnp.array([_REACHES_PX[look % len(_REACHES_PX)] for look in range(looks)])


def bounded(log_scale: jax.Array) -> jax.Array:
    return jnp.clip(log_scale, -7.0, 3.0)


def _proposals(
    displacement: jax.Array, white: Cells, smooth: Cells, reach: jax.Array
) -> list[jax.Array]:
    """K of `(2, B, H, W)` px: the field itself, improved, its values beside, and smeared.

    The windows are about cells; they are wide. `reach` is a row of `_reaches`.
    """
    own = jax.lax.stop_gradient(side(displacement))
    apart, own_cells = cells.corners(displacement), cells.at_cells(own)
    found = [displacement]
    for cut in (white, smooth):
        lacks = cells.lacking(cells.linearise(cut, apart), own_cells, _SIGMAS_PX)
        found += improved(displacement, cells.at_pixels(jnp.stack(lacks)), own)
    for distance in reach:
        found += neighbours(displacement, distance, longest=_LONGEST_PX)
    return found + smeared(displacement)


def _by_fit(key, shape, dtype=jnp.float32):
    """Kernel `(1, 1, C, K)`, C over K, of the logits that follow from the fit alone."""
    del key
    return (_FIT / _PER_LOG) * jnp.eye(*shape[2:], dtype=dtype)[None, None]


class Refinement(nn.Module):
    """Chooses among a field and what it could be.

    Attributes:
      smears: how many of the proposals, the last ones, are the field smeared.
      width: channels.
      widths: channels at half and at quarter resolution, where it sees how a fault goes on; none,
        and it looks no further than a pixel.
    """

    smears: int = 0
    width: int = 24
    widths: tuple[int, ...] = (24, 32)

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        proposals: list[jax.Array],
        fit: jax.Array,
        log_scale: jax.Array,
    ) -> tuple[jax.Array, jax.Array]:
        """Improves a displacement field.

        Args:
          x: `(B, H, W, C)` features.
          proposals: K of `(2, B, H, W)` px, the field itself first, the smeared ones last.
          fit: `(K, B, H, W)` log misfit of the dates under each, see `candidates.misfits`.
          log_scale: `(B, H, W, 2)` of its error.

        Returns:
          displacement and log scale, improved.
        """
        along = [fit_along(fit, self.smears)] if self.smears else []
        fit = _PER_LOG * fit + 1.0
        apart = [(row**2 + col**2) for row, col in (p - proposals[0] for p in proposals[1:])]
        apart = 0.25 * jnp.log(jax.lax.stop_gradient(jnp.stack(apart)) + 1e-4) + 1.0
        evidence = jnp.concatenate([fit, apart, *along])  # each of order 1
        known = [jnp.moveaxis(x, -1, 0), evidence, jnp.moveaxis(log_scale, -1, 0)]
        h = nn.relu(Conv(self.width, size=1, planes=(True, False))(jnp.concatenate(known)))
        if self.widths:
            h = nn.relu(Conv(self.width)(h))
            h = nn.relu(Conv(self.width)(h)) + h
            h = h + self._about(h)
        else:
            h = nn.relu(Conv(self.width)(h)) + h
        count = len(proposals)
        small = nn.initializers.normal(1e-2)
        logits = Conv(count, 1, kernel_init=small, planes=(False, True))(h)
        logits = logits + Conv(count, 1, kernel_init=_by_fit, planes=(True, True))(evidence)
        logits = logits.at[0].add(_KEEP)
        scale = log_scale + Conv(2, kernel_init=nn.initializers.normal(1e-4))(h)
        return candidates.mean(logits, proposals), scale

    def _about(self, h: jax.Array) -> jax.Array:
        """What the neighbourhood of some 30 px adds to the features `(B, H, W, width)`."""
        scales = []
        for width in self.widths:
            h = nn.avg_pool(h, (2, 2), (2, 2))
            h = nn.relu(Conv(width)(h))
            h = nn.relu(Conv(width)(h)) + h
            scales.append(h)
        half, quarter = scales
        half = half + nn.relu(Conv(self.widths[0], size=1)(doubled(quarter)))
        half = nn.relu(Conv(self.widths[0])(half))
        # Nothing, before anything is learned.
        return doubled(Conv(self.width, size=1, kernel_init=nn.initializers.normal(1e-3))(half))


# A displacement `(2, B, H, W)` px, and the log scale `(B, H, W, 2)` of its error.
Field = tuple[jax.Array, jax.Array]


def look_again(
    refine: Refinement,
    images: Normalised,
    x: jax.Array,
    field: Field,
    *,
    looks: int,
    shared: bool = True,
    unrolled: bool = False,
) -> tuple[Field, tuple[jax.Array, jax.Array]]:
    """Looks at a field at the pixels again and again.

    Args:
      refine: chooses, with as many smears as `SMEARS`.
      images: the pair, normalised.
      x: `(B, H, W, C)` features.
      field: to be looked at.
      looks: how many.
      shared: whether they share their weights.
      unrolled: one after the other, for gradients: those of a loop take five times as long. Without
        gradients a loop is better, since XLA's CPU code for one after the other does part of each
        again.

    Returns:
      the field, improved; and what each look began from, displacement `(looks, B, H, W, 2)` and
      log scale likewise.
    """
    white, smooth = (cells.cut(image, images.valid) for image in images[:2])

    def look(refine, field, reach):
        displacement, log_scale = field
        step = jnp.moveaxis(displacement, 0, -1), bounded(log_scale)
        given = displacement, white, smooth, reach
        choices = _proposals(*given) if unrolled else kept(_proposals, *given)
        fit = candidates.misfits(images.white, images.valid, choices)
        return refine(x, choices, fit, log_scale), step

    scanned = nn.scan(
        look,
        variable_broadcast="params" if shared else False,
        variable_axes={} if shared else {"params": 0},
        split_rngs={"params": not shared},
        length=looks,
        unroll=looks if unrolled else 1,
    )
    return scanned(refine, field, _reaches(looks))
