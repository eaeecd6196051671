"""Catalogue of error codes: the kind of each code, and advice for the operator.

Codes of the Batch actions: cloud.tencent.com/document/api/599/15911, 15908, 15904, 15909, 15910 and
15905. Codes of the CVM actions, as far as a request by machine ids can return them: 213/15728 and
15723. Common codes: cloud.tencent.com/document/api/599/30660. A request that received no usable
reply has a ``ClientCode``. ``wire.open_envelope`` takes the code out of a reply.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from orchestrator.domain.bounds import storable
from orchestrator.domain.errors import CloudError, CloudErrorKind
from orchestrator.domain.model.error_detail import ClientCode


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorMeaning:
    """Kind of an error code and advice; ``known`` is false for a code outside the catalogue."""

    kind: CloudErrorKind
    advice: str
    known: bool = True


ERROR_GROUPS: Final[tuple[tuple[CloudErrorKind, str, tuple[str, ...]], ...]] = (
    (
        CloudErrorKind.THROTTLED,
        (
            "no action is needed: the request is repeated; if the error persists, find the other"
            " program that spends this key's quota"
        ),
        ("RequestLimitExceeded",),
    ),
    (
        CloudErrorKind.THROTTLED,
        (
            "no action is needed: the request is repeated; if the error persists, the root account"
            " is over its limit: find the other programs that use it"
        ),
        (
            "RequestLimitExceeded.UinLimitExceeded",
            "RequestLimitExceeded.GlobalRegionUinLimitExceeded",
        ),
    ),
    (
        CloudErrorKind.THROTTLED,
        (
            "no action is needed: the request is repeated; if the error persists, this IP address"
            " is over its limit: find the other programs that use it"
        ),
        ("RequestLimitExceeded.IPLimitExceeded",),
    ),
    (
        CloudErrorKind.NOT_SENT,
        "check the account's endpoint, and DNS, routes and firewalls from this host to it",
        (ClientCode.CONNECT_FAILED,),
    ),
    (
        CloudErrorKind.NOT_SENT,
        (
            "check which server answers at the endpoint, and this host's clock; if a proxy inspects"
            " TLS or the endpoint uses a private CA, set ca_file to the PEM file of that CA"
        ),
        (ClientCode.CERTIFICATE_NOT_TRUSTED,),
    ),
    (
        CloudErrorKind.NOT_SENT,
        (
            "check the proxy, its user and password, and that it allows connections to the"
            " endpoint; the proxy is set by proxy of the account or of [egress], otherwise by"
            ' HTTPS_PROXY or HTTP_PROXY; to use no proxy, set NO_PROXY, or proxy = "none"'
        ),
        (ClientCode.PROXY_FAILED,),
    ),
    (
        CloudErrorKind.OUTCOME_UNKNOWN,
        (
            "no action is needed: the job is read before the request is repeated; if the error"
            " persists, check the network to the cloud and the cloud's status page"
        ),
        (
            ClientCode.BAD_ANSWER,
            ClientCode.DISCONNECTED,
            ClientCode.HTTP_STATUS,
            ClientCode.TIMEOUT,
            "FailedOperation",
            "InternalError",
            "InternalError.CallCam",
            "InternalError.CallCpmAPI",
            "InternalError.CallCvm",
            "InternalError.CallTagAPI",
            "InternalError.TradeUnknownError",
            "InternalServerError",
            "ResourceInsufficient",
            "ResourceUnavailable",
            "ResponseSizeLimitExceeded",
            "ServiceUnavailable",
        ),
    ),
    (
        CloudErrorKind.OUTCOME_UNKNOWN,
        (
            "no action is needed: the job is read before the request is repeated; if the error"
            " persists, check the account's endpoint: the cloud sends no reply of this size, so"
            " another server may answer"
        ),
        (ClientCode.ANSWER_TOO_LARGE,),
    ),
    (
        CloudErrorKind.STATE_CONFLICT,
        "no action is needed: the job is read, and its state decides the next step",
        ("ResourceInUse", "ResourceInUse.Job", "UnsupportedOperation"),
    ),
    (
        CloudErrorKind.STATE_CONFLICT,
        "no action is needed: a task or instance does not exist (any more); the job is read again",
        ("ResourceNotFound.Task", "ResourceNotFound.TaskInstance"),
    ),
    (
        CloudErrorKind.STATE_CONFLICT,
        "no action is needed: a machine's state forbids the request; the machines are read again",
        (
            "MutexOperation.TaskRunning",
            "OperationDenied.InstanceOperationInProgress",
            "UnsupportedOperation.InstanceStateEnterRescueMode",
            "UnsupportedOperation.InstanceStateEnterServiceLiveMigrate",
            "UnsupportedOperation.InstanceStateExitRescueMode",
            "UnsupportedOperation.InstanceStateExitServiceLiveMigrate",
            "UnsupportedOperation.InstanceStateFreezing",
            "UnsupportedOperation.InstanceStateIsolating",
            "UnsupportedOperation.InstanceStateLaunchFailed",
            "UnsupportedOperation.InstanceStatePending",
            "UnsupportedOperation.InstanceStateRebooting",
            "UnsupportedOperation.InstanceStateStarting",
            "UnsupportedOperation.InstanceStateStopping",
            "UnsupportedOperation.InstanceStateTerminated",
            "UnsupportedOperation.InstanceStateTerminating",
        ),
    ),
    (
        CloudErrorKind.JOB_NOT_FOUND,
        "check the job id, the region and the account; a deleted job leaves no record",
        ("ResourceNotFound", "ResourceNotFound.Job"),
    ),
    (
        CloudErrorKind.REFUSED,
        (
            "the cloud does not terminate jobs in this compute environment: terminate its nodes"
            " with TerminateComputeNodes, or wait until the job ends"
        ),
        ("UnsupportedOperation.TerminateOperationWithEnvId",),
    ),
    (
        CloudErrorKind.REFUSED,
        "check the job id: it does not have the form of a job id (job-...)",
        ("InvalidParameter.JobIdMalformed",),
    ),
    (
        CloudErrorKind.REFUSED,
        "check the machine ids: one does not have the form of a machine id (ins-...)",
        ("InvalidInstanceId.Malformed", "InvalidParameterValue.InstanceIdMalformed"),
    ),
    (
        CloudErrorKind.REFUSED,
        "one of the machines is gone, or is in another region or account: read each one alone",
        ("InvalidInstanceId.NotFound", "ResourceNotFound.InvalidInstanceIdNotFound"),
    ),
    (
        CloudErrorKind.REFUSED,
        "one of the machines is protected: disable its termination protection first",
        ("UnsupportedOperation.InstancesProtected",),
    ),
    (
        CloudErrorKind.REFUSED,
        "the account may not return machines now: check its unpaid orders and its return quota",
        (
            "InvalidAccount.UnpaidOrder",
            "LimitExceeded.UserReturnQuota",
            "UnsupportedOperation.UserLimitOperationExceedQuota",
        ),
    ),
    (
        CloudErrorKind.REFUSED,
        (
            "the API cannot return one of these machines: check its billing mode, its owner and the"
            " product that created it, and return it in that product or by a support ticket"
        ),
        (
            "FailedOperation.InvalidInstanceApplicationRole",
            "FailedOperation.InvalidInstanceApplicationRoleEmr",
            "FailedOperation.Unreturnable",
            "InvalidInstance.NotSupported",
            "InvalidInstanceNotSupportedPrepaidInstance",
            "InvalidParameterValue.NotSupported",
            "UnsupportedOperation.InstanceChargeType",
            "UnsupportedOperation.InstanceMixedPricingModel",
            "UnsupportedOperation.InstanceStateBanning",
            "UnsupportedOperation.InvalidInstancesOwner",
            "UnsupportedOperation.RedHatInstanceTerminateUnsupported",
            "UnsupportedOperation.RedHatInstanceUnsupported",
            "UnsupportedOperation.Region",
            "UnsupportedOperation.SpecialInstanceType",
        ),
    ),
    (
        CloudErrorKind.UNAUTHORIZED,
        (
            "check the account's endpoint and regions: this endpoint does not support the action,"
            " the version or the region"
        ),
        (
            "ActionOffline",
            "InvalidAction",
            "InvalidZone",
            "InvalidZone.MismatchRegion",
            "NoSuchProduct",
            "NoSuchVersion",
            "UnsupportedProtocol",
            "UnsupportedRegion",
        ),
    ),
    (
        CloudErrorKind.REFUSED,
        (
            "the cloud does not accept the request's parameters: check the ids and the account's"
            " endpoint; if they are correct, report the error with its request id"
        ),
        (
            "DryRunOperation",
            "InvalidFilter",
            "InvalidParameter",
            "InvalidParameter.InvalidParameterCombination",
            "InvalidParameter.TaskName",
            "InvalidParameter.TaskNameTooLong",
            "InvalidParameterValue",
            "InvalidParameterValue.InvalidAppIdFormat",
            "InvalidParameterValue.InvalidFilter",
            "InvalidParameterValue.LimitExceeded",
            "InvalidParameterValue.Negative",
            "InvalidRequest",
            "LimitExceeded",
            "MissingParameter",
            "RequestSizeLimitExceeded",
            "UnknownParameter",
        ),
    ),
    (
        CloudErrorKind.UNAUTHORIZED,
        (
            "grant the key's user the action on this job (qcs::batch:<region>:uin/<uin>:job/<id>)"
            " or on this machine (qcs::cvm:<region>:uin/<uin>:instance/<id>)"
        ),
        ("AuthFailure.UnauthorizedOperation", "UnauthorizedOperation"),
    ),
    (
        CloudErrorKind.UNAUTHORIZED,
        "the key's user may not use Batch: ask the root account to enable the service for the user",
        ("UnauthorizedOperation.UserNotAllowedToUseBatch",),
    ),
    (
        CloudErrorKind.UNAUTHORIZED,
        "the account requires MFA, which a key cannot provide: exempt the key's user from MFA",
        ("UnauthorizedOperation.MFAExpired", "UnauthorizedOperation.MFANotFound"),
    ),
    (
        CloudErrorKind.CLOCK_SKEW,
        "the database's clock is more than 5 minutes off the cloud's: start NTP on its host",
        ("AuthFailure.SignatureExpire",),
    ),
    (
        CloudErrorKind.CREDENTIAL,
        (
            "check the account's key: it is wrong, disabled, or not allowed for such requests; a"
            " key corrected in a file is used within 30 s, one corrected in the environment only"
            " after a restart"
        ),
        (
            "AuthFailure",
            "AuthFailure.InvalidAuthorization",
            "AuthFailure.InvalidSecretId",
            "AuthFailure.MFAFailure",
            "AuthFailure.SecretIdNotFound",
            "AuthFailure.SignatureFailure",
        ),
    ),
    (
        CloudErrorKind.CREDENTIAL,
        "the temporary key has expired or was revoked: if a new key fails too, check its role",
        ("AuthFailure.TokenFailure", "UnauthorizedOperation.InvalidToken"),
    ),
    (
        CloudErrorKind.CREDENTIAL,
        "the key is not accepted from this host's IP address: check the key's IP rules",
        ("IpInBlacklist", "IpNotInWhitelist"),
    ),
    (
        CloudErrorKind.CREDENTIAL,
        "check the account's credential provider and its options",
        (ClientCode.CREDENTIAL_UNAVAILABLE,),
    ),
)

FILTER_REFUSED: Final = frozenset(
    {
        "InvalidFilter",
        "InvalidParameter",
        "InvalidParameterValue",
        "InvalidParameterValue.InvalidFilter",
        "UnknownParameter",
    }
)
"""Codes that DescribeTask may return for an unknown filter name. None is documented for it: these
are the codes of DescribeJobs for its own filters (599/15909), and their family."""

MEANINGS: Final = {
    code: ErrorMeaning(kind=kind, advice=advice)
    for kind, advice, codes in ERROR_GROUPS
    for code in codes
}

_UNKNOWN: Final = ErrorMeaning(
    kind=CloudErrorKind.OUTCOME_UNKNOWN,
    advice="this code is not documented: please report it; the job is read before the next step",
    known=False,
)

_CEILING: Final = re.compile(r"(?:frequency limit|频率上限)\D{0,3}([1-9][0-9]{0,5})")
"""Matches "... which exceeds the frequency limit `10` ..."; the text may change without notice."""


def meaning_of(code: str) -> ErrorMeaning:
    """Return the meaning of ``code``, or of the longest dotted prefix that is known."""
    family = code
    while family not in MEANINGS:
        family, dot, _ = family.rpartition(".")
        if not dot:
            return _UNKNOWN
    return MEANINGS[family]


def quota_ceiling(code: str, message: str) -> int | None:
    """Return the limit in a throttling message (requests per second of one action), or None.

    The limits in ``RequestLimitExceeded.*`` are not limits of one action.
    """
    if code != "RequestLimitExceeded":
        return None
    found = _CEILING.search(message)
    return int(found[1]) if found else None


def error(
    code: str, message: str, *, request_id: str | None = None, advice: str | None = None
) -> CloudError:
    """Return the CloudError for ``code``; ``advice`` replaces the advice of the catalogue."""
    meaning = meaning_of(code)
    return CloudError(
        meaning.kind,
        code,
        storable(message),
        request_id=request_id,
        advice=advice or meaning.advice,
        quota_ceiling=quota_ceiling(code, message),
    )
