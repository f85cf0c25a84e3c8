"""Processes on a Ray cluster that is there already."""

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines.launchers.contract import TOKEN, extra, first_failure
from recsys.config.ranges import Count, Many, Natural, Positive
from recsys.errors import ConfigError

__all__ = ["Ray"]

_PATIENCE = 30  # seconds that a process gets to end in order
_LOST = -9  # what a process ended with if its machine, or its place in Ray, is gone
_VARIABLES = ("PYTHONPATH", "OMP_NUM_THREADS", "MLFLOW_TRACKING_URI")


class _Place:
    """A place for one process, on a machine that Ray chose. Only the standard library is used: Ray sends the code."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None

    def address(self, host: str) -> tuple[str, int]:
        """→ `host` and a port that is free here."""
        with socket.socket() as free:
            free.bind(("", 0))
            return host, int(free.getsockname()[1])

    def run(self, command: list[str], environment: dict[str, str], cwd: str) -> int:
        """Run a command → its exit code, or −signal."""
        self.process = subprocess.Popen(
            command, cwd=cwd, env={**os.environ, **environment}, stdin=subprocess.DEVNULL, start_new_session=True
        )
        return self.process.wait()

    def stop(self) -> None:
        """End the process, and wait until it has ended."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            self.process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@dataclass
class _Launched:
    """One actor a process.

    Args:
        ray: The package.
        group: The places that Ray keeps for them.
        places: An actor for each rank.
        codes: What each will have ended with.
    """

    ray: Any
    group: Any
    places: list[Any]
    codes: list[Any] = field(default_factory=list)

    def _code(self, future: Any) -> int:
        try:
            return int(self.ray.get(future))
        except self.ray.exceptions.RayActorError:
            return _LOST

    def poll(self) -> int | None:
        """None while all that have ended did well and some still run."""
        ended, running = self.ray.wait(self.codes, num_returns=len(self.codes), timeout=0)
        codes = [self._code(future) for future in ended]
        failed = first_failure(codes)
        if not failed and running:
            return None
        self.cancel()
        return failed

    def cancel(self) -> None:
        """End the processes, then give their places back."""
        stopped = [place.stop.remote() for place in self.places]
        for future in stopped:
            with suppress(self.ray.exceptions.RayError):
                self.ray.get(future, timeout=2 * _PATIENCE)
        for place in self.places:
            self.ray.kill(place)
        self.places = []
        if self.group is not None:
            self.ray.util.remove_placement_group(self.group)
            self.group = None


def _show_token() -> None:
    """Let Ray show its token, if this user has one: a cluster asks for it by default, and a driver does not send it.

    Ray reads the variable once, when it is imported.
    """
    has_token = any(os.environ.get(name) for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    if has_token or (Path.home() / ".ray" / "auth_token").exists():
        os.environ.setdefault("RAY_AUTH_MODE", "token")


@dataclass(frozen=True)
class Ray:
    """Processes in places that a Ray cluster gives.

    Args:
        processes: Count of processes.
        restarts: Most restarts of all of them, if one dies.
        cpus: Processors of each.
        gpus: GPUs of each.
        address: HOST:PORT of the cluster's head, or `auto`.
        wait: Seconds until all places must be free, > 0.
        environment: Names of variables of this process that the others get. A password among them is sent over the
            cluster's network.
    """

    processes: Many = 2
    restarts: Natural = 3
    cpus: Count = 1
    gpus: Natural = 0
    address: str = "auto"
    wait: Positive = 60.0
    environment: Sequence[str] = _VARIABLES

    @property
    def attempts(self) -> int:
        """The first start, and each restart."""
        return 1 + self.restarts

    def start(self, command: Sequence[str], folder: Path) -> _Launched:
        """Start the processes in the same folder of their machines.

        Raises:
            ConfigError: If Ray is not installed, there is no cluster, or it has no free places.
        """
        _show_token()
        ray = extra("ray", "ray")
        self._connect(ray)
        needs: dict[str, float] = {"CPU": self.cpus, **({"GPU": self.gpus} if self.gpus else {})}
        group = ray.util.placement_group([needs] * self.processes, strategy="PACK")
        if not ray.wait([group.ready()], timeout=self.wait)[0]:
            ray.util.remove_placement_group(group)
            raise ConfigError(
                f"launcher: expected {self.processes} places of {needs} in the Ray cluster within {self.wait:g} s, got "
                f"{ray.available_resources().get('CPU', 0):g} free CPUs: lower launcher.processes, or wait for others"
            )
        strategy = ray.util.scheduling_strategies.PlacementGroupSchedulingStrategy
        actor = ray.remote(num_cpus=self.cpus, num_gpus=self.gpus, max_concurrency=2)(_Place)
        places = [
            actor.options(scheduling_strategy=strategy(group, placement_group_bundle_index=i)).remote()
            for i in range(self.processes)
        ]
        launched = _Launched(ray, group, places)
        try:
            ranks = self._ranks(ray, group, places[0])
        except BaseException:
            launched.cancel()
            raise
        kept = {name: os.environ[name] for name in (*self.environment, TOKEN) if name in os.environ}
        launched.codes = [
            place.run.remote(list(command), {**kept, **rank}, os.getcwd())
            for place, rank in zip(places, ranks, strict=True)
        ]
        return launched

    def _connect(self, ray: Any) -> None:
        if ray.is_initialized():
            return
        try:
            ray.init(address=self.address, log_to_driver=False, logging_level="ERROR", namespace="recsys")
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise ConfigError(
                f"launcher.address: expected a Ray cluster at {self.address}, found none ({error}): start one, or give "
                "HOST:PORT of its head"
            ) from error
        ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # its machines need not import this file

    def _ranks(self, ray: Any, group: Any, first: Any) -> list[dict[str, str]]:
        """The variables of each rank. A GPU of Ray is the only one that its process sees, so that it is number 0."""
        machines = ray.util.placement_group_table(group)["bundles_to_node_id"]
        hosts = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes()}
        nodes = [machines[i] for i in range(self.processes)]
        host, port = ray.get(first.address.remote(hosts[nodes[0]]), timeout=self.wait)
        return [
            {
                "RANK": str(i),
                "WORLD_SIZE": str(self.processes),
                "LOCAL_RANK": "0" if self.gpus else str(nodes[:i].count(node)),
                "LOCAL_WORLD_SIZE": "1" if self.gpus else str(nodes.count(node)),
                "MASTER_ADDR": host,
                "MASTER_PORT": str(port),
            }
            for i, node in enumerate(nodes)
        ]
