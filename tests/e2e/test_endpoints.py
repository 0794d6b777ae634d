"""Every endpoint as DESIGN's table has it: statuses, bodies, headers, stable codes."""

import uuid

import jwt
import pytest

from accounts import answers_to, device_cookie, everything, problem, session_of
from conftest import PASSWORD

TOKEN_MEMBERS = {"access_token", "token_type", "expires_in", "refresh_token", "refresh_expires_in", "user"}


def assert_token_response(answer, status, email):
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"
    body = answer.json()
    assert set(body) == TOKEN_MEMBERS
    assert body["token_type"] == "Bearer"
    assert (body["expires_in"], body["refresh_expires_in"]) == (3600, 90 * 86400)
    assert set(body["user"]) == {"id", "email", "name", "roles"}
    assert body["user"]["email"] == email
    return body


def new_email():
    return f"{uuid.uuid4().hex}@example.com"


def test_b20_register_answers_201_with_tokens_not_to_be_stored(shared_api):
    """A client would not be logged in after registering, or a cache would keep its tokens."""
    email = new_email()
    body = assert_token_response(
        shared_api.post("/auth/register", {"email": email, "password": PASSWORD, "name": "Zoë"}), 201, email
    )
    assert body["user"]["name"] == "Zoë" and body["user"]["roles"] == []
    assert shared_api.get("/api/x", body["access_token"]).status_code == 200


def test_b20_login_and_refresh_answer_200_with_tokens_not_to_be_stored(shared_api):
    """As above, for the two calls that hand out tokens again and again."""
    account = shared_api.register()
    login = assert_token_response(shared_api.login(account.email), 200, account.email)
    again = assert_token_response(shared_api.refresh(login["refresh_token"]), 200, account.email)
    assert again["refresh_token"] != login["refresh_token"] and again["access_token"] != login["access_token"]


def test_access_token_is_rfc_9068(shared_api):
    """Backends and other gateways read these claims; header `typ` keeps other tokens apart (B 7)."""
    account = shared_api.register()
    header = jwt.get_unverified_header(account.access)
    assert (header["typ"], header["alg"]) == ("at+jwt", "ES256") and header["kid"]
    claims = jwt.decode(account.access, options={"verify_signature": False})
    assert set(claims) == {"iss", "sub", "aud", "exp", "iat", "jti", "sid", "email", "roles", "scope"}
    assert (claims["iss"], claims["sub"], claims["aud"]) == (shared_api.url, account.id, "portcullis")
    assert claims["exp"] - claims["iat"] == 3600
    assert claims["sid"] == session_of(shared_api, account.access)
    assert isinstance(claims["scope"], str) and isinstance(claims["roles"], list)


def test_register_again_is_409_whatever_the_case(shared_api):
    """One mailbox would have two accounts."""
    account = shared_api.register()
    before = everything(shared_api)
    for email in (account.email, account.email.upper(), f"  {account.email} "):
        answer = shared_api.post("/auth/register", {"email": email, "password": "another good password"})
        problem(answer, 409, "address_taken")
        assert "set-cookie" not in answer.headers
    assert everything(shared_api) == before


def test_b32_login_failures_are_the_same_for_every_cause(shared_api):
    """The body or a header would tell which addresses have accounts, or which are disabled."""
    account, disabled = shared_api.register(), shared_api.register()
    shared_api.cli("user", "disable", disabled.email)
    answers = [
        shared_api.login(account.email, "wrong password"),
        shared_api.login(new_email(), "wrong password"),
        shared_api.login(disabled.email, PASSWORD),
        shared_api.login(disabled.email, "wrong password"),
    ]
    first = problem(answers[0], 401, "invalid_credentials")
    for answer in answers:
        assert {**problem(answer, 401, "invalid_credentials"), "request_id": first["request_id"]} == first
        assert sorted(k for k in answer.headers) == sorted(k for k in answers[0].headers)
        assert "set-cookie" not in answer.headers


def test_b17_a_failed_login_carries_a_challenge_without_an_error(shared_api):
    """RFC 9110 section 15.5.2 asks every 401 for a challenge; no token was sent, so none was invalid."""
    challenge = shared_api.login(new_email()).headers["www-authenticate"]
    assert challenge.startswith("Bearer") and "error" not in challenge


PROTECTED = [
    ("POST", "/auth/logout-all"), ("GET", "/auth/me"), ("GET", "/auth/sessions"),
    ("DELETE", f"/auth/sessions/{uuid.uuid4()}"), ("PUT", "/auth/password"), ("GET", "/api/x"), ("POST", "/auth/logout"),
]


