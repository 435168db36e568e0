"""What rows of tables say of files: two tables may name the same ones if they agree."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from core.errors import UserError
from data.raw.annotations.annotation import Annotation
from data.raw.ignored import ignored_as
from data.raw.layouts.tree import Tree
from data.raw.tables.rows import Row, Table

AGAIN = "row of a file that a row before names too, each a sample"
REPEATED = "row that says of a file no more than another table, and is no sample of its own"


@dataclass
class Told:
    """What tables said of files so far. are_several: whether there may be a second table to compare.

    without: tables that are read only to leave their files out; they may agree with none.
    by_file: hashes of captions and of the label, 0 for none, of each row that named a file.
    """

    are_several: bool
    without: Collection[str] = ()
    by_file: dict[str, tuple[tuple[int, int], ...]] = field(default_factory=dict)

    def repeats(
        self, tree: Tree, table: Table, row: Row, relative: str, said: Annotation, *, is_again: bool
    ) -> bool:
        """Return whether a row of a table repeats what another table said of the file; count such rows.

        relative: the file in the source, "" for none or one that cannot be read.  said: by the row alone.
        is_again: whether a row before it in this table names the file too. UserError if the other table says
        something else: each would make the file a sample.
        """
        is_without = tree.tables[-1] in self.without
        if is_again:
            tree.findings.notes[AGAIN] += 1
        elif len(tree.tables) > 1 and relative and not (relative in tree.left or ignored_as(relative)):
            differing = "" if is_without else self._differing(relative, said)
            if is_without or differing:
                of = f", which says another {differing}" if differing else ""
                raise UserError(
                    f"{table.path}: row {row.number}: {relative} is named by another table too "
                    f"({', '.join(tree.tables[:-1])}){of}; give the one that is meant as the source, or move "
                    "the other away"
                )
            tree.findings.notes[REPEATED] += 1
            return True
        if self.are_several and relative and not is_without:
            self.by_file[relative] = (*self.by_file.get(relative, ()), _hashes(said))
        return False

    def _differing(self, relative: str, said: Annotation) -> str:
        """Return what a row says that no other row of the file does, "" for nothing."""
        others = self.by_file.get(relative, ())
        text, label = _hashes(said)
        if any(text in (0, theirs) and label in (0, other) for theirs, other in others):
            return ""
        return "label" if any(text in (0, theirs) for theirs, _ in others) else "caption"


def _hashes(said: Annotation) -> tuple[int, int]:
    texts = tuple(caption.text for caption in said.captions)
    has_label = said.label >= 0 or said.class_name
    return hash(texts) if texts else 0, hash((said.label, said.class_name)) if has_label else 0
