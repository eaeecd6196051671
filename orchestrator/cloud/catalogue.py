"""What each error code means: one kind and one piece of advice for each, written down once.

Codes of Batch's actions: cloud.tencent.com/document/api/599/15911, 15908, 15904, 15909, 15910 and
15905; of CVM's, as far as a call by machine ids can meet them: 213/15728 and 15723; common codes:
cloud.tencent.com/document/api/599/30660.  ``Client.*`` are our own, for calls that the cloud did
not answer.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from orchestrator.domain.errors import CloudError, CloudErrorKind

ANSWER_TOO_LARGE: Final = "Client.AnswerTooLarge"
BAD_ANSWER: Final = "Client.BadAnswer"
CERTIFICATE_NOT_TRUSTED: Final = "Client.CertificateNotTrusted"
CONNECT_FAILED: Final = "Client.ConnectFailed"
CREDENTIAL_UNAVAILABLE: Final = "Client.CredentialUnavailable"
DISCONNECTED: Final = "Client.Disconnected"
HTTP_STATUS: Final = "Client.HttpStatus"
PROXY_FAILED: Final = "Client.ProxyFailed"
TIMEOUT: Final = "Client.Timeout"


@dataclass(frozen=True, slots=True, kw_only=True)
class Meaning:
    """What follows from a code; ``known`` is false where the catalogue says nothing about it."""

    kind: CloudErrorKind
    advice: str
    known: bool = True


GROUPS: Final[tuple[tuple[CloudErrorKind, str, tuple[str, ...]], ...]] = (
    (
        CloudErrorKind.THROTTLED,
        "nothing to do: the call is repeated; if it stays, something else spends this key's quota",
        ("RequestLimitExceeded",),
    ),
    (
        CloudErrorKind.THROTTLED,
        (
            "nothing to do: the call is repeated; the whole root account is over its limit, so look"
            " for other programs that use it"
        ),
        (
            "RequestLimitExceeded.UinLimitExceeded",
            "RequestLimitExceeded.GlobalRegionUinLimitExceeded",
        ),
    ),
    (
        CloudErrorKind.THROTTLED,
        (
            "nothing to do: the call is repeated; this address is over its limit, so look for other"
            " programs behind it"
        ),
        ("RequestLimitExceeded.IPLimitExceeded",),
    ),
    (
        CloudErrorKind.NOT_SENT,
        "check the account's endpoint, and DNS, routes and firewalls between this host and it",
        (CONNECT_FAILED,),
    ),
    (
        CloudErrorKind.NOT_SENT,
        (
            "check who answers at the endpoint and this host's clock; where a proxy of your network"
            " inspects TLS, or the endpoint is your own, name the PEM file of its CA in ca_file"
        ),
        (CERTIFICATE_NOT_TRUSTED,),
    ),
    (
        CloudErrorKind.NOT_SENT,
        (
            "check the proxy, its user and password, and that it lets connections to the endpoint"
            " through; it is the account's or [egress]'s proxy, else HTTPS_PROXY or HTTP_PROXY of"
            ' the environment; with NO_PROXY, or proxy = "none", none is used'
        ),
        (PROXY_FAILED,),
    ),
    (
        CloudErrorKind.OUTCOME_UNKNOWN,
        (
            "nothing to do: the job is read before the call is repeated; if it stays, check the"
            " network to the cloud and the cloud's status page"
        ),
        (
            BAD_ANSWER,
            DISCONNECTED,
            HTTP_STATUS,
            TIMEOUT,
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
            "nothing to do: the job is read before the call is repeated; if it stays, check the"
            " account's endpoint: no page of the cloud is that large, so something else may answer"
        ),
        (ANSWER_TOO_LARGE,),
    ),
    (
        CloudErrorKind.STATE_CONFLICT,
        "nothing to do: the job's state is read and decides what comes next",
        ("ResourceInUse", "ResourceInUse.Job", "UnsupportedOperation"),
    ),
    (
        CloudErrorKind.STATE_CONFLICT,
        "nothing to do: the job is read again; a task or instance is gone, or was never there",
        ("ResourceNotFound.Task", "ResourceNotFound.TaskInstance"),
    ),
    (
        CloudErrorKind.STATE_CONFLICT,
        "nothing to do: the machines are read again; one of them is in a state that forbids it",
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
            "the cloud does not terminate jobs in this compute environment: end its nodes with"
            " TerminateComputeNodes, or wait for the job"
        ),
        ("UnsupportedOperation.TerminateOperationWithEnvId",),
    ),
    (
        CloudErrorKind.REFUSED,
        "check the job id: it is not of the form that the cloud gives out (job-...)",
        ("InvalidParameter.JobIdMalformed",),
    ),
    (
        CloudErrorKind.REFUSED,
        "check the machine ids: one is not of the form that the cloud gives out (ins-...)",
        ("InvalidInstanceId.Malformed", "InvalidParameterValue.InstanceIdMalformed"),
    ),
    (
        CloudErrorKind.REFUSED,
        "one of the machines is gone, or is in another region or account: ask for each alone",
        ("InvalidInstanceId.NotFound", "ResourceNotFound.InvalidInstanceIdNotFound"),
    ),
    (
        CloudErrorKind.REFUSED,
        "one of the machines is protected: switch its termination protection off first",
        ("UnsupportedOperation.InstancesProtected",),
    ),
    (
        CloudErrorKind.REFUSED,
        "the account may not return machines now: see its unpaid orders and its quota of returns",
        (
            "InvalidAccount.UnpaidOrder",
            "LimitExceeded.UserReturnQuota",
            "UnsupportedOperation.UserLimitOperationExceedQuota",
        ),
    ),
    (
        CloudErrorKind.REFUSED,
        (
            "the cloud does not return one of these machines by a call: see how it is paid, whose"
            " it is and which product made it, and return it there or by a ticket"
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
            "check the account's endpoint and regions: this endpoint does not offer the action, the"
            " version or the region"
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
            "the cloud does not accept the call's parameters: check the ids and the account's"
            " endpoint; if they are right, report it with the request id"
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
            "grant the key's user the action on this job (qcs::batch:<region>:uin/<uin>:job/<id>),"
            " or on this machine (qcs::cvm:<region>:uin/<uin>:instance/<id>)"
        ),
        ("AuthFailure.UnauthorizedOperation", "UnauthorizedOperation"),
    ),
    (
        CloudErrorKind.UNAUTHORIZED,
        "the key's user may not use Batch at all: have the root account open the service for it",
        ("UnauthorizedOperation.UserNotAllowedToUseBatch",),
    ),
    (
        CloudErrorKind.UNAUTHORIZED,
        "the account asks for a second factor, which a key does not have: exempt the key's user",
        ("UnauthorizedOperation.MFAExpired", "UnauthorizedOperation.MFANotFound"),
    ),
    (
        CloudErrorKind.CLOCK_SKEW,
        "the database's clock is more than 5 minutes off the cloud's; start NTP on its host",
        ("AuthFailure.SignatureExpire",),
    ),
    (
        CloudErrorKind.CREDENTIAL,
        (
            "check the account's key: it is wrong, disabled, or not allowed for calls like this"
            " one; corrected in its file, it is taken over within 30 s, in the environment at a"
            " restart"
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
        "the temporary key has expired or was revoked; if a new one fails too, check its role",
        ("AuthFailure.TokenFailure", "UnauthorizedOperation.InvalidToken"),
    ),
    (
        CloudErrorKind.CREDENTIAL,
        "the key is not accepted from this host's address: check its IP rules",
        ("IpInBlacklist", "IpNotInWhitelist"),
    ),
    (
        CloudErrorKind.CREDENTIAL,
        "check the account's credential provider and its options",
        (CREDENTIAL_UNAVAILABLE,),
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
"""What a filter of an unknown name may be refused with.  None is documented for DescribeTask; these
are DescribeJobs' codes for its own filters (599/15909), and their family."""

