"""What `make setup` and the images install is pinned, hashed and complete; what is imported is asked for."""

import ast
import re
import subprocess
import sys
import sysconfig
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
STANDIN = tomllib.loads((ROOT / "requirements/fbgemm-gpu-cpu-shim/pyproject.toml").read_text())["project"]
SETUP = [ROOT / "requirements" / f"{name}.txt" for name in ("cpu", "cpu-default-torch", "cuda")]
TOOLS = [ROOT / "requirements" / f"{name}.txt" for name in ("build", "uv", "benchmarks", "peers")]
IMAGES = sorted((ROOT / "docker").glob("*-requirements.txt"))


def entries(path: Path) -> list[str]:
    """The logical lines of a requirements file: comments gone, continued lines joined."""
    text = re.sub(r"^\s*#.*\n", "", path.read_text(), flags=re.M)
    return [line.strip() for line in text.replace("\\\n", " ").splitlines() if line.strip()]


def pins(path: Path) -> dict[str, Requirement]:
    """Name → requirement of each entry that this machine would install."""
    wanted = [Requirement(line.partition(" --hash")[0]) for line in entries(path)]
    return {canonicalize_name(r.name): r for r in wanted if r.marker is None or r.marker.evaluate()}


def version(pin: Requirement) -> str:
    """The one version that a pin admits."""
    (only,) = pin.specifier
    assert only.operator == "=="
    return only.version


def of_setup() -> list[Requirement]:
    """What pyproject.toml asks for under the extras that `make setup` installs."""
    (extras,) = re.findall(r"^EXTRAS := (.+)$", (ROOT / "Makefile").read_text(), re.M)
    chosen = [line for extra in extras.split() for line in PROJECT["optional-dependencies"][extra]]
    return [Requirement(line) for line in [*PROJECT["dependencies"], *chosen]]


@pytest.mark.parametrize("path", [*SETUP, *TOOLS, *IMAGES], ids=lambda path: path.name)
def test_every_entry_is_one_version_with_a_hash_and_names_no_place(path):
    assert entries(path)
    for line in entries(path):
        assert re.fullmatch(r"[a-z0-9-]+==\S+( ; [^#]*?)?( +--hash=sha256:[0-9a-f]{64})+", line), line
    assert not re.search(r"://|--(extra-)?index-url|--find-links|--trusted-host", path.read_text())


@pytest.mark.parametrize("path", SETUP, ids=lambda path: path.name)
def test_a_lock_covers_what_the_project_asks_for(path):
    locked = pins(path)
    standin = path.name != "cuda.txt"
    wanted = [r for r in of_setup() if not (standin and r.name == STANDIN["name"])]
    for r in [*wanted, *map(Requirement, STANDIN["dependencies"] if standin else [])]:
        assert r.name in locked, f"{path.name} lacks {r}: make lock"
        assert r.specifier.contains(version(locked[r.name]), prereleases=True), (
            f"{path.name} does not fit {r}: make lock"
        )
    assert ("fbgemm-gpu" in locked) != standin and ("fbgemm-gpu-cpu" in locked) == standin


@pytest.mark.parametrize("path", IMAGES, ids=lambda path: path.name)
def test_an_image_runs_the_versions_that_were_tested(path):
    locked, tested = pins(path), pins(ROOT / "requirements/cpu.txt")
    for line in entries(path.with_suffix(".in")):
        r = Requirement(line)
        assert r.specifier.contains(version(locked[r.name])), f"{path.name} does not fit {r}: make lock"
    for name in locked.keys() & tested.keys():
        assert version(locked[name]) == version(tested[name]), name


def test_the_running_environment_is_the_lock():
    # Only what stands in the environment: setuptools puts vendored packages on the path when it is imported.
    found = metadata.distributions(path=[sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])
    installed = {canonicalize_name(d.name): d.version for d in found}
    if "fbgemm-gpu-cpu" not in installed:
        pytest.skip("a CUDA machine: what is installed there was never tested")
    path = SETUP[0] if "+cpu" in installed["torch"] else SETUP[1]
    wrong = {n: installed.get(n) for n, r in pins(path).items() if installed.get(n) != version(r)}
    assert not wrong, f"expected the versions of {path.name}, got {wrong}: make setup"


def test_what_is_imported_is_asked_for():
    """A package that only comes along with another may go with the other's next release."""
    named = {canonicalize_name(r.name) for r in of_setup()}
    homes = metadata.packages_distributions()
    imported = set()
    for path in [*ROOT.glob("recsys/**/*.py"), *ROOT.glob("pipelines/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            imported |= {name.split(".")[0] for name in names}
    outside = imported - set(sys.stdlib_module_names) - {"recsys", "pipelines"}
    assert outside
    lost = {n for n in outside if not named & {canonicalize_name(d) for d in homes.get(n, ())}}
    assert not lost, f"imported, but not in pyproject.toml: {sorted(lost)}"


def test_each_bound_has_two_ends():
    """From the release line that is tested to the next major release: an untested one comes by `make lock` only."""
    for r in of_setup():
        ends = {s.operator: Version(s.version) for s in r.specifier}
        assert set(ends) in ({"=="}, {">=", "<"}), r
        if "<" in ends:
            assert ends["<"].release == (ends[">="].major + 1,), r


def test_the_versions_beside_the_wheel_are_those_of_the_lock():
    """`make wheel` writes the lock without hashes: pip takes no hashed file as constraints for a wheel without one."""
    rule = re.search(r"^\t(sed .*) > dist/constraints\.txt$", (ROOT / "Makefile").read_text(), re.M)
    assert rule
    told = subprocess.run(
        ["bash", "-c", rule[1].replace("$$", "$")], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert [Requirement(line) for line in told.splitlines()] == [
        Requirement(line.partition(" --hash")[0]) for line in entries(SETUP[1])
    ]
