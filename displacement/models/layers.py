"""A small convolution whose weight gradient is fast on a CPU too, and what networks make of it."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

_LAYOUT = ("NHWC", "HWIO", "NHWC")


def _forward(image, kernel, padding):
    return jax.lax.conv_general_dilated(image, kernel, (1, 1), padding, dimension_numbers=_LAYOUT)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _conv(image, kernel, padding):
    return _forward(image, kernel, padding)


def _conv_fwd(image, kernel, padding):
    return _forward(image, kernel, padding), (image, kernel)


def _conv_bwd(padding, saved, gradient):
    """Both gradients as plain convolutions, in layouts that XLA's CPU code is fast at.

    d kernel = image correlated with the gradient: channels take the place of the batch, and the
    batch that of the channels to be summed over. XLA's own choice runs at a tenth of that speed.
    """
    image, kernel = saved
    _, pull = jax.vjp(lambda image: _forward(image, kernel, padding), image)
    size = kernel.shape[0]
    margin = ((size - 1) // 2, size - 1 - (size - 1) // 2) if padding == "SAME" else (0, 0)
    by_kernel = jax.lax.conv_general_dilated(
        image, gradient, (1, 1), (margin, margin), dimension_numbers=("CHWN", "IHWO", "HWNC")
    )
    return pull(gradient)[0], by_kernel


_conv.defvjp(_conv_fwd, _conv_bwd)


class Conv(nn.Module):
    """Square convolution with bias and stride 1.

    Attributes:
      features: F, channels of the result.
      size: of the kernel in px. That of 1 px, a matrix product, also takes and gives images as a
        stack of planes, `(C, B, H, W)`.
      padding: "SAME" or "VALID".
      kernel_init: of the weights `(size, size, C, F)`.
      planes: whether a kernel of 1 px takes and whether it gives planes.
    """

    features: int
    size: int = 3
    padding: str = "SAME"
    kernel_init: nn.initializers.Initializer = nn.initializers.he_normal()
    planes: tuple[bool, bool] = (False, False)

    @nn.compact
    def __call__(self, image: jax.Array) -> jax.Array:
        """`(B, H, W, C)` to `(B, H', W', F)`, or as planes."""
        channels = image.shape[0 if self.planes[0] else -1]
        shape = (self.size, self.size, channels, self.features)
        kernel = self.param("kernel", self.kernel_init, shape)
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,))
        if self.size == 1:  # XLA's CPU code does it at five times the speed of a convolution
            if not any(self.planes):
                return image @ kernel[0, 0] + bias
            planes = image if self.planes[0] else jnp.moveaxis(image, -1, 0)
            planes = jnp.einsum("cf,cbhw->fbhw", kernel[0, 0], planes)
            planes = planes + bias[:, None, None, None]
            return planes if self.planes[1] else jnp.moveaxis(planes, 0, -1)
        return _conv(image, kernel.astype(image.dtype), self.padding) + bias


def in_bfloat16(call: Callable, arguments: tuple, named: dict, context: Any) -> Any:
    """For `nn.intercept_methods`: convolves images in bfloat16, in which they are read and summed.

    Parameters, and all that is measured or chosen among (products of 1 px and the rest), stay
    float32.
    """
    if isinstance(context.module, Conv) and context.module.size > 1:
        arguments = (arguments[0].astype(jnp.bfloat16), *arguments[1:])
    return call(*arguments, **named)


def doubled(image: jax.Array) -> jax.Array:
    """`(B, H, W, C)` at twice the sampling, `(B, 2 H, 2 W, C)`, bilinear, edges held.

    What `jax.image.resize` gives, at eight times its speed on a CPU.
    """
    for axis in (1, 2):
        pad = [(0, 0)] * 4
        pad[axis] = (1, 1)
        padded = jnp.pad(image, pad, mode="edge")
        size = image.shape[axis]
        before = jax.lax.slice_in_dim(padded, 0, size, axis=axis)
        after = jax.lax.slice_in_dim(padded, 2, size + 2, axis=axis)
        both = [0.25 * before + 0.75 * image, 0.75 * image + 0.25 * after]
        shape = [*image.shape[:axis], 2 * size, *image.shape[axis + 1 :]]
        image = jnp.stack(both, axis=axis + 1).reshape(shape)
    return image


def kept(function: Callable[..., Any], *arguments: Any) -> Any:
    """What `function` gives for these arguments, computed once; no gradient passes.

    XLA's CPU code computes what is cheap again for each of its uses, barriers or not, and by then
    it is no longer cheap. Not so the result of a loop whose end is not known beforehand. This one
    takes a single round; another would give the same.

    Args:
      function: of arrays, and of tuples, lists and the like of them.
      *arguments: the first number of them is a float, and below 1e30.
    """
    arguments = jax.lax.stop_gradient(arguments)
    nothing = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(function, *arguments)
    )
    rounds = jnp.where(jax.tree.leaves(arguments)[0].ravel()[0] > 1e30, 2, 1)
    return jax.lax.while_loop(
        lambda carry: carry[0] < rounds,
        lambda carry: (carry[0] + 1, function(*arguments)),
        (0, nothing),
    )[1]


def check_size(model: nn.Module, pair: jax.Array) -> None:
    """Refuses a pair `(B, H, W, 2)` whose height or width is no multiple of `model.multiple`."""
    if pair.shape[1] % model.multiple or pair.shape[2] % model.multiple:
        height, width = pair.shape[1:3]
        raise ValueError(
            f"{type(model).__name__} takes heights and widths in multiples of {model.multiple} px,"
            f" not {height} x {width} px: train with another --size, and pad a pair with NaN."
        )


def encode_decode(x: jax.Array, widths: Sequence[int], *, planes: bool = False) -> jax.Array:
    """Encoder and decoder with skip paths, layers of the module that calls it.

    Args:
      x: `(B, H, W, C)`, or as planes.
      widths: channels at full, half, quarter, ... resolution.
      planes: whether x is a stack of planes, `(C, B, H, W)`.

    Returns:
      `(B, H, W, widths[0])`.
    """
    skips = []
    for level, width in enumerate(widths):
        if level:
            skips.append(x)
            x = nn.avg_pool(x, (2, 2), (2, 2))
        # At full resolution there is much to read and little to compute.
        first = Conv(width) if level else Conv(width, size=1, planes=(planes, False))
        x = nn.relu(first(x))
        x = nn.relu(Conv(width)(x))
    for width in reversed(widths[:-1]):
        x = nn.relu(Conv(width, size=1)(x))
        x = doubled(x)
        x = nn.relu(Conv(width)(jnp.concatenate([x, skips.pop()], axis=-1)))
        if skips:
            x = nn.relu(Conv(width)(x)) + x
    return x
