"""Errors as terminations store them and the API shows them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class ClientCode(StrEnum):
    """Codes of the errors that this program finds itself; all others are the cloud's."""

    ACCOUNT_NOT_CONFIGURED = "Client.AccountNotConfigured"
    """The termination was ended manually: its account is no longer configured."""
    ANSWER_TOO_LARGE = "Client.AnswerTooLarge"
    """A reply was larger than this program reads."""
    BAD_ANSWER = "Client.BadAnswer"
    """A reply was not in the documented format."""
    CAPTURE_FAILED = "Client.CaptureFailed"
    """An internal error ended the capture of the machines; the log has it."""
    CERTIFICATE_NOT_TRUSTED = "Client.CertificateNotTrusted"
    """The TLS certificate of the API host is not trusted."""
    CONNECT_FAILED = "Client.ConnectFailed"
    """No connection to the API host was made."""
    COUNT_TOO_LOW = "Client.CountTooLow"
    """Fewer task instances were counted than the job is known to have."""
    CREDENTIAL_UNAVAILABLE = "Client.CredentialUnavailable"
    """The credential could not be loaded."""
    DEADLINE_PASSED = "Client.DeadlinePassed"
    """The job was not proven stopped by its deadline."""
    DISCONNECTED = "Client.Disconnected"
    """The connection was lost before the reply was complete."""
    HTTP_STATUS = "Client.HttpStatus"
    """The reply had another HTTP status than 200."""
    JOB_DELETED = "Client.JobDeleted"
    """The record of the job was deleted before it was proven stopped."""
    JOB_NOT_FOUND = "Client.JobNotFound"
    """No poll showed the job."""
    JOB_SUBMITTED = "Client.JobSubmitted"
    """The job is SUBMITTED, and the request asked to refuse it then."""
    NO_CVM_ENDPOINT = "Client.NoCvmEndpoint"
    """The account has no endpoint of CVM, so no machine can be read."""
    NO_INSTANCES = "Client.NoInstances"
    """The job has no task instance in any state."""
    PROXY_FAILED = "Client.ProxyFailed"
    """The proxy did not open a connection to the API host."""
    ROW_UNREADABLE = "Client.RowUnreadable"
    """A row of the database cannot be decoded."""
    TIMEOUT = "Client.Timeout"
    """No reply came within the timeout."""
    TOO_LATE = "Client.TooLate"
    """The instances had ended before their machines were read."""
    TOO_MANY_INSTANCES = "Client.TooManyInstances"
    """A task has more instances than it was submitted with."""
    UNCOUNTED = "Client.Uncounted"
    """A reply had no instance counters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorDetail:
    """The last error, and advice on what to do about it."""

    code: str
    message: str
    advice: str | None = None
