"""One account's calls to Tencent Cloud Batch, and to CVM for the machines."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from orchestrator.cloud import catalogue, wire
from orchestrator.cloud.hosts import endpoint_for, host_for
from orchestrator.cloud.signing import signed_headers
from orchestrator.cloud.state_filter import StateFilter
from orchestrator.cloud.wire import BATCH, Action
from orchestrator.domain.errors import CloudError, CloudErrorKind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from datetime import datetime

    from orchestrator.cloud.credentials import CredentialProvider
    from orchestrator.cloud.signing import Credential
    from orchestrator.cloud.transport import HttpAnswer, Transport
    from orchestrator.cloud.wire import Service
    from orchestrator.domain.model.batch_job import JobSeen, JobState, JobSubmitted, TaskPage
    from orchestrator.domain.model.machine import MachineSeen
    from orchestrator.engine.ports import Clock

    T = TypeVar("T")
    T_co = TypeVar("T_co", covariant=True)

    class Read(Protocol[T_co]):
        """Makes something of the ``Response`` object of an answer."""

        def __call__(self, response: Mapping[str, object], *, observed_at: datetime) -> T_co: ...


READ_IN_THREAD_FROM_BYTES: Final = 1024 * 1024
"""Smaller answers are read faster than a thread starts."""

_LOG: Final = logging.getLogger(__name__)

_KEY_IN_DOUBT: Final = frozenset({CloudErrorKind.CREDENTIAL, CloudErrorKind.UNAUTHORIZED})
"""Refusals that another key, of the same source, can end."""


class TencentBatch:
    """The engine's ``Cloud`` port for one account.

    Every call is signed anew by the database's clock, sent at most once, and raises CloudError.
    """

    def __init__(
        self,
        *,
        endpoint: str,
        credentials: CredentialProvider,
        clock: Clock,
        transport: Transport,
        cvm_endpoint: str | None = None,
        may_leave: Callable[[], None] = lambda: None,
    ) -> None:
        """Take endpoints as ``host_for`` wants them; the transport is the caller's to close.

        ``cvm_endpoint`` is where machines are asked for; None: nowhere.
        ``may_leave`` is asked at the last moment before a call leaves, and raises if it may not.
        """
        self._endpoint = endpoint
        self._cvm_endpoint = cvm_endpoint
        self._credentials = credentials
        self._clock = clock
        self._transport = transport
        self._may_leave = may_leave
        self._state_filter = StateFilter()
        self._unknown_codes: set[str] = set()
        self._undocumented: set[tuple[str, str]] = set()
        self.clock_offset_s: float | None = None
        """The cloud's clock less ours, at the last answer; positive: ours is behind."""

    async def terminate_job(self, *, region: str, job_id: str) -> str:
        """Vendor page: cloud.tencent.com/document/api/599/15911."""
        body = wire.job_body(job_id)
        return await self._call(Action.TERMINATE_JOB, region, body, _request_id)

    async def terminate_task_instance(
        self, *, region: str, job_id: str, task_name: str, index: int
    ) -> str:
        """Vendor page: cloud.tencent.com/document/api/599/15908."""
        body = wire.task_instance_body(job_id, task_name=task_name, index=index)
        return await self._call(Action.TERMINATE_TASK_INSTANCE, region, body, _request_id)

    async def describe_job(self, *, region: str, job_id: str) -> JobSeen:
        """Vendor page: cloud.tencent.com/document/api/599/15904."""
        read = partial(wire.read_job, job_id=job_id)
        job = await self._call(Action.DESCRIBE_JOB, region, wire.job_body(job_id), read)
        self._report_undocumented([job])
        return job

    async def describe_jobs(self, *, region: str, job_ids: Sequence[str]) -> Mapping[str, JobSeen]:
        """Vendor page: cloud.tencent.com/document/api/599/15909.

        Raises ValueError above 100 ids.  Calls nobody for none: the cloud would list every job.
        """
        if len(job_ids) > wire.JOBS_PER_CALL:
            raise ValueError(f"DescribeJobs takes at most 100 ids, not {len(job_ids)}")
        if not job_ids:
            return {}
        body = wire.jobs_body(job_ids)
        jobs = await self._call(Action.DESCRIBE_JOBS, region, body, wire.read_jobs)
        self._report_undocumented(jobs.values())
        return jobs

    async def describe_job_submit_info(self, *, region: str, job_id: str) -> JobSubmitted:
        """Vendor page: cloud.tencent.com/document/api/599/15910."""
        read = partial(wire.read_submitted, job_id=job_id)
        body = wire.job_body(job_id)
        return await self._call(Action.DESCRIBE_JOB_SUBMIT_INFO, region, body, read)

    async def describe_task(
        self,
        *,
        region: str,
        job_id: str,
        task_name: str,
        offset: int = 0,
        limit: int = 1,
        states: Sequence[JobState] = (),
    ) -> TaskPage:
        """Vendor page: cloud.tencent.com/document/api/599/15905.

        The filter by ``states`` has another name on the international site.  Where the cloud
        refuses the name, the error's kind is NOT_SENT, and the same call, repeated, goes by the
        other one; where it has refused both, the error stays what it is.
        """
        task = (job_id, task_name)
        name = self._state_filter.name_for(task)
        body = wire.task_body(
            job_id,
            task_name=task_name,
            offset=offset,
            limit=limit,
            states=states,
            state_filter=name,
        )
        read = partial(wire.read_task, job_id=job_id, task_name=task_name, states=states)
        try:
            page = await self._call(Action.DESCRIBE_TASK, region, body, read)
        except CloudError as error:
            filter_refused = states and error.code in catalogue.FILTER_REFUSED
            if filter_refused and self._state_filter.refused(task, name):
                raise _worth_the_other_name(error) from error
            raise
        if states:
            self._state_filter.answered(task, name, obeyed=len(page.instances) == page.rows)
        return page

    @property
    def sees_machines(self) -> bool:
        return self._cvm_endpoint is not None

    async def describe_machines(
        self, *, region: str, machine_ids: Sequence[str]
    ) -> Mapping[str, MachineSeen]:
        """Vendor page: cloud.tencent.com/document/api/213/15728.

        Whether an id that the cloud does not know is left out, or refuses the call for all, is not
        documented.  The first is likelier: InvalidInstanceId.NotFound is listed with other actions
        and not with this one, and the vendor's Terraform provider takes an empty InstanceSet for
        it.  A malformed id is refused with InvalidInstanceId.Malformed.

        Raises ValueError above 100 ids.  Calls nobody for none: the cloud would list every machine.
        """
        if len(machine_ids) > wire.MACHINES_PER_CALL:
            raise ValueError(f"DescribeInstances takes at most 100 ids, not {len(machine_ids)}")
        if not machine_ids:
            return {}
        body = wire.machines_body(machine_ids)
        read = partial(wire.read_machines, machine_ids=machine_ids)
        return await self._call(Action.DESCRIBE_INSTANCES, region, body, read)

    async def terminate_machine(self, *, region: str, machine_id: str) -> str:
        """Vendor page: cloud.tencent.com/document/api/213/15723.

        Destroys a machine that is paid by use, and moves a prepaid one to the recycle bin.  One a
        call: where one of several may not be terminated, what becomes of the others is not
        documented.
        """
        body = wire.terminate_machine_body(machine_id)
        return await self._call(Action.TERMINATE_INSTANCES, region, body, _request_id)

    async def _call(self, action: Action, region: str, body: bytes, read: Read[T]) -> T:
        """What ``read`` makes of the ``Response`` object and the time at which the call was sent.

        A large answer is read in a thread: the event loop has leases to renew meanwhile.
        """
        endpoint = self._endpoint_of(action.service)
        host = host_for(endpoint, region)
        credential = await self._credentials.get()
        sent_at = self._clock.now()
        headers = signed_headers(
            credential,
            service=action.service.name,
            host=host,
            action=action,
            version=action.service.version,
            region=region,
            body=body,
            at=sent_at,
        )
        url = endpoint_for(endpoint, region).rstrip("/") + "/"
        answer = await self._transport.post(
            url, headers=headers, body=body, may_leave=self._may_leave
        )
        self._measure_clock(answer)

        def read_answer() -> T:
            return read(wire.open_envelope(answer.status, answer.body), observed_at=sent_at)

        try:
            if len(answer.body) < READ_IN_THREAD_FROM_BYTES:
                return read_answer()
            return await asyncio.to_thread(read_answer)
        except CloudError as error:
            self._learn(error, credential)
            if error.kind is CloudErrorKind.CLOCK_SKEW and self.clock_offset_s is not None:
                raise _clock_skew(error, self.clock_offset_s) from error
            raise

    def _endpoint_of(self, service: Service) -> str:
        endpoint = self._endpoint if service == BATCH else self._cvm_endpoint
        if endpoint is None:
            raise ValueError(f"the account has no endpoint of {service.name}")
        return endpoint

    def _measure_clock(self, answer: HttpAnswer) -> None:
        cloud_time = wire.cloud_time(answer.headers)
        if cloud_time is not None:
            self.clock_offset_s = (cloud_time - self._clock.now()).total_seconds()

    def _report_undocumented(self, jobs: Iterable[JobSeen]) -> None:
        """Log each word for a state or a NextAction that the vendor does not document once."""
        for job in jobs:
            for what, word in (("JobState", _undocumented(job.state)), ("NextAction", _other(job))):
                if word is not None and (what, word) not in self._undocumented:
                    self._undocumented.add((what, word))
                    _LOG.warning(
                        "%s of job %s reads %s, which is not documented: instance counters decide",
                        what,
                        job.job_id,
                        word,
                    )

    def _learn(self, error: CloudError, credential: Credential) -> None:
        if error.kind in _KEY_IN_DOUBT:
            self._credentials.invalidate(credential)
        if error.code not in self._unknown_codes and not catalogue.meaning_of(error.code).known:
            self._unknown_codes.add(error.code)
            _LOG.warning(
                "the cloud answered with a code that is not documented: %s (request %s)",
                error.code,
                error.request_id,
            )


def _undocumented(state: JobState | None) -> str | None:
    return None if state is None or state.known else state.value


def _other(job: JobSeen) -> str | None:
    return None if job.terminating else job.next_action or None


def _worth_the_other_name(error: CloudError) -> CloudError:
    """The same refusal, as one of a call that was turned away for its form alone."""
    return CloudError(
        CloudErrorKind.NOT_SENT,
        error.code,
        error.message,
        request_id=error.request_id,
        advice="nothing to do: the call is repeated at once, with the filter's other name",
    )


def _clock_skew(error: CloudError, offset_s: float) -> CloudError:
    """The same refusal, with how far the clock that signs is off."""
    side = "behind" if offset_s > 0 else "ahead of"
    off = f"the database's clock is {abs(offset_s):.0f} s {side} the cloud's"
    return catalogue.error(
        error.code,
        f"{error.message} ({off})",
        request_id=error.request_id,
        advice=f"{off}, and requests are signed by it; start NTP on its host",
    )


def _request_id(response: Mapping[str, object], *, observed_at: datetime) -> str:
    del observed_at
    return wire.read_request_id(response)
