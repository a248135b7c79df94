"""The ground that a training sees: real scenes, procedural tiles beside them, what is held out."""

import hashlib
import pathlib

import jax
import numpy as np

from data_gen import prepare
from data_gen.config import GeneratorConfig
from data_gen.scenes import SceneBank, join, procedural_bank
from displacement import parallel
from displacement.files import atomic_path


def check(bank: SceneBank, run_dir: pathlib.Path, *, name: str, begun: bool) -> None:
    """Keeps what tells a bank from others; refuses, in a run that goes on, one of other content.

    Args:
      bank: of real scenes.
      run_dir: of the run.
      name: of the bank, as it was given.
      begun: whether the run goes on.

    Raises:
      ValueError: the run began with other ground.
    """
    digest = hashlib.sha256()
    for part in (bank.affine, bank.two_dates, bank.agree, bank.coefficients[:, :, ::16, ::16]):
        digest.update(np.asarray(part).tobytes())
    path = run_dir / "ground.txt"
    if begun and path.exists() and path.read_text().strip() != digest.hexdigest():
        raise ValueError(
            f"--scenes={name} does not hold what {run_dir} began with: it was prepared anew. Use"
            " another --run_dir."
        )
    with atomic_path(path) as partial:
        partial.write_text(digest.hexdigest() + "\n")


def banks(
    key: jax.Array,
    config: GeneratorConfig,
    *,
    scenes: str | None,
    holdout: list[str],
    procedural_tiles: int,
    run_dir: pathlib.Path,
    begun: bool,
) -> tuple[SceneBank | None, SceneBank | None]:
    """Ground to train on and to evaluate on, a copy on every device; None is made on the fly.

    Args:
      key: of the procedural tiles.
      config: of the simulator.
      scenes: bank or folder of real scenes, or None.
      holdout: words in the names of those that are evaluated on, and not trained on.
      procedural_tiles: how many there are beside the real ones.
      run_dir: of the run.
      begun: whether the run goes on.

    Raises:
      ValueError: there is nothing to hold out from, no such scene, or the run began with other
        ground.
    """
    if scenes is None:
        if holdout:
            raise ValueError(
                "--holdout leaves out places of --scenes, and there are none. Give both."
            )
        return None, None
    print(f"Reading scenes from {scenes} ...", flush=True)
    names = tuple(filter(None, holdout))
    bank = prepare.read_bank(scenes, exclude=names)
    if parallel.is_first():
        check(bank, run_dir, name=scenes, begun=begun)
    tiles = len(bank.affine)
    if procedural_tiles:
        bank = join(bank, procedural_bank(key, config, tiles=procedural_tiles))
    held = prepare.read_bank(scenes, only=names, report=lambda _: None) if names else bank
    print(
        f"Ground: {tiles} tiles of scenes and {procedural_tiles} procedural, each as likely;"
        " evaluated on"
        f" {f'{len(held.affine)} tiles held out' if names else 'the same, none being held out'}."
    )
    return parallel.replicate(bank), parallel.replicate(held)
