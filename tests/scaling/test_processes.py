"""Processes that train together do what one does, and go on where they were when killed."""

import json
import os
import random
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from liveedit_jax.scaling.mesh import parse_axes
from liveedit_jax.scaling.processes import start

HERE = Path(__file__).parent
STEPS_N, LONG_N = 6, 20
KILLS_N = 1  # resume_check has three, of the whole train_editor
DEVICES = "--xla_force_host_platform_device_count"
# On a busy machine one process may compile for so long that another gives up waiting to connect;
# both are then started again, as anybody would.
UNCONNECTED, STARTS_N = "Gloo context initialization failed", 3


def begin(processes_n, out, steps_n=STEPS_N):
    """Start all processes; four devices in all."""
    with socket.socket() as one:
        one.bind(("localhost", 0))
        port = one.getsockname()[1]
    places = (HERE.parents[1], HERE, HERE.parent / "training")
    env = os.environ | {
        "PYTHONPATH": os.pathsep.join(map(str, places)),
        "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} {DEVICES}={4 // processes_n}",
        "JAX_PLATFORMS": "cpu",
    }
    coordinator = "-" if processes_n == 1 else f"localhost:{port}"
    command = [sys.executable, str(HERE / "one_process.py"), coordinator, str(processes_n)]
    return [
        subprocess.Popen(
            [*command, str(i), str(steps_n), str(out)],
            env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for i in range(processes_n)
    ]  # fmt: skip


def ended(*run):
    """Run to the end; `run` is what `begin` takes."""
    for _ in range(STARTS_N):
        processes = begin(*run)
        said = [process.communicate(timeout=300)[0] for process in processes]
        if not any(UNCONNECTED in text for text in said):
            break
    assert [process.returncode for process in processes] == [0] * len(processes), said


def losses(out):
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "alone"
    ended(1, out, LONG_N)
    return out


def killed(lines_n, rng, processes_n, out, *steps_n):
    """Start all, and kill all at once as soon as the log says that so many steps are done."""
    log, starts = out / "log.jsonl", STARTS_N
    processes = begin(processes_n, out, *steps_n)
    while not log.exists() or len(log.read_text().splitlines()) < lines_n:
        if any(process.poll() is not None for process in processes):
            said, starts = [process.communicate()[0] for process in processes], starts - 1
            assert starts and any(UNCONNECTED in text for text in said), said
            processes = begin(processes_n, out, *steps_n)
        time.sleep(0.005)
    rng.choice(processes).kill()
    for process in processes:  # the others wait for it
        process.kill()
        process.communicate()


def test_a_killed_run_is_the_same_run_bit_for_bit(alone):
    out, rng = alone.parent / "killed", random.Random()
    at = sorted(rng.sample(range(4, LONG_N - 6), KILLS_N))
    for lines_n in at:  # lines of steps that are lost are written again
        killed(lines_n, rng, 1, out, LONG_N)
    ended(1, out, LONG_N)
    found, wanted = ((run / "state.sha256").read_text() for run in (out, alone))
    assert found == wanted, at


@pytest.mark.parametrize("processes_n", [2])
def test_processes_train_as_one_and_go_on_after_one_is_killed(alone, processes_n):
    out = alone.parent / f"of-{processes_n}"
    rng = random.Random()
    killed(rng.choice([2, 3, 4]), rng, processes_n, out)
    ended(processes_n, out)
    found, wanted = losses(out), losses(alone)
    assert found.keys() == set(range(1, STEPS_N + 1))
    for step, loss in found.items():
        assert loss == pytest.approx(wanted[step], rel=1e-5), step


def test_what_cannot_be_started_is_refused():
    with pytest.raises(ValueError, match="say how many processes there are"):
        start("localhost:1234")
    with pytest.raises(ValueError, match="mesh axis 'rows=2'"):
        parse_axes("data=2,rows=2")
    assert parse_axes("data=2,tensor=4").tensor == 4
