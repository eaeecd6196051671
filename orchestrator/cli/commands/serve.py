"""The `serve` and `simulator` commands: each runs until a signal."""

from __future__ import annotations

import asyncio
import functools
import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

from orchestrator import daemon, settings
from orchestrator.cli.commands import check_config
from orchestrator.cli.exit_codes import RunFailed
from orchestrator.cli.signals import hang_ups_logged, stop_event
from orchestrator.domain.errors import ConfigurationError
from orchestrator.observability import logs
from orchestrator.simulator.errors import ScenarioError
from orchestrator.simulator.http.app import serve as serve_simulator
from orchestrator.simulator.scenario.scenario import load_scenario
from orchestrator.simulator.simulator import Simulator

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path

    from rich.console import Console

    from orchestrator.settings import Settings
    from orchestrator.simulator.scenario.scenario import Scenario

log = logging.getLogger(__name__)


def run_daemon(found: Settings, config: Path | None, *, exit_with_stdin: bool) -> None:
    """Run the daemon, on uvloop if it is installed (the extra ``fast``).

    ``config``: the file given on the command line.
    """
    logs.configure(level=found.log.level, json=found.log.format == "json")
    try:
        for text in check_config.warnings(found, config):
            log.warning("configuration: %s", text)
        _run(_run_daemon(found, config, exit_with_stdin=exit_with_stdin), _fast_loop())
    finally:
        logs.flush()


async def _run_daemon(found: Settings, config: Path | None, *, exit_with_stdin: bool) -> None:
    reread = functools.partial(settings.load, config)
    with hang_ups_logged():
        await daemon.run(
            found, reread, functools.partial(stop_event, at_end_of_stdin=exit_with_stdin)
        )


def run_simulator(
    scenario: Scenario, host: str, port: int, console: Console, *, exit_with_stdin: bool
) -> None:
    _run(_serve_simulator(scenario, host, port, console, exit_with_stdin=exit_with_stdin))


async def _serve_simulator(
    scenario: Scenario, host: str, port: int, console: Console, *, exit_with_stdin: bool
) -> None:
    simulator = Simulator.from_scenario(scenario)
    with stop_event(at_end_of_stdin=exit_with_stdin) as stop:
        try:
            async with serve_simulator(simulator, host, port) as url:
                console.print(f"{len(scenario.jobs)} jobs at {url}", soft_wrap=True)
                await stop.wait()
        except OSError as error:
            raise RunFailed(f"the simulator cannot listen on {host}:{port}: {error}") from error


def scenario_of(path: Path) -> Scenario:
    """Read a scenario; raise ConfigurationError with every mistake."""
    try:
        return load_scenario(path)
    except ScenarioError as error:
        raise ConfigurationError(error.problems) from error
    except OSError as error:
        raise ConfigurationError([f"{path} cannot be read: {error.strerror}"]) from error


def _run(
    main: Coroutine[Any, Any, None],
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
) -> None:
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(main)


def _fast_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        uvloop = import_module("uvloop")
    except ImportError:
        return None
    return cast("Callable[[], asyncio.AbstractEventLoop]", uvloop.new_event_loop)
