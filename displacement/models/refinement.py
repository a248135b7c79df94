"""One more look at a displacement field: what lies beside a pixel, and what it still lacks.

A field that already has the step of a fault can be improved where a window's one motion cannot:
the later image is warped back by it, so that a window across the fault sees what each side still
lacks and not the step. Beside a fault the field is blurred or on the wrong side by a pixel or two;
its own values a few pixels further are crisp, and the dates tell which of them holds here. (Warping
between refinements as in RAFT and MicroFlow; neighbours' values as in patch-match stereo.)
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from displacement.correlators.lk import least_squares, lineariser
from displacement.models import candidates
from displacement.models.layers import Conv

_REACH_PX = (2, 5)  # beside the pixel
_SIGMAS_PX = (4.5, 9.0)  # of the windows that measure what the field lacks
_PER_LOG = 0.5  # of a log misfit, as an input of order 1
# Before anything is learned: a proposal counts as its mean square misfit to the power of -2 ...
_FIT = -2.0
_KEEP = 2.0  # ... and the field as it is by so much more, as a logit


def _proposals(displacement: jax.Array, image: jax.Array, valid: jax.Array) -> jax.Array:
    """`(K, B, H, W, 2)` px: the field itself, improved in windows, and its values beside."""
    linear = jax.lax.stop_gradient(lineariser(image, valid)(displacement))
    proposals = [displacement]
    for sigma in _SIGMAS_PX:
        lacking, _ = least_squares(linear, 0.0, sigma=sigma)
        proposals.append(displacement + lacking)
    for reach in _REACH_PX:
        ring = candidates.about(displacement, reach)
        proposals += ring[:4] + ring[5:]
    return jnp.stack(proposals)


def _by_fit(key, shape, dtype=jnp.float32):
    """Kernel `(1, 1, 2 K - 1, K)` of the logits that follow from the fit alone."""
    del key
    return (_FIT / _PER_LOG) * jnp.eye(*shape[2:], dtype=dtype)[None, None]


class Refinement(nn.Module):
    """Chooses among a field and what it could be.

    Attributes:
      width: channels.
    """

    width: int = 24

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        image: jax.Array,
        valid: jax.Array,
        displacement: jax.Array,
        log_scale: jax.Array,
    ) -> tuple[jax.Array, jax.Array]:
        """Improves a displacement field.

        Args:
          x: `(B, H, W, C)` features.
          image: `(B, H, W, 2)` normalised pair, 0 where invalid.
          valid: `(B, H, W, 2)` float.
          displacement: `(B, H, W, 2)` px.
          log_scale: `(B, H, W, 2)` of its error.

        Returns:
          displacement and log scale, improved.
        """
        proposals = _proposals(displacement, image, valid)
        fit = _PER_LOG * candidates.misfits(image, valid, proposals) + 1.0
        apart = ((proposals[1:] - displacement) ** 2).sum(-1)
        apart = 0.25 * jnp.log(jax.lax.stop_gradient(apart) + 1e-4) + 1.0
        evidence = jnp.moveaxis(jnp.concatenate([fit, apart]), 0, -1)  # each of order 1
        h = nn.relu(Conv(self.width, size=1)(jnp.concatenate([x, evidence, log_scale], axis=-1)))
        h = nn.relu(Conv(self.width)(h))
        h = nn.relu(Conv(self.width)(h)) + h
        count = len(proposals)
        logits = Conv(count, 1, kernel_init=nn.initializers.normal(1e-2))(h)
        logits = logits + Conv(count, 1, kernel_init=_by_fit)(evidence)
        share = nn.softmax(logits + _KEEP * (jnp.arange(count) == 0))
        chosen = jnp.einsum("bhwk,kbhwc->bhwc", share, proposals)
        return chosen, log_scale + Conv(2, kernel_init=nn.initializers.normal(1e-4))(h)
