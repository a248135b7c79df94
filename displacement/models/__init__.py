"""The networks, by name."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn

from displacement.models.cellnet import CellNet
from displacement.models.patch import PatchNet
from displacement.models.unet import Iterative, UNet
from displacement.tiling import ALIGNMENT

MODELS: dict[str, type[nn.Module]] = {
    "patch": PatchNet,
    "unet": UNet,
    "iterative": Iterative,
    "cells": CellNet,
}


def _count(value: Any, least: int) -> bool:
    return isinstance(value, int) and value >= least


# Of options: what will do, and how to say it.
_BOUNDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "widths": (
        lambda value: isinstance(value, tuple) and value and all(_count(v, 1) for v in value),
        "a list of whole numbers above 0, the channels of each resolution",
    ),
    "width": (lambda value: _count(value, 1), "a whole number above 0"),
    "radius": (lambda value: value == 0 or _count(value, 2), "0, for no matching, or 2 px or more"),
    "refinements": (lambda value: _count(value, 0), "a whole number, 0 or more"),
    "patch": (lambda value: _count(value, 3), "a whole number, 3 px or more"),
}


def create_model(name: str, **options: Any) -> nn.Module:
    """Builds a network.

    Args:
      name: a key of `MODELS`.
      **options: attributes of the network.

    Returns:
      A module: `(B, H, W, 2)` pair with NaN invalid to displacement `(B, H, W, 2)` px, (row, col),
      and log of the scale of its error, same shape (see `losses.sigma`), or None.

    Raises:
      ValueError: unknown name or option, or an option out of its bounds.
    """
    if name not in MODELS:
        raise ValueError(f"Unknown model {name!r}; choose one of {sorted(MODELS)}.")
    known = set(MODELS[name].__dataclass_fields__) - {"parent", "name"}
    if unknown := set(options) - known:
        raise ValueError(f"Model {name!r} has no option {sorted(unknown)}; it has {sorted(known)}.")
    # Lists come back from JSON; attributes of a module have to be hashable.
    options = {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}
    for option, (fits, remedy) in _BOUNDS.items():
        if option in options and not fits(options[option]):
            raise ValueError(f"{option}={options[option]!r} of model {name!r} must be {remedy}.")
    model = MODELS[name](**options)
    again = name == "cells" or getattr(model, "refinements", 0)
    if again and model.radius == 0:
        raise ValueError(
            f"Model {name!r} with radius=0 has nothing to look at again; use 'unet' without"
            " refinements."
        )
    if (times := getattr(model, "multiple", 1) // ALIGNMENT) > 1:  # a power of 2
        count = len(model.widths)
        raise ValueError(
            f"widths={list(model.widths)} of model {name!r} has {count} resolutions;"
            f" {count - times.bit_length() + 1} at most: images are measured in multiples of"
            f" {ALIGNMENT} px."
        )
    return model
