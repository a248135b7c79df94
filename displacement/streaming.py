"""Measuring a pair of any size onto the disk, so that a stopped run goes on where it stopped."""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from displacement.estimator import Instrument, measure_tiles
from displacement.finish import Read
from displacement.scene import Images, Scene, survey
from displacement.types import CHANNELS
from displacement.working import WorkingFile, discard, working_file


@dataclasses.dataclass(frozen=True)
class Swapped:
    """A pair with its dates changed over, to measure from the later to the earlier image."""

    images: Images

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) of both."""
        return self.images.shape

    def read(self, date: int, row: int, col: int, height: int, width: int) -> np.ndarray:
        """A window of the later (0) or the earlier (1) image, NaN where invalid or outside."""
        return self.images.read(1 - date, row, col, height, width)


def _begun(
    work: WorkingFile,
    images: Images,
    instrument: Instrument,
    *,
    key: dict[str, Any],
    say: Callable[[str], None],
) -> Scene:
    """Starts the working file; what is to be known of the scene, from it or by a survey."""
    if work.start(key):
        say("What was left of a run with other files or flags is thrown away.")
    if work.facts is None:
        work.note(dataclasses.asdict(survey(images, prealign=instrument.prealign)))
    facts = {k: tuple(v) if isinstance(v, list) else v for k, v in work.facts.items()}
    scene = Scene(**facts)
    for doubt in instrument.doubts(scene, images.shape):
        say(doubt)
    if not scene.common:
        raise ValueError(
            "no pixel is valid in both images. Look at the images, their nodata tags (--nodata"
            " gives another value) and masks."
        )
    return scene


@contextlib.contextmanager
def measured(
    output: str | os.PathLike,
    images: Images,
    instrument: Instrument,
    *,
    key: dict[str, Any],
    name: str = "measured",
    progress: bool = False,
    say: Callable[[str], None] = print,
) -> Iterator[tuple[Read, Scene]]:
    """Measures a pair into a working file beside `output`, or goes on with the one that is there.

    The working file is kept, also when it is complete: `working.discard` removes it.

    Args:
      output: of the result.
      images: the pair.
      instrument: that measures.
      key: all that the values depend on, JSON-able; a working file of another key is begun anew.
      name: of one of several working files of a result.
      progress: whether to show a bar with the time left.
      say: takes a sentence for the person who waits.

    Yields:
      What reads the values, `(h, w, 5)` as `CHANNELS`, and what was taken from the whole scene.
    """
    instrument.check(images.shape)  # before anything is thrown away
    with working_file(output, (*images.shape, len(CHANNELS)), name=name) as work:
        try:
            scene = _begun(work, images, instrument, key=key, say=say)
        except (ValueError, OSError):
            if not work.done:  # nothing to go on with
                discard(output, name=name)
            raise
        if work.done:
            say(f"Going on: {len(work.done)} tiles were measured before.")
        tiles = measure_tiles(instrument, images, scene, skip=work.done, progress=progress)
        with contextlib.closing(tiles):
            for number, tile, values in tiles:
                work.write(number, tile, values)
        yield work.read, scene
