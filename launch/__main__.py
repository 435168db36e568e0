"""`python -m launch JOB ...` and `torchrun -m launch JOB ...`: the same as `longtake JOB ...`."""

import signal

# First of all: a signal waits until it can be answered. `core.run.signals` has the same list, and may be
# foreign.
BLOCKED = (signal.SIGTERM, signal.SIGUSR2, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP)

if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, BLOCKED)
    from launch.cli import program

    program()