MEANINGS: Final = {
    code: Meaning(kind=kind, advice=advice) for kind, advice, codes in GROUPS for code in codes
}

_UNKNOWN: Final = Meaning(
    kind=CloudErrorKind.OUTCOME_UNKNOWN,
    advice="this code is not documented: the job is read before anything else; please report it",
    known=False,
)

_CEILING: Final = re.compile(r"(?:frequency limit|频率上限)\D{0,3}([1-9][0-9]{0,5})")
"""As in "... which exceeds the frequency limit `10` ..."; the vendor does not promise the text."""


def meaning_of(code: str) -> Meaning:
    """The meaning of ``code``, or else of the longest dotted family that it belongs to."""
    family = code
    while family not in MEANINGS:
        family, dot, _ = family.rpartition(".")
        if not dot:
            return _UNKNOWN
    return MEANINGS[family]


def quota_ceiling(code: str, message: str) -> int | None:
    """Calls per second and action that a throttling message names, where it names them.

    The ceilings in ``RequestLimitExceeded.*`` count other things than one action's calls.
    """
    if code != "RequestLimitExceeded":
        return None
    found = _CEILING.search(message)
    return int(found[1]) if found else None


def error(
    code: str, message: str, *, request_id: str | None = None, advice: str | None = None
) -> CloudError:
    """The CloudError for ``code``; ``advice`` where something better than the usual is known."""
    meaning = meaning_of(code)
    return CloudError(
        meaning.kind,
        code,
        message,
        request_id=request_id,
        advice=advice or meaning.advice,
        quota_ceiling=quota_ceiling(code, message),
    )
