"""What is not motion: ground that changed between the dates, seasons, the sun, clouds."""

import jax
import jax.numpy as jnp

from data_gen.config import GeneratorConfig
from data_gen.random import log_uniform, uniform
from data_gen.textures import power_law, smooth_field, standardise

_CLOUD_LEVEL = 3.0  # brightness of cloud, in standard deviations of the ground above its mean
_OPAQUE = 0.3  # share of cloud beyond which the ground cannot be seen


def changed_patches(key: jax.Array, config: GeneratorConfig, *, size: int) -> jax.Array:
    """`(size, size)` in [0, 1]: where the later date shows other ground (field, burn, roof)."""
    k_any, k_level, k_shape = jax.random.split(key, 3)
    level = uniform(k_level, (0.6, 2.0))  # covers 27 % down to 2 %
    patches = jax.nn.sigmoid(20.0 * (smooth_field(k_shape, size=size, cells=8) - level))
    return jnp.where(jax.random.bernoulli(k_any, config.change_fraction), patches, 0.0)


def season(key: jax.Array, image: jax.Array, config: GeneratorConfig) -> jax.Array:
    """Contrast that fades, or even turns over, in parts of the later image (crops, leaves, snow).

    Args:
      key: PRNG key.
      image: `(H, W)` about 0.
      config: uses `season_fraction`.

    Returns:
      `(H, W)`.
    """
    k_any, k_share, k_where = jax.random.split(key, 3)
    share = jnp.where(
        jax.random.bernoulli(k_any, config.season_fraction), uniform(k_share, (0.2, 1.3)), 0.0
    )
    where = jax.nn.sigmoid(4.0 * smooth_field(k_where, size=image.shape[0], cells=5))
    return image * (1.0 - share * where)


def sun(key: jax.Array, image: jax.Array, config: GeneratorConfig) -> jax.Array:
    """Slopes that were in the light come to lie in the shade: the sun stood elsewhere.

    Args:
      key: PRNG key.
      image: `(H, W)` in standard deviations of the ground.
      config: uses `sun_fraction`.

    Returns:
      `(H, W)`: what the later sun adds to a slope and the earlier one did not.
    """
    k_any, k_share, k_angle, k_relief, k_slope = jax.random.split(key, 5)
    share = jnp.where(
        jax.random.bernoulli(k_any, config.sun_fraction), log_uniform(k_share, (0.05, 0.5)), 0.0
    )
    angle = uniform(k_angle, (0.0, 2 * jnp.pi))
    height = power_law(k_relief, uniform(k_slope, (2.2, 3.0)), size=image.shape[0])
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
    k_any, k_date, k_level, k_shape, k_rags, k_shift, k_mask, k_dark = jax.random.split(key, 8)
    size = pair.shape[0]
    date = jax.nn.one_hot(jax.random.bernoulli(k_date).astype(jnp.int32), 2)
    field = smooth_field(k_shape, size=size, cells=9)
    field = field + 0.5 * smooth_field(k_rags, size=size, cells=25)
    opacity = jax.nn.sigmoid(6.0 * (field - uniform(k_level, (1.0, 2.5))))
    opacity = jnp.where(jax.random.bernoulli(k_any, config.cloud_fraction), opacity, 0.0)
    reach = size // 4
    shift = jax.random.randint(k_shift, (2,), -reach, reach + 1)
    shadow = uniform(k_dark, (0.3, 0.8)) * jnp.roll(opacity, shift, (0, 1))
    opacity, shadow = opacity[..., None] * date, shadow[..., None] * date
    shaded = pair - shadow * (0.5 * pair + 1.0)
    clouded = shaded + opacity * (_CLOUD_LEVEL - shaded)
    covered = opacity > _OPAQUE
    masked = covered & jax.random.bernoulli(k_mask, config.cloud_mask_fraction)
    return clouded, masked, ~covered.any(-1)
