"""The command line: ``sensorium COMMAND ...``. Only light imports here, so that ``--help`` is instant."""

import sys
import traceback
from collections.abc import Sequence

import typer
from typer.exceptions import TyperException

from core.errors import InputError
from sensorium.commands.caption import caption
from sensorium.commands.chat import chat
from sensorium.commands.classify import classify
from sensorium.commands.complete import complete
from sensorium.commands.embed import embed
from sensorium.commands.explain import explain
from sensorium.commands.export import export
from sensorium.commands.generate import generate
from sensorium.commands.interpolate import interpolate
from sensorium.commands.models import models
from sensorium.commands.precompute import precompute
from sensorium.commands.search import search
from sensorium.commands.train import TRAINER_COMMANDS, trainer_command
from sensorium.commands.transcribe import transcribe
from sensorium.commands.version import version

__all__ = ["app", "main"]

OK, CRASH, USER_ERROR, INTERRUPTED = 0, 1, 2, 130

app = typer.Typer(
    name="sensorium",
    help="One set of Transformer blocks behind every model that sees, hears, reads and draws.",
    epilog="--debug anywhere on the line shows the full traceback of an error.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(transcribe)
app.command()(classify)
app.command()(embed)
app.command()(search)
app.command()(explain)
app.command()(generate)
app.command()(caption)
app.command()(chat)
app.command()(complete)
for _name, _help in TRAINER_COMMANDS.items():
    app.command(
        _name,
        help=_help,
        add_help_option=False,
        context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "allow_interspersed_args": False},
    )(trainer_command)
app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(precompute)
app.command()(export)
app.command()(interpolate)
app.command()(models)
app.command()(version)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    0: done; 1: a fault of ours; 2: something handed in can't be used; 130: interrupted. Every failure is one line on
    stderr, ``error: ...``; ``--debug`` anywhere in `argv` adds the traceback.
    """
    given = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in given
    arguments = [argument for argument in given if argument != "--debug"]
    try:
        result = app(arguments, prog_name="sensorium", standalone_mode=False)
        return result if isinstance(result, int) else OK
    except SystemExit as leaving:
        return _exit_code(leaving)
    except KeyboardInterrupt:
        return INTERRUPTED
    except TyperException as error:
        if _is_help(error):
            return USER_ERROR
        return _report(_usage(error), USER_ERROR, debug)
    except InputError as error:
        return _report(str(error), USER_ERROR, debug)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError) as error:
        return _report(_file_error(error), USER_ERROR, debug)
    except Exception as error:
        hint = "" if debug else " (add --debug to see where)"
        return _report(f"{type(error).__name__}: {error}{hint}", CRASH, debug)


def _report(message: str, code: int, debug: bool) -> int:
    """Print one line on stderr, after the traceback when `debug`, and hand back `code`."""
    if debug:
        traceback.print_exc()
    print("error: " + " ".join(message.split()), file=sys.stderr)
    return code


def _usage(error: TyperException) -> str:
    """What was wrong with the command line, and which command explains how it should be."""
    message = error.format_message().rstrip(".")
    context = getattr(error, "ctx", None)
    return f"{message[:1].lower()}{message[1:]}: see {context.command_path if context else 'sensorium'} --help"


def _is_help(error: TyperException) -> bool:
    """``sensorium`` without arguments has printed the help: nothing more to say."""
    return type(error).__name__ == "NoArgsIsHelpError"


def _file_error(error: OSError) -> str:
    reason = (error.strerror or type(error).__name__).lower()
    return f"{reason}: {error.filename}" if error.filename else str(error)


def _exit_code(leaving: SystemExit) -> int:
    """What ``sys.exit(leaving.code)`` would leave with; a message is printed as Python would."""
    if leaving.code is None:
        return OK
    if isinstance(leaving.code, int):
        return leaving.code
    print(leaving.code, file=sys.stderr)
    return CRASH
