"""Invariants, checked against the clouds' logs, the database and the client's own log."""

from __future__ import annotations

import json
import logging
import sqlite3
from collections import Counter, defaultdict
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from orchestrator.domain.audit.hash_chain import chain_errors
from orchestrator.domain.decisions import evidence
from orchestrator.domain.model.lifecycle import Event, State
from orchestrator.domain.model.operation import outcome
from orchestrator.simulator.cloud.machines import machines
from orchestrator.simulator.traffic.fault_injection import Fault
from tests.simulation.clock import START
from tests.simulation_kernel.loop import REPLICA

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import aiosqlite

    from orchestrator.simulator.simulator import Call, Simulator
    from tests.simulation.world import SimulatedWorld

WATCHED: Final = """
CREATE TABLE engine_writes (partition TEXT, holder TEXT, UNIQUE (partition, holder));
CREATE TRIGGER decided AFTER UPDATE OF state, revision, evidence, observed_at, terminate_after,
outcome_unknown, capture, captured_run, machines_gone, machines_observed_at, machines_problem,
revival, rescan, rescanned_at, escalation_finished_at, set_aside_until
ON terminations BEGIN INSERT OR IGNORE INTO engine_writes
SELECT name, holder FROM partitions WHERE name = NEW.partition; END;
CREATE TRIGGER postponed AFTER UPDATE OF next_poll_at ON terminations
WHEN NEW.not_before IS OLD.not_before
BEGIN INSERT OR IGNORE INTO engine_writes
SELECT name, holder FROM partitions WHERE name = NEW.partition; END;
CREATE TRIGGER troubled AFTER UPDATE OF trouble_code, trouble_message, allowed_per_s ON partitions
WHEN NEW.epoch = OLD.epoch BEGIN INSERT OR IGNORE INTO engine_writes
SELECT name, holder FROM partitions WHERE name = NEW.name; END;
CREATE TRIGGER begun AFTER INSERT ON attempts
BEGIN INSERT OR IGNORE INTO engine_writes
SELECT name, holder FROM partitions WHERE name = NEW.partition; END;
CREATE TRIGGER answered AFTER UPDATE ON attempts
BEGIN INSERT OR IGNORE INTO engine_writes
SELECT name, holder FROM partitions WHERE name = NEW.partition; END;
"""
"""Partitions a transaction decides for, and their holders then; the database records it."""
HARMLESS: Final = ("", Fault.CHARSET)
STATE_READS: Final = ("DescribeJob", "DescribeJobs", "DescribeTask")
"""Actions that show whether a job runs; DescribeJobSubmitInfo does not."""
ANSWERS_A_READ: Final = ("OK", "ResourceNotFound.Job", "UnauthorizedOperation")
STOPPED: Final = (State.VERIFIED, State.ALREADY_FINISHED)


