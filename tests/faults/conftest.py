"""One stand of real processes for the tests of faults; what a test breaks is mended before the next."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import pytest
from stand.bench import rows as make_rows
from stand.processes import Stand

from services.orchestrator.jobs import ENDED, Event


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "shared_stand" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group("faults"))  # one stand, not one for each process that runs tests


@pytest.fixture(scope="session")
def shared_stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    one = Stand(tmp_path_factory.mktemp("stand"))
    yield one
    one.close()


@pytest.fixture
def stand(shared_stand: Stand) -> Iterator[Stand]:
    """The stand with a worker that annotates; what a test leaves unfinished is cancelled."""
    shared_stand.broker.start()
    shared_stand.annotator()
    yield shared_stand
    shared_stand.teacher.faults.clear()
    shared_stand.teacher.release()
    for job in shared_stand.context.jobs.page(None, 100)[0]:
        if job.status not in ENDED:
            shared_stand.context.flow.end(job.id, "cancelled", Event(message="the test is over"))


@pytest.fixture
def rows(request: pytest.FixtureRequest) -> str:
    """Rows that no other test has: what one of them left behind must not help the next."""
    return make_rows(60, f"{zlib.crc32(request.node.name.encode()) % 10**6}")
