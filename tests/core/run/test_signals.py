"""One listener for all signals of a process. Run: pytest tests/core/test_signals.py"""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from core.errors import CONTINUABLE
from core.run import signals
from core.run.signals import INTERRUPTED, SIGNALS, EndAtOnce, answered_by
from launch.__main__ import BLOCKED

BEGIN = "import os, signal, sys, time\nfrom core.run.signals import *\nme = os.getpid()\n"


def program(code: str) -> tuple[int, str, str]:
    """Return status, output and errors of a program that has taken its signals over."""
    words = [sys.executable, "-c", BEGIN + code]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_the_process_at_once_with_one_line(number: signal.Signals) -> None:
    take = (
        f"take_over(EndAtOnce('ending; go on', continues=True))\nos.kill(me, {int(number)})\ntime.sleep(60)"
    )
    assert program(take) == (CONTINUABLE, "", f"{number.name}: ending; go on\n")


def test_where_nothing_continues_the_status_tells_the_signal() -> None:
    take = "take_over(EndAtOnce('ending', continues=False))\nos.kill(me, signal.SIGUSR1)\ntime.sleep(60)"
    assert program(take) == (128 + signal.SIGUSR1, "", "SIGUSR1: ending\n")


CLEANS = """
take_over(EndAtOnce('ending', continues=True, grace_s={grace_s}))
try:
    os.kill(me, signal.SIGTERM)
    time.sleep(60)
finally:
    print("cleaned", flush=True)
    {then}
"""


@pytest.mark.parametrize("then", ["pass", "os.kill(me, signal.SIGTERM)", "os.kill(me, signal.SIGINT)"])
def test_the_main_thread_may_clean_up_once(then: str) -> None:
    assert program(CLEANS.format(grace_s=60, then=then)) == (CONTINUABLE, "cleaned\n", "SIGTERM: ending\n")


def test_a_main_thread_that_does_not_leave_is_not_waited_for() -> None:
    told = program(CLEANS.format(grace_s=0.2, then="time.sleep(60)"))
    assert told == (CONTINUABLE, "cleaned\n", "SIGTERM: ending\n")


def test_a_second_ctrl_c_ends_what_cleans_up() -> None:
    then = "[os.kill(me, signal.SIGINT) for _ in range(2)]; time.sleep(60)"
    assert program(CLEANS.format(grace_s=60, then=then)) == (INTERRUPTED, "cleaned\n", "SIGTERM: ending\n")


def test_what_was_held_back_is_answered() -> None:
    code = "signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)\nos.kill(me, signal.SIGTERM)\n"
    code += "print('held', flush=True)\ntake_over(EndAtOnce('ending', continues=True))\ntime.sleep(60)"
    assert program(code) == (CONTINUABLE, "held\n", "SIGTERM: ending\n")


def test_processes_start_with_the_signals_blocked_and_we_do_not_stay_so() -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    code = "import signal; print(sorted(map(int, signal.pthread_sigmask(signal.SIG_BLOCK, ()))))"
    with signals.inherited_blocked():
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == f"{sorted(map(int, SIGNALS))}\n"
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before
    assert set(BLOCKED) == set(SIGNALS)


def test_a_settled_status_stays() -> None:
    code = "take_over(EndAtOnce('ending', continues=True))\nsettle()\n"
    code += "for number in set(SIGNALS) - {signal.SIGINT}:\n    os.kill(me, number)\nsys.exit(3)"
    assert program(code) == (3, "", "")


def test_a_forked_child_is_ended_and_its_parent_is_not() -> None:
    code = """
take_over(EndAtOnce('ending', continues=True))
child = os.fork()
if not child:
    time.sleep(60)
    os._exit(1)
os.kill(child, signal.SIGTERM)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
    assert program(code) == (0, f"{-signal.SIGTERM}\n", "")


def test_the_answer_changes_and_comes_back_and_then_says_something_else() -> None:
    code = """
class Silent:
    def raise_flag(self, number): print("flag", number)
    def note(self, got): pass
take_over(EndAtOnce('ending before', 'ending after', continues=True))
with answered_by(Silent()):
    os.kill(me, signal.SIGTERM)
    sys.stdout.flush()
os.kill(me, signal.SIGUSR2)
time.sleep(60)
"""
    assert program(code) == (CONTINUABLE, "flag 15\n", "SIGUSR2: ending after\n")


def test_without_a_listener_the_handlers_come_back() -> None:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    with answered_by(EndAtOnce("ending", continues=True)):
        assert all(signal.getsignal(number) is not handler for number, handler in before.items())
    assert {number: signal.getsignal(number) for number in SIGNALS} == before


def test_a_line_that_nobody_takes_costs_no_status() -> None:
    code = "os.close(2)\ntake_over(EndAtOnce('ending', continues=True))\n"
    code += "os.kill(me, signal.SIGHUP)\ntime.sleep(60)"
    assert program(code) == (CONTINUABLE, "", "")
