"""A dense image-pair network: encoder-decoder with a full-resolution skip path.

The kind of GeoFlowNet (image pair in, displacement at every pixel out), with two changes: besides
the two images it is given what they say when matched in small windows of several sizes
(`displacement.models.matching`), and it says how sure it is.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from displacement.models.layers import Conv
from displacement.models.matching import matching_features
from displacement.normalise import normalise


class UNet(nn.Module):
    """Displacement and its scale at every pixel.

    Attributes:
      widths: channels at full, half, quarter, ... resolution.
      radius: reach of the matching in px; 0 gives the network the image pair alone.
    """

    widths: Sequence[int] = (16, 48, 64, 96, 128)
    radius: int = 3

    @nn.compact
    def __call__(self, pair: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Measures a batch of pairs.

        Args:
          pair: `(B, H, W, 2)` earlier and later image, NaN invalid; H and W multiples of
            2^(len(widths) - 1).

        Returns:
          displacement `(B, H, W, 2)` px, (row, col), and log of the Laplace scale of its error,
          same shape, so that sigma = sqrt(2) exp(log_scale).
        """
        factor = 2 ** (len(self.widths) - 1)
        if pair.shape[1] % factor or pair.shape[2] % factor:
            raise ValueError(
                f"UNet needs height and width in multiples of {factor}, got {pair.shape[1:3]}; "
                "pad with NaN."
            )
        image, valid = normalise(pair)
        x = image
        if self.radius:
            x = jnp.concatenate([x, matching_features(image, valid, radius=self.radius)], axis=-1)

        skips = []
        for level, width in enumerate(self.widths):
            if level:
                skips.append(x)
                x = nn.avg_pool(x, (2, 2), (2, 2))
            x = nn.relu(Conv(width)(x))
            x = nn.relu(Conv(width)(x))
        for width in reversed(self.widths[:-1]):
            x = nn.relu(Conv(width, size=1)(x))
            x = jax.image.resize(
                x, (x.shape[0], 2 * x.shape[1], 2 * x.shape[2], width), method="bilinear"
            )
            x = nn.relu(Conv(width)(jnp.concatenate([x, skips.pop()], axis=-1)))
            x = nn.relu(Conv(width)(x)) + x
        out = Conv(4, kernel_init=nn.initializers.normal(1e-3))(x)
        displacement, log_scale = out[..., :2], out[..., 2:]
        return displacement, jnp.clip(log_scale - 2.0, -7.0, 3.0)
