"""Links to files: good for one file and one method, until they expire or the session that made them ends."""

import datetime
import json
import re
import uuid

import httpx
import pytest

from accounts import alike, session_of
from conftest import PASSWORD, eventually, serving
from filesites import Bucket, encoded, refused, site, user  # noqa: F401
from forge import unb64u
from jwks_server import issuers  # noqa: F401

DAY = 86400


def share(site, path, account, body=None, query=""):
    """The answer to `POST path?share`."""
    content = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    return site.send("POST", f"{path}?share{query}", account, content=content, Content_Type="application/json")


def link(site, path, account, query="", **body):
    """The address of a link."""
    answer = share(site, path, account, body, query)
    assert answer.status_code == 201, answer.text
    return answer.json()["url"]


def token_of(url):
    return re.fullmatch(r"[^?]+\?share=([A-Za-z0-9_-]+)", url)[1]


def invalid(answer):
    refused(answer, 403, "invalid_share_link")
    return True


@pytest.fixture
def shared(site, user):
    """A user with a file, and a link to it."""
    site.stored.put(f"{user.prefix}a b.txt", b"hello, world", "text/plain")
    user.link = link(site, "/files/a%20b.txt", user)
    return user


# Making links --------------------------------------------------------------------------------------------------


def seconds_from_now(text):
    """It is a whole second: the one that ends no earlier than was asked for."""
    return (datetime.datetime.fromisoformat(text) - datetime.datetime.now(datetime.timezone.utc)).total_seconds()


@pytest.mark.parametrize("body", [None, {}, {"method": "GET"}, {"method": None, "expires_in": None, "max_size": None}])
def test_what_a_link_is_without_wishes(site, user, body):
    answer = share(site, "/files/%61%20b", user, body)
    assert answer.status_code == 201 and answer.headers["content-type"] == "application/json" and "no-store" in answer.headers["cache-control"]
    made = answer.json()
    assert set(made) == {"url", "method", "expires_at"}
    assert made["method"] == "GET" and made["url"] == answer.headers["location"] and made["url"].startswith("/files/a%20b?share=")
    assert DAY - 60 < seconds_from_now(made["expires_at"]) <= DAY + 1
    assert token_of(made["url"]) not in share(site, "/files/a%20b", user).text


@pytest.mark.parametrize(("path", "body", "seconds", "max_size"), [
    ("/files/x", {"expires_in": 7 * DAY}, 7 * DAY, None),
    ("/files/x", {"expires_in": 100, "method": "PUT", "max_size": 5}, 100, 5),
    ("/files/x", {"method": "PUT", "max_size": 0}, DAY, 0),
    ("/small/x", {"method": "PUT"}, 3600, 1000),
    ("/small/x", {"method": "PUT", "max_size": 1000}, 3600, 1000),
    ("/small/x", {}, 3600, None),
])
def test_what_a_link_is_with_wishes(site, user, path, body, seconds, max_size):
    made = share(site, path, user, body).json()
    assert made["method"] == body.get("method", "GET") and made.get("max_size") == max_size and ("max_size" in made) == (max_size is not None)
    assert seconds - 60 < seconds_from_now(made["expires_at"]) <= seconds + 1


WISHES = [
    b"hello", b"[]", b'"GET"', b"{", b"{} {}", b"1", {"method": "DELETE"}, {"method": "get"}, {"method": "HEAD"}, {"method": ["GET"]}, {"expires_in": 0}, {"expires_in": -1},
    {"expires_in": 1.5}, {"expires_in": "60"}, {"expires_in": 7 * DAY + 1}, {"expires_in": 2**63}, {"expires_in": 2**64}, {"expires_in": True}, {"max_size": 5},
    {"method": "GET", "max_size": 5}, {"method": "PUT", "max_size": -1}, {"method": "PUT", "max_size": 200 * 2**20 + 1}, {"method": "PUT", "max_size": "1"}, {"other": 1},
    b'{"method":"GET","method":"PUT"}', b"\xff", ["GET"], ["PUT", 60, 5],
]


@pytest.mark.parametrize("body", WISHES, ids=str)
def test_wishes_no_link_is_made_for(site, user, body):
    refused(share(site, "/files/x", user, body), 400, "invalid_request")


def test_a_wish_of_many_words(site, user):
    assert share(site, "/files/x", user, b" " * 5000).status_code == 413
    assert share(site, "/files/x", user, b" " * 4000 + b"{}").status_code == 201


@pytest.mark.parametrize("path", ["/files/", "/files/folder/", "/files/" + "a" * 1000])
def test_no_link_to_what_is_no_file(site, user, path):
    refused(share(site, path, user), 400, "invalid_file_name")


