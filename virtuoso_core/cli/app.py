"""The command's frame: the options that every command takes, the connection, and which error means which exit code."""

from __future__ import annotations

import logging
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from ..connect import connect, uri_from_environment
from ..errors import (
    AmbiguousDriverError,
    ConflictError,
    ConnectError,
    ConnectionLostError,
    DriverError,
    InvalidValueError,
    NetworkInactiveError,
    NoHypervisorError,
    NotAppliedError,
    ReadOnlyError,
    StopTimeoutError,
    UnknownOptionWarning,
    VirtuosoError,
    VMNotFoundError,
)
from . import output
from .completion import complete_driver, complete_uri

if TYPE_CHECKING:
    from ..hypervisor import CredentialRequest, Hypervisor

FAILED, USAGE, NOT_FOUND, DRIVER, CONNECTION, INTERRUPTED, PIPE_CLOSED = 1, 2, 3, 4, 5, 130, 141

_CODES: tuple[tuple[type[VirtuosoError], int], ...] = (
    (InvalidValueError, USAGE),
    (VMNotFoundError, NOT_FOUND),
    (DriverError, DRIVER),
    (ConnectError, CONNECTION),
    (ConnectionLostError, CONNECTION),
)

_HINTS: dict[type[VirtuosoError], str] = {
    AmbiguousDriverError: "Choose one with --driver NAME, or block the other: VIRTUOSO_DISABLE_DRIVERS=NAME",
    ConflictError: "Run it again, or with --force to have your way.",
    NetworkInactiveError: "Start it too: virtuoso start NAME --start-networks",
    NoHypervisorError: "What is wrong here: virtuoso doctor. Or name another one: virtuoso -c qemu+ssh://host/system",
    NotAppliedError: "Its configuration fixes that elsewhere: virtuoso show NAME --xml",
    ReadOnlyError: "Leave out --readonly.",
    StopTimeoutError: "It may ignore the power button. Without --no-force the plug is pulled after --timeout.",
}
"""The library's hints tell what to write in Python; these tell what to type."""


@dataclass
class Settings:
    """What the options that every command takes were set to."""

    uri: str | None = None
    driver: str | None = None
    json: bool = False
    readonly: bool = False
    verbose: bool = False

    @property
    def wanted(self) -> str | None:
        """The URI that the user named here or in the environment, if any."""
        if self.uri is not None:
            return self.uri
        return uri_from_environment()

    def connect(self, *, ask: bool = True) -> Hypervisor:
        """The hypervisor that the user named, or one that works; asks for passwords where somebody can answer."""
        credentials = _ask if ask and output.is_terminal(sys.stdin) else None
        return connect(self.uri, driver=self.driver, readonly=self.readonly, credentials=credentials)

    def report(self, error: VirtuosoError, hint: str | None = None) -> int:
        """Print the error; return the exit code that it means."""
        hint = hint or _HINTS.get(type(error), error.hint)
        output.say_error(type(error).__name__, error.message, hint, error.uri, error.vm, as_json=self.json)
        if self.verbose and error.__cause__ is not None:
            output.note(f"  because of {type(error.__cause__).__name__}: {error.__cause__}")
        return next((code for kind, code in _CODES if isinstance(error, kind)), FAILED)


def _ask(request: CredentialRequest) -> str | None:
    question = f"{request.uri}: {request.prompt.strip().rstrip(':')}"
    try:
        answer: str = click.prompt(output.clean(question), hide_input=request.kind == "password", err=True)
    except click.Abort:
        return None
    return answer


def settings() -> Settings:
    """Those of the command that runs."""
    found = click.get_current_context().find_object(Settings)
    assert found is not None
    return found


def _settle(context: click.Context, parameter: click.Parameter, value: object) -> None:
    found, name = context.find_object(Settings), parameter.name
    if found is not None and name and context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
        setattr(found, name, value)


class SharedOption(click.Option):
    """An option that may stand before the command's name and after it."""


def _shared_options() -> list[click.Parameter]:
    option = partial(SharedOption, callback=_settle, expose_value=False)
    return [
        option(
            ["-c", "--uri"],
            metavar="URI",
            shell_complete=complete_uri,
            help="The hypervisor, such as qemu:///system; one that works when left out.",
        ),
        option(
            ["--driver"],
            metavar="NAME",
            shell_complete=complete_driver,
            help="The driver, where two serve the URI.",
        ),
        option(["--json"], is_flag=True, help="Print one JSON document; errors as JSON on stderr. Memory is in KiB."),
        option(["--readonly"], is_flag=True, help="Refuse whatever would change something."),
        option(["-v", "--verbose"], is_flag=True, help="Log to stderr; show where an unexpected error came from."),
    ]


