"""Write the parts of a cache: one of each source shard, published whole, with a receipt."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

from core.faults.failpoints import failpoint
from core.files import sealed, temporaries, write_text
from core.queue.handing_over import HandingOver
from data.dataset.shared.shard_table import ShardRecord
from data.latent.caption_table import captions_of, with_several
from data.latent.checksums import crcs_of
from data.latent.encode_job import Job, part_name
from data.latent.encoding import Part
from data.latent.pack_rows import feature_ranges, flip_rows, index_rows, still_ranges, text_rows
from data.latent.packs import Pack, Place, write_part


def encode_shard(job: Job, shard: int, advance: Callable[[int], None] = lambda n: None) -> None:
    """Write the part of one source shard, then its receipt; unusable samples go to the quarantine.

    WorkError if the shard is not as long as it was: that is no matter of samples, so it is not a part.
    """
    begin_shard(job, shard, advance)()


def begin_shard(job: Job, shard: int, advance: Callable[[int], None] = lambda n: None) -> Callable[[], None]:
    """Encode one source shard as `encode_shard` does; return what waits until it is written.

    A thread writes what is encoded, so that the encoder can go on with the next shard while the disk works.
    """
    job.dataset.open_shard(shard).close()
    path = job.folder / part_name(shard)
    for left in temporaries(path.parent, path.name):  # left by a worker that was killed while writing it
        left.unlink(missing_ok=True)
    part = Part(job, shard)

    def write(packs: Iterator[Pack]) -> None:
        _write_receipt(part, path, write_part(path, shard, packs))

    writing = HandingOver(f"write {path.name}", write)
    try:
        writing.start()
        for pack in part.packs(advance):
            writing.add(pack)
        writing.close()
    except BaseException:  # a signal, too
        writing.give_up()
        raise
    return writing.finish


def _write_receipt(part: Part, path: Path, places: list[Place]) -> None:
    job, shard = part.job, part.shard
    shapes = sorted(set(job.shapes))
    rows = index_rows(path, places, shard=shard, first=job.rows(shard).start, buckets=shapes)
    record = ShardRecord.of(path, len(rows))
    content = {
        "record": asdict(record),
        "rows": {name: rows[name].tolist() for name in ("offset", "size", "bucket", "label")},
        "flips": flip_rows(places, rows).tolist() if job.flip else [],
        "texts": text_rows(places, rows).tolist() if job.captions else [],
        "captions": captions_of(path, places, rows).as_json() if with_several(places) else None,
        "cut": asdict(part.cut) if job.captions else None,
        "crcs": crcs_of(path, places, rows, job.views).tolist(),
        "sums": asdict(part.sums) if part.sums else None,
        "refused": [asdict(entry) for entry in part.refused],
        **({"features": feature_ranges(places, rows)[0].tolist()} if job.pictures else {}),
        **({"stills": still_ranges(places, rows)[0].tolist()} if job.stills else {}),
    }
    failpoint("encode.receipt")
    write_text(job.receipt(shard), json.dumps(sealed(content), sort_keys=True))
