"""A gateway with file routes of every sort over one store: a bucket of a real S3 server, or a folder of this machine.

`site` is there for both, so that a test which takes it shows that they behave alike. `site.stored` is the store itself, behind the
gateway's back.
"""

import contextlib
import os
import pathlib
import ssl
import uuid
from urllib.parse import quote

import botocore.exceptions
import httpx
import pytest

from accounts import PROBLEM_MEMBERS
from conftest import PASSWORD, eventually, free_port, serving
from test_tls_h2 import certificate

ROUTES = """
[[routes]]
path = "/files/{*key}"
files = { store = "media", prefix = "users/{sub}/", methods = ["GET", "PUT", "DELETE"], max_size = "200MiB", admin_roles = ["support"], share = "7d" }

[[routes]]
path = "/twin/{*key}"
files = { store = "media", prefix = "users/{sub}/", methods = ["GET", "PUT"], max_size = "200MiB", share = "1h" }

[[routes]]
path = "/small/{*key}"
files = { store = "media", prefix = "small/{sub}/", methods = ["GET", "PUT"], max_size = "1000B", share = "1h" }

[[routes]]
path = "/typed/{*key}"
files = { store = "media", prefix = "typed/{sub}/", methods = ["GET", "PUT"], max_size = "1MiB", types = ["image/*", "text/plain"] }

[[routes]]
path = "/team/{*key}"
files = { store = "media", prefix = "team/", methods = ["GET", "PUT", "DELETE"], max_size = "1MiB", write_roles = ["editor"], share = "1h" }

[[routes]]
path = "/read/{*key}"
files = { store = "media", prefix = "users/{sub}/", methods = ["GET"], list = false, cache_control = "private, max-age=60" }

[[routes]]
path = "/drop/{*key}"
files = { store = "media", prefix = "drop/{sub}/", methods = ["PUT"], max_size = "1MiB", share = "1h" }

[[routes]]
path = "/public/{*key}"
auth = "none"
files = { store = "media", prefix = "public/", methods = ["GET"], public = true }

[[routes]]
path = "/assets/{*key}"
auth = "none"
files = { store = "media", prefix = "public/", methods = ["GET"], public = true, list = true, cache_control = "public, max-age=31536000, immutable" }

[[routes]]
path = "/parts/{*key}"
files = { store = "parts", prefix = "parts/{sub}/", methods = ["GET", "PUT", "DELETE"], max_size = "200MiB" }

[[routes]]
path = "/elsewhere/{*key}"
files = { store = "elsewhere", prefix = "users/{sub}/", methods = ["GET", "PUT"], max_size = "1MiB", share = "1h" }
"""
SERVER = '[server.limits]\nbody = "100KiB"\nbody_timeout = "3s"'


