"""What Slurm tells the tasks of `srun`, in the words of torchrun."""

from __future__ import annotations

import re
from collections.abc import Mapping

_FIRST_PORT, _NUM_PORTS = 20000, 20000


def compute_group_variables(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables of a process group (RANK, WORLD_SIZE, MASTER_ADDR, ...) for a task of `srun`.

    Args:
        environ: the process's environment.

    Returns:
        Empty where the process is no task of a step with several tasks, or torchrun has set the variables.

    Raises:
        ValueError: a variable of Slurm cannot be understood.
    """
    if "RANK" in environ or "SLURM_PROCID" not in environ or int(environ.get("SLURM_STEP_NUM_TASKS", "1")) < 2:
        return {}
    job = int(environ.get("SLURM_JOB_ID", "0")) * 7 + int(environ.get("SLURM_STEP_ID", "0"))
    hosts = environ.get("SLURM_STEP_NODELIST") or environ.get("SLURM_JOB_NODELIST") or "127.0.0.1"
    return {
        "RANK": environ["SLURM_PROCID"],
        "WORLD_SIZE": environ["SLURM_STEP_NUM_TASKS"],
        "LOCAL_RANK": environ.get("SLURM_LOCALID", "0"),
        "LOCAL_WORLD_SIZE": str(_count_tasks(environ)),
        "MASTER_ADDR": environ.get("MASTER_ADDR") or find_first_host(hosts),
        "MASTER_PORT": environ.get("MASTER_PORT") or str(_FIRST_PORT + job % _NUM_PORTS),
    }


def find_first_host(hosts: str) -> str:
    """The first name of a list of hosts: ``gpu007`` of ``gpu[007-009,12],login1``.

    Raises:
        ValueError: it is no such list.
    """
    match = re.match(r"([\w.-]+)(?:\[(\w+)[^\]]*\])?([\w.-]*)", hosts)
    if not match:
        raise ValueError(f"Slurm's list of hosts is {hosts!r}; expected one such as gpu[007-009]")
    return match[1] + (match[2] or "") + match[3]


def _count_tasks(environ: Mapping[str, str]) -> int:
    """Tasks on this node, from a list such as ``4(x2),3``: the nodes in their order."""
    text = environ.get("SLURM_STEP_TASKS_PER_NODE", environ["SLURM_STEP_NUM_TASKS"])
    counts: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part)
        if not match:
            raise ValueError(f"SLURM_STEP_TASKS_PER_NODE is {text!r}; expected a list such as 4(x2),3")
        counts += [int(match[1])] * int(match[2] or 1)
    return counts[min(int(environ.get("SLURM_NODEID", "0")), len(counts) - 1)]
