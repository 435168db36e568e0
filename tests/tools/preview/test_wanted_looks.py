"""What a run without looks imports. Run: pytest tests/tools/preview/test_wanted_looks.py"""

from __future__ import annotations

from tests.fresh_python import imported_by


def test_what_makes_samples_is_imported_only_where_a_look_is_asked_for() -> None:
    modules, _ = imported_by("import tools.train.claimed_run")
    assert [name for name in modules if name.startswith(("tools.evaluate.", "tools.preview.s"))] == []