def test_links_are_made_with_a_token_where_the_route_has_them(site, user):
    refused(share(site, "/files/x", None), 401, "authentication_required")
    for path in ("/read/x", "/public/x", "/typed/x"):
        refused(share(site, path, user), 405, "method_not_allowed")
    refused(site.send("POST", "/files/x", user), 400, "invalid_query")
    refused(share(site, "/files/x", user, query="&share"), 400, "invalid_query")


def test_nobody_gives_what_he_does_not_have(site, user):
    """A link to put takes the role to put; a link to read a route that is read."""
    site.stored.put("team/page", b"page")
    refused(share(site, "/team/page", user, {"method": "PUT"}), 403, "forbidden")
    assert site.get(link(site, "/team/page", user)).content == b"page"
    assert site.put(link(site, "/team/page", site.user("editor"), method="PUT"), b"new").status_code == 201
    assert site.stored.get("team/page") == b"new"
    refused(share(site, "/drop/x", user), 403, "forbidden")
    assert site.put(link(site, "/drop/x", user, method="PUT"), b"new").status_code == 201
    refused(share(site, "/files/x", user, query="&prefix=users/another/"), 403, "forbidden")


def test_support_makes_a_link_to_anothers_file(site, shared):
    url = link(site, "/files/a%20b.txt", site.user("support"), query=f"&prefix={shared.prefix}")
    assert site.get(url).content == b"hello, world" and shared.id not in url


def test_a_foreign_issuers_token_makes_no_link(s3, tmp_path, issuers):
    """It has no session of ours that the link could end with."""
    issuer, stored = issuers(), Bucket(s3)
    config = stored.toml("media") + issuer.table() + """
[[routes]]
path = "/files/{*key}"
files = { store = "media", prefix = "users/{iss}/{sub}/", methods = ["GET", "PUT"], share = "1h" }
"""
    with serving(tmp_path, config) as gateway:
        token = issuer.token()
        assert gateway.request("PUT", "/files/x", token, content=b"x").status_code == 201
        assert gateway.get("/files/x", token).content == b"x" and len(stored.keys()) == 1
        refused(gateway.post("/files/x?share", {}, token), 403, "forbidden")
        assert gateway.post("/files/x?share", {}, gateway.register().access).status_code == 201


# What a link gives ---------------------------------------------------------------------------------------------


def test_whoever_has_a_link_reads_the_file(site, shared):
    answer, usual = site.get(shared.link), site.get("/files/a%20b.txt", shared)
    assert (answer.status_code, answer.content) == (200, b"hello, world")
    same = {name: value for name, value in answer.headers.items() if name not in ("x-request-id", "date", "referrer-policy", "vary")}
    assert same == {name: value for name, value in usual.headers.items() if name not in ("x-request-id", "date", "vary")}
    assert answer.headers["referrer-policy"] == "no-referrer" and "referrer-policy" not in usual.headers
    assert "private" in answer.headers["cache-control"]


def test_a_link_reads_in_every_way(site, shared):
    tag = site.get(shared.link).headers["etag"]
    head = site.head(shared.link)
    assert (head.status_code, head.content, head.headers["content-length"], head.headers["referrer-policy"]) == (200, b"", "12", "no-referrer")
    part = site.get(shared.link, Range="bytes=2-4")
    assert (part.status_code, part.content, part.headers["content-range"]) == (206, b"llo", "bytes 2-4/12")
    unchanged = site.get(shared.link, If_None_Match=tag)
    assert (unchanged.status_code, unchanged.content, unchanged.headers["referrer-policy"]) == (304, b"", "no-referrer")
    assert site.get(shared.link + "&download").headers["content-disposition"] == 'attachment; filename="a b.txt"'
    with site.client(http2=True) as client:
        assert client.get(shared.link).content == b"hello, world"
    refused(site.get(shared.link, If_Match='"x"'), 412, "precondition_failed")
    refused(site.get(shared.link, Range="bytes=12-"), 416, "range_not_satisfiable")


def test_a_link_to_a_name_of_odd_characters(site, user):
    name = "ü/a+b %41#?;&'\"é.txt"
    site.stored.put(user.prefix + name, b"odd")
    url = link(site, "/files/" + encoded(name), user)
    assert site.get(url).content == b"odd" and url.isascii()


def test_a_link_to_what_is_not_there_yet(site, user):
    url = link(site, "/files/later", user)
    refused(site.get(url), 404, "file_not_found")
    site.put("/files/later", b"now", user)
    assert site.get(url).content == b"now"


