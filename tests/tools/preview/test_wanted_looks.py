"""What a run without looks imports. Run: pytest tests/tools/preview/test_wanted_looks.py"""

from __future__ import annotations

import subprocess
import sys


def test_what_makes_samples_is_imported_only_where_a_look_is_asked_for() -> None:
    program = (
        "import sys\n"
        "import tools.train.claimed_run\n"
        "print([name for name in sys.modules if name.startswith(('tools.evaluate.', 'tools.preview.s'))])"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
