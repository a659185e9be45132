"""Converting any exception to one of the package: message, exit code, and whether a retry may succeed."""

import errno
import pickle
import sys

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, NoCredentialsError, ReadTimeoutError
from fsspec.exceptions import FSTimeoutError
from s3fs.errors import translate_boto_error

from lbae.cli import run
from lbae.errors import (
    LbaeError,
    OverwriteNeeded,
    TransientStorageError,
    UnforeseenError,
    UserError,
    as_lbae_error,
    line_and_exit_code,
    working_on,
)
from lbae.transient_errors import is_transient


def answer(status: int, code: str) -> Exception:
    """The exception of s3fs for an answer of S3."""
    response = {"Error": {"Code": code, "Message": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return translate_boto_error(ClientError(response, "GetObject"))


@pytest.mark.parametrize(
    ("error", "transient"),
    [
        (answer(503, "SlowDown"), True),
        (answer(500, "InternalError"), True),
        (answer(504, "GatewayTimeout"), True),
        (answer(429, "TooManyRequests"), True),
        (answer(400, "ThrottlingException"), True),
        (answer(400, "RequestTimeout"), True),
        (answer(403, "AccessDenied"), False),
        (answer(403, "InvalidAccessKeyId"), False),
        (answer(403, "403"), False),
        (answer(404, "NoSuchBucket"), False),
        (answer(400, "AnErrorThatNobodyKnows"), False),
        (EndpointConnectionError(endpoint_url="x"), True),
        (ReadTimeoutError(endpoint_url="x"), True),
        (FSTimeoutError(), True),
        (NoCredentialsError(), False),
        (ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"), True),
        (OSError(errno.EIO, "Input/output error"), True),
        (OSError(errno.ESTALE, "Stale file handle"), True),
        (OSError(errno.ENOSPC, "No space left on device"), False),
        (OSError(errno.EROFS, "Read-only file system"), False),
        (PermissionError(errno.EACCES, "Permission denied"), False),
        (FileNotFoundError(errno.ENOENT, "No such file or directory"), False),
        (ValueError("x"), False),
    ],
    ids=lambda value: repr(value)[:60],
)
def test_transient_storage_errors_are_distinguished_from_refusals(error, transient):
    assert is_transient(error) == transient
    wrapped = RuntimeError("outer")
    wrapped.__cause__ = error
    assert is_transient(wrapped) == transient


@pytest.mark.parametrize(
    ("error", "kind", "retry", "code", "line"),
    [
        (UserError("no images"), UserError, False, 2, "no images"),
        (OverwriteNeeded("made otherwise"), OverwriteNeeded, False, 2, "made otherwise"),
        (LbaeError("two\nlines"), LbaeError, False, 1, "two lines"),
        (TransientStorageError("slow"), TransientStorageError, True, 1, "slow"),
        (TypeError("boom"), UnforeseenError, True, 1, "TypeError: boom"),
        (KeyError("label"), UnforeseenError, True, 1, "KeyError: 'label'"),
        (ValueError(" ".join(["word"] * 1000)), UnforeseenError, True, 1, f"ValueError:{' word' * 117} ..."),
        (AssertionError(), UnforeseenError, True, 1, "AssertionError"),
        (
            RuntimeError("CUDA error: no kernel image\nFor debugging consider CUDA_LAUNCH_BLOCKING=1\n"),
            UnforeseenError,
            True,
            1,
            "RuntimeError: CUDA error: no kernel image",
        ),
        (
            OSError(errno.ENOSPC, "No space left on device", "/out"),
            LbaeError,
            False,
            1,
            "[Errno 28] No space left on device: '/out'",
        ),
        (
            OSError(errno.EIO, "Input/output error"),
            TransientStorageError,
            True,
            1,
            "[Errno 5] Input/output error",
        ),
        (OSError("no number"), UnforeseenError, True, 1, "OSError: no number"),
    ],
    ids=lambda value: repr(value)[:60],
)
def test_every_exception_has_a_message_an_exit_code_and_a_retry_flag(error, kind, retry, code, line):
    own = as_lbae_error(error)
    assert (type(own), own.retry_may_succeed) == (kind, retry)
    assert line_and_exit_code(error) == (line, code)


def test_notes_of_what_was_worked_on_survive_pickling():
    with pytest.raises(TypeError) as caught, working_on("training as worker 1"), working_on("decoding a.png"):
        raise TypeError("boom")
    arrived = pickle.loads(pickle.dumps(caught.value))
    expected = "TypeError: boom (while decoding a.png, while training as worker 1)"
    assert line_and_exit_code(arrived) == (expected, 1)


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UserError("no images"), 2, "no images"),
        (TransientStorageError("s3://b cannot be read"), 1, "s3://b cannot be read"),
        (OSError(errno.ENOSPC, "No space left on device", "/out"), 1, "No space left on device: '/out'"),
        (TypeError("boom"), 1, "TypeError: boom"),
    ],
    ids=lambda value: repr(value)[:60],
)
def test_a_failed_job_prints_the_message_and_exits_with_the_code(monkeypatch, capsys, error, code, line):
    def job() -> None:
        raise error

    monkeypatch.setattr(sys, "argv", ["job"])
    with pytest.raises(SystemExit) as stopped:
        run(job)
    assert stopped.value.code == code
    assert capsys.readouterr().err.splitlines()[-1].endswith(line)
