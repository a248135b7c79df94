"""The quick network: chooses a motion for every cell of 2 x 2 pixels, then, at every pixel, a side.

What `displacement.models.unet` does at every pixel, done for cells (`displacement.models.cells`):
matched windows, their evidence, a choice, and looks at the result. Only which side of a fault a
pixel is on is decided at the pixels themselves, among the motions of the cells about it, and near
steps these are looked at again (`displacement.models.focus`).
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from displacement.models import candidates, cells
from displacement.models.cells import CELL_PX, Cells
from displacement.models.focus import look_near_steps
from displacement.models.layers import Conv, check_size, doubled, encode_decode, kept
from displacement.models.refinement import (
    SMEARS,
    Refinement,
    bounded,
    improved,
    look_again,
    neighbours,
    side,
)
from displacement.models.unet import features
from displacement.normalise import normalise_twice

_LOOKS = (3, 1)  # cells beside, of which each look asks
_SIGMAS_PX = (4.5, 9.0)  # of the windows that measure what the field lacks
_SIDE_PX = 3  # beside a pixel: far enough to be clear of a blurred step


def _evidence(cut: Cells, motions: list[jax.Array], matches: cells.Matches) -> jax.Array:
    """For and against each candidate, `(2 COUNT, B, h, w)`, as in `displacement.models.unet`."""
    own = jnp.stack(cells.beside(candidates.log_misfit(matches.misfit)))
    return 0.5 * jnp.concatenate([cells.misfits(cut, motions), own]) + 1.0  # of order 1


def _proposals(cut: Cells, motion: jax.Array, reach: int) -> list[jax.Array]:
    """K of `(2, B, h, w)` px: the field itself, improved in windows, and its values beside."""
    own = jax.lax.stop_gradient(side(motion, per_px=1 / CELL_PX))
    lacks = cells.lacking(cells.linearise(cut, motion), own, _SIGMAS_PX)
    return [motion, *improved(motion, lacks, own), *neighbours(motion, reach)]


class CellNet(nn.Module):
    """Displacement and its scale at every pixel, quickly.

    Attributes:
      widths: channels for cells, twos of cells, fours, ...
      radius: reach of the matching in px.
      refinements: further looks at the result, at the pixels near its steps. With them, no others
        of its layers are trained, and "steps" are what these looks began from.
    """

    widths: Sequence[int] = (16, 32, 64, 96)
    radius: int = 3
    refinements: int = 0

    @property
    def multiple(self) -> int:
        """Of so many px the height and width of a pair are to be multiples."""
        return CELL_PX * 2 ** max(len(self.widths) - 1, 2)

    @nn.compact
    def __call__(self, pair: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Measures a batch of pairs.

        Args and what it returns are those of `UNet`; H and W are multiples of 2^len(widths), and
        of 8.
        """
        check_size(self, pair)
        images = normalise_twice(pair)
        white, smooth = (cells.cut(image, images.valid) for image in images[:2])
        start = cells.search(images.white, images.valid, radius=self.radius)
        matches = cells.match(white, smooth, start, radius=self.radius)
        motions = cells.beside(matches.displacement)
        evidence = kept(_evidence, white, motions, matches)
        small = nn.avg_pool(images.white, (CELL_PX, CELL_PX), (CELL_PX, CELL_PX))
        known = features(small, matches, widest=cells.WIDEST)
        x = encode_decode(jnp.concatenate([known, evidence]), self.widths, planes=True)
        logits = Conv(cells.COUNT, size=1, planes=(False, True))(x)
        logits = logits + Conv(cells.COUNT, size=1, planes=(True, True))(evidence)
        motion = candidates.mean(logits, motions)
        log_scale = Conv(2, kernel_init=nn.initializers.normal(1e-3))(x) - 3.0
        steps = []
        for reach in _LOOKS:
            x, motion, log_scale = jax.lax.optimization_barrier((x, motion, log_scale))
            steps.append((doubled(jnp.moveaxis(motion, 0, -1)), doubled(bounded(log_scale))))
            choices = _proposals(white, motion, reach)
            fit = cells.misfits(white, choices)
            motion, log_scale = Refinement()(x, choices, fit, log_scale)
        x, displacement, log_scale = self._at_pixels(images, x, motion, log_scale, steps)
        if self.refinements:
            # What is trained here is the looks alone; the rest stays as it is.
            known = jnp.concatenate([x, images.white], axis=-1), (displacement, log_scale)
            known = jax.lax.optimization_barrier(jax.lax.stop_gradient(known))
            refine = Refinement(SMEARS)
            if self.is_initializing() or self.is_mutable_collection("intermediates"):
                field, steps = look_again(
                    refine, images, *known, looks=self.refinements, unrolled=True
                )
                self.sow("intermediates", "steps", steps)
            else:
                field = look_near_steps(refine, images, *known, looks=self.refinements)
            displacement, log_scale = field
        else:
            steps = tuple(jnp.stack(part) for part in zip(*steps, strict=True))
            self.sow("intermediates", "steps", steps)
        return jnp.moveaxis(displacement, 0, -1), bounded(log_scale)

    def _at_pixels(self, images, x, motion, log_scale, steps):
        """Which of the motions about it each pixel has; features, displacement and log scale."""
        field = jnp.concatenate([jnp.moveaxis(motion, 0, -1), log_scale, x], axis=-1)
        field = doubled(field)
        displacement, log_scale, x = field[..., :2], field[..., 2:4], field[..., 4:]
        steps.append((displacement, bounded(log_scale)))
        displacement = jnp.moveaxis(displacement, -1, 0)
        ring = candidates.about(displacement, _SIDE_PX)
        choices = [displacement, *ring[1::2]]  # above, left, right, below
        fit = candidates.misfits(images.white, images.valid, choices)
        return x, *Refinement(width=16, widths=())(x, choices, fit, log_scale)
