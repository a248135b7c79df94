"""How every script of this folder starts: its own flags in --help, and errors as one line."""

import pathlib
import re
import sys
import textwrap
from collections.abc import Callable

from absl import app, flags, logging

# What starts a script of this folder in a process of its own, as this one was started.
PYTHON = [sys.executable, *(["-P"] if sys.flags.safe_path else []), "-m"]
_HELP = ("--help", "-help", "--h", "-h", "-?")


def parse_flags(argv: list[str]) -> list[str]:
    """Parses the flags, for `absl.app`; on --help prints those of the script alone, and ends.

    The hundreds of JAX and absl stay reachable by --helpfull.
    """
    before = argv[: argv.index("--")] if "--" in argv else argv
    if any(word in _HELP for word in before[1:]):
        print(help_text())
        sys.exit(0)
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        missing = re.search(r"Flag (--\w+) must have a value", str(error))
        told = f"{missing[1]} is missing." if missing else str(error)
        told = told if told[-1] in ".?" else f"{told}."
        sys.exit(f"{pathlib.Path(argv[0]).stem}: {told} --help lists the flags.")


def help_text() -> str:
    """The docstring of the script, and each of its flags with its meaning and its default."""
    values = flags.FLAGS
    modules = values.flags_by_module_dict()
    main = sys.modules["__main__"]
    others = (name for name in modules if name.startswith("experiments."))
    # The many of the simulator last.
    ours = [sys.argv[0], *sorted(others, key=lambda name: (name == "experiments.flags", name))]
    lines = [(main.__doc__ or "").strip(), "", "Flags:"]
    for flag in [flag for name in dict.fromkeys(ours) for flag in modules.get(name, [])]:
        name = f"--[no]{flag.name}" if flag.boolean else f"--{flag.name}"
        choices = getattr(flag.parser, "enum_values", None)
        default = flag.default_as_str
        notes = [f"one of {', '.join(choices)}"] if choices else []
        notes += [f"default {default.strip(chr(39))}"] if default not in (None, "", "''") else []
        words = flag.help.split("|", 1)[-1] if choices is None else flag.help.split(">: ", 1)[-1]
        text = " ".join(words.split()) + (f" ({'; '.join(notes)})" if notes else "")
        lines.append(
            textwrap.fill(text, 98, initial_indent=f"  {name:20} ", subsequent_indent=" " * 23)
        )
    return "\n".join([*lines, "", "--helpfull also lists the flags of JAX and absl."])


def guarded(
    name: str, function: Callable[[], None], *, stopped: str = "stopped."
) -> Callable[[list[str]], None]:
    """The main function of a script.

    Args:
      name: of the script, which its messages begin with.
      function: what it does; a ValueError or an OSError ends it with its message alone.
      stopped: what is said after Ctrl-C.
    """

    def main(argv):
        if len(argv) > 1:
            raise app.UsageError(f"Unexpected arguments: {' '.join(argv[1:])}")
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.WARNING)  # JAX tells of every normal thing it does
        try:
            function()
        except (ValueError, OSError) as error:
            sys.exit(f"{name}: {error}")
        except KeyboardInterrupt:
            sys.exit(f"{name}: {stopped}")

    return main
