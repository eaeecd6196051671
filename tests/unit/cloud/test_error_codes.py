"""Every documented code has one meaning; undocumented codes are logged."""

from __future__ import annotations

import pytest
from tencentcloud.batch.v20170312 import errorcodes

from orchestrator.cloud import error_codes
from orchestrator.domain.errors import CloudErrorKind as Kind

VENDOR_CODES = {value for name, value in vars(errorcodes).items() if name.isupper()}

CODES_OF_ACTIONS = {
    "TerminateJob": """InternalError InvalidParameter.JobIdMalformed ResourceInUse.Job
        ResourceNotFound.Job UnsupportedOperation
        UnsupportedOperation.TerminateOperationWithEnvId""",
    "TerminateTaskInstance": """InternalError InvalidParameter.JobIdMalformed
        ResourceNotFound.TaskInstance UnsupportedOperation.TerminateOperationWithEnvId""",
    "DescribeJob": "InternalError InvalidParameter.JobIdMalformed ResourceNotFound.Job",
    "DescribeJobs": """InternalError InvalidFilter InvalidParameter.InvalidParameterCombination
        InvalidParameter.JobIdMalformed InvalidParameterValue InvalidParameterValue.InvalidFilter
        InvalidParameterValue.LimitExceeded InvalidZone.MismatchRegion UnknownParameter""",
    "DescribeJobSubmitInfo": """InternalError InvalidParameter.JobIdMalformed
        ResourceNotFound.Job""",
    "DescribeTask": "InternalError InvalidParameter.JobIdMalformed ResourceNotFound.Task",
}

CODES_OF_CVM = {
    "DescribeInstances": """InternalServerError InvalidInstanceId.Malformed InvalidParameter
        InvalidParameterValue InvalidParameterValue.InstanceIdMalformed
        InvalidParameterValue.InvalidAppIdFormat InvalidParameterValue.LimitExceeded
        UnauthorizedOperation.InvalidToken UnsupportedOperation""",
    "TerminateInstances": """FailedOperation.InvalidInstanceApplicationRole
        FailedOperation.InvalidInstanceApplicationRoleEmr FailedOperation.Unreturnable
        InternalError.TradeUnknownError InternalServerError InvalidAccount.UnpaidOrder
        InvalidInstance.NotSupported InvalidInstanceId.Malformed InvalidInstanceId.NotFound
        InvalidInstanceNotSupportedPrepaidInstance InvalidParameterValue
        InvalidParameterValue.InstanceIdMalformed InvalidParameterValue.InvalidAppIdFormat
        InvalidParameterValue.LimitExceeded InvalidParameterValue.NotSupported
        LimitExceeded.UserReturnQuota MissingParameter MutexOperation.TaskRunning
        OperationDenied.InstanceOperationInProgress UnauthorizedOperation.InvalidToken
        UnauthorizedOperation.MFAExpired UnauthorizedOperation.MFANotFound UnsupportedOperation
        UnsupportedOperation.InstanceChargeType UnsupportedOperation.InstanceMixedPricingModel
        UnsupportedOperation.InstanceStateBanning UnsupportedOperation.InstanceStateEnterRescueMode
        UnsupportedOperation.InstanceStateEnterServiceLiveMigrate
        UnsupportedOperation.InstanceStateExitRescueMode
        UnsupportedOperation.InstanceStateExitServiceLiveMigrate
        UnsupportedOperation.InstanceStateFreezing UnsupportedOperation.InstanceStateIsolating
        UnsupportedOperation.InstanceStateLaunchFailed UnsupportedOperation.InstanceStatePending
        UnsupportedOperation.InstanceStateRebooting UnsupportedOperation.InstanceStateStarting
        UnsupportedOperation.InstanceStateStopping UnsupportedOperation.InstanceStateTerminated
        UnsupportedOperation.InstanceStateTerminating UnsupportedOperation.InstancesProtected
        UnsupportedOperation.InvalidInstancesOwner
        UnsupportedOperation.RedHatInstanceTerminateUnsupported
        UnsupportedOperation.RedHatInstanceUnsupported UnsupportedOperation.Region
        UnsupportedOperation.SpecialInstanceType
        UnsupportedOperation.UserLimitOperationExceedQuota""",
    "other actions": "ResourceNotFound.InvalidInstanceIdNotFound",
}
"""From the vendor's Go SDK; for DescribeInstances, the codes of a request by ids only."""

