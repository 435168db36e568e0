"""What a rank of many does. Run: pytest tests/tools/bench/test_world.py"""

from __future__ import annotations

from pathlib import Path

from tools.bench.job import Config
from tools.bench.world import rows


def test_counts_of_a_rank_do_not_grow_with_the_world(tmp_path: Path) -> None:
    config = Config(source="world", ranks=(4, 64), rounds=1, index_rows=20_000, open_rows=640_000)
    few, many, opened = (row.facts for row in rows(config, tmp_path))
    for name in ("files_opened", "matrices"):
        assert few[name] == many[name]
    assert few["files_opened"] == 1
    assert (few["files_opened_with_replicas"], many["files_opened_with_replicas"]) == (1, 64 / 8)
    assert many["received_bytes_of_rank_0"] == 21 * few["received_bytes_of_rank_0"]  # 63 receipts, and 3
    one = few["received_bytes_of_rank_0"] / 3
    # Of 4 ranks rank 2 passes on the receipts of 1 and 3; of 64 each second rank those of its part of a tree.
    assert (few["received_bytes"], many["received_bytes"]) == (one * 2 / 3, one * 258 / 63)
    assert (few["talks_with"], many["talks_with"]) == (3, 3)
    assert (few["hops_of_a_receipt"], many["hops_of_a_receipt"]) == (2, 6)
    assert few["steps_between_whole_orders_of_a_rank"] == 4
    assert many["steps_between_whole_orders_of_a_rank"] == 2 * 64  # of 16,384 samples every second one
    assert opened["listed_names"] == 64 + 2  # shards, index and manifest
    assert opened["open_s_of_another_rank"] > 0
    assert opened["index_bytes"] == 640_000 * 30 + 192  # rows, and the header
