"""What the documents say is there: commands, links, the file tree. And what no file may say."""

import re
import subprocess
from pathlib import Path

import pytest

from recsys.commands.tree import command_tree

ROOT = Path(__file__).parents[2]
FENCE = re.compile(r"^ *```.*?\n(.*?)^ *```", re.S | re.M)
SPAN = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)[^)]*\)")


def tracked():
    """All files that git keeps and that are there."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def documents():
    outside = ROOT.glob("*.md")
    inside = (path for folder in ("docs", "docker", "benchmarks") for path in (ROOT / folder).rglob("*.md"))
    return sorted([*outside, *inside])


def code(text):
    """The fenced blocks and the code spans of a document, but for blocks of text: they may hold prose."""
    text = re.sub(r"^```text\n.*?^```$", "", text, flags=re.S | re.M)
    return [*FENCE.findall(text), *SPAN.findall(FENCE.sub("", text))]


def commands(text, program):
    """First words after `program` where it stands at the start of a command."""
    start = rf"(?:^|[\s;&|(]|bin/){program} +([a-z][a-z-]*)"
    return {word for piece in code(text) for word in re.findall(start, piece, re.M)}


def slug(heading):
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def tree_paths(text):
    """The paths of the file trees in a document.

    A tree is a fenced block whose first entry is a folder; two spaces or `├──` deepen, what follows two
    spaces is the entry's purpose. Several names in one line are parted by two spaces or a comma.
    """
    found = []
    for block in FENCE.findall(text):
        lines = [re.sub(r"[│├└─]", " ", line) for line in block.splitlines() if line.strip()]
        if not any(re.match(r"\s*[\w.-]+/(\s|$)", line) for line in lines[:2]):
            continue
        above = []
        for line in lines:
            depth = len(line) - len(line.lstrip())
            names = re.split(r"\s{2,}|, ", line.strip())
            above = [(d, name) for d, name in above if d < depth]
            parent = "".join(name for _, name in above)
            there = [n for i, n in enumerate(names) if re.fullmatch(r"[\w.-]+(/[\w.-]+)*(/|\.\w+)", n) or i == 0]
            found += [parent + name for name in there if re.fullmatch(r"[\w./-]+", name)]
            if names[0].endswith("/"):
                above.append((depth, names[0]))
    return found


@pytest.mark.parametrize("path", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_exists(path):
    text = path.read_text()
    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.M))
    assert commands(text, "make") <= targets
    assert commands(text, "recsys") <= set(command_tree())


@pytest.mark.parametrize("path", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_every_relative_link_resolves(path):
    text = SPAN.sub("", FENCE.sub("", path.read_text()))
    for link in LINK.findall(text):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = path.parent / name if name else path
        assert target.exists(), f"{path.name} links to {link}, expected a file {target}"
        if anchor and target.suffix == ".md":
            headings = re.findall(r"^#+ (.*)$", target.read_text(), re.M)
            assert anchor in map(slug, headings), f"{path.name} links to {link}, no such heading"


def test_every_path_in_the_readme_tree_exists():
    missing = [name for name in tree_paths((ROOT / "README.md").read_text()) if not (ROOT / name).exists()]
    assert not missing


def test_tree_paths_reads_indents_and_branches():
    plain = "```\nrecsys/  lib\n  data/  rows\n    batch.py  Batch\n  cli.py  thin\nMakefile  x  README.md  y\n```\n"
    drawn = "```\nrecsys/\n├── data/     rows\n│   └── batch.py   Batch\n├── fm.py, dcn.py\n```\n"
    assert tree_paths(plain) == [
        "recsys/",
        "recsys/data/",
        "recsys/data/batch.py",
        "recsys/cli.py",
        "Makefile",
        "README.md",
    ]
    assert tree_paths(drawn) == ["recsys/", "recsys/data/", "recsys/data/batch.py", "recsys/fm.py", "recsys/dcn.py"]


def test_commands_are_read_from_code_only():
    text = "make haste, `make demo` and\n```\n.venv/bin/recsys run x=1\nrecsys-train serve\n```\n"
    assert commands(text, "make") == {"demo"}
    assert commands(text, "recsys") == {"run"}


HOSTS = (
    r"pypi\.org|pythonhosted\.org|npmjs\.(org|com)|download\.pytorch\.org|anaconda\.org|ghcr\.io|docker\.io|quay\.io"
)
PATHS = r"(?<![\w.~$}-])/(work|root|home|tmp|Users)(/|\b)"


@pytest.mark.parametrize(("what", "pattern"), [("registry host", HOSTS), ("machine path", PATHS)])
def test_no_file_names_a_registry_host_or_a_path_of_one_machine(what, pattern):
    hits = []
    for path in tracked():
        try:
            lines = path.read_text().splitlines()
        except UnicodeDecodeError:
            continue
        hits += [
            f"{path.relative_to(ROOT)}:{i}: {line.strip()}"
            for i, line in enumerate(lines, 1)
            if re.search(pattern, line)
        ]
    assert not hits, f"a {what} in:\n" + "\n".join(hits)
