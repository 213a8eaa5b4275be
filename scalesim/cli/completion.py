"""`scalesim --print-completion SHELL`: what a shell needs to complete commands, options and files."""

from __future__ import annotations

import contextlib
import importlib
import io
from collections.abc import Sequence
from typing import Annotated, Any, Union

from scalesim.errors import InvalidInput, choose

__all__ = ["SHELLS", "print_completion"]

SHELLS = ("bash", "zsh", "fish")

# Where there is nothing of scalesim's to complete, files are: tyro's scripts do so for options only.
_FILES_TOO = {
    "bash": """
_scalesim_or_files() {
  _tyro_scalesim "$@"
  [[ -n "${COMPREPLY[*]}" ]] || COMPREPLY=()
}
complete -o bashdefault -o default -F _scalesim_or_files scalesim
""",
    "zsh": """
[[ $compstate[nmatches] -gt 0 ]] || _files
""",
    "fish": """
function _scalesim_or_files
    set -l found (_tyro_scalesim)
    printf "%s\\n" $found
    if not string match --quiet --invert -- "-*" $found
        __fish_complete_path (commandline -ct)
    end
end
complete --erase --command scalesim
complete --no-files --command scalesim --arguments "(_scalesim_or_files)"
""",
}


def print_completion(args: Sequence[str]) -> int:
    """Print the script that completes `scalesim` in a shell.

    Raises:
        InvalidInput: no shell is named, or one that is not known.
    """
    if len(args) != 1:
        raise InvalidInput(f"--print-completion takes one shell: {', '.join(SHELLS)}.")
    choose("shell", args[0], SHELLS)
    print(script(args[0]))
    return 0


def script(shell: str) -> str:
    """Return the script of one shell: tyro's, over all commands at once."""
    import tyro

    from scalesim.cli import COMMANDS
    from scalesim.cli.options import form_of

    forms: list[Any] = []
    for name, what in COMMANDS.items():
        options = importlib.import_module(f"scalesim.cli.{name}").Options
        forms.append(Annotated[form_of(options), tyro.conf.subcommand(name=name, description=what)])
    every: Any = Union[tuple(forms)]  # noqa: UP007
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        tyro.cli(
            every,
            prog="scalesim",
            args=["--tyro-print-completion", shell],
            config=(tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes),
        )
    return said.getvalue() + _FILES_TOO[shell]
