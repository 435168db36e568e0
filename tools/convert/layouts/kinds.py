"""The layouts that `convert` knows."""

from __future__ import annotations

from tools.convert.layouts import dit, sit
from tools.convert.layouts.layout import Layout

LAYOUTS: dict[str, Layout] = {"dit": dit.LAYOUT, "sit": sit.LAYOUT}
