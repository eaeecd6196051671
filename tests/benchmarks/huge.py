"""One job with 200,000 instances, followed from the capture of their machines to its proof.

The daemon is a process of its own, so that its memory is its own.
"""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Any, Final

import aiohttp

from orchestrator.cli.demo.subprocesses import Child, child, free_ports
from orchestrator.domain.model.instance_scan import PAGE_INSTANCES
from orchestrator.engine.loops.machine_poller import MACHINES_PER_CALL
from orchestrator.engine.partition import ACTIONS
from orchestrator.settings import Quotas
from orchestrator.simulator.http.app import serve
from orchestrator.simulator.simulator import Simulator
from tests.benchmarks.figures import Figure
from tests.support.processes import environment
from tests.support.service import SECRETS

TASKS: Final = 20
INSTANCES: Final = 200_000
WAIT_S: Final = 900
NEEDED: Final = {
    "DescribeJobSubmitInfo": 1,
    "DescribeTask": INSTANCES // PAGE_INSTANCES,
    "DescribeInstances": INSTANCES // MACHINES_PER_CALL,
}
MEGABYTE: Final = 2**20
CONFIG: Final = """
[server]
port = {port}
[database]
url = "sqlite:///{directory}/orchestrator.db"
[engine]
settle_s = 5
capture = "before"
capture_before_max_s = 300
[accounts.main]
endpoint = "{cloud}"
cvm_endpoint = "{cloud}"
regions = ["ap-guangzhou"]
credentials = {{ provider = "static", secret_id = "{secret_id}", secret_key = "{secret_key}" }}
"""


async def run() -> list[Figure]:
    cloud = Simulator(secret_keys=SECRETS, limits_per_s=Quotas().model_dump(), seed=1)
    job = {"instances": INSTANCES, "tasks": TASKS, "drain_s": 60}
    (job_id,) = cloud.add_groups([job])
    (port,) = free_ports(1)
    (secret_id, secret_key), *_ = SECRETS.items()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        config = directory / "orchestrator.toml"
        async with serve(cloud) as url:
            values = {"port": port, "directory": directory, "cloud": url}
            config.write_text(CONFIG.format(**values, secret_id=secret_id, secret_key=secret_key))
            async with (
                child(
                    "daemon",
                    *("serve", "--config", str(config)),
                    directory=directory,
                    environment=environment(),
                ) as daemon,
                aiohttp.ClientSession(f"http://127.0.0.1:{port}") as client,
            ):
                ended = await _ended(client, daemon, job_id)
                peak = _peak_bytes(daemon)
        size = _size_bytes(directory)
    made = {action: sum(call.action == action for call in cloud.calls) for action in ACTIONS}
    most = 1.05 * sum(NEEDED.values())
    return [
        Figure(name="evidence", value=ended["evidence"], least=5),
        Figure(name="machines captured", value=ended["machines"]["total"], least=INSTANCES),
        Figure(name="calls", value=sum(made.values()), most=most),
        *(Figure(name=f"    of which {action}", value=made[action]) for action in ACTIONS),
        Figure(name="database", value=size / MEGABYTE, most=64, unit="MB"),
        Figure(name="memory of the daemon, at most", value=peak / MEGABYTE, most=250, unit="MB"),
    ]


async def _ended(client: aiohttp.ClientSession, daemon: Child, job_id: str) -> Any:
    """Return the termination of this job once it has ended."""
    body = {"jobs": [job_id], "reason": "benchmark"}
    async with asyncio.timeout(WAIT_S):
        while True:
            daemon.check()
            try:
                async with client.post("/v1/operations", json=body) as answer:
                    path = answer.headers["Location"]
                break
            except aiohttp.ClientError:
                await asyncio.sleep(0.2)
        while True:
            daemon.check()
            async with client.get(f"{path}/terminations") as answer:
                (found,) = (await answer.json())["terminations"]
            if found["finished_at"]:
                return found
            await asyncio.sleep(1)


def _size_bytes(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.glob("orchestrator.db*"))


def _peak_bytes(process: Child) -> int:
    """Return the peak of its memory (Linux, proc(5): VmHWM)."""
    status = Path(f"/proc/{process.process.pid}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024
