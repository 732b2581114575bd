"""Signals that end a process, and output that does not."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest
from helpers import BIN

from gan_plugin.signals import StopSignals, exit_on_signals


def test_the_same_signal_again_ends_the_process_at_once() -> None:
    code = """
import signal, time
from gan_plugin.signals import StopSignals
stop = StopSignals()
with stop.installed():
    signal.raise_signal(signal.SIGINT)
    signal.raise_signal(signal.SIGTERM)  # mlflow run sends it after a Ctrl-C
    print(stop.requested(), stop.exit_status(), flush=True)
    signal.raise_signal(signal.SIGINT)
    time.sleep(30)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=25, cwd=BIN, check=False
    )
    assert done.stdout == "True 130\n"
    assert done.returncode == -signal.SIGINT


def test_what_torchrun_passes_on_does_not_end_the_process(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A scheduler that ends a group of processes sends it to this one, too."""
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "7")
    with StopSignals("saving a checkpoint").installed() as stop:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
    assert stop.exit_status() == 128 + signal.SIGTERM
    assert capfd.readouterr().err == "SIGTERM: saving a checkpoint.\n"


def test_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with StopSignals().installed():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_hangup_that_nohup_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignals().installed() as stop, exit_on_signals():
            signal.raise_signal(signal.SIGHUP)
        assert not stop.requested()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_hangup_asks_to_stop() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # whatever started the tests may have it ignored
    try:
        with StopSignals().installed() as stop:
            signal.raise_signal(signal.SIGHUP)
            signal.raise_signal(signal.SIGHUP)  # the terminal and the shell may both send one
    finally:
        signal.signal(signal.SIGHUP, before)
    assert stop.exit_status() == 128 + signal.SIGHUP


def test_output_that_nobody_reads_ends_nothing() -> None:
    """The reader goes away after the first line; what is written later goes nowhere, from C and children as well."""
    code = """
import os, subprocess, sys
from gan_plugin.output import forgive_output
forgive_output()
print("first", flush=True)
sys.stdin.read()  # until the reader is gone
for _ in range(1000):
    print("x" * 100, flush=True)
    print("y" * 100, file=sys.stderr)
assert subprocess.run(["echo", "z"]).returncode == 0
os._exit(7)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert process.stdout is not None
    assert process.stdin is not None
    assert process.stdout.readline() == b"first\n"
    process.stdout.close()
    process.stdin.close()
    assert process.wait(60) == 7


def test_output_that_an_encoding_lacks_is_escaped() -> None:
    code = "from gan_plugin.output import forgive_output; forgive_output(); print('16×16')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONIOENCODING": "ascii", "PATH": str(BIN)},
        capture_output=True,
        check=True,
        cwd=BIN,
    )
    assert done.stdout == b"16\\xd716\n"
