"""What a listing shows: compared, page by page, with what a few lines of Python make of the names that are stored."""

import datetime
import email.utils
import itertools
import random

import pytest

from filesites import encoded, refused, site, user  # noqa: F401
from forge import b64u, unb64u
from servers import in_parallel

SEGMENTS = ["a", "b", "a b", "é", "0", "Z", "a.b", "-", "~", "a!", "aa", "日本", "😀", "a+b", "100%"]
LIMITS = [1, 2, 3, 7, 1000]


def ask(site, account, folder="", **parameters):
    query = "".join(f"&{name}={encoded(str(value)).replace('/', '%2F')}" for name, value in parameters.items())
    return site.get(f"/files/{encoded(folder)}?list{query}", account)


def pages(site, account, folder="", **parameters):
    """Every page of a listing, as lists of keys and folders in the order of their bytes."""
    found = []
    while True:
        answer = ask(site, account, folder, **parameters)
        assert answer.status_code == 200, answer.text
        page = answer.json()
        assert set(page) == {"objects", "folders", "next_cursor"}
        found.append(in_order([entry["key"] for entry in page["objects"]] + page["folders"]))
        assert [entry["key"] for entry in page["objects"]] == in_order(entry["key"] for entry in page["objects"])
        assert page["folders"] == in_order(page["folders"])
        if page["next_cursor"] is None:
            # MinIO does not know that a full page was the last one.
            return found[:-1] if site.stored.server == "minio" and found[-1] == [] and found[:-1] else found
        parameters["cursor"] = page["next_cursor"]
        assert len(found) < 3000, "a listing without an end"


def in_order(names):
    return sorted(names, key=str.encode)


def expected(names, folder="", delimiter=None, limit=1000):
    """The same without a gateway."""
    entries = set()
    for name in names:
        if name.startswith(folder):
            first, slash, _ = name[len(folder) :].partition("/")
            entries.add(folder + first + slash if delimiter else name)
    entries = in_order(entries)
    return [entries[at : at + limit] for at in range(0, len(entries), limit)] or [[]]


def fill(site, account, names):
    for name in names:
        site.stored.put(account.prefix + name, name.encode())


def tree(seed):
    """Names of files, none of which is the folder of another."""
    rng, names = random.Random(seed), set()
    for _ in range(rng.choice([1, 5, 20, 60])):
        name = "/".join(rng.choice(SEGMENTS) for _ in range(rng.randint(1, 4)))
        above = {name[:at] for at, character in enumerate(name) if character == "/"}
        if not above & names and not any(other.startswith(name + "/") for other in names):
            names.add(name)
    return names


@pytest.mark.parametrize("seed", range(6))
def test_a_listing_shows_what_is_stored(site, user, seed):
    names = tree(seed)
    fill(site, user, names)
    folders = {name[: at + 1] for name in names for at, character in enumerate(name) if character == "/"}
    for folder in ["", "none/", *random.Random(seed).sample(sorted(folders), min(4, len(folders)))]:
        for limit, delimiter in itertools.product(LIMITS, (None, "/")):
            parameters = {"limit": limit} | ({"delimiter": delimiter} if delimiter else {})
            assert pages(site, user, folder, **parameters) == expected(names, folder, **parameters), (folder, parameters)


def test_what_is_said_about_a_file(site, user):
    site.put("/files/folder/a%20b", b"hello", user)
    read = site.get("/files/folder/a%20b", user)
    answer = ask(site, user)
    [entry] = answer.json()["objects"]
    assert answer.json()["folders"] == [] and answer.json()["next_cursor"] is None
    assert set(entry) == {"key", "size", "last_modified", "etag"}
    assert (entry["key"], entry["size"], entry["etag"]) == ("folder/a b", 5, read.headers["etag"])
    modified = datetime.datetime.fromisoformat(entry["last_modified"])
    assert modified.replace(microsecond=0) == email.utils.parsedate_to_datetime(read.headers["last-modified"])
    allowed = {"content-type", "content-length", "cache-control", "x-content-type-options", "x-request-id", "date", "connection", "vary"}
    assert set(answer.headers) <= allowed and answer.headers["content-type"] == "application/json" and answer.headers["cache-control"] == "no-store"
    assert user.id not in answer.text


def test_a_listing_of_nothing(site, user):
    for folder in ("", "none/", "no/such/folder/"):
        assert ask(site, user, folder).json() == {"objects": [], "folders": [], "next_cursor": None}
    fill(site, user, ["x"])
    site.delete("/files/x", user)
    assert ask(site, user, delimiter="/").json() == {"objects": [], "folders": [], "next_cursor": None}


