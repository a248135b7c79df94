"""A dense image-pair network: encoder-decoder with a full-resolution skip path.

The kind of GeoFlowNet (image pair in, displacement at every pixel out), but it does not regress
from nothing. It sees what windows of several sizes say (`displacement.models.matching`), and how
well the dates agree at the pixel under each of their motions (`displacement.models.candidates`),
and *chooses*: the answer is a weighted mean of the windows at the pixel and beside it. Far from a
fault it takes wide windows, and is as precise as they are; next to one it takes those that lie
wholly on the pixel's own side.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from displacement.models import candidates, matching
from displacement.models.layers import Conv, check_size, encode_decode, kept
from displacement.models.refinement import SMEARS, Refinement, bounded, look_again
from displacement.normalise import Normalised, normalise_twice

_FINE = 3.0  # differences between windows are a few tenths of a pixel; bring them to order 1


def features(image: jax.Array, matches: matching.Matches, *, widest: int) -> jax.Array:
    """What the images `(B, H, W, 2)` and the centred windows say, `(2 + 5 SCALES, B, H, W)`."""
    others = [m for k, m in enumerate(matches.displacement) if k != widest]
    widest = matches.displacement[widest]
    differences = [_FINE * (other - widest) for other in others]
    maps = (matches.residual, matches.misfit, 0.3 * matches.texture)
    return jnp.concatenate([jnp.moveaxis(image, -1, 0), widest, *differences, *maps])


def _evidence(images: Normalised, motions: list[jax.Array], matches: matching.Matches) -> jax.Array:
    """For and against each candidate, `(2 COUNT, B, H, W)`.

    How well the dates agree at the pixel under its motion, and how well they agree over the window
    that found it: one that straddles a fault fits nowhere.
    """
    own = jnp.stack(candidates.beside(candidates.log_misfit(matches.misfit)))
    fit = candidates.misfits(images.white, images.valid, motions)
    return 0.5 * jnp.concatenate([fit, own]) + 1.0  # of order 1


class UNet(nn.Module):
    """Displacement and its scale at every pixel.

    Attributes:
      widths: channels at full, half, quarter, ... resolution.
      radius: reach of the matching in px; 0 gives the network the image pair alone, and it has to
        regress the displacement (GeoFlowNet's way, for comparison).
      refinements: further looks at the result (`displacement.models.refinement`); what each began
        from, displacement and log scale with one more axis in front, is sown as the intermediate
        "steps", for a loss over all of them.
      shared: whether the refinements share their weights.
    """

    widths: Sequence[int] = (16, 32, 64, 96)
    radius: int = 3
    refinements: int = 0
    shared: bool = True

    @property
    def multiple(self) -> int:
        """Of so many px the height and width of a pair are to be multiples."""
        return max(2 ** (len(self.widths) - 1), 4 if self.refinements else 1)

    @nn.compact
    def __call__(self, pair: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Measures a batch of pairs.

        Args:
          pair: `(B, H, W, 2)` earlier and later image, NaN invalid, each of about zero mean and
            unit variance; H and W multiples of 2^(len(widths) - 1), and with refinements of 4; 16
            or more.

        Returns:
          displacement `(B, H, W, 2)` px, (row, col), and log of the scale of its error, same shape
          (see `losses.sigma`).
        """
        check_size(self, pair)
        images = normalise_twice(pair)
        if not self.radius:
            out = Conv(4, kernel_init=nn.initializers.normal(1e-3))(
                encode_decode(images.white, self.widths)
            )
            return out[..., :2], bounded(out[..., 2:] - 2.0)
        matches = matching.match(images, radius=self.radius)
        motions = candidates.beside(matches.displacement)
        evidence = kept(_evidence, images, motions, matches)
        known = features(images.white, matches, widest=matching.WIDEST)
        x = encode_decode(jnp.concatenate([known, evidence]), self.widths, planes=True)
        # The evidence also speaks for itself, past the trunk.
        logits = Conv(candidates.COUNT, size=1, planes=(False, True))(x)
        logits = logits + Conv(candidates.COUNT, size=1, planes=(True, True))(evidence)
        displacement = candidates.mean(logits, motions)
        log_scale = Conv(2, kernel_init=nn.initializers.normal(1e-3))(x) - 3.0
        if self.refinements:
            known = jax.lax.optimization_barrier((x, (displacement, log_scale)))
            (displacement, log_scale), steps = look_again(
                Refinement(SMEARS),
                images,
                *known,
                looks=self.refinements,
                shared=self.shared,
                unrolled=self.is_mutable_collection("intermediates"),
            )
            self.sow("intermediates", "steps", steps)
        return jnp.moveaxis(displacement, 0, -1), bounded(log_scale)


class Iterative(UNet):
    """`UNet` whose result is looked at again, warped (MicroFlow's kind)."""

    refinements: int = 1