class Bucket:
    """The objects of a bucket, by boto3."""

    kind = "s3"

    def __init__(self, s3):
        self.s3, self.name, self.client = s3, s3.bucket(), s3.client()

    @property
    def server(self):
        """`versitygw`, `minio` or `elsewhere`."""
        return self.s3.kind

    def toml(self, store):
        return self.s3.store(store, self.name)

    def put(self, key, data, content_type=None, **more):
        """`more`: as boto3's put_object has it."""
        more |= {"ContentType": content_type} if content_type else {}
        self.client.put_object(Bucket=self.name, Key=key, Body=data, **more)

    def get(self, key):
        """Its bytes, `None` when there is no such object."""
        with contextlib.suppress(self.client.exceptions.NoSuchKey):
            return self.client.get_object(Bucket=self.name, Key=key)["Body"].read()
        return None

    def content_type(self, key):
        return self.client.head_object(Bucket=self.name, Key=key)["ContentType"]

    def size(self, key):
        with contextlib.suppress(botocore.exceptions.ClientError):
            return self.client.head_object(Bucket=self.name, Key=key)["ContentLength"]
        return None

    def delete(self, key):
        self.client.delete_object(Bucket=self.name, Key=key)

    def keys(self, prefix=""):
        return sorted(key for key in self.s3.keys(self.name) if key.startswith(prefix))

    def sizes(self, prefix=""):
        """The size of every object, by key."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=prefix)
        return {entry["Key"]: entry["Size"] for page in pages for entry in page.get("Contents", [])}

    def unfinished(self):
        """Uploads in parts that neither ended nor were given up."""
        return self.client.list_multipart_uploads(Bucket=self.name).get("Uploads", [])


class Folder:
    """The files of a folder."""

    kind = server = "directory"
    UPLOADS = ".portcullis-uploads"

    def __init__(self, path):
        self.path = pathlib.Path(path)
        self.path.mkdir()

    def toml(self, store):
        return f'[file_stores.{store}]\nkind = "directory"\npath = "{self.path}"\n'

    def put(self, key, data, content_type=None):
        file, new = self.path / key, self.path.parent / f"new-{uuid.uuid4().hex}"
        file.parent.mkdir(parents=True, exist_ok=True)
        new.write_bytes(data)
        if content_type:
            os.setxattr(new, "user.portcullis.content-type", content_type.encode())
        new.rename(file)

    def get(self, key):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return (self.path / key).read_bytes()
        return None

    def content_type(self, key):
        return os.getxattr(self.path / key, "user.portcullis.content-type").decode()

    def size(self, key):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            return (self.path / key).stat().st_size
        return None

    def delete(self, key):
        (self.path / key).unlink()

    def keys(self, prefix=""):
        files = (str(file.relative_to(self.path)) for file in self.path.rglob("*") if file.is_file())
        return sorted(key for key in files if key.startswith(prefix) and not key.startswith(self.UPLOADS))

    def sizes(self, prefix=""):
        """Of files that go meanwhile, none."""
        sizes = {key: self.size(key) for key in self.keys(prefix)}
        return {key: size for key, size in sizes.items() if size is not None}

    def unfinished(self):
        return list(self.path.glob(f"{self.UPLOADS}/*"))


class Site:
    """What a test of file routes needs; `port` and `context` are those of the TLS listener."""

    def __init__(self, gateway, stored, port, ca):
        self.gateway, self.stored, self.port, self.ca = gateway, stored, port, str(ca)
        self.url = f"https://localhost:{port}"

    def context(self, *protocols):
        context = ssl.create_default_context(cafile=self.ca)
        context.set_alpn_protocols(protocols)
        return context

    def client(self, http2=False):
        """A client of the TLS listener."""
        return httpx.Client(http2=http2, verify=ssl.create_default_context(cafile=self.ca), base_url=self.url, timeout=60)

    def user(self, *roles):
        """A new user with these roles."""
        account = self.gateway.register()
        if roles:
            self.gateway.cli("user", "set-roles", account.email, ",".join(roles))
            account.take(self.gateway.login(account.email, PASSWORD).json())
        account.prefix = f"users/{account.id}/"
        return account

    # Calls without TLS -------------------------------------------------------------------------------------

    def get(self, path, account=None, **headers):
        return self.send("GET", path, account, **headers)

    def head(self, path, account=None, **headers):
        return self.send("HEAD", path, account, **headers)

    def put(self, path, data, account=None, **headers):
        return self.send("PUT", path, account, content=data, **headers)

    def delete(self, path, account=None, **headers):
        return self.send("DELETE", path, account, **headers)

    def send(self, method, path, account=None, content=None, **headers):
        """Fields are written as arguments: `If_None_Match="*"`. The path goes as it is."""
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        if account:
            fields["Authorization"] = f"Bearer {account.access}"
        with httpx.Client(timeout=60, verify=False, trust_env=False) as client:
            return client.request(method, self.gateway.url + path, content=content, headers=fields)

    def logged(self, path):
        """The lines of the access log about `path`, when there are any."""
        return eventually(lambda: [line for line in self.gateway.access_log() if line["path"] == path], 20, f"{path} in the log")

    def unchanged(self, prefix=""):
        """Keys and bytes below `prefix`; equal before and after what must store nothing."""
        return {key: self.stored.get(key) for key in self.stored.keys(prefix)}

    def settled(self):
        """Waits until nothing of an upload is left but what is stored."""
        eventually(lambda: not self.stored.unfinished(), 10, "unfinished uploads given up")


def refused(answer, status, code, **numbers):
    """Asserts that `answer` is this problem (RFC 9457) with these numbers, complete and not cacheable; gives its members."""
    assert answer.status_code == status, f"{answer.status_code} {answer.text}"
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["cache-control"] == "no-store"
    members = answer.json()
    assert set(members) == PROBLEM_MEMBERS | set(numbers), members
    assert (members["status"], members["code"]) == (status, code), members
    assert {name: members[name] for name in numbers} == numbers
    assert members["request_id"] == answer.headers["x-request-id"] and members["title"] and members["detail"]
    return members


def encoded(name):
    """A name in a path: everything but unreserved characters and slashes escaped."""
    return quote(name, safe="/")


def body_of(method, path, length, account, **headers):
    """The head of a request with a body of `length` bytes, for a raw socket."""
    fields = {"Host": "localhost", "Authorization": f"Bearer {account.access}", "Content-Length": length, **headers}
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items() if value is not None)
    return f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode()


@contextlib.contextmanager
def file_site(folder, kind, s3, routes=ROUTES, stores=None):
    """A gateway with `routes` over a new store of this kind."""
    cert, key = certificate(folder)
    if kind == "s3":
        stored = Bucket(s3)
        other = s3.store("elsewhere", s3.bucket())
        config = stored.toml("media") + s3.store("parts", stored.name, multipart_above="5MiB") + other
    else:
        stored, other = Folder(folder / "objects"), Folder(folder / "others")
        config = stored.toml("media") + stored.toml("parts") + other.toml("elsewhere")
    port = free_port()
    listen = f', {{ address = "127.0.0.1:{port}", tls = {{ cert = "{cert}", key = "{key}" }}, h2 = true }}'
    with serving(folder, config + routes, server=SERVER, extra_listen=listen) as gateway:
        yield Site(gateway, stored, port, cert)


@pytest.fixture(scope="module", params=["s3", "directory"])
def site(request, tmp_path_factory):
    s3 = request.getfixturevalue("s3") if request.param == "s3" else None
    with file_site(tmp_path_factory.mktemp("files"), request.param, s3) as made:
        yield made


@pytest.fixture
def user(site):
    return site.user()
