"""Slurm's variables, as `srun` sets them, in the words of torchrun."""

import pytest

from hiera_video.utils.slurm import compute_group_variables, find_first_host

TASK = {
    "SLURM_JOB_ID": "4711",
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "9",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "2",
    "SLURM_STEP_NUM_TASKS": "11",
    "SLURM_STEP_TASKS_PER_NODE": "4(x2),3",
    "SLURM_STEP_NODELIST": "gpu[007-009]",
}


def test_a_task_of_several_is_a_rank():
    variables = compute_group_variables(TASK)
    port = int(variables.pop("MASTER_PORT"))
    assert variables == {
        "RANK": "9",
        "WORLD_SIZE": "11",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "3",
        "MASTER_ADDR": "gpu007",
    }
    assert 1024 < port < 65536
    assert port != int(compute_group_variables({**TASK, "SLURM_STEP_ID": "1"})["MASTER_PORT"])
    assert compute_group_variables({**TASK, "SLURM_NODEID": "0"})["LOCAL_WORLD_SIZE"] == "4"


@pytest.mark.parametrize(
    "changes", [{"RANK": "0"}, {"SLURM_STEP_NUM_TASKS": "1"}], ids=["torchrun within srun", "one task"]
)
def test_other_processes_are_left_alone(changes):
    assert compute_group_variables({**TASK, **changes}) == {}
    assert compute_group_variables({"SLURM_JOB_ID": "1", "SLURM_NTASKS": "8"}) == {}, "the batch script itself"


@pytest.mark.parametrize(
    ("hosts", "first"),
    [
        ("node1", "node1"),
        ("node1,node2", "node1"),
        ("gpu[007-009,12],login1", "gpu007"),
        ("a-b.c[3,5]", "a-b.c3"),
        ("r[1-2]-ib", "r1-ib"),
    ],
)
def test_the_first_host_is_the_meeting_point(hosts, first):
    assert find_first_host(hosts) == first


def test_what_cannot_be_understood_is_named():
    with pytest.raises(ValueError, match="list of hosts is ''"):
        find_first_host("")
    with pytest.raises(ValueError, match="SLURM_STEP_TASKS_PER_NODE is 'many'"):
        compute_group_variables({**TASK, "SLURM_STEP_TASKS_PER_NODE": "many"})
