"""The command line `recsys`: parses the arguments, then imports and calls the command that they name."""

import gc
import os
import signal
import sys
from collections.abc import Sequence
from importlib import import_module

from pipelines.signals import obey_signals, signals_win
from recsys.commands.tree import command_tree
from recsys.errors import RecsysError, in_one_line

__all__ = ["call", "main"]

_BRIEF = ("submit", "runs")  # commands that people type again and again, and that end within a second


def call(arguments: Sequence[str]) -> int:
    """Parse a command line and run its command → exit code.

    Raises:
        RecsysError: If something fails that the user can mend.
        SystemExit: After `--help` and `--version`.
    """
    if arguments[:1] == ["run"] and not {"-h", "--help"} & set(arguments):  # what follows is for Hydra
        from recsys.commands.run import run

        return run(arguments[1:])
    given, unknown = command_tree("".join(arguments[:1]))[""].parse_known_args(arguments)
    if unknown and hasattr(given, "overrides") and not any(word.startswith("-") for word in unknown):
        given.overrides, unknown = (
            [*given.overrides, *unknown],
            [],
        )  # argparse takes those before the first option alone
    if unknown:
        given.parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    if not given.call:
        given.parser.print_help()
        return 0
    module, function = given.call.split(":")
    return getattr(import_module(f"recsys.commands.{module}"), function)(given)


def main(arguments: Sequence[str] | None = None) -> int:
    """Dispatch a subcommand → exit code: 0, or 2 with one line for an error that the user can mend."""
    obey_signals()
    words = sys.argv[1:] if arguments is None else list(arguments)
    brief = arguments is None and words[:1] and words[0] in _BRIEF
    if brief:
        gc.disable()  # a tenth of the command's time: almost all that it makes lives until its end
    try:
        with signals_win():
            code = call(words)
            sys.stdout.flush()
    except RecsysError as error:
        print(f"error: {in_one_line(error)}", file=sys.stderr)
        return error.code
    except SystemExit as stop:
        if stop.code:
            raise
        return 0  # --help
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 128 + signal.SIGINT
    except BrokenPipeError:  # `… | head -1` has read enough; Python would flush once more at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except OSError as error:  # a full disk, a folder that may not be written to
        print(
            f"error: {error.filename or 'a file'}: {error.strerror or error}: name another place, or mend it",
            file=sys.stderr,
        )
        return 2
    if brief:
        sys.stderr.flush()
        os._exit(code)  # all is written and closed: to free the memory takes Python a tenth of the command's time
    return code


if __name__ == "__main__":
    sys.exit(main())
