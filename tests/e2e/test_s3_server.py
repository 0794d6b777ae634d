"""The S3 server of the tests does verify signatures, so that what passes against it is signed right."""

import re
import signal
import uuid

import botocore.exceptions
import httpx
import pytest

from conftest import eventually
from s3 import Credentials


@pytest.fixture(scope="module")
def bucket(s3):
    name = s3.bucket()
    s3.client().put_object(Bucket=name, Key="a file", Body=b"content")
    return name


def presigned(s3, bucket, operation="get_object", key="a file", seconds=60, credentials=None, **more):
    return s3.client(credentials).generate_presigned_url(operation, Params={"Bucket": bucket, "Key": key, **more}, ExpiresIn=seconds)


def refusal(response):
    """Status and code of an answer in XML."""
    return response.status_code, re.search("<Code>(.*?)</Code>", response.text)[1]


def refused(call, **params):
    """The same of a call of boto3's."""
    with pytest.raises(botocore.exceptions.ClientError) as error:
        call(**params)
    answer = error.value.response
    return answer["ResponseMetadata"]["HTTPStatusCode"], answer["Error"]["Code"]


def test_signed_headers_with_a_wrong_secret(s3, bucket):
    wrong = s3.client(Credentials(s3.access_key, s3.secret_key + "x"))
    assert refused(wrong.get_object, Bucket=bucket, Key="a file") == (403, "SignatureDoesNotMatch")
    assert refused(wrong.put_object, Bucket=bucket, Key="new", Body=b"x") == (403, "SignatureDoesNotMatch")
    assert s3.keys(bucket) == ["a file"]


def test_an_unknown_access_key(s3, bucket):
    unknown = Credentials("AKIA" + uuid.uuid4().hex[:16].upper(), s3.secret_key)
    assert refused(s3.client(unknown).get_object, Bucket=bucket, Key="a file") == (403, "InvalidAccessKeyId")
    assert refusal(s3.request("GET", presigned(s3, bucket, credentials=unknown))) == (403, "InvalidAccessKeyId")


def test_no_signature(s3, bucket):
    assert refusal(s3.request("GET", f"/{bucket}/a%20file")) == (403, "AccessDenied")


def test_a_presigned_url(s3, bucket):
    assert s3.request("GET", presigned(s3, bucket)).content == b"content"
    assert s3.request("HEAD", presigned(s3, bucket, "head_object")).headers["content-length"] == "7"


def test_a_presigned_url_of_a_wrong_secret(s3, bucket):
    wrong = Credentials(s3.access_key, "x" + s3.secret_key)
    assert refusal(s3.request("GET", presigned(s3, bucket, credentials=wrong))) == (403, "SignatureDoesNotMatch")


def edited(url, pattern, replacement):
    changed, times = re.subn(pattern, replacement, url)
    assert times == 1, (pattern, url)
    return changed


@pytest.mark.parametrize(("pattern", "replacement"), [
    (r"a%20file\?", "b?"),
    (r"X-Amz-Expires=60", "X-Amz-Expires=600"),
    (r"X-Amz-Date=\d{8}T", "X-Amz-Date=20200101T"),
    (r"(X-Amz-Signature=.{63}).", r"\1g"),
    (r"$", "&response-content-type=text%2Fhtml"),
    (r"$", "&versionId=1"),
], ids=["another key", "a later end", "another time", "another signature", "one parameter more", "another version"])
def test_a_presigned_url_which_somebody_edited(s3, bucket, pattern, replacement):
    answer = s3.request("GET", edited(presigned(s3, bucket), pattern, replacement))
    assert answer.status_code in (400, 403), answer.text
    assert b"content" != answer.content


def test_a_presigned_url_is_for_one_method(s3, bucket):
    url = presigned(s3, bucket)
    assert refusal(s3.request("PUT", url, content=b"other")) == (403, "SignatureDoesNotMatch")
    assert refusal(s3.request("DELETE", url)) == (403, "SignatureDoesNotMatch")
    assert s3.request("GET", url).content == b"content"


def test_signed_headers_have_to_come_as_they_were_signed(s3, bucket):
    url = presigned(s3, bucket, "put_object", "typed", ContentType="text/plain")
    assert refusal(s3.request("PUT", url, content=b"x", headers={"Content-Type": "text/html"})) == (403, "SignatureDoesNotMatch")
    assert s3.request("PUT", url, content=b"x", headers={"Content-Type": "text/plain"}).status_code == 200
    s3.client().delete_object(Bucket=bucket, Key="typed")


def test_it_keeps_what_it_was_told(s3_own):
    bucket = s3_own.bucket()
    s3_own.client().put_object(Bucket=bucket, Key="kept", Body=b"x" * 100_000)
    s3_own.stop(signal.SIGKILL)
    s3_own.start()
    assert s3_own.client().get_object(Bucket=bucket, Key="kept")["Body"].read() == b"x" * 100_000


def test_a_user_may_what_it_was_allowed(s3_own):
    bucket = s3_own.bucket()
    reader = s3_own.client(s3_own.user("s3:ListBucket"))
    reader.list_objects_v2(Bucket=bucket)
    assert refused(reader.put_object, Bucket=bucket, Key="x", Body=b"x") == (403, "AccessDenied")


def test_temporary_credentials(s3_own):
    bucket, made = s3_own.bucket(), s3_own.temporary_credentials(900)
    s3_own.client(made).put_object(Bucket=bucket, Key="x", Body=b"x")
    assert s3_own.request("GET", presigned(s3_own, bucket, key="x", credentials=made)).content == b"x"
    without = s3_own.client(Credentials(made.access_key, made.secret_key))
    # Amazon's code is the first.
    assert refused(without.get_object, Bucket=bucket, Key="x") in [(403, "InvalidAccessKeyId"), (403, "InvalidTokenId")]


def test_temporary_credentials_end(s3_own):
    bucket, made = s3_own.bucket(), s3_own.temporary_credentials(1)
    s3_own.client(made).put_object(Bucket=bucket, Key="x", Body=b"x")
    url = presigned(s3_own, bucket, key="x", credentials=made)
    eventually(lambda: s3_own.request("GET", url).status_code == 403, 10, "the end of temporary credentials")
    assert s3_own.request("GET", presigned(s3_own, bucket, key="x")).content == b"x"


def test_it_can_be_paused(s3_own):
    bucket = s3_own.bucket()
    s3_own.pause()
    with pytest.raises(httpx.ReadTimeout):
        s3_own.request("GET", f"/{bucket}/x", timeout=0.2)
    s3_own.resume()
    assert refusal(s3_own.request("GET", f"/{bucket}/x")) == (403, "AccessDenied")
