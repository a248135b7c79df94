"""A CNN that sees two small patches and gives the displacement of the centre.

After Montagnon et al. 2024 (e2024JH000174). Its layers are not in the abstract that is at hand,
so these are our own: 3 x 3 convolutions without padding until one pixel is left. Being without
padding, the same weights run over a whole image and give exactly what patch by patch would.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from displacement.models.layers import Conv
from displacement.normalise import normalise


class PatchNet(nn.Module):
    """Displacement of the pixel at index `patch // 2` of each patch.

    Attributes:
      patch: height and width of a patch in px, 3 or more.
      width: channels of the hidden layers.
    """

    patch: int = 16
    width: int = 24

    def __call__(self, pair: jax.Array) -> tuple[jax.Array, None]:
        """Runs densely over images.

        Args:
          pair: `(B, H, W, 2)` earlier and later image, NaN invalid.

        Returns:
          displacement `(B, H, W, 2)` px, (row, col), and None for sigma.
        """
        before = self.patch // 2
        after = self.patch - 1 - before
        image, _ = normalise(pair)
        padded = jnp.pad(image, ((0, 0), (before, after), (before, after), (0, 0)))
        return self.patches(padded), None

    @nn.compact
    def patches(self, image: jax.Array) -> jax.Array:
        """Normalised `(B, H, W, 2)` to `(B, H - patch + 1, W - patch + 1, 2)` px."""
        layers = (self.patch - 1) // 2
        for _ in range(layers):
            image = nn.relu(Conv(self.width, padding="VALID")(image))
        image = nn.relu(Conv(4 * self.width, size=self.patch - 2 * layers, padding="VALID")(image))
        return Conv(2, size=1, kernel_init=nn.initializers.normal(1e-3))(image)
