"""What is not motion: ground that changed between the dates, its cover, seasons, sun, clouds."""

import jax
import jax.numpy as jnp

from data_gen.config import GeneratorConfig
from data_gen.random import Draws
from data_gen.textures import power_law, smooth_field, standardise

_CLOUD_LEVEL = 3.0  # brightness of cloud, in standard deviations of the ground above its mean
_OPAQUE = 0.3  # share of cloud beyond which the ground cannot be seen


def changed_patches(key: jax.Array, config: GeneratorConfig, *, size: int) -> jax.Array:
    """`(size, size)` in [0, 1]: where the later date shows other ground (field, burn, roof)."""
    k_draw, k_shape = jax.random.split(key)
    draw = Draws(k_draw, 2)
    level = draw.uniform((0.6, 2.0))  # covers 27 % down to 2 %
    patches = jax.nn.sigmoid(20.0 * (smooth_field(k_shape, size=size, cells=8) - level))
    return jnp.where(draw.chance(config.change_fraction), patches, 0.0)


def season(key: jax.Array, image: jax.Array, config: GeneratorConfig) -> jax.Array:
    """Contrast that fades, or even turns over, in parts of the later image (crops, leaves, snow).

    Args:
      key: PRNG key.
      image: `(H, W)` about 0.
      config: uses `season_fraction`.

    Returns:
      `(H, W)`.
    """
    k_draw, k_where = jax.random.split(key)
    draw = Draws(k_draw, 2)
    share = jnp.where(draw.chance(config.season_fraction), draw.uniform((0.2, 1.3)), 0.0)
    where = jax.nn.sigmoid(4.0 * smooth_field(k_where, size=image.shape[0], cells=5))
    return image * (1.0 - share * where)


def cover(key: jax.Array, image: jax.Array, config: GeneratorConfig) -> jax.Array:
    """Texture all over the image that only the later date has: leaves, crops, snow, ripples.

    What is known as temporal decorrelation: one date does not say how the other looks in detail.

    Args:
      key: PRNG key.
      image: `(H, W)` in standard deviations of the ground.
      config: uses `cover_fraction` and `cover_level`.

    Returns:
      `(H, W)`.
    """
    k_draw, k_texture = jax.random.split(key)
    draw = Draws(k_draw, 3)
    share = jnp.where(draw.chance(config.cover_fraction), draw.log_uniform(config.cover_level), 0.0)
    slope = draw.uniform((0.4, 1.6))
    return image + share * power_law(k_texture, slope, size=image.shape[0])


def sun(key: jax.Array, image: jax.Array, config: GeneratorConfig) -> jax.Array:
    """Slopes that were in the light come to lie in the shade: the sun stood elsewhere.

    Args:
      key: PRNG key.
      image: `(H, W)` in standard deviations of the ground.
      config: uses `sun_fraction`.

    Returns:
      `(H, W)`: the image, with what the later sun adds to a slope and the earlier one did not.
    """
    k_draw, k_relief = jax.random.split(key)
    draw = Draws(k_draw, 4)
    share = jnp.where(draw.chance(config.sun_fraction), draw.log_uniform((0.05, 1.0)), 0.0)
    angle = draw.angle()
    height = power_law(k_relief, draw.uniform((2.2, 3.0)), size=image.shape[0])
    down, right = (height - jnp.roll(height, 1, axis) for axis in (0, 1))
    return image + share * standardise(jnp.cos(angle) * down + jnp.sin(angle) * right)


def clouds(
    key: jax.Array, pair: jax.Array, config: GeneratorConfig
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Cloud and its shadow over one of the dates.

    Args:
      key: PRNG key.
      pair: `(H, W, 2)` in standard deviations of the ground.
      config: uses `cloud_fraction`, and `cloud_mask_fraction` of the clouds that come with a mask.

    Returns:
      the pair; `(H, W, 2)` bool, where a mask says cloud; and `(H, W)` bool, where the ground can
      be seen on both dates.
    """
    k_draw, k_shape, k_rags = jax.random.split(key, 3)
    draw = Draws(k_draw, 7)
    size = pair.shape[0]
    date = jax.nn.one_hot(draw.chance(0.5).astype(jnp.int32), 2)
    field = smooth_field(k_shape, size=size, cells=9)
    field = field + 0.5 * smooth_field(k_rags, size=size, cells=25)
    opacity = jax.nn.sigmoid(6.0 * (field - draw.uniform((1.0, 2.5))))
    opacity = jnp.where(draw.chance(config.cloud_fraction), opacity, 0.0)
    shift = jnp.round(size * draw.uniform((-0.25, 0.25), (2,))).astype(jnp.int32)
    shadow = draw.uniform((0.3, 0.8)) * jnp.roll(opacity, shift, (0, 1))
    opacity, shadow = opacity[..., None] * date, shadow[..., None] * date
    shaded = pair - shadow * (0.5 * pair + 1.0)
    clouded = shaded + opacity * (_CLOUD_LEVEL - shaded)
    covered = opacity > _OPAQUE
    masked = covered & draw.chance(config.cloud_mask_fraction)
    return clouded, masked, ~covered.any(-1)