def test_whoever_has_a_link_to_put_stores_the_file(site, user):
    url = link(site, "/files/in/x", user, method="PUT", max_size=5)
    assert site.put(url, b"12345", Content_Type="a/b").status_code == 201
    assert site.stored.get(f"{user.prefix}in/x") == b"12345" and site.stored.content_type(f"{user.prefix}in/x") == "a/b"
    refused(site.put(url, b"123456"), 413, "file_too_large", size=6, limit=5)
    refused(site.put(url, b"x", If_None_Match="*"), 412, "precondition_failed")
    refused(site.put(url, b"x", Content_MD5="A" * 22 + "=="), 400, "checksum_mismatch")
    assert site.put(url, b"").headers["location"] == "/files/in/x" and site.stored.get(f"{user.prefix}in/x") == b""


def test_a_link_to_put_is_good_for_nothing_else(site, user):
    site.stored.put(f"{user.prefix}x", b"x")
    url = link(site, "/files/x", user, method="PUT")
    assert all(invalid(site.send(method, url)) for method in ("GET", "DELETE"))
    assert site.head(url).status_code == 403
    invalid(site.get(url + "&list"))
    assert site.stored.get(f"{user.prefix}x") == b"x"


def test_a_link_to_read_is_good_for_nothing_else(site, shared):
    for method in ("PUT", "DELETE"):
        invalid(site.send(method, shared.link, content=b"y"))
    invalid(site.get(shared.link + "&list"))
    # POST asks for a link, and so for a token.
    refused(site.send("POST", shared.link), 401, "authentication_required")
    assert site.unchanged(shared.prefix) == {f"{shared.prefix}a b.txt": b"hello, world"}


def test_who_uses_a_link_does_not_matter(site, shared):
    """No credentials but the link's are looked at."""
    for account in (site.user(), shared):
        assert site.get(shared.link, account).content == b"hello, world"
    assert site.get(shared.link, Authorization="Bearer nonsense").content == b"hello, world"
    assert site.get(shared.link + "&prefix=users/x/").content == b"hello, world"
    stranger = site.user()
    invalid(site.get(shared.link[:-1], stranger))


# What is no link -----------------------------------------------------------------------------------------------


def test_a_link_of_which_one_character_is_another(site, shared):
    token = token_of(shared.link)
    with httpx.Client(base_url=site.gateway.url, trust_env=False) as client:
        assert client.get(shared.link).status_code == 200
        for at, character in enumerate(token):
            for other in ["A" if character != "A" else "B"] if at < len(token) - 1 else set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") - {character}:
                answer = client.get(f"/files/a%20b.txt?share={token[:at]}{other}{token[at + 1:]}")
                assert answer.status_code == 403, (at, other)
        for other in (token[:-1], token[1:], token + "A", token + "=", token * 2, token[:40], "A" * 5000, "%00", "null", token.swapcase(), token.replace("_", "/")):
            if other != token:
                invalid(client.get(f"/files/a%20b.txt?share={other}"))
        assert client.get(shared.link).status_code == 200


def test_a_token_that_is_missing_or_not_alone(site, shared):
    token = token_of(shared.link)
    for query in ("?share=", "?share", "?Share=" + token, "?share%3D" + token):
        refused(site.get("/files/a%20b.txt" + query), 401, "authentication_required")
    for query in (f"?share={token}&share={token}", f"?share={token}&share=x", f"?share=&share={token}"):
        assert site.get("/files/a%20b.txt" + query).status_code in (400, 403)
    assert site.get(f"/files/a%20b.txt?x=y&share={token}&z").content == b"hello, world"


def test_a_link_is_good_for_one_file_of_one_route(site, shared):
    token, other = token_of(shared.link), site.user()
    for key in ("a b.txt/x", "a b", "b.txt", "x/a b.txt", "A b.txt", "a  b.txt", "a%20b.txt"):
        site.stored.put(f"{shared.prefix}{key}", b"no") if "/x" not in key else None
        invalid(site.get(f"/files/{encoded(key)}?share={token}"))
    for route in ("twin", "small", "elsewhere", "team"):
        assert invalid(site.get(f"/{route}/a%20b.txt?share={token}")), route
    # Nobody looks for it on a route without `share`, and on a public one.
    refused(site.get(f"/read/a%20b.txt?share={token}"), 401, "authentication_required")
    refused(site.get(f"/public/a%20b.txt?share={token}"), 404, "file_not_found")
    assert site.get(f"/files/a%20b.txt?share={token_of(link(site, '/files/a%20b.txt', other))}").status_code == 404
    assert site.get(f"/files/%61%20b%2Etxt?share={token}").content == b"hello, world"


def test_every_invalid_link_is_answered_alike(site, shared):
    gone = site.user()
    ended = link(site, "/files/a%20b.txt", gone)
    site.gateway.post("/auth/logout", token=gone.access)
    answers = [site.get(url) for url in (ended, shared.link[:-4] + "AAAA", shared.link.replace("a%20b", "c"), shared.link + "&list", "/files/x?share=x")]
    answers += [site.put(shared.link, b"x"), site.delete(shared.link)]
    assert {answer.status_code for answer in answers} == {403}
    assert len({json.dumps(alike(answer)) for answer in answers}) == 1


