"""Reads a folder of scenes once and for all, and tells what of it can be trained on and why.

./launch.sh prepare --scenes=FOLDER --output=bank.npz

The folder holds singles/ (any TIFFs below it) and pairs/<place>/<date>_<band>.tif. `train` and
`evaluate` take the file as --scenes, and start in seconds.
"""

import sys

from absl import app, flags, logging

from data_gen import prepare

_SCENES = flags.DEFINE_string("scenes", None, "Folder of scenes.", required=True)
_OUTPUT = flags.DEFINE_string("output", None, "File to write, .npz.", required=True)
flags.register_validator(
    "output", lambda path: path.endswith(".npz"), message="must end in .npz, as numpy writes it"
)


def main(argv):
    """Prepares what the flags name."""
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    logging.set_verbosity(logging.WARNING)
    try:
        count = prepare.write_bank(_SCENES.value, _OUTPUT.value)
    except (ValueError, OSError) as error:
        sys.exit(f"prepare: {error}")
    print(f"Wrote {count} tiles to {_OUTPUT.value}")


if __name__ == "__main__":
    app.run(main)
