"""Configuration and stores of the tests of file routes: the same store over S3 and over a folder."""

import hashlib
import http.client
import json
import os
import pathlib
import stat
import uuid

from servers import Caller


def files_route(path, store, prefix, more="", **files) -> str:
    """The TOML of a route; `files` are keys of its `files` table, `more` lines of the route itself."""
    fields = {"store": store, "prefix": prefix, **files}
    table = ", ".join(f"{name} = {toml(value)}" for name, value in fields.items())
    return f'[[routes]]\npath = "{path}"\nfiles = {{ {table} }}\n{more}\n'


def toml(value) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{name} = {toml(inner)}" for name, inner in value.items()) + " }"
    return json.dumps(value, ensure_ascii=False)


class S3Files:
    """A bucket of its own, seen from the operator's side."""

    kind = "s3"

    def __init__(self, s3):
        self.s3, self.server, self.bucket, self.client = s3, s3.kind, s3.bucket(), s3.client()

    def table(self, name="media", **extra) -> str:
        return self.s3.store(name, self.bucket, **extra)

    def put(self, key, content: bytes):
        self.client.put_object(Bucket=self.bucket, Key=key, Body=content)

    def read(self, key) -> bytes:
        return self.client.get_object(Bucket=self.bucket, Key=key)["Body"].read()

    def mark(self, content: bytes):
        """What `content()` has for it."""
        return f'"{hashlib.md5(content).hexdigest()}"', len(content)

    def content(self) -> dict:
        """What tells one content from another, by key, of every object."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket)
        return {entry["Key"]: (entry["ETag"], entry["Size"]) for page in pages for entry in page.get("Contents", [])}


class FolderFiles:
    """A folder of its own, seen from the operator's side."""

    kind = server = "directory"

    def __init__(self, folder: pathlib.Path):
        self.folder = folder / f"files-{uuid.uuid4().hex[:6]}"
        self.folder.mkdir()

    def table(self, name="media", **_) -> str:
        return f'[file_stores.{name}]\nkind = "directory"\npath = "{self.folder}"\n'

    def put(self, key, content: bytes):
        file = self.folder / key
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)

    def read(self, key) -> bytes:
        return (self.folder / key).read_bytes()

    def mark(self, content: bytes):
        return content

    def content(self) -> dict:
        found = {}
        for path, _, names in os.walk(self.folder):
            for name in names:
                file = pathlib.Path(path, name)
                key = str(file.relative_to(self.folder))
                # The store's own files, whatever they are for, are nobody's.
                if not key.startswith(".") and stat.S_ISREG(file.lstat().st_mode):
                    found[key] = file.read_bytes()
        return found


class Client(Caller):
    """A caller of file routes, who keeps its connection."""

    def call(self, method, path, token=None, body=None, **headers):
        """Status, headers and bytes of the answer."""
        if token:
            headers["Authorization"] = f"Bearer {token}"
        for attempt in (1, 2):
            reused = self.connection is not None
            self.connection = self.connection or http.client.HTTPConnection("127.0.0.1", self.port, timeout=self.timeout)
            try:
                self.connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
                answer = self.connection.getresponse()
                return answer.status, answer.headers, answer.read()
            except (OSError, http.client.HTTPException):
                self.close()
                if not reused or attempt == 2:
                    raise


def code_of(content: bytes) -> str | None:
    """The code of a problem document."""
    try:
        return json.loads(content).get("code")
    except (ValueError, AttributeError):
        return None