@pytest.mark.parametrize("method, path", PROTECTED)
def test_b17_401_carries_www_authenticate(shared_api, method, path):
    """Clients refresh on `invalid_token` and log in otherwise: the two must not be mixed up (RFC 6750 section 3.1)."""
    missing = shared_api.request(method, path)
    problem(missing, 401, "authentication_required")
    assert missing.headers["www-authenticate"].startswith("Bearer")
    assert "error" not in missing.headers["www-authenticate"]
    bad = shared_api.request(method, path, token="not.a.token")
    problem(bad, 401, "invalid_token")
    assert 'error="invalid_token"' in bad.headers["www-authenticate"]


@pytest.mark.parametrize("method, path", PROTECTED)
def test_b18_b19_two_tokens_or_one_in_the_query_are_400(shared_api, method, path):
    """Two parsers would believe different tokens; a token in a URL ends up in logs (RFC 6750 sections 2, 2.3)."""
    account = shared_api.register()
    in_query = f"{path}?access_token={account.access}"
    problem(shared_api.request(method, in_query), 400, "invalid_request")
    problem(shared_api.request(method, in_query, token=account.access), 400, "invalid_request")
    bearer = f"Bearer {account.access}"
    raw = f"{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: {bearer}\r\nAuthorization: {bearer}\r\nContent-Length: 0\r\n\r\n"
    assert answers_to(shared_api, [raw.encode()])[0][0] == 400
    assert shared_api.get("/auth/me", account.access).status_code == 200


def test_me_and_sessions_show_the_caller(shared_api):
    """Users could not see, and so not end, a session they do not know."""
    account = shared_api.register(name="Ann")
    other = shared_api.login(account.email, headers={"User-Agent": "Second/2"}).json()
    me = shared_api.get("/auth/me", account.access)
    assert me.headers["cache-control"] == "no-store"
    assert me.json() == {**account.tokens["user"], "session": session_of(shared_api, account.access)}
    answer = shared_api.get("/auth/sessions", account.access)
    assert answer.headers["cache-control"] == "no-store"
    newest, first = answer.json()["sessions"]
    assert set(newest) == {"id", "device", "address", "began", "last_used", "expires", "current"}
    assert (newest["device"], newest["address"], newest["current"]) == ("Second/2", "127.0.0.1", False)
    assert first["current"] and first["id"] == me.json()["session"]
    assert newest["id"] == session_of(shared_api, other["access_token"])


def test_ending_one_session_leaves_the_others(shared_api):
    """A lost phone could not be logged out without logging out everywhere."""
    account = shared_api.register()
    other = shared_api.login(account.email).json()
    lost = session_of(shared_api, other["access_token"])
    answer = shared_api.request("DELETE", f"/auth/sessions/{lost}", account.access)
    assert (answer.status_code, answer.content) == (204, b"")
    problem(shared_api.get("/auth/me", other["access_token"]), 401, "invalid_token")
    problem(shared_api.refresh(other["refresh_token"]), 403, "invalid_refresh_token")
    assert [s["current"] for s in shared_api.get("/auth/sessions", account.access).json()["sessions"]] == [True]
    problem(shared_api.request("DELETE", f"/auth/sessions/{lost}", account.access), 404, "no_such_session")


def test_the_session_of_another_user_cannot_be_ended(shared_api):
    """Anybody who learns a session id could log its owner out (and learn that it exists)."""
    victim, attacker = shared_api.register(), shared_api.register()
    theirs = session_of(shared_api, victim.access)
    before = everything(shared_api)
    for name in (theirs, theirs.upper(), str(uuid.uuid4()), "not-a-uuid", "%7B%22$ne%22:1%7D"):
        problem(shared_api.request("DELETE", f"/auth/sessions/{name}", attacker.access), 404, "no_such_session")
    assert everything(shared_api) == before
    assert shared_api.get("/auth/me", victim.access).status_code == 200
    assert shared_api.refresh(victim.refresh).status_code == 200


@pytest.mark.parametrize("by", ["refresh token", "bearer"])
def test_b35_logout_ends_the_session(shared_api, by):
    """Tokens would survive the logout."""
    account = shared_api.register()
    body, token = ({"refresh_token": account.refresh}, None) if by == "refresh token" else (None, account.access)
    answer = shared_api.post("/auth/logout", body, token)
    assert (answer.status_code, answer.content) == (204, b"")
    problem(shared_api.get("/api/x", account.access), 401, "invalid_token")
    problem(shared_api.refresh(account.refresh), 403, "invalid_refresh_token")


@pytest.mark.parametrize("token", ["garbage", "", "A" * 180, "AQ==", "../../x"])
def test_b22_logout_of_an_unknown_token_is_204(shared_api, token):
    """A client that logs out twice would see a failure (RFC 7009 section 2.2)."""
    before = everything(shared_api)
    answer = shared_api.post("/auth/logout", {"refresh_token": token})
    assert (answer.status_code, answer.content) == (204, b"")
    assert everything(shared_api) == before


