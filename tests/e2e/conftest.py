"""One real stack for all end-to-end tests: Redis, three services and two workers, as processes on free ports."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from understudy.client import OrchestratorClient
from understudy.stack import Stack, StackConfig


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "stack" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group("stack"))  # one stack, not one for each process that runs tests


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    home = tmp_path_factory.mktemp("stack")
    with Stack(StackConfig(home, port=0, teacher_port=0, student_port=0, trainers=2)) as running:
        yield running


@pytest.fixture
def orchestrator(stack: Stack) -> Iterator[OrchestratorClient]:
    with OrchestratorClient(stack.orchestrator_url) as client:
        yield client