ODD = [
    "a b", " a", "a ", "a+b", "a%20b", "100%", "%41", "a;b", "a#b", "a?b", "a&b=c", "a'b", 'a"b', "<a>&amp;", "]]>", "a=b", "a,b", "a:b", "a@b", "$a", "(a)", "[a]", "{a}", "a|b",
    "a^b", "`a`", "~a", "*", "!a", "-", "_", "\u00e9", "e\u0301", "\u2028", "\u00a0", "\ufeffa", "日本語", "😀", "\U0010ffff", "\ue000", "ﬁ", "İ", "ß", "x" * 255, ".hidden", "..a", "a..", "...",
]


def test_names_of_odd_characters(site, user):
    """Sorted by bytes, each as it is, and readable by the name it is listed under."""
    fill(site, user, ODD)
    fill(site, user, [f"folder {name}/{name}" for name in ODD[:20]])
    names = ODD + [f"folder {name}/{name}" for name in ODD[:20]]
    assert pages(site, user) == expected(names)
    for limit in (1, 5):
        assert pages(site, user, limit=limit) == expected(names, limit=limit)
        assert pages(site, user, limit=limit, delimiter="/") == expected(names, limit=limit, delimiter="/")
    for name in ODD[:20]:
        assert pages(site, user, f"folder {name}/") == [[f"folder {name}/{name}"]]
    for name in names:
        assert site.get("/files/" + encoded(name), user).content == name.encode(), name


def test_names_that_no_path_has_do_not_break_a_listing(site, user):
    """Others may have stored them: control characters, and in a folder what is not even UTF-8."""
    odd = ["a\tb", "a\nb", "a\x01b", "a\x7fb", "a\\b", "\u0085"]
    fill(site, user, ["A", "z", *odd])
    if site.stored.kind == "directory":
        (site.stored.path / user.prefix).joinpath("m\udcff").write_bytes(b"")
        (site.stored.path / user.prefix / "link").symlink_to("/etc/passwd")
    for parameters in ({}, {"limit": 1}, {"limit": 1, "delimiter": "/"}):
        found = [name for page in pages(site, user, **parameters) for name in page]
        assert found == in_order(found) and set(found) - {"A", "z"} <= set(odd) and {"A", "z"} <= set(found)


def test_a_folders_own_object_is_no_file(site, user):
    """Consoles make objects whose names end in a slash. They are not read here, and so not listed; pages go on behind them."""
    if site.stored.kind != "s3":
        pytest.skip("of S3 only")
    for name in ("", "a/", "b/c/"):
        site.stored.put(user.prefix + name, b"")
    fill(site, user, ["a/x", "b/y", "z"])
    # MinIO says that nothing follows the prefix's own object when that is all a page has room for.
    for limit in [1000] if site.stored.server == "minio" else LIMITS:
        assert [name for page in pages(site, user, limit=limit) for name in page] == ["a/x", "b/y", "z"], limit
        assert [name for page in pages(site, user, "a/", limit=limit) for name in page] == ["a/x"], limit
        assert [name for page in pages(site, user, limit=limit, delimiter="/") for name in page] == ["a/", "b/", "z"], limit
        assert [name for page in pages(site, user, "b/", limit=limit, delimiter="/") for name in page] == ["b/c/", "b/y"], limit


def test_more_than_a_page(site, user):
    names = [f"{n:04}" for n in range(1100)]
    in_parallel(lambda part: fill(site, user, part), [names[at::4] for at in range(4)])
    first = ask(site, user).json()
    assert [entry["key"] for entry in first["objects"]] == names[:1000]
    second = ask(site, user, cursor=first["next_cursor"]).json()
    assert [entry["key"] for entry in second["objects"]] == names[1000:] and second["next_cursor"] is None
    for limit in (1000, 999, 550, 300):
        assert pages(site, user, limit=limit, delimiter="/") == expected(names, limit=limit)


def test_as_many_folders(site, user):
    """A folder is one entry, however much is in it."""
    names = [f"f{n % 30:02}/{n}" for n in range(300)]
    fill(site, user, names)
    for limit in (1, 7, 30, 31):
        assert pages(site, user, limit=limit, delimiter="/") == expected(names, limit=limit, delimiter="/")