class Command(click.Command):
    """A command that also takes the options of every command."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params += _shared_options()

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The command's own options first, those of every command apart."""
        for title, shared in (("Options", False), ("Options of every command", True)):
            records = [
                record
                for parameter in self.get_params(ctx)
                if isinstance(parameter, click.Option)
                and isinstance(parameter, SharedOption) is shared
                and (record := parameter.get_help_record(ctx))
            ]
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


class Root(click.Group):
    """The command `virtuoso` itself: runs a command and turns whatever it raises into words and an exit code."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params += _shared_options()

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order in which they are defined, not by the alphabet."""
        return list(self.commands)

    def main(self, args: Sequence[str] | None = None, *_: Any, **__: Any) -> Any:
        """Run and exit; never a traceback but with -v."""
        given = list(sys.argv[1:] if args is None else args)
        if instruction := os.environ.get("_VIRTUOSO_COMPLETE"):
            from .completion import answer

            answer(self, instruction, {"obj": Settings()})
            sys.exit(0)
        # looked for by hand, because mistakes in the arguments are to be reported as JSON too
        before_end = given[: given.index("--")] if "--" in given else given
        found = Settings(json="--json" in before_end)
        with warnings.catch_warnings():
            warnings.simplefilter("always", UnknownOptionWarning)
            warnings.showwarning = partial(_show_warning, found, warnings.showwarning)
            sys.exit(self._run(given, found))

    def _run(self, args: list[str], found: Settings) -> int:
        try:
            with self.make_context("virtuoso", args, obj=found) as context:
                code = self.invoke(context)
            if sys.stdout is not None:
                sys.stdout.flush()  # here, where a closed pipe is still caught
            return code or 0
        except click.exceptions.Exit as end:
            return end.exit_code
        except click.UsageError as error:
            where = error.ctx.command_path if error.ctx else "virtuoso"
            hint = f"See: {where} --help"
            output.say_error("UsageError", error.format_message(), hint, None, None, as_json=found.json)
            return USAGE
        except click.Abort as error:
            if isinstance(error.__context__, KeyboardInterrupt):
                return INTERRUPTED
            output.say_error("Aborted", "Nothing was done.", "", None, None, as_json=found.json)
            return FAILED
        except KeyboardInterrupt:
            return INTERRUPTED
        except VirtuosoError as error:
            return found.report(error)
        except BrokenPipeError:
            _drop_output()
            return PIPE_CLOSED
        except Exception as error:
            if found.verbose:
                traceback.print_exc()
            hint = (
                "" if found.verbose else "This is a mistake in Virtuoso or a driver: run it with -v for the traceback."
            )
            if isinstance(error, OSError):
                _drop_output()  # a full disk would fail once more at exit
                hint = ""
            message = f"{type(error).__name__}: {error}"
            output.say_error(type(error).__name__, message, hint, None, None, as_json=found.json)
            return FAILED


def _drop_output() -> None:
    """Let what is still buffered go nowhere, so that the interpreter does not stumble over it at exit."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError, AttributeError):
        pass  # no file is behind it: nothing to stumble over


def _show_warning(found: Settings, otherwise: Any, message: Warning | str, kind: type[Warning], *place: Any) -> None:
    if issubclass(kind, UnknownOptionWarning):
        output.say_warning(str(message), as_json=found.json)
    elif found.verbose:
        otherwise(message, kind, *place)


def _say_version(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    found = context.find_object(Settings)
    if not wanted or context.resilient_parsing or found is None:
        return
    from .. import __version__

    if found.json:
        output.say_json({"version": __version__})
    else:
        output.say(f"virtuoso {__version__}")
    context.exit()


@click.group(
    cls=Root,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 1 failed, 2 wrong usage, 3 no such VM, 4 driver missing or broken, 5 no connection.",
)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_say_version, help="Print the version."
)
@click.pass_context
def cli(context: click.Context) -> None:
    """The same few commands for virtual machines on every hypervisor.

    \b
    virtuoso list                              on a hypervisor found by itself
    virtuoso -c vbox:///session list           on this one
    virtuoso create web --memory 2GiB --disk /images/web.qcow2
    virtuoso start web
    virtuoso doctor                            why does it not work here?
    """
    found = settings()
    log = logging.getLogger("virtuoso_core")
    if found.verbose:
        logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
        log.setLevel(logging.DEBUG)
    elif not log.handlers:
        log.addHandler(logging.NullHandler())  # a broken driver is told about where it matters, and by `drivers`
    if context.invoked_subcommand is None:
        if found.json:
            raise click.UsageError("Missing command.")
        click.echo(context.get_help(), err=True)
        context.exit(USAGE)
