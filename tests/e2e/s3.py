"""A real S3-compatible server, which verifies signatures: what a gateway's file routes talk to.

versitygw unless TEST_S3_SERVER=minio (tests/servers/build makes either), or, for tests which share one, what answers at $TEST_S3_ENDPOINT.
How they differ from each other and from Amazon's: tests/servers/README.md.
"""

import datetime
import json
import os
import re
import signal
import uuid

import boto3
import botocore.client
import botocore.exceptions
import httpx
import pytest

from conftest import ROOT, Process, eventually, free_port

SESSION = boto3.session.Session()
BIN = ROOT / "tests/servers/bin"
NOT_BUILT = "the S3 server is not built: tests/servers/build s3 (or s3-second for minio)"


def s3_server():
    """`versitygw` or `minio`: the server that tests start."""
    return os.environ.get("TEST_S3_SERVER") or "versitygw"


def s3_kind():
    """Which S3 these tests run against."""
    if os.environ.get("TEST_S3_ENDPOINT"):
        return "$TEST_S3_ENDPOINT"
    kind = s3_server()
    if not (BIN / kind).exists():
        return None
    pinned = (ROOT / f"tests/servers/s3/{kind}/go.mod").read_text()
    return f"{kind} {re.search(rf'/{kind} (v[^ ]+)', pinned)[1]}"


class Credentials:
    """A key pair of the server, with `session_token` and `expires` when they are temporary."""

    def __init__(self, access_key, secret_key, session_token=None, expires=None):
        self.access_key, self.secret_key, self.session_token, self.expires = access_key, secret_key, session_token, expires