def test_folders_of_extreme_names(site, user):
    """The next page begins behind all of a folder, whatever is in it, and before what follows it."""
    names = ["a", "b-", "b/\U0010ffff", "b/\U0010ffff\U0010ffff/x", "b0", "b\U0010ffff", "c/\U0010ffffx", "c\U0010ffff/\U0010ffff", "d"]
    fill(site, user, names)
    for limit in (1, 2, 3):
        assert pages(site, user, limit=limit, delimiter="/") == expected(names, limit=limit, delimiter="/")
        assert pages(site, user, limit=limit) == expected(names, limit=limit)


# Cursors -------------------------------------------------------------------------------------------------------


def first_page(site, account, folder="", **parameters):
    return ask(site, account, folder, **parameters).json()["next_cursor"]


@pytest.mark.parametrize("gone", [["b"], ["c"], ["a", "b"], ["c", "d", "e"], ["a", "b", "c", "d", "e"]])
def test_a_cursor_outlives_what_it_points_to(site, user, gone):
    fill(site, user, "abcde")
    cursor = first_page(site, user, limit=2)
    for name in gone:
        site.stored.delete(user.prefix + name)
    assert pages(site, user, cursor=cursor, limit=1) == expected(sorted(set("cde") - set(gone)), limit=1)


def test_a_cursor_shows_what_came_behind_it(site, user):
    fill(site, user, ["a", "b", "c"])
    cursor = first_page(site, user, limit=2)
    fill(site, user, ["aa", "bb", "d"])
    assert pages(site, user, cursor=cursor) == [["bb", "c", "d"]]
    assert pages(site, user, cursor=cursor) == [["bb", "c", "d"]]


def test_a_cursor_behind_a_folder_that_is_gone(site, user):
    fill(site, user, ["a/1", "a/2", "b/1", "c"])
    cursor = first_page(site, user, limit=1, delimiter="/")
    for name in ("a/1", "a/2"):
        site.stored.delete(user.prefix + name)
    assert pages(site, user, cursor=cursor, limit=1, delimiter="/") == [["b/"], ["c"]]
    fill(site, user, ["a/3"])
    assert pages(site, user, cursor=cursor, delimiter="/") == [["b/", "c"]]


GARBAGE = ["", "x", "!!!", "AAAA", "AA==", "a b", "%00", "\u00e9", b64u(b"\xff\xfe"), b64u(b"a\0b"), b64u(b"x" * 3000), "A" * 100_00]


@pytest.mark.parametrize("cursor", GARBAGE, ids=lambda text: text[:10])
def test_a_cursor_nobody_was_given(site, user, cursor):
    refused(ask(site, user, cursor=cursor), 400, "invalid_query")


def test_a_cursor_is_good_for_one_listing(site, user):
    """Of one folder of one caller, with or without folders."""
    other = site.user()
    for account in (user, other):
        fill(site, account, ["a/1", "a/2", "b/1"])
    cursor = first_page(site, user, limit=1)
    assert pages(site, user, cursor=cursor) == [["a/2", "b/1"]] and pages(site, user, cursor=cursor, limit=1) == [["a/2"], ["b/1"]]
    assert user.id.encode() not in unb64u(cursor) and b"a/1" not in unb64u(cursor)
    for account, folder, parameters in [(other, "", {}), (user, "a/", {}), (user, "b/", {}), (user, "", {"delimiter": "/"})]:
        refused(ask(site, account, folder, cursor=cursor, **parameters), 400, "invalid_query")
    with_folders = first_page(site, user, limit=1, delimiter="/")
    assert pages(site, user, cursor=with_folders, delimiter="/") == [["b/"]]
    refused(ask(site, user, cursor=with_folders), 400, "invalid_query")
    for at in range(0, len(cursor), 7):
        changed = cursor[:at] + ("A" if cursor[at] != "A" else "B") + cursor[at + 1:]
        refused(ask(site, user, cursor=changed), 400, "invalid_query")


# What is refused -----------------------------------------------------------------------------------------------


QUERIES = ["limit=0", "limit=1001", "limit=-1", "limit=", "limit=x", "limit=1.5", "limit=0x10", "limit=%EF%BC%91", "limit=99999999999999999999", "delimiter=x", "delimiter=//", "delimiter=%2F%2F", "delimiter=,",
           "list", "limit=1&limit=2", "cursor=a&cursor=b", "delimiter=/&delimiter=/"]


@pytest.mark.parametrize("query", QUERIES)
def test_a_listing_nobody_can_ask_for(site, user, query):
    refused(site.get(f"/files/?list&{query}", user), 400, "invalid_query")


