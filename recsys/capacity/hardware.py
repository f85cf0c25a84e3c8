"""What a machine can do: memory, and the rate of each kind of work."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from recsys.config.factory import make_dataclass
from recsys.config.options import CONF
from recsys.config.ranges import Many
from recsys.errors import ConfigError, DataError

__all__ = ["Hardware"]


@dataclass(frozen=True)
class Hardware:
    """Machines of one kind. Rates are those that one process reaches while all processes of its machine work.

    Args:
        name: For people.
        processes: Processes of a machine: its GPUs, or the processes that share its CPU.
        memory: Bytes that a process may use.
        base: Bytes that a process takes without a model.
        flops_bf16: Floating-point operations a second of matrix products in bf16.
        flops_fp32: The same in float32.
        gather: Bytes a second, read from or written to random rows of a large table.
        copy: Bytes a second, read and written in order.
        operation: Seconds that a small operation of a forward or backward pass takes beside its work.
        link: Bytes a second that a process sends to others of its machine.
        link_delay: Seconds of a collective operation of no bytes within a machine.
        network: Bytes a second that a process sends to other machines.
        network_delay: Seconds of a collective operation of no bytes over machines.
        disk: Bytes a second that a machine writes.
    """

    name: str
    processes: Many
    memory: float
    base: float
    flops_bf16: float
    flops_fp32: float
    gather: float
    copy: float
    operation: float
    link: float
    link_delay: float
    network: float
    network_delay: float
    disk: float

    @classmethod
    def load(cls, name: str, folder: Path) -> "Hardware":
        """Read a description.

        Args:
            name: A file, or an option of the group `hardware`: packaged, or `hardware/NAME.yaml` in `folder`.
            folder: The user's current folder.

        Raises:
            ConfigError: If there is none of that name, or a value is missing or wrong.
            DataError: If the file is no YAML.
        """
        places = [CONF / "hardware" / f"{name}.yaml", folder / "hardware" / f"{name}.yaml", folder / name]
        file = next((p for p in places if p.is_file()), None)
        if file is None:
            known = ", ".join(sorted(p.stem for p in (CONF / "hardware").glob("*.yaml")))
            raise ConfigError(f"--hardware: no description {name!r}: expected one of {known}, or a file")
        try:
            values: Any = yaml.safe_load(file.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise DataError(f"{file}: expected YAML, it cannot be read: copy a packaged description") from error
        if not isinstance(values, Mapping) or not {f.name for f in fields(cls)} & values.keys():  # show no other file
            raise DataError(
                f"{file}: expected keys such as processes and memory, got none: copy a packaged description"
            )
        hardware = make_dataclass(cls, {**values, "name": name}, str(file))
        wrong = next((k for k, v in vars(hardware).items() if k not in ("name", "base") and not v > 0), None)
        if wrong:
            raise ConfigError(f"{file}: {wrong}: expected a number above 0, got {getattr(hardware, wrong)}: give one")
        return hardware