COMMON_CODES = [
    *("ActionOffline", "AuthFailure.InvalidAuthorization", "AuthFailure.InvalidSecretId"),
    *("AuthFailure.MFAFailure", "AuthFailure.SecretIdNotFound", "AuthFailure.SignatureExpire"),
    *("AuthFailure.SignatureFailure", "AuthFailure.TokenFailure"),
    *("AuthFailure.UnauthorizedOperation", "DryRunOperation", "FailedOperation", "InternalError"),
    *("InvalidAction", "InvalidParameter", "InvalidParameterValue", "InvalidRequest"),
    *("IpInBlacklist", "IpNotInWhitelist", "LimitExceeded", "MissingParameter", "NoSuchProduct"),
    *("NoSuchVersion", "RequestLimitExceeded", "RequestLimitExceeded.UinLimitExceeded"),
    *("RequestLimitExceeded.GlobalRegionUinLimitExceeded", "RequestLimitExceeded.IPLimitExceeded"),
    *("RequestSizeLimitExceeded", "ResourceInUse", "ResourceInsufficient", "ResourceNotFound"),
    *("ResourceUnavailable", "ResponseSizeLimitExceeded", "ServiceUnavailable"),
    *("UnauthorizedOperation", "UnauthorizedOperation.UserNotAllowedToUseBatch"),
    *("UnknownParameter", "UnsupportedOperation", "UnsupportedProtocol", "UnsupportedRegion"),
]


@pytest.mark.parametrize("action", CODES_OF_ACTIONS)
def test_codes_of_our_actions_are_the_vendors_and_stand_in_the_catalogue(action) -> None:
    """Every code documented for an action is in the catalogue itself, not only its family."""
    codes = set(CODES_OF_ACTIONS[action].split())

    assert codes <= VENDOR_CODES
    assert codes <= error_codes.MEANINGS.keys()


@pytest.mark.parametrize("action", CODES_OF_CVM)
def test_codes_of_calls_for_machines_stand_in_the_catalogue(action) -> None:
    """CVM codes are in the catalogue themselves: CVM's families are wider than those of Batch."""
    assert set(CODES_OF_CVM[action].split()) <= error_codes.MEANINGS.keys()


@pytest.mark.parametrize("code", COMMON_CODES)
def test_common_codes_stand_in_the_catalogue(code) -> None:
    """The common codes are in the catalogue themselves, too."""
    assert code in error_codes.MEANINGS


def test_each_code_is_classified_once() -> None:
    """A code in two groups would silently get the meaning of the last one."""
    listed = [code for _, _, codes in error_codes.ERROR_GROUPS for code in codes]

    assert len(listed) == len(set(listed))


