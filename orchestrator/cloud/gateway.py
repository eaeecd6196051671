"""API client of one account: Tencent Cloud Batch, and CVM for the machines."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from orchestrator.cloud import error_codes, wire
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
        """Decodes the ``Response`` object of a reply."""

        def __call__(self, response: Mapping[str, object], *, observed_at: datetime) -> T_co: ...


READ_IN_THREAD_FROM_BYTES: Final = 1024 * 1024
"""Decoding a smaller reply takes less time than starting a thread."""

_LOG: Final = logging.getLogger(__name__)

_KEY_IN_DOUBT: Final = frozenset({CloudErrorKind.CREDENTIAL, CloudErrorKind.UNAUTHORIZED})
"""Refusals that may end when the credential is loaded again from the same source."""


class TencentBatch:
    """The engine's ``Cloud`` port for one account.

    Every request is signed with the time of the database's clock and sent at most once. Every
    method that sends one raises CloudError.
    """

    def __init__(
        self,
        *,
        endpoint: str,
        credentials: CredentialProvider,
        clock: Clock,
        transport: Transport,
        cvm_endpoint: str | None = None,
        before_send: Callable[[], None] = lambda: None,
    ) -> None:
        """Take endpoints in the form that ``host_for`` accepts; the caller closes the transport.

        ``cvm_endpoint`` serves the requests about machines; None: machines cannot be read.
        ``before_send`` is called immediately before a request leaves; it raises to stop it.
        """
        self._endpoint = endpoint
        self._cvm_endpoint = cvm_endpoint
        self._credentials = credentials
        self._clock = clock
        self._transport = transport
        self._before_send = before_send
        self._state_filter = StateFilter()
        self._unknown_codes: set[str] = set()
        self._undocumented: set[tuple[str, str]] = set()
        self.clock_offset_s: float | None = None
        """The cloud's clock minus this one, at the last reply; positive: this clock is behind."""

    async def terminate_job(self, *, region: str, job_id: str) -> str:
        """Send TerminateJob; return its RequestId.

        Vendor page: cloud.tencent.com/document/api/599/15911.
        """
        body = wire.job_body(job_id)
        return await self._call(Action.TERMINATE_JOB, region, body, _request_id)

    async def terminate_task_instance(
        self, *, region: str, job_id: str, task_name: str, index: int
    ) -> str:
        """Send TerminateTaskInstance; return its RequestId.

        Vendor page: cloud.tencent.com/document/api/599/15908.
        """
        body = wire.task_instance_body(job_id, task_name=task_name, index=index)
        return await self._call(Action.TERMINATE_TASK_INSTANCE, region, body, _request_id)

    async def describe_job(self, *, region: str, job_id: str) -> JobSeen:
        """Read one job with its instance counters and NextAction (DescribeJob).

        Vendor page: cloud.tencent.com/document/api/599/15904.
        """
        read = partial(wire.read_job, job_id=job_id)
        job = await self._call(Action.DESCRIBE_JOB, region, wire.job_body(job_id), read)
        self._report_undocumented([job])
        return job

    async def describe_jobs(self, *, region: str, job_ids: Sequence[str]) -> Mapping[str, JobSeen]:
        """Read the state of up to 100 jobs (DescribeJobs); raise ValueError for more.

        Vendor page: cloud.tencent.com/document/api/599/15909. Without ids nothing is sent: the
        cloud would list every job of the account.
        """
        if len(job_ids) > wire.JOBS_PER_CALL:
            raise ValueError(f"DescribeJobs accepts at most 100 ids, not {len(job_ids)}")
        if not job_ids:
            return {}
        body = wire.jobs_body(job_ids)
        jobs = await self._call(Action.DESCRIBE_JOBS, region, body, wire.read_jobs)
        self._report_undocumented(jobs.values())
        return jobs

    async def describe_job_submit_info(self, *, region: str, job_id: str) -> JobSubmitted:
        """Read the tasks of one job as they were submitted (DescribeJobSubmitInfo).

        Vendor page: cloud.tencent.com/document/api/599/15910.
        """
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
        """Read one task's counters and a page of its instances (DescribeTask).

        Vendor page: cloud.tencent.com/document/api/599/15905. The filter by ``states`` has another
        name on the international site. If the cloud refuses the name, the error has kind NOT_SENT,
        and the same request, repeated, uses the other name. If the cloud has refused both names,
        the error keeps its own kind.
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
            filter_refused = states and error.code in error_codes.FILTER_REFUSED
            if filter_refused and self._state_filter.refused(task, name):
                raise _retryable_with_other_filter_name(error) from error
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
        """Read up to 100 machines (DescribeInstances); raise ValueError for more.

        Vendor page: cloud.tencent.com/document/api/213/15728. Without ids nothing is sent: the
        cloud would list every machine of the account.

        For an id that the cloud does not know, the documentation does not state whether it is
        missing from the reply or the whole request is refused. The first is more likely:
        InvalidInstanceId.NotFound is listed with other actions and not with this one, and the
        vendor's Terraform provider treats an empty InstanceSet as "not found". A malformed id is
        refused with InvalidInstanceId.Malformed.
        """
        if len(machine_ids) > wire.MACHINES_PER_CALL:
            raise ValueError(f"DescribeInstances accepts at most 100 ids, not {len(machine_ids)}")
        if not machine_ids:
            return {}
        body = wire.machines_body(machine_ids)
        read = partial(wire.read_machines, machine_ids=machine_ids)
        return await self._call(Action.DESCRIBE_INSTANCES, region, body, read)

    async def terminate_machine(self, *, region: str, machine_id: str) -> str:
        """Send TerminateInstances for one machine; return its RequestId.

        Vendor page: cloud.tencent.com/document/api/213/15723. The cloud destroys a pay-as-you-go
        machine and moves a prepaid one to the recycle bin. A request names one machine: the effect
        on the other machines of a request, if one may not be terminated, is not documented.
        """
        body = wire.terminate_machine_body(machine_id)
        return await self._call(Action.TERMINATE_INSTANCES, region, body, _request_id)

    async def _call(self, action: Action, region: str, body: bytes, read: Read[T]) -> T:
        """Send one request; return its ``Response`` as ``read`` decodes it.

        ``read`` also gets the time at which the request was sent. A large reply is decoded in a
        thread, because the event loop must renew leases meanwhile.
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
            url, headers=headers, body=body, before_send=self._before_send
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
            raise ValueError(f"the account has no endpoint for {service.name}")
        return endpoint

    def _measure_clock(self, answer: HttpAnswer) -> None:
        cloud_time = wire.cloud_time(answer.headers)
        if cloud_time is not None:
            self.clock_offset_s = (cloud_time - self._clock.now()).total_seconds()

    def _report_undocumented(self, jobs: Iterable[JobSeen]) -> None:
        """Log every undocumented JobState and NextAction, each value once."""
        for job in jobs:
            for field, value in (
                ("JobState", _undocumented_state(job.state)),
                ("NextAction", _undocumented_action(job)),
            ):
                if value is not None and (field, value) not in self._undocumented:
                    self._undocumented.add((field, value))
                    _LOG.warning(
                        "%s of job %s is %s, an undocumented value; its instance counters show "
                        "whether it has stopped",
                        field,
                        job.job_id,
                        value,
                    )

    def _learn(self, error: CloudError, credential: Credential) -> None:
        if error.kind in _KEY_IN_DOUBT:
            self._credentials.invalidate(credential)
        if error.code not in self._unknown_codes and not error_codes.meaning_of(error.code).known:
            self._unknown_codes.add(error.code)
            _LOG.warning(
                "the cloud returned an undocumented error code: %s%s; report it to the developers "
                "of this program",
                error.code,
                f" (RequestId {error.request_id})" if error.request_id else "",
            )


def _undocumented_state(state: JobState | None) -> str | None:
    return None if state is None or state.documented else state.value


def _undocumented_action(job: JobSeen) -> str | None:
    return None if job.terminating else job.next_action or None


def _retryable_with_other_filter_name(error: CloudError) -> CloudError:
    """Return ``error`` as NOT_SENT: the cloud refused only the form of the request."""
    return CloudError(
        CloudErrorKind.NOT_SENT,
        error.code,
        error.message,
        request_id=error.request_id,
        advice="no action is needed: the request is repeated at once, with the other filter name",
    )


def _clock_skew(error: CloudError, offset_s: float) -> CloudError:
    """Return ``error`` with the difference between the cloud's clock and the signing clock."""
    side = "behind" if offset_s > 0 else "ahead of"
    difference = f"the database's clock is {abs(offset_s):.0f} s {side} the cloud's"
    return error_codes.error(
        error.code,
        f"{error.message} ({difference})",
        request_id=error.request_id,
        advice=f"{difference}, and requests are signed with its time: start NTP on its host",
    )


def _request_id(response: Mapping[str, object], *, observed_at: datetime) -> str:
    del observed_at
    return wire.read_request_id(response)
