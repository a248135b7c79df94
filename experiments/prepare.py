"""Reads a folder of scenes once and for all, and tells what of it can be trained on and why.

./launch.sh prepare --scenes=FOLDER --output=bank.npz

The folder holds singles/ (any TIFFs below it) and pairs/<place>/<date>_<band>.tif. `train` and
`evaluate` take the file as --scenes, and start in seconds.
"""

from absl import app, flags

from data_gen import prepare
from experiments import run

_SCENES = flags.DEFINE_string("scenes", None, "Folder of scenes.", required=True)
_OUTPUT = flags.DEFINE_string("output", None, "File to write, .npz.", required=True)
flags.register_validator(
    "output", lambda path: path.endswith(".npz"), message="must end in .npz, as numpy writes it"
)


def _prepare() -> None:
    count = prepare.write_bank(_SCENES.value, _OUTPUT.value)
    print(f"Wrote {count} tiles to {_OUTPUT.value}")


if __name__ == "__main__":
    app.run(run.guarded("prepare", _prepare), flags_parser=run.parse_flags)
