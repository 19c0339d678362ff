"""The daemon of `backfill up` looks for launched backfills more often than Dagster does by itself, and loads the
definitions when there is a reason to."""

import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import dagster as dg
import pytest
from dagster._core.remote_representation.grpc_server_registry import GrpcServerRegistry
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import PythonFileTarget
from dagster._daemon import controller
from dagster._daemon.backfill import execute_backfill_iteration_loop
from dagster._daemon.controller import DagsterDaemonController, create_daemon_grpc_server_registry

from backfill_pipeline.cli.daemon import BACKFILLS_EVERY_S, RELOADED_AFTER_S, look_often, reload_with_reason


class Clock(threading.Event):
    """Notes for how long it was waited, and does not wait."""

    waited_s: float | None = None

    def wait(self, timeout: float | None = None) -> bool:
        self.waited_s = timeout
        return False


def waits_s() -> float:
    """How long Dagster's own loop waits after a look at an instance without backfills."""
    clock = Clock()
    with dg.DagsterInstance.ephemeral() as instance:
        loop = execute_backfill_iteration_loop(
            SimpleNamespace(instance=instance), logging.getLogger(__name__), clock
        )
        while clock.waited_s is None:
            next(loop)
    return clock.waited_s


def test_dagsters_loop_waits_as_long_as_we_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(controller, "DEFAULT_DAEMON_INTERVAL_SECONDS", 30)
    assert BACKFILLS_EVERY_S < waits_s() <= 30
    look_often()
    assert 0 <= waits_s() <= BACKFILLS_EVERY_S


@dataclass
class Daemon:
    """What Dagster's daemon keeps of its code server, with a code server, and its look at it."""

    workspace: WorkspaceProcessContext
    registry: GrpcServerRegistry
    sources_dir: Path
    failing: bool = False

    def looks(self, reloaded_at: float) -> float:
        def clear() -> None:
            if self.failing:
                raise RuntimeError("no process to be had")
            self.registry.clear_all_grpc_endpoints()

        registry = SimpleNamespace(clear_all_grpc_endpoints=clear)
        logger = SimpleNamespace(exception=lambda _sentence: None)
        return DagsterDaemonController.check_workspace_freshness(
            SimpleNamespace(
                _grpc_server_registry=registry, _workspace_process_context=self.workspace, _logger=logger
            ),
            reloaded_at,
        )

    def reloads(self, reloaded_at: float) -> bool:
        """Whether a look at definitions that were loaded then has another code server load them."""
        before, began = self.server(), now()
        said = self.looks(reloaded_at) >= began
        assert said == (self.server() != before)
        return said

    def server(self) -> str:
        location = next(iter(self.workspace.create_request_context().get_code_location_entries().values()))
        return str(getattr(location.code_location, "server_id", None))


def now() -> float:
    return controller.get_current_timestamp()


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    sources_dir = tmp_path / "sources"
    sources_dir.mkdir()
    code = tmp_path / "code.py"
    code.write_text("import dagster as dg\n\ndefs = dg.Definitions()\n", encoding="utf-8")
    monkeypatch.setenv("BACKFILL_SOURCES_DIR", str(sources_dir))
    monkeypatch.setenv("BACKFILL_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(
        DagsterDaemonController,
        "check_workspace_freshness",
        DagsterDaemonController.check_workspace_freshness,
    )  # so that it is put back
    (tmp_path / "dagster").mkdir()
    target = PythonFileTarget(
        python_file=str(code), attribute=None, working_directory=None, location_name="here"
    )
    with (
        dg.DagsterInstance.local_temp(str(tmp_path / "dagster")) as instance,
        create_daemon_grpc_server_registry(instance) as registry,
        WorkspaceProcessContext(instance, target, grpc_server_registry=registry) as workspace,
    ):
        reload_with_reason()
        yield Daemon(workspace, registry, sources_dir)


@pytest.mark.e2e
def test_definitions_are_loaded_when_a_source_file_changed_or_the_code_server_died(daemon: Daemon) -> None:
    long_ago = now() - 600
    assert not daemon.reloads(long_ago)
    (daemon.sources_dir / "notes.txt").write_text("no source", encoding="utf-8")
    assert not daemon.reloads(long_ago)

    (daemon.sources_dir / "s.yaml").write_text("id: s", encoding="utf-8")
    assert not daemon.reloads(now() - 30)  # a minute apart, also where files change all the time
    assert daemon.reloads(long_ago)
    assert not daemon.reloads(long_ago)

    (daemon.sources_dir / "s.yaml").unlink()
    daemon.failing = True
    kept = daemon.looks(now() - 7200)  # and does not end the daemon
    daemon.failing = False
    assert daemon.reloads(kept)
    assert not daemon.reloads(long_ago)

    # After an hour in any case.
    assert daemon.reloads(now() - RELOADED_AFTER_S - 1)

    (process,) = [one.server_process for one in daemon.registry._all_processes[-1:]]
    process.kill()
    process.wait()
    assert daemon.reloads(long_ago)
    assert not daemon.reloads(long_ago)
