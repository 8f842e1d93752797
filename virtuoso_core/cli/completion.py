"""Completion in the shell: what to offer for each argument, and the scripts that bind it to bash, zsh and fish.

A slow, remote or broken hypervisor must not be felt while somebody types: only local ones are asked, for two seconds
at most, and whatever goes wrong means that nothing is offered.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem, FishComplete, ShellComplete, ZshComplete, split_arg_string

if TYPE_CHECKING:
    from ..hypervisor import Hypervisor
    from ..plugins import Registry
    from ..vm import VM
    from .app import Settings

_PATIENCE = 2.0
"""Seconds."""

CORE_KEYS = ("name", "memory", "cpus", "disk", "cdrom")

SEED_KEYS = ("user", "ssh-key", "password", "hostname", "packages", "user-data")
"""What `--cloud-init` takes."""

_PORTABLE = ("nat", "bridged", "host_only", "internal")

Items = list[CompletionItem[str]]


def _within_patience(work: Callable[[], Iterable[str]]) -> list[str]:
    found: list[str] = []

    def run() -> None:
        try:
            found.extend(work())
        except BaseException:  # noqa: S110  a plugin's SystemExit too: nothing is offered then
            pass

    # a daemon: one that hangs in a connection does not keep the process
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(_PATIENCE)
    return found.copy()


def _starting_with(incomplete: str, found: Iterable[str]) -> Items:
    return [CompletionItem(word) for word in found if word.startswith(incomplete)]


def _registry() -> Registry:
    from ..plugins import default_registry

    return default_registry()


def _drivers(context: click.Context) -> list[type[Hypervisor]]:
    """The driver that the line is about; every one when it does not tell."""
    from ..uri import URI

    settings = context.find_root().obj
    if settings.wanted is not None:
        return [_registry().driver_for(URI.parse(settings.wanted).scheme, settings.driver)]
    return [cls for plugin in _registry().plugins for cls in plugin.hypervisors]


def complete_uri(context: click.Context, _: click.Parameter, incomplete: str) -> Items:
    """What the drivers propose, then the bare schemes."""

    def uris() -> list[str]:
        schemes = [f"{scheme}:///" for plugin in _registry().plugins for scheme in plugin.schemes]
        return list(dict.fromkeys([*_registry().default_uris(), *schemes]))

    return _starting_with(incomplete, _within_patience(uris))


def complete_driver(context: click.Context, _: click.Parameter, incomplete: str) -> Items:
    """The drivers by their short names."""
    return _starting_with(incomplete, _within_patience(lambda: [cls.name for cls in _drivers(context)]))


def complete_vm(context: click.Context, _: click.Parameter, incomplete: str) -> Items:
    """The VMs that the line does not name yet."""
    settings = context.find_root().obj
    named = context.params.get("names") or ()

    def names() -> list[str]:
        if not _may_be_asked(settings):
            return []
        with settings.connect(ask=False) as hypervisor:
            return [summary.name for summary in hypervisor.summaries() if summary.name not in named]

    return _starting_with(incomplete, _within_patience(names))


def complete_network(context: click.Context, _: click.Parameter, incomplete: str) -> Items:
    """The types of network of the hypervisor that the line names."""

    def types() -> list[str]:
        declared = [cls.networks for cls in _drivers(context)]
        # a property, where only a connection can tell: the portable types then
        known = [networks if isinstance(networks, Mapping) else _PORTABLE for networks in declared]
        return ["none", *dict.fromkeys(type for networks in known for type in networks)]

    return _starting_with(incomplete, _within_patience(types))


def complete_assignment(context: click.Context, _: click.Parameter, incomplete: str) -> Items:
    """KEY= of what can be set, then the values of options that have few, and paths of disks."""
    key, separator, value = incomplete.partition("=")

    def words() -> list[str]:
        options = {
            name: option
            for cls in _drivers(context)
            if isinstance(cls.options, Mapping)
            for name, option in cls.options.items()
        }
        if not separator:
            return [f"{name}=" for name in (*CORE_KEYS, *options)]
        if key in ("disk", "cdrom"):
            return [f"{key}={path}" for path in _paths(value)]
        option = options.get(key)
        choices = () if option is None else ("true", "false") if option.kind == "bool" else option.choices
        return [f"{key}={choice}" for choice in choices]

    return _starting_with(incomplete, _within_patience(words))


def complete_seed(context: click.Context, _: click.Parameter, incomplete: str) -> Items:
    """KEY= of what cloud-init can be told, then the files to read it from."""
    key, separator, value = incomplete.partition("=")

    def words() -> list[str]:
        if not separator:
            return [f"{name}=" for name in SEED_KEYS]
        at = "@" if value.startswith("@") else ""
        return [f"{key}={at}{path}" for path in _paths(value.removeprefix("@"))] if at or key == "ssh-key" else []

    return _starting_with(incomplete, _within_patience(words))


def complete_snapshot(context: click.Context, _: click.Parameter, incomplete: str) -> Items:
    """The snapshots of the VM that the line names."""
    return _of_vm(context, incomplete, lambda vm: [snapshot.name for snapshot in vm.snapshots])


def complete_disk(context: click.Context, _: click.Parameter, incomplete: str) -> Items:
    """The disks of the VM that the line names."""
    return _of_vm(context, incomplete, lambda vm: vm.disks)


def _of_vm(context: click.Context, incomplete: str, look: Callable[[VM], Iterable[str]]) -> Items:
    settings, name = context.find_root().obj, context.params.get("name")

    def words() -> Iterable[str]:
        if not name or not _may_be_asked(settings):
            return []
        with settings.connect(ask=False) as hypervisor:
            return look(hypervisor.get(name))

    return _starting_with(incomplete, _within_patience(words))


def _may_be_asked(settings: Settings) -> bool:
    """Whether the hypervisor is on this machine, as far as the line tells."""
    from ..uri import URI

    return settings.wanted is None or URI.parse(settings.wanted).is_local


def _paths(typed: str) -> list[str]:
    start = typed.rpartition("/")[2]
    before = typed.removesuffix(start)
    with os.scandir(before or ".") as entries:
        return sorted(
            before + entry.name + ("/" if entry.is_dir() else "") for entry in entries if entry.name.startswith(start)
        )


# Each script asks `virtuoso` for lines of "kind TAB word TAB help". Words with spaces, colons and equals signs are
# ordinary here (names, URIs, KEY=VALUE), which the scripts that come with click do not take.

_BASH = """\
%(complete_func)s() {
    local kind word
    COMPREPLY=()
    while IFS=$'\\t' read -r kind word _; do
        if [[ $kind == plain ]]; then COMPREPLY+=("$word"); fi
        if [[ $kind == file ]]; then compopt -o default 2>/dev/null; fi
        if [[ $word == *[=/] ]]; then compopt -o nospace 2>/dev/null; fi
    done < <(COMP_LINE="${COMP_LINE:0:COMP_POINT}" COMP_CUR="${COMP_WORDS[COMP_CWORD]}" \\
        COMP_BREAKS="$COMP_WORDBREAKS" %(complete_var)s=bash_complete "$1" 2>/dev/null)
}
complete -F %(complete_func)s %(prog_name)s
"""

_ZSH = """\
#compdef %(prog_name)s
%(complete_func)s() {
    local kind word help
    local -a whole whole_shown open
    (( $+commands[%(prog_name)s] )) || return 1
    while IFS=$'\\t' read -r kind word help; do
        if [[ $kind == file ]]; then
            _files
        elif [[ $kind != plain ]]; then
            continue
        elif [[ $word == *[=/] ]]; then
            open+=("$word")
        else
            whole+=("$word")
            whole_shown+=("$word${help:+  -- $help}")
        fi
    done < <(COMP_WORDS="${words[*]}" COMP_CWORD=$((CURRENT-1)) %(complete_var)s=zsh_complete %(prog_name)s 2>/dev/null)
    (( $#open )) && compadd -U -S '' -V open -a open
    (( $#whole )) && compadd -U -l -d whole_shown -V whole -a whole
}
if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    %(complete_func)s "$@"
else
    compdef %(complete_func)s %(prog_name)s
fi
"""

_FISH = """\
function %(complete_func)s
    for line in (env %(complete_var)s=fish_complete COMP_WORDS=(commandline -cp | string collect) \\
            COMP_CWORD=(commandline -t | string collect) %(prog_name)s 2>/dev/null)
        set -l parts (string split -m 1 \\t -- $line)
        if test "$parts[1]" = plain
            echo $parts[2]
        else if test "$parts[1]" = file
            __fish_complete_path (commandline -t)
        end
    end
end
complete --no-files --command %(prog_name)s --arguments "(%(complete_func)s)"
"""


def _line(item: CompletionItem[Any]) -> str:
    help = " ".join((item.help or "").split())
    # a name that holds a line break or tab could only be offered in pieces
    return f"{item.type}\t{item.value}\t{help}".rstrip("\t") if str(item.value).isprintable() else ""


class Bash(ShellComplete):
    """bash: cuts words at ':', '=' and '@' before it asks, and quotes nothing by itself."""

    name = "bash"
    source_template = _BASH
    _incomplete = ""

    def get_completion_args(self) -> tuple[list[str], str]:
        """From the line as typed up to the cursor."""
        line = os.environ["COMP_LINE"]
        words = split_arg_string(line)[1:]
        self._incomplete = words.pop() if words and not re.search(r"(?<!\\)\s$", line) else ""
        return words, self._incomplete

    def format_completion(self, item: CompletionItem[Any]) -> str:
        """As it replaces what bash takes for the current word."""
        if item.type != "plain":
            return _line(item)
        value = str(item.value)
        if os.environ.get("COMP_CUR", "")[:1] in ("'", '"'):
            return _line(item)
        breaks = set(os.environ.get("COMP_BREAKS", "")) & set(":=@")
        cut = max((self._incomplete.rfind(c) + 1 for c in breaks), default=0)
        quoted = re.sub(r"([^\w@%+=:,./~-])", r"\\\1", value[cut:])
        return _line(CompletionItem(quoted))


class Zsh(ZshComplete):
    """zsh."""

    source_template = _ZSH

    def format_completion(self, item: CompletionItem[Any]) -> str:
        """A line for the script."""
        return _line(item)


class Fish(FishComplete):
    """fish."""

    source_template = _FISH

    def format_completion(self, item: CompletionItem[Any]) -> str:
        """A line for the script."""
        return _line(item)


SHELLS: dict[str, type[ShellComplete]] = {"bash": Bash, "zsh": Zsh, "fish": Fish}


def script(cli: click.Command, shell: str) -> str:
    """What to run in the shell to have completion."""
    return SHELLS[shell](cli, {}, "virtuoso", "_VIRTUOSO_COMPLETE").source()


def answer(cli: click.Command, instruction: str, context: MutableMapping[str, Any]) -> None:
    """Print what to offer, as the shell's script asked for it; nothing when it cannot be told."""
    shell = SHELLS.get(instruction.partition("_")[0])
    if shell is None:
        return
    try:
        click.echo(shell(cli, context, "virtuoso", "_VIRTUOSO_COMPLETE").complete())
    except Exception:  # noqa: S110  an error would be printed into the line being typed
        pass