def watch(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(WATCHED)


class Checkers:
    """Checkers of one run; ``violations`` describes each failure, with its time."""

    def __init__(self, world: SimulatedWorld) -> None:
        self._world = world
        self.violations: list[str] = []
        self._connection: sqlite3.Connection | None = None
        self._last_event = 0
        self._holders: dict[tuple[str, int], str] = {}
        self._read_calls: Counter[str] = Counter()
        self._looked_at: dict[tuple[str, str], float] = {}
        self._seen: defaultdict[str, set[str]] = defaultdict(set)
        """Jobs by region that were read since their last call."""

    def violated(self, what: str, why: str) -> None:
        self.violations.append(f"{self._world.loop.time():.3f} s: {what}: {why}")

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Connect to the database, and to the log."""
        handler = _Log(self)
        # Its messages about dropped connections.
        logging.getLogger("sqlalchemy.pool").setLevel(logging.CRITICAL)
        root = logging.getLogger("orchestrator")
        propagates, level = root.propagate, root.level
        root.addHandler(handler)
        root.propagate = False
        root.setLevel(logging.INFO)
        with closing(sqlite3.connect(self._world.path, isolation_level=None)) as connection:
            connection.row_factory = sqlite3.Row
            self._connection = connection
            try:
                yield
            finally:
                root.removeHandler(handler)
                root.propagate = propagates
                root.setLevel(level)

    def rows(self, query: str, *values: object) -> list[sqlite3.Row]:
        assert self._connection is not None
        return self._connection.execute(query, values).fetchall()

    # --- at every call, and at every commit -------------------------------------------------------

    def on_call(self, action: str, host: str, body: bytes) -> None:
        """Check that a call comes from the partition's holder, and a TerminateJob is recorded."""
        found = self.rows(
            "SELECT r.id FROM partitions p JOIN replicas r ON r.id = p.holder WHERE p.name = ?",
            f"main@{host}",
        )
        holder = _process(found[0]["id"]) if found else None
        if holder != REPLICA.get():
            self.violated("lease", f"{REPLICA.get()} calls {action} while {holder} holds {host}")
        if action == "TerminateJob":
            job_id = json.loads(body)["JobId"]
            if not self.rows(
                "SELECT 1 FROM attempts a JOIN terminations t ON t.id = a.termination_id"
                " WHERE t.job_id = ? AND t.partition = ? AND a.answered_at IS NULL"
                " AND a.action = 'TerminateJob'",
                job_id,
                f"main@{host}",
            ):
                self.violated("attempt", f"{job_id} is called, and no open attempt says so")

    def before_commit(self, connection: aiosqlite.Connection) -> None:
        """Check that a decision for a partition comes from its holder."""
        raw = connection._conn
        try:
            written = raw.execute("SELECT partition, holder FROM engine_writes").fetchall()
        except sqlite3.ProgrammingError:
            return  # it was dropped: nothing will be committed
        for partition, holder in written:
            if holder is None or _process(holder) != REPLICA.get():
                self.violated("fence", f"{REPLICA.get()} writes {partition}, which {holder} holds")
        if written:
            raw.execute("DELETE FROM engine_writes")

    def after_commit(self) -> None:
        for row in self.rows("SELECT name, holder, epoch FROM partitions WHERE holder NOT NULL"):
            key = row["name"], row["epoch"]
            if key not in self._holders:
                self._world.fired["a partition passed on"] += row["epoch"] > 1
            if self._holders.setdefault(key, row["holder"]) != row["holder"]:
                self.violated("epoch", f"{key} is held by {row['holder']} and another")
        for event in self.rows(
            "SELECT e.id, e.termination_id, e.type, e.from_state, e.to_state, e.why, e.evidence,"
            " t.job_id, t.region, t.created_at"
            " FROM events e LEFT JOIN terminations t ON t.id = e.termination_id"
            " WHERE e.id > ? ORDER BY e.id",
            self._last_event,
        ):
            self._last_event = event["id"]
            self._world.fired[f"event: {event['type']}"] += 1
            if event["type"] == Event.CALL_ACKNOWLEDGED:
                self._check_accepted(event)
            if event["to_state"] and State(event["to_state"]).final:
                self._world.fired[f"ended {event['to_state']} with {event['evidence']}"] += 1
                self._check_end(event)

    def _check_accepted(self, event: sqlite3.Row) -> None:
        """Check that a call is recorded as accepted only if it was, or may have stopped the job."""
        cloud = self._world.clouds[f"{event['region']}.cloud"]
        job_id, job, now = event["job_id"], cloud._jobs.get(event["job_id"]), cloud.now()
        acted = any(
            call.action == "TerminateJob" and call.acted and job_id in call.job_ids
            for call in cloud.calls
        )
        may_have_acted = self.rows(
            "SELECT 1 FROM attempts WHERE termination_id = ? AND action = 'TerminateJob'"
            " AND (outcome IS NULL OR outcome IN ('outcome_unknown', 'interrupted'))",
            event["termination_id"],
        )
        if not acted and (job is None or job.live(now) or not may_have_acted):
            self.violated("acknowledged", f"{job_id}, which no call has reached")

    def _check_end(self, event: sqlite3.Row) -> None:
        """Check that a final state is true of the cloud when written, as far as can be known."""
        cloud = self._world.clouds[f"{event['region']}.cloud"]
        job_id, state = event["job_id"], State(event["to_state"])
        job, now = cloud._jobs.get(job_id), cloud.now()
        self._note_reads(event["region"], cloud)
        if job is not None:
            job.advance(now)
        match state:
            case State.NOT_FOUND:
                true = job is None or job.vanished_at(now) is not None
            case State.REFUSED:
                true = job is not None and (job.spec.refuse_env or job.spec.forbidden)
            case State.VERIFIED | State.ALREADY_FINISHED:
                looked_at = self._looked_at.get((event["region"], job_id), 0.0)
                true = job is not None and (
                    job.live(now) == 0
                    or (job.revived_at is not None and job.revived_at >= looked_at)
                )
            case _:
                true = False
        if state is State.ALREADY_FINISHED and job is not None and job.terminations_acted:
            true = true and self._was_called_by_another(event)
        if event["evidence"] >= evidence.MACHINES_GONE and job is not None:
            # A machine that is being destroyed counts as gone.
            up = [some for some in machines(job, now) if some.state != "TERMINATING"]
            true = true and (not up or job.revived_at is not None)
        if not true:
            self.violated("truth", f"{job_id} ends {state}: {event['why']}: {job and job.spec}")

    def _was_called_by_another(self, event: sqlite3.Row) -> bool:
        """Return whether another termination of the job sent TerminateJob."""
        return bool(
            self.rows(
                "SELECT 1 FROM attempts JOIN terminations t ON t.id = termination_id"
                " WHERE job_id = ? AND action = 'TerminateJob' AND termination_id <> ?",
                event["job_id"],
                event["termination_id"],
            )
        )

    def _note_reads(self, region: str, cloud: Simulator) -> None:
        for call in cloud.calls[self._read_calls[region] :]:
            if self._shows(call):
                self._looked_at.update({(region, job_id): call.at for job_id in call.job_ids})
        self._read_calls[region] = len(cloud.calls)

    def forget_calls(self) -> None:
        """Clear the clouds' logs, once they are checked."""
        for region, cloud in self._world.clouds.items():
            self._note_reads(region.removesuffix(".cloud"), cloud)
        self.check_calls()
        for cloud in self._world.clouds.values():
            cloud.calls.clear()
        self._read_calls.clear()

    def _shows(self, call: Call) -> bool:
        """Return whether a replica received the states of these jobs."""
        return (
            call.action in STATE_READS
            and call.code in ANSWERS_A_READ
            and call.fault in HARMLESS
            and call.request_id not in self._world.network.unreceived
        )

    # --- at the end ------------------------------------------------------------------------------

    def all_ended(self) -> bool:
        return not self.rows("SELECT 1 FROM operations WHERE finished_at IS NULL LIMIT 1")

    def all_revivals_recorded(self) -> bool:
        """Check that no stopped job is live, if it is watched and has no recorded revival."""
        for row in self.rows(
            "SELECT job_id, region, finished_at, revival_watch_s FROM terminations"
            " WHERE state IN (?, ?) AND revival IS NULL AND revival_watch_s > 0",
            *STOPPED,
        ):
            cloud = self._world.clouds[f"{row['region']}.cloud"]
            job = cloud._jobs[row["job_id"]]
            ended = datetime.fromisoformat(row["finished_at"]).replace(tzinfo=UTC)
            until = ended.timestamp() + row["revival_watch_s"]
            job.advance(cloud.now())
            if job.live(cloud.now()) and job.revived_at is not None and job.revived_at < until:
                return False
        return True

    def unfinished(self) -> str:
        return "; ".join(
            str(dict(row))
            for row in self.rows(
                "SELECT job_id, state, poll_kind, next_poll_at, terminate_after, outcome_unknown, "
                "failures, job_state, partition FROM terminations WHERE finished_at IS NULL LIMIT 5"
            )
        )

    def check_end(self) -> None:
        self._check_acknowledged()
        self._check_operations()
        self._check_chains()
        self.check_calls()
        for row in self.rows("SELECT outcome, count(*) AS n FROM attempts GROUP BY outcome"):
            self._world.fired[f"attempt: {row['outcome']}"] += row["n"]
        if self.rows("SELECT 1 FROM attempts WHERE answered_at IS NULL"):
            self.violated("attempts", "one was never answered")
        for check in ("integrity_check", "foreign_key_check"):
            found = [tuple(row) for row in self.rows(f"PRAGMA {check}")]
            if found not in ([], [("ok",)]):
                self.violated(check, str(found))

    def _check_acknowledged(self) -> None:
        """Check that each operation the client got an id for is stored, and has ended."""
        for each in self._world.client.acknowledged:
            rows = self.rows(
                "SELECT t.job_id, t.region, o.finished_at FROM operations o"
                " JOIN operation_terminations l ON l.operation_id = o.id"
                " JOIN terminations t ON t.id = l.termination_id WHERE o.id = ?",
                each.operation_id,
            )
            if {row["job_id"] for row in rows} != set(each.jobs):
                self.violated("lost", f"{each} is stored as {[tuple(row) for row in rows]}")
        if self.rows(
            "SELECT 1 FROM operations GROUP BY idempotency_key HAVING count(*) > 1"
            " AND idempotency_key IS NOT NULL"
        ):
            self.violated("doubled", "an idempotency key stands for two operations")

    def _check_operations(self) -> None:
        for row in self.rows("SELECT id, outcome, jobs_total, jobs_unfinished FROM operations"):
            states = Counter(
                State(each["state"])
                for each in self.rows(
                    "SELECT state FROM terminations t JOIN operation_terminations l"
                    " ON l.termination_id = t.id WHERE l.operation_id = ?",
                    row["id"],
                )
            )
            unfinished = sum(count for state, count in states.items() if not state.final)
            if row["jobs_unfinished"] != unfinished or states.total() != row["jobs_total"]:
                self.violated("counted", f"{dict(row)} has {states}")
            elif not unfinished and row["outcome"] != outcome(states):
                self.violated("outcome", f"{dict(row)} has {states}")

    def _check_chains(self) -> None:
        """Check that each event holds the hash of the one before it, in any order of writers."""
        chains: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for row in self.rows("SELECT * FROM events ORDER BY id"):
            subject_id = row["termination_id"] or row["operation_id"]
            events = chains[subject_id]
            facts = {
                "at": row["at"].replace(" ", "T") + "Z",
                "facts": row["facts"] and json.loads(row["facts"]),
                "previous": events[-1]["hash"] if events else subject_id,
            }
            events.append({**dict(row), **facts})
        for subject_id, events in chains.items():
            for fault in chain_errors(subject_id, events):
                self.violated("chain", f"{subject_id}: {fault}")

    def _check_quota(self, region: str, cloud: Simulator) -> None:
        for quota in cloud.quota.report():
            if quota["refused"]:
                self.violated("quota", f"{region}: {quota}")

    def check_calls(self) -> None:
        """Return the calls in the clouds' logs since they were last cleared."""
        for region, cloud in self._world.clouds.items():
            self._check_quota(region, cloud)
            self._check_read(region, cloud)

    def _check_read(self, region: str, cloud: Simulator) -> None:
        """Check that between two TerminateJob calls on a job there is an answered read.

        A call whose answer says that the rate limit refused it did nothing.
        """
        seen = self._seen[region]
        for call in cloud.calls:
            if call.action == "TerminateJob":
                unseen = [job_id for job_id in call.job_ids if job_id not in seen]
                if unseen:
                    log = "\n".join(
                        f"{c.at - START.timestamp():.3f} {c.action} {c.code} {c.fault}"
                        f" {'' if self._shows(c) else 'shows nothing'}"
                        for c in cloud.calls[: cloud.calls.index(call) + 1]
                        if unseen[0] in c.job_ids
                    )
                    self.violated("unread", f"{region}: {unseen} called unread:\n{log}")
                received = call.request_id not in self._world.network.unreceived
                if not (received and call.fault == Fault.THROTTLE):
                    seen.difference_update(call.job_ids)
            elif self._shows(call):
                seen.update(call.job_ids)


class _Log(logging.Handler):
    """Check that nothing unexpected is logged."""

    def __init__(self, checkers: Checkers) -> None:
        super().__init__(logging.WARNING)
        self._checkers = checkers

    def emit(self, record: logging.LogRecord) -> None:
        world = self._checkers._world
        if not world.loop.is_alive(REPLICA.get()):
            return
        world.loop.note(f"{record.levelname}: {record.getMessage()}")
        world.fired["a replica rejoined"] += "again with a new id" in record.getMessage()
        if record.exc_info:
            self._checkers.violated("log", f"{record.getMessage()}: {record.exc_info[1]!r}")


def _process(replica_id: str) -> str:
    return replica_id.rpartition("_")[0]
