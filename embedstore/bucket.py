"""Requests to a bucket in S3, GCS or Azure, through obstore, and what their errors mean."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from embedstore.errors import StoreBusy, StoreError, UsageError

if TYPE_CHECKING:
    from obstore.store import ObjectStore, RetryConfig

SCHEMES = {
    "s3": "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL",
    "gs": "GOOGLE_SERVICE_ACCOUNT",
    "az": "AZURE_STORAGE_ACCOUNT_NAME, AZURE_STORAGE_ACCOUNT_KEY",
}
"""What begins the name of a bucket, and the environment's variables that say who may."""

_SETTINGS = ("AWS_", "GOOGLE_", "AZURE_")
_NO_BUCKET = ("NoSuchBucket", "ContainerNotFound", "bucket does not exist")
_CODE = re.compile(r"<Code>(\w+)</Code>")
_REFUSED = re.compile("AccessDenied|Signature|AccessKey|Token|Authoriz|Authentic")
_REASONS = (
    ("BadScheme", "http:// needs AWS_ALLOW_HTTP=true"),
    ("api/token|security-credentials|169.254|redential", "no credentials"),
    ("error sending request|onnect", "nobody answers"),
)
_STATUS = re.compile(r"status code: (\d+ [A-Za-z ]+)|status: (\d+)")


class PlaceError(StoreError, OSError):
    """An object cannot be read or written."""


class Unreachable(PlaceError):
    """Object storage does not answer, or not for a reason of one object's: to be tried again."""


class Changed(StoreBusy):
    """An object is not the one it was known as."""


@contextmanager
def request(name: str, bucket: str) -> Iterator[tuple[Any, ObjectStore]]:
    """Yield obstore, and its store of a bucket; every error names the object and is one line.

    Parameters
    ----------
    name
        What is asked for, as errors call it.
    bucket
        With its scheme: ``s3://films``. The rest is as the environment says now.

    Raises
    ------
    FileNotFoundError
        There is no such object.
    Changed
        A condition failed.
    PlaceError
        The object is not for us; `Unreachable` where it is no matter of the object.
    """
    settings = tuple(item for item in os.environ.items() if item[0].startswith(_SETTINGS))
    with _told(name, bucket) as obstore:
        yield obstore, _connected(bucket, settings)


@lru_cache(maxsize=8)
def _connected(bucket: str, settings: object) -> ObjectStore:
    """Connect to a bucket; whether anyone answers is tried with less patience."""
    from datetime import timedelta

    quick: RetryConfig = {"max_retries": 2, "retry_timeout": timedelta(seconds=10)}
    with _told(bucket, bucket) as obstore:
        from obstore.store import from_url

        first = from_url(bucket, retry_config=quick)
        try:
            obstore.head(first, ".embedstore")
        except FileNotFoundError as error:
            if any(word in str(error) for word in _NO_BUCKET):
                raise
        except obstore.exceptions.PermissionDeniedError:
            pass  # of that one object, perhaps
        made: ObjectStore = from_url(bucket)
        return made


@contextmanager
def _told(name: str, bucket: str) -> Iterator[Any]:
    """Say in one line what an error of obstore's means, whose own text has the endpoint."""
    try:
        import obstore
        from obstore import exceptions
    except ImportError as error:
        raise UsageError(
            f"{bucket}: object storage needs obstore: pip install 'embedstore[cloud]'"
        ) from error

    try:
        yield obstore
    except FileNotFoundError as error:
        if not any(word in str(error) for word in _NO_BUCKET):
            raise FileNotFoundError(errno.ENOENT, "no such object", name) from None
        raise Unreachable(_one_line(name, bucket, error)) from None
    except (exceptions.AlreadyExistsError, exceptions.PreconditionError):
        raise Changed(f"{name}: is another object by now") from None
    except exceptions.PermissionDeniedError as error:
        raise PlaceError(_one_line(name, bucket, error)) from None
    except (exceptions.BaseError, ValueError) as error:
        raise Unreachable(_one_line(name, bucket, error)) from None


def _one_line(name: str, bucket: str, error: Exception) -> str:
    """Say what is wrong and where to look; the text of the error is not for showing."""
    text = str(error)
    if any(word in text for word in _NO_BUCKET):
        return f"{bucket}: no such bucket at this endpoint; make it first"
    settings = SCHEMES[bucket.partition(":")[0]]
    code = found[1] if (found := _CODE.search(text)) else ""
    if "PermissionDenied" in type(error).__name__ or _REFUSED.search(code):
        reason = f"not allowed ({code or 'access denied'})"
        return f"{name}: {reason}; look at the credentials in the environment: {settings}"
    reason = next((said for words, said in _REASONS if re.search(words, repr(error))), "")
    if not reason and (found := _STATUS.search(text)):
        reason = (found[1] or found[2]).strip()
    return (
        f"{bucket}: cannot be used ({code or reason or type(error).__name__}); look at the "
        f"environment: {settings}"
    )
