"""Images come by digest and install by hash; containers hold no right that they do not need."""

import re
from pathlib import Path

import pytest
import yaml

from recsys.commands.tree import command_tree

DOCKER = Path(__file__).parents[2] / "docker"
SERVICES = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]
FILES = sorted(DOCKER.glob("*.Dockerfile"))
DIGEST = re.compile(r"[\w./-]+:[\w.-]+@sha256:[0-9a-f]{64}")


def instructions(path: Path) -> list[str]:
    """The instructions of a Dockerfile: comments gone, continued lines joined."""
    text = re.sub(r"^\s*#.*\n", "", path.read_text(), flags=re.M).replace("\\\n", " ")
    return [line.strip() for line in text.splitlines() if line.strip()]


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_is_fenced(name):
    service = SERVICES[name]
    assert service["init"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert re.fullmatch(r"\d+g", service["mem_limit"])
    assert not service.get("privileged") and "network_mode" not in service and "pid" not in service
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    assert "cap_add" not in service


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_runs_as_a_user_and_tells_its_health(name):
    service = SERVICES[name]
    if "build" in service:
        lines = instructions(DOCKER.parent / service["build"]["dockerfile"])
        assert [line for line in lines if line.startswith("USER ")][-1] == "USER 1000"
        checks = any(line.startswith("HEALTHCHECK ") for line in lines)
    else:
        assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", service["user"])
        checks = False
    assert checks or "healthcheck" in service or name == "train"  # a command, which ends


def test_the_service_asks_for_a_token_and_keeps_its_tables_apart_from_mlflow():
    service = SERVICES["service"]
    assert "RECSYS_TOKEN" in service["environment"] and ":?" in service["environment"]["RECSYS_TOKEN"]
    ours, mlflow = service["environment"]["RECSYS_DATABASE"], SERVICES["mlflow"]["environment"]
    assert ours.rpartition("/")[2] == "recsys" != mlflow["MLFLOW_BACKEND_STORE_URI"].rpartition("/")[2]
    assert "CREATE DATABASE recsys;" in (DOCKER / "databases.sql").read_text()
    assert {"postgres", "mlflow"} == set(service["depends_on"])
    assert all(d["condition"] == "service_healthy" for d in service["depends_on"].values())
    arguments = command_tree()["service"].parse_args(service["command"][1:])
    assert arguments.host == "0.0.0.0" and service["ports"] == [f"127.0.0.1:{arguments.port}:{arguments.port}"]


def test_a_server_writes_to_its_volumes_only_and_scoring_asks_for_a_token():
    serve = SERVICES["serve"]
    assert serve["read_only"] is True and SERVICES["mlflow"]["read_only"] is True
    assert all(volume.endswith(":ro") for volume in serve["volumes"])
    assert "RECSYS_TOKEN" in serve["environment"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_base_image_is_named_by_digest(path):
    images = [line.split()[1] for line in instructions(path) if line.startswith("FROM ")]
    assert images
    assert all(DIGEST.fullmatch(image) for image in images), images


def test_a_service_is_built_here_or_named_by_digest():
    for name, service in SERVICES.items():
        assert "build" in service or DIGEST.fullmatch(service["image"]), name


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_an_image_installs_nothing_without_a_hash_and_runs_as_a_user(path):
    lines = instructions(path)
    installs = [
        part for line in lines for part in re.split(r"&&|^RUN ", line) if re.match(r"\s*pip (install|wheel)", part)
    ]
    assert installs
    for part in installs:
        ours = "--no-deps" in part and re.search(r" (\.|-e \.|/dist/\*\.whl)$", part.strip())
        assert "--require-hashes" in part or ours, part
        builds = "--only-binary :all:" not in part and "build.txt" not in part and ".whl" not in part
        assert not builds or "--no-build-isolation" in part, f"fetches build tools unseen: {part}"
    assert [line for line in lines if line.startswith("USER ")][-1] == "USER 1000"
