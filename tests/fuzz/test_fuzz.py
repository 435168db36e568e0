"""Whatever happens to one file: the job that reads it ends with a status of its own and one line."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz import cases, material
from tests.fuzz.cases import CASES, Case
from tests.fuzz.damage import damages
from tests.fuzz.forking import ForkServer

LIGHT = tuple(case for case in CASES if case.words.startswith("shard"))
"""Jobs without torch, which start within a second as processes of their own."""
EXAMPLES = settings(
    max_examples=90, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large], database=None
)


class Bench:
    """The material, and the process that runs jobs over copies of it."""

    def __init__(self, folder: Path, server: ForkServer) -> None:
        self.folder, self.server = folder, server
        self._expected: dict[Case, dict[str, str]] = {}
        (folder / "material").mkdir()
        material.make(
            folder / "material",
            lambda command, fault: server.run(command.split(), folder / "material", fault),
        )

    def expected(self, case: Case) -> dict[str, str]:
        """Return the results of the job over files without any damage."""
        if case not in self._expected:
            folder = self._copy(case)
            ended = self.server.run(case.words.split(), folder)
            assert not ended.status, ended
            self._expected[case] = cases.results(case, folder)
        return self._expected[case]

    def names(self, case: Case) -> list[str]:
        """Return the names of the files of a case that can be damaged."""
        return cases.matching(self.folder / "material", case.files)

    def check(self, case: Case, data: st.DataObject, *, alone: bool) -> None:
        """Damage one file and run the job that reads it.  alone: in a process of its own."""
        name = data.draw(st.sampled_from(self.names(case)), label="file")
        damage = data.draw(damages(Path(name).suffix), label="damage")
        expected = self.expected(case) if case.results else {}
        folder = self._copy(case)
        if not cases.damaged(folder, name, damage):
            return
        words = case.words.split()
        ended = self.server.run(words, folder, alone=alone)
        problem = cases.problem(case, name, ended, folder, expected)
        assert not problem, f"{case.words}, {name}: {problem}\n{ended.stderr}"

    def _copy(self, case: Case) -> Path:
        folder = self.folder / "case"
        shutil.rmtree(folder, ignore_errors=True)
        cases.copy(case, self.folder / "material", folder)
        return folder


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with ForkServer() as server:
        yield Bench(tmp_path_factory.mktemp("fuzz"), server)


def test_every_case_has_files(bench: Bench) -> None:
    assert [case.words for case in CASES if not bench.names(case)] == []


@pytest.mark.full
def test_every_case_works_without_damage(bench: Bench) -> None:
    """Else a job that never comes to its files would pass for one that refuses them."""
    for case in CASES:
        if case.results and case.results != cases.REFUSED:
            assert bench.expected(case), case.words


@EXAMPLES
@given(case=st.sampled_from(CASES), data=st.data())
def test_a_damaged_file_costs_one_line(bench: Bench, case: Case, data: st.DataObject) -> None:
    bench.check(case, data, alone=False)


@settings(EXAMPLES, max_examples=10)
@given(case=st.sampled_from(LIGHT), data=st.data())
def test_a_process_of_its_own_ends_in_the_same_way(bench: Bench, case: Case, data: st.DataObject) -> None:
    bench.check(case, data, alone=True)


@pytest.mark.full
@settings(EXAMPLES, max_examples=1800)
@given(case=st.sampled_from(CASES), data=st.data())
def test_many_damaged_files_cost_one_line_each(bench: Bench, case: Case, data: st.DataObject) -> None:
    bench.check(case, data, alone=False)


@pytest.mark.full
@settings(EXAMPLES, max_examples=200)
@given(case=st.sampled_from((*LIGHT, *LIGHT, *CASES)), data=st.data())
def test_many_processes_of_their_own_end_in_the_same_way(
    bench: Bench, case: Case, data: st.DataObject
) -> None:
    bench.check(case, data, alone=True)