class S3Server:
    """An S3 server of our own, which keeps what it was told through SIGKILL and `start`; or, `anybodys`, the one of $TEST_S3_ENDPOINT."""

    def __init__(self, folder, anybodys=False, kind=None):
        self.folder, self.port, self.process = folder / f"s3-{uuid.uuid4().hex[:6]}", free_port(), None
        self.endpoint, self.region = f"http://127.0.0.1:{self.port}", "us-east-1"
        self.access_key, self.secret_key = "PORTCULLISTESTS00001", f"secret/+{uuid.uuid4().hex}"
        self.kind = kind or s3_server()
        self.iam_port = free_port()
        if anybodys and os.environ.get("TEST_S3_ENDPOINT"):
            self.kind, self.endpoint = "elsewhere", os.environ["TEST_S3_ENDPOINT"].rstrip("/")
            self.access_key, self.secret_key = os.environ["TEST_S3_ACCESS_KEY"], os.environ["TEST_S3_SECRET_KEY"]
            self.region = os.environ.get("TEST_S3_REGION") or self.region
            return
        if os.environ.get("TEST_S3_ENDPOINT") and not (BIN / self.kind).exists():
            pytest.skip("$TEST_S3_ENDPOINT is not to be stopped, and there is no other S3 server")
        assert (BIN / self.kind).exists(), NOT_BUILT
        self.folder.mkdir()
        self.start()

    # The server --------------------------------------------------------------------------------------------

    def start(self):
        try:
            if self.kind == "minio":
                self.start_minio()
            else:
                self.start_versitygw()
            eventually(self.answers, 30, "S3 answering")
        except BaseException:
            self.stop()
            raise
        return self

    def start_minio(self):
        keys = {"MINIO_ROOT_USER": self.access_key, "MINIO_ROOT_PASSWORD": self.secret_key, "MINIO_REGION": self.region}
        quiet = {"MINIO_BROWSER": "off", "MINIO_UPDATE": "off", "MINIO_CALLHOME_ENABLE": "off", "HOME": str(self.folder)}
        args = [BIN / "minio", "server", "--address", f"127.0.0.1:{self.port}", self.folder / "data"]
        self.process = Process(args, self.folder, "s3", env={**keys, **quiet})

    def start_versitygw(self):
        keys = {"ROOT_ACCESS_KEY": self.access_key, "ROOT_SECRET_KEY": self.secret_key}
        args = ["--listen", f"127.0.0.1:{self.port}", "--accounts-listen", f"127.0.0.1:{self.iam_port}", "--region", self.region]
        self.process = Process([BIN / "versitygw", *args, "--folder", self.folder], self.folder, "s3", env=keys)

    def answers(self):
        assert self.process.process.poll() is None, f"S3 ended:\n{self.process.stdout()}{self.process.stderr()}"
        try:
            self.client().list_buckets()
            return True
        except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError):
            # Not there yet, or there and still preparing (503).
            return False

    def stop(self, how=signal.SIGKILL):
        if self.process:
            self.resume()
            self.process.stop(how)

    def pause(self):
        self.process.process.send_signal(signal.SIGSTOP)

    def resume(self):
        if self.process.process.poll() is None:
            self.process.process.send_signal(signal.SIGCONT)

    # Its content -------------------------------------------------------------------------------------------

    def client(self, credentials=None, service="s3", endpoint=None):
        """boto3's client, as the owner of everything or with `credentials`; it asks once, and sends no checksum by itself."""
        keys = credentials or Credentials(self.access_key, self.secret_key)
        config = botocore.client.Config(
            signature_version="s3v4" if service == "s3" else None, s3={"addressing_style": "path"}, retries={"total_max_attempts": 1},
            request_checksum_calculation="when_required", response_checksum_validation="when_required", connect_timeout=5, read_timeout=30,
            proxies={},
        )
        return SESSION.client(
            service, endpoint_url=endpoint or self.endpoint, region_name=self.region, config=config,
            aws_access_key_id=keys.access_key, aws_secret_access_key=keys.secret_key, aws_session_token=keys.session_token,
        )

    def bucket(self) -> str:
        """A new bucket's name."""
        name = f"portcullis-{uuid.uuid4().hex[:12]}"
        elsewhere = {} if self.region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": self.region}}
        self.client().create_bucket(Bucket=name, **elsewhere)
        return name

    def keys(self, bucket):
        """The keys of all its objects, in the server's order."""
        pages = self.client().get_paginator("list_objects_v2").paginate(Bucket=bucket)
        return [entry["Key"] for page in pages for entry in page.get("Contents", [])]

    def store(self, name, bucket, credentials=None, endpoint=None, **extra) -> str:
        """The TOML of `[file_stores.NAME]`; `endpoint` when there is something in between."""
        keys = credentials or Credentials(self.access_key, self.secret_key)
        values = {
            "kind": "s3", "bucket": bucket, "region": self.region, "endpoint": endpoint or self.endpoint, "path_style": True,
            "access_key_id": keys.access_key, "secret_access_key": keys.secret_key,
        }
        if keys.session_token:
            values["session_token"] = keys.session_token
        # A JSON value other than an object is a TOML value.
        lines = [f"{key} = {json.dumps(value)}" for key, value in {**values, **extra}.items() if value is not None]
        return f"[file_stores.{name}]\n" + "\n".join(lines) + "\n"

    # Other callers -----------------------------------------------------------------------------------------

    def user(self, *actions, resources=("*",)) -> Credentials:
        """A second caller who may do `actions` (such as "s3:GetObject"; without any, everything) to `resources` (ARNs)."""
        if self.kind != "versitygw":
            pytest.skip(f"{self.kind}: no users over an API of Amazon's")
        name = f"user-{uuid.uuid4().hex[:8]}"
        iam = self.client(service="iam", endpoint=f"http://127.0.0.1:{self.iam_port}")
        iam.create_user(UserName=name)
        iam.put_user_policy(UserName=name, PolicyName="may", PolicyDocument=allowing(actions, resources))
        key = iam.create_access_key(UserName=name)["AccessKey"]
        return Credentials(key["AccessKeyId"], key["SecretAccessKey"])

    def temporary_credentials(self, seconds, *actions, resources=("*",)) -> Credentials:
        """Credentials with a session token that the server takes for `seconds` (in minio 900 at least)."""
        if self.kind == "elsewhere":
            pytest.skip("no temporary credentials at $TEST_S3_ENDPOINT")
        if self.kind == "minio":
            if seconds < 900:
                pytest.skip("minio: temporary credentials last 900 s at least")
            policy = {"Policy": allowing(actions, resources)} if actions else {}
            made = self.client(service="sts").assume_role(
                RoleArn="arn:xxx:xxx:xxx:xxxx", RoleSessionName="tests", DurationSeconds=seconds, **policy)["Credentials"]
            return Credentials(made["AccessKeyId"], made["SecretAccessKey"], made["SessionToken"], made["Expiration"])
        # versitygw hands them out to bearers of a token of an https issuer elsewhere only, so this writes down what it would have.
        now = datetime.datetime.now(datetime.timezone.utc)
        name, expires = f"role-{uuid.uuid4().hex[:8]}", now + datetime.timedelta(seconds=seconds)
        made = Credentials(f"ASIA{uuid.uuid4().hex[:16].upper()}", uuid.uuid4().hex, f"token-{uuid.uuid4().hex}", expires)
        role = {
            "RoleName": name, "RoleID": f"AROA{name}", "Arn": f"arn:aws:iam::000000000000:role/{name}", "Path": "/", "CreateDate": now.isoformat(),
            "Policies": {"inline": [{"PolicyName": "may", "PolicyDocument": allowing(actions, resources)}]},
        }
        session = {
            "accessKeyId": made.access_key, "secretAccessKey": made.secret_key, "sessionToken": made.session_token, "roleArn": role["Arn"],
            "roleName": name, "roleId": role["RoleID"], "roleSessionName": "tests", "createDate": now.isoformat(), "expiration": expires.isoformat(),
        }

        def written():
            # Its own note of when a key was used can come in between and undo this.
            file, new = self.folder / "iam/iam.json", self.folder / "iam/iam.json.new"
            accounts = json.loads(file.read_text())
            if made.access_key in accounts["sessions"] and name in accounts["roles"]:
                return True
            accounts["roles"][name], accounts["roleNameIndex"][name], accounts["sessions"][made.access_key] = role, name, session
            new.write_text(json.dumps(accounts))
            new.rename(file)
            return False

        eventually(written, 10, "temporary credentials")
        return made

    # Without a client --------------------------------------------------------------------------------------

    def request(self, method, url, **kw):
        """A request to a presigned URL, or to a path of the server without a signature."""
        with httpx.Client(timeout=30, trust_env=False) as client:
            return client.request(method, url if "://" in url else self.endpoint + url, **kw)


def allowing(actions, resources):
    statement = {"Effect": "Allow", "Action": list(actions) or ["s3:*"], "Resource": list(resources)}
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})

