"""The commands that tell about this installation: drivers, doctor, completion."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from . import completion as shells
from .app import FAILED, Command, cli, settings
from .output import say, say_json, say_labelled, say_table

if TYPE_CHECKING:
    from ..hypervisor import Hypervisor
    from ..plugins import Plugin
    from ..spec import Option


@click.command(cls=Command)
@click.option("--options", is_flag=True, help="List the keys that `set` and `create --set` take on each.")
@click.option("--capabilities", is_flag=True, help="List what each declares, and where that was tried.")
def drivers(options: bool, capabilities: bool) -> None:
    """List every driver, with what keeps it from working.

    \b
    virtuoso drivers
    virtuoso drivers --options
    virtuoso drivers --capabilities
    """
    from ..plugins import default_registry

    plugins = default_registry().plugins
    if capabilities:
        _say_capabilities([cls for plugin in plugins for cls in plugin.hypervisors])
    elif settings().json:
        say_json([_described(plugin) for plugin in plugins])
    elif options:
        _say_options([cls for plugin in plugins for cls in plugin.hypervisors])
    elif plugins:
        say_table(
            ("NAME", "DISTRIBUTION", "VERSION", "SCHEMES", "STATUS", "CAUSE"),
            [(p.name, p.distribution, p.version, " ".join(p.schemes), p.status, str(p.error or "")) for p in plugins],
        )
    else:
        from ..plugins.packages import EXAMPLE_PACKAGE

        say(f"No driver is installed. Install one, such as: pip install {EXAMPLE_PACKAGE}")


def _described(plugin: Plugin) -> dict[str, Any]:
    error = plugin.error
    return {
        "name": plugin.name,
        "distribution": plugin.distribution,
        "version": plugin.version,
        "schemes": plugin.schemes,
        "status": plugin.status,
        "cause": error and {"type": type(error).__name__, "message": error.message, "hint": error.hint},
        "hypervisors": [
            {
                "name": cls.name,
                "schemes": cls.schemes,
                "features": sorted(cls.features) if isinstance(cls.features, frozenset) else None,
                "networks": dict(cls.networks) if isinstance(cls.networks, Mapping) else None,
                "options": [
                    {"key": o.name, "kind": o.kind, "takes": o.takes, "doc": o.doc, "secret": o.secret}
                    for o in _options(cls)
                ],
            }
            for cls in plugin.hypervisors
        ],
    }


def _say_capabilities(hypervisors: list[type[Hypervisor]]) -> None:
    from ..capabilities import capabilities

    found = capabilities(hypervisors)
    if settings().json:
        say_json([asdict(each) for each in found])
    else:
        say_table(
            ("DRIVER", "KIND", "NAME", "PROOF", "ON", "BY"),
            [(each.driver, each.kind, each.name, each.status, each.on, each.by) for each in found],
        )


def _options(cls: type[Hypervisor]) -> list[Option]:
    """Those that the class declares; none where only a connection can tell."""
    return list(cls.options.values()) if isinstance(cls.options, Mapping) else []


def _say_options(hypervisors: list[type[Hypervisor]]) -> None:
    for number, cls in enumerate(hypervisors):
        say(f"{chr(10) if number else ''}{cls.name} ({', '.join(f'{scheme}://' for scheme in cls.schemes)})")
        if options := _options(cls):
            say_table(("  KEY", "TAKES", "MEANING"), [(f"  {o.name}", o.takes, o.doc) for o in options], wrap=(1, 2))
        else:
            say("  takes no options")


@click.command(cls=Command)
@click.option("--image", metavar="PATH", type=click.Path(), help="Also look whether the hypervisor can use this image.")
@click.option("--clean", is_flag=True, help="Only remove what your own killed commands and programs left half made.")
def doctor(image: str | None, clean: bool) -> int:
    """Find out why something does not work here.

    Exits with 1 when a check failed; warnings are not failures.

    \b
    virtuoso doctor
    virtuoso -c qemu:///system doctor --image /images/web.qcow2
    virtuoso doctor --clean
    """
    from . import doctor as checks

    found = settings()
    if clean and found.readonly:
        raise click.UsageError("--clean removes what was left: leave out --readonly.")
    done = []
    for check in checks.clean(found) if clean else checks.examine(found, image):
        done.append(check)
        if not found.json:
            say_labelled(check.status, f"{check.name}: {check.explanation}", check.advice)
    failed = any(check.status == "fail" for check in done)
    if found.json:
        say_json({"ok": not failed, "checks": [asdict(check) for check in done]})
    return FAILED if failed else 0


@click.command(cls=Command)
@click.argument("shell", type=click.Choice(list(shells.SHELLS)))
def completion(shell: str) -> None:
    """Print the script that completes words in a shell.

    \b
    bash:  virtuoso completion bash > ~/.local/share/bash-completion/completions/virtuoso
    zsh:   virtuoso completion zsh > ~/.zfunc/_virtuoso    # a folder of fpath
    fish:  virtuoso completion fish > ~/.config/fish/completions/virtuoso.fish
    or, in this shell only:  eval "$(virtuoso completion bash)"
    """
    script = shells.script(cli, shell)
    if settings().json:
        say_json({"shell": shell, "script": script})
    else:
        click.echo(script, nl=False)
