"""The networks, by name."""

from typing import Any

import flax.linen as nn

from displacement.models.patch import PatchNet
from displacement.models.unet import Iterative, UNet

MODELS: dict[str, type[nn.Module]] = {
    "patch": PatchNet,
    "unet": UNet,
    "iterative": Iterative,
}


def create_model(name: str, **options: Any) -> nn.Module:
    """Builds a network.

    Args:
      name: a key of `MODELS`.
      **options: attributes of the network.

    Returns:
      A module: `(B, H, W, 2)` pair with NaN invalid to displacement `(B, H, W, 2)` px, (row, col),
      and log of the Laplace scale of its error, same shape, or None.

    Raises:
      ValueError: unknown name or option.
    """
    if name not in MODELS:
        raise ValueError(f"Unknown model {name!r}; choose one of {sorted(MODELS)}.")
    known = set(MODELS[name].__dataclass_fields__) - {"parent", "name"}
    if unknown := set(options) - known:
        raise ValueError(f"Model {name!r} has no option {sorted(unknown)}; it has {sorted(known)}.")
    # Lists come back from JSON; attributes of a module have to be hashable.
    return MODELS[name](**{k: tuple(v) if isinstance(v, list) else v for k, v in options.items()})