def test_nothing_in_the_catalogue_is_made_up() -> None:
    """Each entry is a vendor code, a common code, a family of these, or a Client code."""
    of_cvm = {code for codes in CODES_OF_CVM.values() for code in codes.split()}
    documented = VENDOR_CODES | of_cvm | set(COMMON_CODES)
    families = {code.partition(".")[0] for code in documented}
    own = {code for code in error_codes.MEANINGS if code.startswith("Client.")}

    assert error_codes.MEANINGS.keys() <= documented | families | own


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("RequestLimitExceeded", Kind.THROTTLED),
        ("RequestLimitExceeded.UinLimitExceeded", Kind.THROTTLED),
        ("AuthFailure.UnauthorizedOperation", Kind.UNAUTHORIZED),
        ("UnauthorizedOperation", Kind.UNAUTHORIZED),
        ("UnauthorizedOperation.UserNotAllowedToUseBatch", Kind.UNAUTHORIZED),
        ("AuthFailure.SignatureExpire", Kind.CLOCK_SKEW),
        ("AuthFailure.SignatureFailure", Kind.CREDENTIAL),
        ("AuthFailure.TokenFailure", Kind.CREDENTIAL),
        ("AuthFailure.SecretIdNotFound", Kind.CREDENTIAL),
        ("ResourceInUse.Job", Kind.STATE_CONFLICT),
        ("UnsupportedOperation", Kind.STATE_CONFLICT),
        ("UnsupportedOperation.TerminateOperationWithEnvId", Kind.REFUSED),
        ("InvalidParameter.JobIdMalformed", Kind.REFUSED),
        ("ResourceNotFound", Kind.JOB_NOT_FOUND),
        ("ResourceNotFound.Job", Kind.JOB_NOT_FOUND),
        ("ResourceNotFound.TaskInstance", Kind.STATE_CONFLICT),
        ("InternalError", Kind.OUTCOME_UNKNOWN),
        ("ServiceUnavailable", Kind.OUTCOME_UNKNOWN),
        ("ResourceUnavailable", Kind.OUTCOME_UNKNOWN),
        ("FailedOperation", Kind.OUTCOME_UNKNOWN),
        ("InvalidAction", Kind.UNAUTHORIZED),
        ("NoSuchVersion", Kind.UNAUTHORIZED),
        ("UnsupportedRegion", Kind.UNAUTHORIZED),
        ("MissingParameter", Kind.REFUSED),
        ("UnknownParameter", Kind.REFUSED),
        ("InvalidInstanceId.Malformed", Kind.REFUSED),
        ("InvalidInstanceId.NotFound", Kind.REFUSED),
        ("InternalServerError", Kind.OUTCOME_UNKNOWN),
        ("UnauthorizedOperation.InvalidToken", Kind.CREDENTIAL),
        ("UnauthorizedOperation.MFAExpired", Kind.UNAUTHORIZED),
        ("UnsupportedOperation.InstanceStateTerminating", Kind.STATE_CONFLICT),
        ("UnsupportedOperation.InstancesProtected", Kind.REFUSED),
        ("FailedOperation.Unreturnable", Kind.REFUSED),
        ("Client.ConnectFailed", Kind.NOT_SENT),
        ("Client.Timeout", Kind.OUTCOME_UNKNOWN),
    ],
)
def test_kind_of_a_code(code, kind) -> None:
    """The kinds on which the decisions about a termination depend."""
    meaning = error_codes.meaning_of(code)

    assert (meaning.kind, meaning.known) == (kind, True)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("RequestLimitExceeded.NewKind", Kind.THROTTLED),
        ("AuthFailure.NewKind", Kind.CREDENTIAL),
        ("AuthFailure.UnauthorizedOperation.NewKind", Kind.UNAUTHORIZED),
        ("UnauthorizedOperation.NewKind", Kind.UNAUTHORIZED),
        ("InternalError.NewKind", Kind.OUTCOME_UNKNOWN),
        ("InvalidParameter.NewKind", Kind.REFUSED),
        ("InvalidParameterValue.NewKind.Sub", Kind.REFUSED),
        ("UnsupportedOperation.NewKind", Kind.STATE_CONFLICT),
    ],
)
def test_new_member_of_a_family_means_what_the_longest_known_prefix_means(code, kind) -> None:
    """The vendor may add codes to a family without notice."""
    assert code not in error_codes.MEANINGS
    assert error_codes.meaning_of(code).kind is kind


@pytest.mark.parametrize("code", ["", ".", "Brandnew", "Brandnew.Internal", "InternalErrors"])
def test_unknown_code_is_not_known_and_proves_nothing(code) -> None:
    """A request with an unknown error code may have been executed."""
    meaning = error_codes.meaning_of(code)

    assert (meaning.kind, meaning.known) == (Kind.OUTCOME_UNKNOWN, False)


@pytest.mark.parametrize(
    ("message", "ceiling"),
    [
        (
            (
                "Your current request times equals to `11` in a second, which exceeds the "
                "frequency limit `10` for a second. Please reduce the frequency of calls."
            ),
            10,
        ),
        ("which exceeds the frequency limit 2 times", 2),
        ("您当前每秒请求 `6` 次，超过了每秒频率上限 `5` 次，请稍后重试。", 5),  # noqa: RUF001
        ("Request limit exceeded.", None),
        ("exceeds the frequency limit `0`", None),
        ("exceeds the frequency limit, which we do not tell you, 10", None),
    ],
)
def test_ceiling_is_read_out_of_the_message_where_it_is_there(message, ceiling) -> None:
    """The rate limiter uses the limit; nothing depends on it, because the text may change."""
    assert error_codes.error("RequestLimitExceeded", message).quota_ceiling == ceiling


def test_ceiling_of_another_dimension_is_not_taken_for_the_actions() -> None:
    """A limit of the root account is not a limit of one action."""
    error = error_codes.error(
        "RequestLimitExceeded.UinLimitExceeded", "exceeds the frequency limit `100`"
    )

    assert error.quota_ceiling is None


def test_error_keeps_code_request_id_and_advice() -> None:
    """The error has what a support ticket needs, and advice."""
    error = error_codes.error("ResourceNotFound.Job", "no such job", request_id="r-1")

    assert (error.code, error.message, error.request_id) == (
        "ResourceNotFound.Job",
        "no such job",
        "r-1",
    )
    assert error.advice == error_codes.MEANINGS["ResourceNotFound.Job"].advice
    assert error_codes.error("InternalError", "", advice="call us").advice == "call us"
