"""The command's frame: the options that every command takes, the connection, and which error means which exit code."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from ..connect import connect, uri_from_environment
from ..errors import (
    ConnectError,
    ConnectionLostError,
    DriverError,
    InvalidURIError,
    InvalidValueError,
    SnapshotNotFoundError,
    UnknownOptionWarning,
    VirtuosoError,
    VMNotFoundError,
)
from ..uri import URI
from . import output
from .completion import complete_driver, complete_uri
from .hints import typed

if TYPE_CHECKING:
    from ..hypervisor import CredentialRequest, Hypervisor

FAILED, USAGE, NOT_FOUND, DRIVER, CONNECTION, INTERRUPTED, PIPE_CLOSED = 1, 2, 3, 4, 5, 130, 141
HUNG_UP, TERMINATED = 129, 143

_CODES: tuple[tuple[type[VirtuosoError], int], ...] = (
    (InvalidValueError, USAGE),
    (VMNotFoundError, NOT_FOUND),
    (SnapshotNotFoundError, NOT_FOUND),
    (DriverError, DRIVER),
    (ConnectError, CONNECTION),
    (ConnectionLostError, CONNECTION),
)


@dataclass
class Settings:
    """What the options that every command takes were set to."""

    uri: str | None = None
    driver: str | None = None
    json: bool = False
    readonly: bool = False
    verbose: bool = False
    command: str = ""
    """The name of the command that runs."""
    given: set[str] = field(default_factory=set)
    """Which of those above were really set."""

    @property
    def wanted(self) -> str | None:
        """The URI that the user named here or in the environment, if any."""
        if self.uri is not None:
            return self.uri
        return uri_from_environment()

    def connect(self, *, ask: bool = True) -> Hypervisor:
        """The hypervisor that the user named, or one that works; asks for passwords where somebody can answer."""
        credentials = self.credentials if ask else None
        return connect(self.uri, driver=self.driver, readonly=self.readonly, credentials=credentials)

    @property
    def credentials(self) -> Callable[[CredentialRequest], str | None] | None:
        """Asks for passwords; None where nobody can answer."""
        return _ask if output.is_terminal(sys.stdin) else None

    def again(self) -> list[str]:
        """What names the same hypervisor in a line to type next."""
        words: list[str] = []
        if self.uri:
            try:
                words += ["-c", str(URI.parse(self.uri))]
            except InvalidURIError:
                pass  # that is what the error is about
        return [*words, "--driver", self.driver] if self.driver else words

    def report(self, error: VirtuosoError) -> int:
        """Print the error; return the exit code that it means."""
        hint = typed(error, self.command, self.again())
        output.say_error(type(error).__name__, error.message, hint, error.uri, error.vm, as_json=self.json)
        self.report_notes(error)
        if self.verbose and error.__cause__ is not None:
            output.note(f"  because of {type(error.__cause__).__name__}: {error.__cause__}")
        return next((code for kind, code in _CODES if isinstance(error, kind)), FAILED)

    def report_notes(self, error: BaseException) -> None:
        """Print what else went wrong: of a step that failed or was interrupted, that it could not be undone."""
        for text in getattr(error, "__notes__", ()):
            output.say_warning(text, as_json=self.json)


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
        found.given.add(name)


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

    def invoke(self, ctx: click.Context) -> Any:
        """Run it, as all of its arguments say."""
        if found := ctx.find_object(Settings):
            found.command = ctx.info_name or ""
            found.json = "json" in found.given  # what was seen before may belong to a command of a guest
        return super().invoke(ctx)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The command's own options first, those of every command apart."""
        _format_options(self, ctx, formatter)


def _format_options(command: click.Command, ctx: click.Context, formatter: click.HelpFormatter) -> None:
    for title, shared in (("Options", False), ("Options of every command", True)):
        records = [
            record
            for parameter in command.get_params(ctx)
            if isinstance(parameter, click.Option)
            and isinstance(parameter, SharedOption) is shared
            and (record := parameter.get_help_record(ctx))
        ]
        if records:
            with formatter.section(title):
                formatter.write_dl(records)


class Group(click.Group):
    """Commands under one word, which also takes the options of every command."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params += _shared_options()

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order in which they are defined, not by the alphabet."""
        return list(self.commands)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """As those of a command, then the commands."""
        _format_options(self, ctx, formatter)
        self.format_commands(ctx, formatter)


def show_commands(context: click.Context) -> None:
    """Where a group was called without a command: its help, on stderr, and leave."""
    if context.invoked_subcommand is not None:
        return
    found = context.find_object(Settings)
    if found is not None and found.json:
        raise click.UsageError("Missing command.", context)
    click.echo(context.get_help(), err=True)
    context.exit(USAGE)


class Root(Group):
    """The command `virtuoso` itself: runs a command and turns whatever it raises into words and an exit code."""

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
        with warnings.catch_warnings(), _undoing_at_signals():
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
        except KeyboardInterrupt as error:
            found.report_notes(error)
            return INTERRUPTED
        except SystemExit as error:  # a signal
            found.report_notes(error)
            raise
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
            if isinstance(error, OSError) and error.strerror:
                message = f"{error.strerror}: {error.filename}" if error.filename else error.strerror
            output.say_error(type(error).__name__, message, hint, None, None, as_json=found.json)
            return FAILED


@contextmanager
def _undoing_at_signals() -> Iterator[None]:
    """Let SIGTERM and a lost terminal end it by exceptions, so that a long step undoes what it has half made."""

    def leave(number: int, _: object) -> None:
        sys.exit(TERMINATED if number == signal.SIGTERM else HUNG_UP)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # one that is ignored, as by nohup, stays so
    before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGHUP)}
    caught = [each for each, action in before.items() if action is signal.SIG_DFL]
    for each in caught:
        signal.signal(each, leave)
    try:
        yield
    finally:
        for each in caught:
            signal.signal(each, signal.SIG_DFL)


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
    epilog="Exit codes: 0 done, 1 failed, 2 wrong usage, 3 no such VM or snapshot, 4 driver missing or broken, "
    "5 no connection.",
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
    show_commands(context)