# The end of links ----------------------------------------------------------------------------------------------


def test_a_link_expires(site, user):
    site.stored.put(f"{user.prefix}x", b"x")
    url, later = link(site, "/files/x", user, expires_in=1), link(site, "/files/x", user, expires_in=60)
    put = link(site, "/files/x", user, expires_in=1, method="PUT")
    eventually(lambda: site.get(url).status_code == 403, 5, "the end of a link")
    eventually(lambda: site.put(put, b"x").status_code == 403, 5, "the end of a link")
    invalid(site.get(url))
    assert site.get(later).content == b"x"


ENDS = {
    "logout": lambda g, a: g.post("/auth/logout", token=a.access),
    "logout_by_refresh_token": lambda g, a: g.post("/auth/logout", {"refresh_token": a.refresh}),
    "logout_all": lambda g, a: g.post("/auth/logout-all", token=a.access),
    "session_deleted": lambda g, a: g.request("DELETE", f"/auth/sessions/{session_of(g, a.access)}", a.access),
    "password_changed_elsewhere": lambda g, a: g.request(
        "PUT", "/auth/password", g.login(a.email).json()["access_token"], json={"current": PASSWORD, "new": "another battery staple"}),
    "refresh_token_reused": lambda g, a: [g.refresh(a.refresh), g.refresh(g.refresh(a.refresh).json().get("refresh_token", "x")), g.refresh(a.refresh)],
    "user_disabled": lambda g, a: g.cli("user", "disable", a.email),
    "user_deleted": lambda g, a: g.cli("user", "delete", a.email),
    "password_set": lambda g, a: g.cli("user", "set-password", a.email, stdin="another battery staple\n"),
}


@pytest.mark.parametrize("end", ENDS)
def test_a_link_ends_with_its_session(site, shared, end):
    put = link(site, "/files/new", shared, method="PUT")
    assert site.get(shared.link).status_code == 200
    ENDS[end](site.gateway, shared)
    eventually(lambda: site.get(shared.link).status_code == 403, 5, "the end of a link")
    eventually(lambda: site.put(put, b"x").status_code == 403, 5, "the end of a link")
    invalid(site.get(shared.link))
    assert site.stored.keys(shared.prefix) == [f"{shared.prefix}a b.txt"]


def test_an_enabled_user_has_to_make_links_anew(site, shared):
    site.gateway.cli("user", "disable", shared.email)
    eventually(lambda: site.get(shared.link).status_code == 403, 5, "the end of a link")
    site.gateway.cli("user", "enable", shared.email)
    shared.take(eventually(lambda: (a := site.gateway.login(shared.email)).status_code == 200 and a, 5, "a login").json())
    invalid(site.get(shared.link))
    assert site.get(link(site, "/files/a%20b.txt", shared)).status_code == 200


def test_a_link_lives_on_when_something_else_ends(site, shared):
    """Other sessions, other users, the access token it was made with, and the process."""
    other = site.gateway.login(shared.email).json()["access_token"]
    site.gateway.post("/auth/logout", token=other)
    site.gateway.post("/auth/logout-all", token=site.user().access)
    shared.take(site.gateway.refresh(shared.refresh).json())
    change = {"current": PASSWORD, "new": "another battery staple"}
    assert site.gateway.request("PUT", "/auth/password", shared.access, json=change).status_code == 204
    assert site.get(shared.link).content == b"hello, world"
    gone = site.user()
    ended = link(site, "/files/x", gone)
    site.gateway.post("/auth/logout", token=gone.access)
    site.gateway.restart()
    assert site.get(shared.link).content == b"hello, world"
    invalid(site.get(ended))


# Secrets -------------------------------------------------------------------------------------------------------


def test_no_token_of_a_link_is_written_down(site, shared):
    put = link(site, "/files/new", shared, method="PUT")
    mark = uuid.uuid4().hex
    site.get(shared.link), site.head(shared.link), site.put(put, b"x"), site.get(put), site.get(shared.link + "x"), site.get(f"/files/{mark}?share=secret{mark}")
    assert all("?" not in line["path"] for line in site.logged(f"/files/{mark}"))
    written = site.gateway.process.stdout() + site.gateway.process.stderr() + site.gateway.metrics()
    for token in (token_of(shared.link), token_of(put), f"secret{mark}"):
        assert token not in written
    assert "share=" not in written and shared.prefix not in token_of(shared.link)


def test_a_link_says_nothing_about_its_maker(site, shared):
    token = unb64u(token_of(shared.link))
    for secret in (shared.id, shared.prefix, shared.email, session_of(site.gateway, shared.access)):
        assert secret.encode() not in token and uuid.UUID(shared.id).bytes not in token
