"""Ground truth of a job: its real state, independent of what the API shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.simulator.cloud.machines import machines, machines_gone_at

if TYPE_CHECKING:
    from orchestrator.simulator.cloud.job import Job


def truth_of(job: Job, now: float) -> dict[str, object]:
    job.advance(now)
    spec = job.spec
    stopped_at = job.stopped_at(now, 0, spec.instances)
    restarted_at = None
    if spec.env_id is not None and job.terminated_at is not None and stopped_at is not None:
        restarted_at = stopped_at + spec.node_restart_s
    return {
        "job_id": spec.job_id,
        "region": spec.region,
        "label": spec.label,
        "expect": list(spec.expect),
        "state": job.state(now),
        "instances": spec.instances,
        "live": job.live(now),
        "last_stopped_at": stopped_at,
        "nodes_restarted_at": restarted_at,
        "terminated_at": job.terminated_at,
        "terminations_accepted": job.terminations_accepted,
        "terminations_acted": job.terminations_acted,
        "instance_terminations": job.instance_terminations,
        "revived_at": job.revived_at,
        "vanished_at": job.vanished_at(now),
        "machines_up": sum(each.count for each in machines(job, now)),
        "machines_gone_at": machines_gone_at(job, now),
    }