def test_an_empty_delimiter_is_none(site, user):
    fill(site, user, ["a/b"])
    assert pages(site, user, delimiter="") == [["a/b"]] and pages(site, user, delimiter="/") == [["a/"]]
    assert site.get("/files/?list&delimiter=/", user).json()["folders"] == site.get("/files/?delimiter=%2f&list=1", user).json()["folders"] == ["a/"]


@pytest.mark.parametrize("path", ["x", "x/y", "folder"])
def test_only_a_folder_is_listed(site, user, path):
    fill(site, user, ["x", "folder/y"])
    refused(site.get(f"/files/{path}?list", user), 400, "invalid_file_name")


def test_a_folder_without_list_is_no_file(site, user):
    fill(site, user, ["folder/y"])
    for path in ("/files/", "/files/folder/", "/files/folder", "/files/?limit=1"):
        refused(site.get(path, user), 404, "file_not_found")
        assert site.head(path, user).status_code == 404


def test_b49_head_of_a_listing_is_like_get(site, user):
    """RFC 9110 section 9.3.2."""
    fill(site, user, ["x"])
    get, head = site.get("/files/?list", user), site.head("/files/?list", user)
    assert (head.status_code, head.content, head.headers["content-type"]) == (200, b"", "application/json")
    assert {name for name in get.headers if name != "content-length"} == {name for name in head.headers if name != "content-length"}
    assert site.head("/files/x?list", user).status_code == 400


def test_what_is_not_listed(site, user):
    """`list = false`; a public route, where nobody said otherwise; one that is only written to."""
    site.stored.put("public/x", b"x")
    refused(site.get("/read/?list", user), 403, "listing_disabled")
    refused(site.get("/public/?list"), 403, "listing_disabled")
    refused(site.get("/public/?list", user), 403, "listing_disabled")
    refused(site.get("/drop/?list", user), 405, "method_not_allowed")
    refused(site.get("/files/?list"), 401, "authentication_required")
    assert "x" in [entry["key"] for entry in site.get("/assets/?list").json()["objects"]]


# Another's prefix ----------------------------------------------------------------------------------------------


def test_support_sees_and_changes_another_users_files(site, user):
    support = site.user("support")
    fill(site, user, ["a/x", "b"])
    assert pages(site, support, prefix=user.prefix, limit=1) == [["a/x"], ["b"]] and pages(site, support) == [[]]
    assert pages(site, support, "a/", prefix=user.prefix, delimiter="/") == [["a/x"]]
    by_name = f"?prefix={user.prefix}"
    assert site.get("/files/a/x" + by_name, support).content == b"a/x" and site.get("/files/a/x", support).status_code == 404
    assert site.put("/files/new" + by_name, b"new", support).status_code == 201 and site.delete("/files/b" + by_name, support).status_code == 204
    assert site.unchanged(user.prefix) == {f"{user.prefix}a/x": b"a/x", f"{user.prefix}new": b"new"} and site.stored.keys(support.prefix) == []


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "LIST"])
def test_nobody_else_names_a_prefix(site, user, method):
    victim = site.user()
    fill(site, victim, ["x"])
    for account, prefix in ((user, victim.prefix), (user, user.prefix), (site.user("admin", "supporter"), victim.prefix), (user, ""), (user, "nonsense")):
        path = f"/files/{'?list&' if method == 'LIST' else 'x?'}prefix={prefix}"
        answer = site.send("GET" if method == "LIST" else method, path, account, content=b"mine" if method == "PUT" else None)
        assert answer.status_code == 403 and (method == "HEAD" or answer.json()["code"] == "forbidden")
    # A route without admin_roles has nobody who may.
    assert site.get(f"/twin/x?prefix={victim.prefix}", site.user("support")).status_code == 403
    assert site.unchanged(victim.prefix) == {f"{victim.prefix}x": b"x"} and site.stored.keys(user.prefix) == []


@pytest.mark.parametrize("prefix", ["", "users/", "users", "users/x", "/users/x/", "users/x/y/", "users//", "users/../", "users/./", "small/x/", "users/x/../y/", "users/%2e%2e/", "public/", "users/x//", "users/a\\b/", "users/a%0A/"])
def test_a_prefix_that_is_no_users(site, prefix):
    support = site.user("support")
    if "%" not in prefix:
        prefix = encoded(prefix)
    for path in ("x?", "?list&"):
        refused(site.get(f"/files/{path}prefix={prefix}", support), 400, "invalid_query")
