"""The identity of a process: alive, dead, a number used again, and a place from which nothing can be known."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys

import pytest

from gan_plugin.process import ProcessIdentity, this_process

PRINT_IDENTITY = "from gan_plugin.process import this_process; print(this_process().to_json(), flush=True); input()"


def test_a_process_that_lives_is_not_dead() -> None:
    assert not this_process().is_dead()
    assert this_process().pid == os.getpid()
    assert this_process() == this_process()


def test_another_process_is_dead_when_it_ends() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", PRINT_IDENTITY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        identity = ProcessIdentity.from_json(process.stdout.readline())
        assert identity is not None
        assert identity.pid == process.pid
        assert not identity.is_dead()
        process.kill()
        while process.stdout.read():
            pass
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it ended, and nobody took note: a zombie
        assert identity.is_dead()
        process.wait(20)
        assert identity.is_dead()
    finally:
        process.kill()
        process.wait(20)


def test_a_number_that_another_process_got_is_dead() -> None:
    here = this_process()
    assert dataclasses.replace(here, started=here.started - 100).is_dead()
    assert not dataclasses.replace(here, started=round(here.started)).is_dead()  # clocks are not that exact


@pytest.mark.parametrize("field", ["host", "space"])
def test_of_another_machine_or_container_nothing_is_known(field: str) -> None:
    gone = dataclasses.replace(this_process(), pid=2**22 + 1)  # more than Linux gives
    assert gone.is_dead()
    assert not dataclasses.replace(gone, **{field: "another"}).is_dead()


def test_the_text_of_an_identity() -> None:
    here = this_process()
    assert ProcessIdentity.from_json(here.to_json()) == here
    for text in ("", "null", "[]", "{}", '{"pid": 3}', "no JSON", '{"host": "a", "space": "b", "pid": 1, "x": 2}'):
        assert ProcessIdentity.from_json(text) is None