def test_b22_logout_twice_is_204(shared_api):
    """As above, with a token that was good once; its predecessor generations log out too."""
    account = shared_api.register()
    successor = shared_api.refresh(account.refresh).json()
    assert shared_api.post("/auth/logout", {"refresh_token": account.refresh}).status_code == 204
    problem(shared_api.get("/auth/me", successor["access_token"]), 401, "invalid_token")
    assert shared_api.post("/auth/logout", {"refresh_token": account.refresh}).status_code == 204


def test_b34_every_login_is_a_session_of_its_own(shared_api):
    """Session fixation: a login that continued an old session would hand it to whoever planted it."""
    account = shared_api.register()
    name, value = device_cookie(shared_api.login(account.email))
    answers = [shared_api.login(account.email, headers={"Cookie": f"{name}={value}"}, token=account.access) for _ in range(2)]
    sids = {session_of(shared_api, t) for t in [account.access, *(a.json()["access_token"] for a in answers)]}
    assert len(sids) == 3


def test_device_cookie_is_out_of_reach_of_scripts_and_other_sites(gateways):
    """Scripts could read it, other sites send it, or plain HTTP reveal it when the issuer is https."""
    gateway = gateways(issuer="https://login.example.com")
    answer = gateway.post("/auth/register", {"email": new_email(), "password": PASSWORD})
    attributes = {part.strip().lower() for part in answer.headers["set-cookie"].split(";")[1:]}
    assert {"httponly", "samesite=strict", "secure", "path=/auth"} <= attributes


def test_jwks_is_public_cacheable_and_holds_no_private_member(shared_api):
    """B 15: whoever reads the key set could sign tokens."""
    answer = shared_api.get("/.well-known/jwks.json")
    assert answer.status_code == 200
    assert "public" in answer.headers["cache-control"] and "max-age" in answer.headers["cache-control"]
    for key in answer.json()["keys"]:
        assert not {"d", "p", "q", "dp", "dq", "qi", "oth", "k"} & set(key)
        assert {"kty", "kid", "alg", "use"} <= set(key)


def test_registration_switched_off_is_404_and_login_goes_on(gateways):
    """Strangers could make accounts on a closed installation."""
    gateway = gateways("[endpoints]\nregistration = false\n")
    problem(gateway.post("/auth/register", {"email": new_email(), "password": PASSWORD}), 404, "not_found")
    gateway.cli("user", "add", "ann@example.com", stdin=PASSWORD + "\n")
    assert gateway.login("ann@example.com").status_code == 200


def test_prefix_is_configurable(gateways):
    """Installations whose backend owns /auth could not use the gateway."""
    gateway = gateways('[endpoints]\nprefix = "/account/v1"\n[[routes]]\npath = "/auth/{*rest}"\nauth = "none"\nrespond = { status = 299 }\n')
    email = new_email()
    answer = gateway.post("/account/v1/register", {"email": email, "password": PASSWORD})
    assert answer.status_code == 201 and "path=/account/v1" in answer.headers["set-cookie"].lower()
    assert gateway.get("/account/v1/me", answer.json()["access_token"]).status_code == 200
    assert gateway.post("/auth/login", {"email": email, "password": PASSWORD}).status_code == 299
    document = gateway.get("/account/v1/openapi.json").json()
    assert "/account/v1/login" in document["paths"] and not any(p.startswith("/auth/") for p in document["paths"])


@pytest.mark.parametrize("method, path, allow", [
    ("GET", "/auth/login", "POST"), ("POST", "/auth/me", "GET"), ("POST", "/auth/password", "PUT"),
    ("GET", f"/auth/sessions/{uuid.uuid4()}", "DELETE"), ("DELETE", "/.well-known/jwks.json", "GET"),
])
def test_wrong_method_is_405_with_allow(shared_api, method, path, allow):
    """Clients could not tell a wrong method from a missing endpoint (RFC 9110 section 15.5.6)."""
    answer = shared_api.request(method, path)
    problem(answer, 405, "method_not_allowed")
    assert allow in [m.strip() for m in answer.headers["allow"].split(",")]


def test_head_is_answered_like_get(shared_api):
    """B 49: monitors use HEAD."""
    head, get = shared_api.request("HEAD", "/.well-known/jwks.json"), shared_api.get("/.well-known/jwks.json")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == get.headers["content-length"]


@pytest.mark.parametrize("path", ["/auth/nothing", "/auth/", "/auth", "/auth/login/", "/auth/LOGIN"])
def test_unknown_endpoints_are_404(shared_api, path):
    """Paths are exact: no second spelling of an endpoint that a rule in front would miss."""
    problem(shared_api.post(path, {}), 404, "not_found")
