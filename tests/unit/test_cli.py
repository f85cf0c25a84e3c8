"""The command line itself: mistakes are one line, and a reader that stops early is no mistake."""

import subprocess
import sys

import pytest

from recsys.commands import cli
from recsys.commands.tree import command_tree

COMMANDS = [n for n, p in command_tree().items() if p.get_default("call")]


@pytest.mark.parametrize("command", COMMANDS)
def test_an_unknown_option_is_one_line_and_exit_code_2(command: str, capsys) -> None:
    needed = {
        "doctor": [],
        "schedules": [],
        "bench data": [],
        "checkpoint diff": ["x", "y"],
        "checkpoint reshard": ["x", "y", "--files", "1"],
        "checkpoint unshard": ["x", "y"],
        "bench select": [],
        "data guess": ["x", "--label", "y"],
    }.get(command, ["x"])
    assert cli.main([*command.split(), *needed, "--no-such-option"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: recsys {command}: ") and "--no-such-option" in said
    assert len(said.splitlines()) == 1


def test_a_reader_that_stops_early_ends_the_command_without_a_word() -> None:
    """`recsys predict … | head -1`"""
    code = """
import sys
from recsys.commands import bundles, cli
def many(arguments):
    for i in range(100_000):
        print(i)
    return 0
bundles.predict = many
sys.exit(cli.main(["predict", "x"]))
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout and process.stderr
    assert process.stdout.readline() == "0\n"
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(timeout=60) == 141  # as the shell says of a command that SIGPIPE ended
    process.stderr.close()
