"""Run code in a Python of its own, to see what it imports."""

from __future__ import annotations

import subprocess
import sys

from core.root import ROOT


def imported_by(code: str, *words: str) -> tuple[set[str], str]:
    """Return the modules that a fresh Python holds once it has run `code`, and what it wrote to stderr.

    words: its `sys.argv[1:]`.
    """
    program = f"import sys\n{code}\nprint('\\n', *sys.modules)"
    command = [sys.executable, "-c", program, *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    modules = set(done.stdout.splitlines()[-1].split())
    assert "sys" in modules, done.stdout  # else `code` has ended the Python, or something spoke after it
    return modules, done.stderr
