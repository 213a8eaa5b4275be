"""Each command's help: groups, examples that the command takes, completion, and no wait for any of it."""

import dataclasses
import importlib
import json
import shlex
import shutil
import subprocess
import sys

import pytest

from scalesim.cli import COMMANDS, main
from scalesim.cli.common import parse
from scalesim.cli.options import groups_of

GROUPED = ("design", "sweep", "cost", "compare", "calibrate", "fit", "predict", "train")


def module(command):
    return importlib.import_module(f"scalesim.cli.{command}")


def help_of(command, capsys):
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("command", GROUPED)
def test_help_shows_the_options_by_group_and_ends_in_examples(command, capsys):
    text = help_of(command, capsys)
    options, examples = text.split("\nExamples:\n")
    named = groups_of(module(command).Options)
    assert len(named) > 1
    places = [options.index(f" {group.__name__.lower()} options ") for group in named]
    assert places == sorted(places)
    assert "(default: None)" not in options
    assert "{None}" not in options
    assert examples.count(f"  scalesim {command} ") >= 2


@pytest.mark.parametrize("command", COMMANDS)
def test_every_help_ends_in_examples(command, capsys):
    _, examples = help_of(command, capsys).split("\nExamples:\n")
    assert examples.count("\n  scalesim ") + 1 == len(module(command).EXAMPLES) >= 2


@pytest.mark.parametrize("command", GROUPED)
def test_every_option_is_in_one_group(command):
    options = module(command).Options
    names = [field.name for group in groups_of(options) for field in dataclasses.fields(group)]
    assert sorted(names) == sorted(field.name for field in dataclasses.fields(options))


EXAMPLES = [line for command in COMMANDS for line, _ in getattr(module(command), "EXAMPLES", ())]


@pytest.mark.parametrize("line", EXAMPLES)
def test_an_example_is_a_call_that_the_command_takes(line):
    scalesim, command, *args = shlex.split(line)
    assert scalesim == "scalesim"
    found = module(command)
    options = parse(found.Options, command, args, getattr(found, "_REPEATS", ("--context",)))
    assert isinstance(options, found.Options)


def test_what_is_printed_for_completion_is_no_place_for_examples(capsys):
    with pytest.raises(SystemExit):
        main(["design", "--tyro-print-completion", "bash"])
    assert "Examples:" not in capsys.readouterr().out


@pytest.mark.parametrize("word", ["--version", "--print-completion bash"])
def test_version_and_completion_do_without_jax(word):
    code = f"import sys, scalesim.cli; scalesim.cli.main({word.split()}); assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.parametrize(
    ("words", "said"), [([], "one shell"), (["ksh"], "'ksh'"), (["bash", "x"], "one shell")]
)
def test_a_shell_that_is_not_known_is_a_sentence(words, said, capsys):
    assert main(["--print-completion", *words]) == 2
    assert said in capsys.readouterr().err


CASES = [
    (["desi"], ["design"]),
    (["design", "--objec"], ["--objective"]),
    (["design", "--objective", "t"], ["ttft", "tpot"]),
    (["fit", "--law", "x", "--ki"], ["--kind"]),
    (["design", "--plot", "plan"], ["plan.md"]),
    (["fit", "runs"], []),  # bash falls back to files where the function has nothing
]


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes_commands_options_values_and_files(tmp_path, capsys):
    assert main(["--print-completion", "bash"]) == 0
    (tmp_path / "scalesim.bash").write_text(capsys.readouterr().out)
    (tmp_path / "plan.md").touch()
    lines = ["source scalesim.bash"]
    for words, _ in CASES:
        quoted = " ".join(map(shlex.quote, ["scalesim", *words]))
        lines += [
            f"COMP_WORDS=({quoted}); COMP_CWORD={len(words)}; COMPREPLY=()",
            f"_scalesim_or_files scalesim {shlex.quote(words[-1])}",
            'echo "${COMPREPLY[*]}"',
        ]
    ran = subprocess.run(
        ["bash", "-c", "\n".join(lines)], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    assert [line.split() for line in ran.stdout.splitlines()] == [found for _, found in CASES]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_have_a_script_that_they_can_read(shell, capsys, tmp_path):
    assert main(["--print-completion", shell]) == 0
    script = capsys.readouterr().out
    assert all(command in script for command in COMMANDS)
    if shutil.which(shell) is not None:
        (tmp_path / "script").write_text(script)
        subprocess.run([shell, "-n", str(tmp_path / "script")], check=True)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["fit", ""], "An argument is empty"),
        (["train", " "], "An argument is empty"),
        (["sweep", "--save-all", ""], "--save-all is given without a value"),
        (["design", "--law="], "--law is given without a value"),
        (["cost", "llama-3-8b", "--batch", "1", "--batch-size", "2"], "--batch-size is given twice"),
        (["cost", "--shape", "16x2.5x8x1"], "its sizes must be plain whole numbers"),
        (["predict", "points", "--n-params", "1B", "--set", "n_head=8", "n_head=4"], "n_head twice: 8 and 4"),
        (["predict", "points", "--n-params", "1B", "--set", "n_params=2B"], "n_params is given twice"),
        (["predict", "points", "--set", "n_head=7.5"], "n_head must be a whole number, but is 7.5"),
        (["predict", "points", "--set", "n_head=4", "n_kv_head=8"], "n_kv_head must divide n_head = 4"),
    ],
)
def test_what_is_empty_twice_or_no_size_is_refused(words, says, capsys):
    assert main(words) == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "key", "value"),
    [
        (["cost", "16x2,048x8x1"], "d_model", 2048),
        (["cost", "16x2048x8x1", "--batch", "1,024"], "batch_size", 1024),
        (["cost", "16x2048x8x1", "--batch-size=1,024"], "batch_size", 1024),
        (["cost", "16x2048x8x1", "--context", "131,072"], "context_length", 131072),
    ],
)
def test_a_number_with_thousands_is_one_number_everywhere(words, key, value, capsys):
    assert main([*words, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert {**said, **said["shape"]}[key] == value


@pytest.mark.parametrize("columns", ["", "60", "80", "9", "x"])
def test_the_list_of_commands_is_no_wider_than_the_terminal(columns, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", columns)
    assert main(["--help"]) == 0
    printed = capsys.readouterr().out
    most = int(columns) if columns in ("60", "80") else 40 if columns == "9" else 100
    assert max(map(len, printed.splitlines())) <= most
    assert all(f"  {name} " in printed for name in COMMANDS)
