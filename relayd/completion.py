"""What a shell completes after ``relayctl``: scripts for bash, zsh and fish, made from the table of commands.

In: the commands.  Out: a script to be sourced.  Words come from our own table only, never from a running relay.
"""

import shlex
from collections.abc import Iterator, Sequence

from relayd.control.verb import Arg, Verb

SHELLS = ("bash", "zsh", "fish")
_GLOBAL = ("--config", "--control", "--json", "--help")


def script(shell: str, commands: Sequence[Verb]) -> str:
    """The script for one of ``SHELLS``."""
    return "\n".join({"bash": _bash, "zsh": _zsh, "fish": _fish}[shell](commands)) + "\n"


def option(arg: Arg) -> str:
    """As the command line has it; "" for what stands bare."""
    if arg.positional or arg.kind == "row":
        return ""
    return "--" + arg.name.replace("_", "-") + ("-file" if arg.kind in ("secret", "pem") else "")


def _nouns(commands: Sequence[Verb]) -> dict[str, list[str]]:
    """First words, and the second ones of each."""
    found: dict[str, list[str]] = {}
    for verb in commands:
        first, _, second = verb.name.partition(" ")
        found.setdefault(first, []).extend([second] if second else [])
    return found


def _bash(commands: Sequence[Verb]) -> Iterator[str]:
    yield "# relayctl for bash: source <(relayctl completion bash)"
    yield "_relayctl() {"
    yield '  local cur="${COMP_WORDS[COMP_CWORD]}" prev="${COMP_WORDS[COMP_CWORD-1]}"'
    yield '  local word first="" second="" words="" i'
    yield "  for ((i = 1; i < COMP_CWORD; i++)); do"
    yield '    word="${COMP_WORDS[i]}"'
    yield '    case "$word" in --config|--control) ((i++));; -*) ;;'
    yield '      *) if [[ -z $first ]]; then first="$word"; elif [[ -z $second ]]; then second="$word"; fi;; esac'
    yield "  done"
    nouns = _nouns(commands)
    yield '  case "$first" in'
    yield f'    "") words="{" ".join([*nouns, *_GLOBAL])}";;'
    for first, seconds in nouns.items():
        if seconds:
            yield f'    {first}) if [[ -z $second ]]; then words="{" ".join(seconds)}"; fi;;'
    yield "  esac"
    yield '  case "$first $second" in'
    for verb in commands:
        pattern = shlex.quote(verb.name) if " " in verb.name else f"{shlex.quote(verb.name + ' ')}*"
        yield f"    {pattern})"
        yield f'      words+=" {" ".join(_options(verb))}"'
        for arg in verb.args:
            if arg.choices and option(arg):
                yield f'      [[ $prev == {option(arg)} ]] && words="{" ".join(arg.choices)}"'
            elif arg.kind in ("secret", "pem", "text") and option(arg):
                yield f'      [[ $prev == {option(arg)} ]] && {{ COMPREPLY=($(compgen -f -- "$cur")); return; }}'
        yield "      ;;"
    yield "  esac"
    yield '  [[ $prev == --config || $prev == --control ]] && { COMPREPLY=($(compgen -f -- "$cur")); return; }'
    yield '  COMPREPLY=($(compgen -W "$words" -- "$cur"))'
    yield "}"
    yield "complete -F _relayctl relayctl"


def _zsh(commands: Sequence[Verb]) -> Iterator[str]:
    yield "# relayctl for zsh: source <(relayctl completion zsh)"
    yield "autoload -U +X compinit && compinit -u"
    yield "autoload -U +X bashcompinit && bashcompinit"
    yield from list(_bash(commands))[1:]


def _fish(commands: Sequence[Verb]) -> Iterator[str]:
    yield "# relayctl for fish: relayctl completion fish | source"
    yield "complete -c relayctl -f"
    for name in ("config", "control"):
        yield f"complete -c relayctl -l {name} -r -F"
    yield "complete -c relayctl -l json"
    helps = {verb.name: verb.help for verb in commands}
    for first, seconds in _nouns(commands).items():
        about = shlex.quote(helps.get(first, ", ".join(seconds)))
        yield f"complete -c relayctl -n __fish_use_subcommand -a {first} -d {about}"
        for second in seconds:
            unless = f"__fish_seen_subcommand_from {first}; and not __fish_seen_subcommand_from {' '.join(seconds)}"
            about = shlex.quote(helps[f"{first} {second}"])
            yield f"complete -c relayctl -n {shlex.quote(unless)} -a {second} -d {about}"
    for verb in commands:
        first, _, second = verb.name.partition(" ")
        seen = f"__fish_seen_subcommand_from {first}" + (
            f"; and __fish_seen_subcommand_from {second}" if second else ""
        )
        for arg in verb.args:
            if name := option(arg):
                value = "" if arg.kind == "bool" else " -r"
                if arg.choices:
                    value = f" -x -a {shlex.quote(' '.join(arg.choices))}"
                elif arg.kind in ("secret", "pem", "text"):
                    value = " -r -F"
                yield (
                    f"complete -c relayctl -n {shlex.quote(seen)} -l {name.removeprefix('--')}{value} "
                    f"-d {shlex.quote(arg.help)}"
                )


def _options(verb: Verb) -> list[str]:
    found = [option(arg) for arg in verb.args if option(arg)]
    found += [f"--no-{name.removeprefix('--')}" for arg in verb.args if arg.kind == "bool" and (name := option(arg))]
    return [*found, "--json", "--help"]
