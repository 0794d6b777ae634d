"""The gateway's own keys: every algorithm, rotation (SECURITY B 13, 15, 16), key files, and the cache of verified tokens."""

import base64
import hashlib
import json
import os
import shutil
import stat
import subprocess
import threading
import time
from datetime import datetime, timedelta, timezone

import pytest
from cryptography.hazmat.primitives import serialization

from conftest import BINARY, Gateway, eventually
from forge import Key, claims_of, header_of, own_key, rsa_key

ALGORITHMS = ["ES256", "EdDSA", "RS256", "HS256"]
PRIVATE_MEMBERS = {"d", "p", "q", "dp", "dq", "qi", "oth", "k", "priv"}
ECHO = '[[routes]]\npath = "/api/{*rest}"\necho = true\n[[routes]]\npath = "/admin/{*rest}"\necho = true\nrequire = { roles = ["admin"] }\n'


def jwks(gateway) -> list[dict]:
    answer = gateway.get("/.well-known/jwks.json")
    assert answer.status_code == 200
    return answer.json()["keys"]


def key_files(gateway):
    return sorted((gateway.folder / "data/keys").glob("key-*"))


def replace_manifest(gateway, keys):
    """In one step, as the gateway itself does it."""
    manifest = gateway.folder / "data/keys/keys.json"
    replacement = manifest.with_suffix(".new")
    replacement.touch(mode=0o600)
    replacement.write_text(json.dumps({"keys": keys}))
    replacement.rename(manifest)


@pytest.fixture(scope="module", params=ALGORITHMS)
def signed_with(request, tmp_path_factory):
    gateway = Gateway(tmp_path_factory.mktemp(request.param), ECHO, tokens=f'algorithm = "{request.param}"')
    gateway.algorithm = request.param
    yield gateway.start()
    gateway.stop()


def test_our_tokens_are_accepted_whatever_signs_them(signed_with):
    account = signed_with.register()
    assert header_of(account.access)["alg"] == signed_with.algorithm
    assert signed_with.get("/api/x", account.access).status_code == 200
    forged = own_key(signed_with).token(claims_of(account.access))
    assert signed_with.get("/api/x", forged).status_code == 200


def test_b15_jwks_has_no_private_member(signed_with):
    keys = jwks(signed_with)
    assert len(keys) == (0 if signed_with.algorithm == "HS256" else 1)
    for key in keys:
        assert not PRIVATE_MEMBERS & set(key)
        assert (key["alg"], key["use"], key["kid"]) == (signed_with.algorithm, "sig", own_key(signed_with).kid)
    secret = own_key(signed_with).private
    if isinstance(secret, bytes):
        text = signed_with.get("/.well-known/jwks.json").text
        assert base64.urlsafe_b64encode(secret).rstrip(b"=").decode() not in text and secret.hex() not in text


def test_b1_key_confusion_with_public_material(signed_with):
    """CVE-2016-10555: a public key, which everybody has, must never verify an HMAC."""
    claims, key = claims_of(signed_with.register().access), own_key(signed_with)
    if signed_with.algorithm == "HS256":
        secrets = [b"", b"\0" * 32, key.kid.encode(), b"secret"]
    else:
        public = key.private.public_key()
        der = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        secrets = [key.public_pem(), key.public_pem().strip(), der, base64.b64encode(der), json.dumps(key.jwk()).encode(), b""]
    for secret in secrets:
        for alg in ("HS256", "HS384", "HS512"):
            token = Key(alg, key.kid, secret).token(claims)
            assert signed_with.get("/api/x", token).status_code == 401, (alg, secret[:30])
            anonymous = Key(alg, key.kid, secret).token(claims, {"typ": "at+jwt", "alg": alg})
            assert signed_with.get("/api/x", anonymous).status_code == 401, (alg, secret[:30])


def test_b1_one_key_one_algorithm(signed_with):
    """A header that names another algorithm than the key's own is refused, whoever signed."""
    claims, key = claims_of(signed_with.register().access), own_key(signed_with)
    for other in {"RS256", "PS256", "RS384", "RS512", "ES256", "ES384", "EdDSA", "HS256"} - {key.alg}:
        token = Key(other, key.kid).token(claims)
        assert signed_with.get("/api/x", token).status_code == 401, other
        if key.alg == "RS256" and other[:2] in ("RS", "PS"):
            # The right key, used with an algorithm it is not for.
            token = Key(other, key.kid, key.private).token(claims)
            assert signed_with.get("/api/x", token).status_code == 401, other


def test_b15_key_files_are_the_owners_alone(signed_with):
    folder = signed_with.folder / "data/keys"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert key_files(signed_with)
    for file in folder.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file.name


# Rotation ----------------------------------------------------------------------------------------------------------

def test_b16_rotation_without_a_false_401(signed_with):
    """Three rotations under traffic: old tokens, and tokens minted at any moment, are accepted all the time."""
    account = signed_with.register()
    old_kid = header_of(account.access)["kid"]
    failures, stop = [], threading.Event()

    def traffic():
        while not stop.is_set():
            mine = signed_with.login(account.email)
            for token in (account.access, mine.json().get("access_token")) if mine.status_code == 200 else ():
                answer = signed_with.get("/api/x", token)
                if answer.status_code != 200:
                    failures.append(answer.text)
            if mine.status_code != 200:
                failures.append(mine.text)

    workers = [threading.Thread(target=traffic) for _ in range(2)]
    for worker in workers:
        worker.start()
    try:
        for _ in range(3):
            signed_with.cli("keys", "rotate", "--now")
            kid = own_key(signed_with).kid
            eventually(lambda: header_of(signed_with.login(account.email).json()["access_token"])["kid"] == kid,
                       what="the new key signing")
    finally:
        stop.set()
        for worker in workers:
            worker.join()
    assert failures == []
    assert signed_with.get("/api/x", account.access).status_code == 200
    if signed_with.algorithm != "HS256":
        assert {old_kid, own_key(signed_with).kid} <= {k["kid"] for k in jwks(signed_with)}
        assert all(not PRIVATE_MEMBERS & set(k) for k in jwks(signed_with))


def test_b15_old_key_verifies_after_a_restart(gateways):
    """A rotation while the gateway is down, and another algorithm at the next start, cost nobody his session."""
    gateway = gateways(ECHO)
    account = gateway.register()
    gateway.stop()
    gateway.cli("keys", "rotate", "--now")
    gateway.file.write_text(gateway.file.read_text().replace("[tokens]\n", '[tokens]\nalgorithm = "EdDSA"\n'))
    gateway.start()
    assert gateway.get("/api/x", account.access).status_code == 200
    assert {k["alg"] for k in jwks(gateway)} == {"ES256", "EdDSA"}
    signed_by = lambda: header_of(gateway.login(account.email).json()["access_token"])["alg"]
    assert signed_by() == "ES256", "the key of the new algorithm is published first"
    gateway.cli("keys", "rotate", "--now")
    eventually(lambda: signed_by() == "EdDSA", what="the new algorithm")
    assert header_of(account.access)["kid"] in gateway.cli("keys", "list").stdout


def test_b16_a_pending_key_signs_when_its_time_comes(gateways):
    """A running gateway switches by itself; a second rotation before that is refused and changes nothing."""
    gateway = gateways(ECHO)
    account = gateway.register()
    old = own_key(gateway).kid
    said = gateway.cli("keys", "rotate").stdout
    new = own_key(gateway).kid
    assert said.startswith(new) and "signs from" in said
    eventually(lambda: {k["kid"] for k in jwks(gateway)} == {old, new}, what="the new key published")
    signed_by = lambda: header_of(gateway.login(account.email).json()["access_token"])["kid"]
    assert signed_by() == old
    manifest = gateway.folder / "data/keys/keys.json"
    before = manifest.read_text()
    again = gateway.cli("keys", "rotate", check=False)
    assert again.returncode == 1 and new in again.stderr and "--now" in again.stderr and manifest.read_text() == before
    # A machine whose clock is ahead signs with it already.
    assert gateway.get("/api/x", own_key(gateway).token(claims_of(account.access))).status_code == 200
    keys = json.loads(before)["keys"]
    pending, signer = (next(k for k in keys if k["kid"] == kid) for kid in (new, old))
    wait = datetime.fromisoformat(pending["signs_from"]) - datetime.now(timezone.utc)
    assert 590 < wait.total_seconds() <= 600 and signer["retired"] == pending["signs_from"]
    pending["signs_from"] = signer["retired"] = (datetime.now(timezone.utc) + timedelta(seconds=3)).isoformat()
    replace_manifest(gateway, keys)
    while datetime.now(timezone.utc) < datetime.fromisoformat(pending["signs_from"]) - timedelta(seconds=0.5):
        assert signed_by() == old
    eventually(lambda: signed_by() == new, 3, "the switch")
    assert gateway.get("/api/x", account.access).status_code == 200


def test_threat_a_stolen_key_ends_at_once(signed_with):
    """`--drop-old`: within a second nothing that was signed before is accepted, by a key pending or retired either."""
    account = signed_with.register()
    stolen = own_key(signed_with)
    signed_with.cli("keys", "rotate", "--now")
    signed_with.cli("keys", "rotate")
    pending = own_key(signed_with)
    tokens = [account.access, stolen.token(claims_of(account.access)), pending.token(claims_of(account.access))]
    assert [signed_with.get("/api/x", token).status_code for token in tokens] == [200] * 3
    signed_with.cli("keys", "rotate", "--now", "--drop-old")
    refused = lambda: [signed_with.get("/api/x", token).status_code for token in tokens] == [401] * 3
    eventually(refused, 1.5, "the old tokens refused")
    assert [f.stem for f in key_files(signed_with)] == [f"key-{own_key(signed_with).kid}"]
    if signed_with.algorithm != "HS256":
        assert [k["kid"] for k in jwks(signed_with)] == [own_key(signed_with).kid]
    renewed = signed_with.refresh(account.refresh)
    assert renewed.status_code == 200 and signed_with.get("/api/x", renewed.json()["access_token"]).status_code == 200
    assert signed_with.cli("keys", "rotate", "--drop-old", check=False).returncode == 2, "only with --now"


def test_invariant_4_the_cache_does_not_outlive_a_key(gateways):
    """A key taken out of keys.json refuses the tokens it signed at once, those already verified included."""
    gateway = gateways(ECHO)
    account = gateway.register()
    gateway.cli("keys", "rotate", "--now")
    eventually(lambda: len(jwks(gateway)) == 2, what="the new key")
    assert gateway.get("/api/x", account.access).status_code == 200
    keys = json.loads((gateway.folder / "data/keys/keys.json").read_text())["keys"]
    replace_manifest(gateway, [k for k in keys if not k.get("retired")])
    eventually(lambda: gateway.get("/api/x", account.access).status_code == 401, 5, "the old token refused")
    assert gateway.get("/api/x", gateway.login(account.email).json()["access_token"]).status_code == 200


def test_b15_a_retired_key_ends_when_its_time_is_over(gateways):
    """`not_after` in keys.json holds for tokens already in the cache, and the key leaves the JWKS."""
    gateway = gateways(ECHO)
    account = gateway.register()
    gateway.cli("keys", "rotate", "--now")
    eventually(lambda: len(jwks(gateway)) == 2, what="the new key")
    keys = json.loads((gateway.folder / "data/keys/keys.json").read_text())["keys"]
    [old] = [k for k in keys if k.get("retired")]
    lives = datetime.fromisoformat(old["not_after"]) - datetime.fromisoformat(old["retired"])
    assert lives.total_seconds() >= 3600 + 30, "an access token's life and the leeway"
    assert gateway.get("/api/x", account.access).status_code == 200
    old["not_after"] = (datetime.now(timezone.utc) + timedelta(seconds=2)).isoformat()
    replace_manifest(gateway, keys)
    eventually(lambda: gateway.get("/api/x", account.access).status_code == 401, 6, "the old token refused")
    eventually(lambda: [k["kid"] for k in jwks(gateway)] == [own_key(gateway).kid], 5, "the old key gone from the JWKS")


def test_b16_a_sibling_accepts_a_key_it_has_not_noticed(gateways):
    """Two gateways on one folder: a token signed by the new key at one of them is good at the other at once."""
    first = gateways(ECHO)
    second = gateways(ECHO, server=f'data_dir = "{first.folder}/data"', issuer=first.issuer)
    account = first.register()
    assert second.get("/api/x", account.access).status_code == 200
    for _ in range(3):
        first.cli("keys", "rotate", "--now")
        kid = own_key(first).kid
        claims = {**claims_of(account.access), "jti": kid}
        assert second.get("/api/x", own_key(first).token(claims)).status_code == 200
        assert first.get("/api/x", own_key(first).token(claims)).status_code == 200


def test_commands_that_start_together_agree_on_the_key(gateways):
    """First starts and rotations at the same instant leave one signer, and every key that ever signed."""
    gateway = gateways(ECHO)
    gateway.stop()
    shutil.rmtree(gateway.folder / "data")
    run = lambda *args: subprocess.Popen(
        [str(BINARY), *args, "-c", str(gateway.file)], cwd=gateway.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    listed = [run("keys", "list") for _ in range(6)]
    answers = [p.communicate(timeout=30)[0].split() for p in listed]
    assert all(p.returncode == 0 for p in listed) and len({a[0] for a in answers}) == 1
    rotated = [run("keys", "rotate", "--now") for _ in range(5)]
    assert all(p.communicate(timeout=30) and p.returncode == 0 for p in rotated)
    keys = json.loads((gateway.folder / "data/keys/keys.json").read_text())["keys"]
    assert len(keys) == 6 and sum(1 for k in keys if not k.get("retired")) == 1
    ahead = [run("keys", "rotate") for _ in range(5)]
    assert all(p.communicate(timeout=30) for p in ahead) and sorted(p.returncode for p in ahead) == [0, 1, 1, 1, 1]
    gateway.start()
    assert gateway.get("/api/x", gateway.register().access).status_code == 200


@pytest.mark.parametrize("make, good", [
    (lambda g, a, key: a.access, True),
    (lambda g, a, key: key.token({**claims_of(a.access), "exp": 1}), False),
    (lambda g, a, key: key.token(claims_of(a.access), key.header(kid="\x1b[31m")), False),
    (lambda g, a, key: a.access.rsplit(".", 1)[0] + ".", False),
    (lambda g, a, key: "not a token", False),
], ids=["good", "expired", "escape sequence", "unsigned", "garbage"])
def test_token_inspect_says_what_the_gateway_would(signed_with, make, good):
    """Same verdict as a request, a reason when refused, no signature and no control character on the terminal."""
    account = signed_with.register()
    token = make(signed_with, account, own_key(signed_with))
    done = signed_with.cli("token", "inspect", "-", stdin=token, check=False)
    assert (done.returncode == 0) == good, done.stdout + done.stderr
    output = done.stdout + done.stderr
    signature = token.split(".")[-1]
    assert "\x1b" not in output and (not signature or len(signature) < 20 or signature not in output)
    assert "panicked" not in output and done.stdout.strip()


# Key files that must not be used -------------------------------------------------------------------------------------

def rsa_thumbprint(jwk):
    members = json.dumps({"e": jwk["e"], "kty": "RSA", "n": jwk["n"]}, separators=(",", ":"))
    return base64.urlsafe_b64encode(hashlib.sha256(members.encode()).digest()).rstrip(b"=").decode()


def small_rsa(folder):
    """An RSA key of 1024 bits under its right name, so that its size is the only thing wrong with it."""
    private = rsa_key(1024)
    kid = rsa_thumbprint(Key("RS256", private=private).jwk())
    pem = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    manifest = json.loads((folder / "keys.json").read_text())
    manifest["keys"][0]["kid"] = kid
    (folder / "keys.json").write_text(json.dumps(manifest))
    file = folder / f"key-{kid}.pem"
    file.touch(mode=0o600)
    file.write_bytes(pem)


def the_key(folder):
    [file] = folder.glob("key-*")
    return file


def change(how):
    return lambda folder: how(the_key(folder))


BAD_KEYS = {
    "HMAC empty": ("HS256", change(lambda f: f.write_bytes(b""))),
    "HMAC blank": ("HS256", change(lambda f: f.write_bytes(bytes(32)))),
    "HMAC spaces": ("HS256", change(lambda f: f.write_bytes(b" " * 64))),
    "HMAC of 31 bytes": ("HS256", change(lambda f: f.write_bytes(os.urandom(31)))),
    "RSA of 1024 bits": ("RS256", small_rsa),
    "open to the group": ("ES256", change(lambda f: f.chmod(0o640))),
    "open to the world": ("ES256", change(lambda f: f.chmod(0o644))),
    "writable by the world": ("HS256", change(lambda f: f.chmod(0o602))),
    "folder open to the world": ("ES256", lambda folder: folder.chmod(0o755)),
    "PEM empty": ("ES256", change(lambda f: f.write_bytes(b""))),
    "PEM garbled": ("ES256", change(lambda f: f.write_bytes(f.read_bytes()[:-60] + b"\n-----END PRIVATE KEY-----\n"))),
    "another key's PEM": ("ES256", change(lambda f: f.write_bytes(Key("ES256").private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())))),
    "missing": ("ES256", change(lambda f: f.unlink())),
    "refresh secret empty": ("ES256", lambda folder: (folder / "refresh.key").write_bytes(b"")),
    "refresh secret blank": ("ES256", lambda folder: (folder / "refresh.key").write_bytes(bytes(32))),
    "refresh secret of 16 bytes": ("ES256", lambda folder: (folder / "refresh.key").write_bytes(os.urandom(16))),
    "refresh secret open to the world": ("ES256", lambda folder: (folder / "refresh.key").chmod(0o644)),
    "manifest not JSON": ("ES256", lambda folder: (folder / "keys.json").write_text("{")),
    "manifest with a path as kid": ("HS256", lambda folder: (folder / "keys.json").write_text(
        (folder / "keys.json").read_text().replace('"kid": "', '"kid": "../../'))),
}


@pytest.mark.parametrize("name", BAD_KEYS)
def test_b13_no_start_with_a_bad_key(gateways, name):
    """Starting with a weak key, or quietly with a new one, would be worse than not starting."""
    algorithm, spoil = BAD_KEYS[name]
    gateway = gateways(ECHO, tokens=f'algorithm = "{algorithm}"')
    gateway.stop()
    folder = gateway.folder / "data/keys"
    spoil(folder)
    before = sorted(p.name for p in folder.iterdir())
    content = the_key(folder).read_bytes() if len(list(folder.glob("key-*"))) == 1 else b""
    done = subprocess.run([str(BINARY), "run", "-c", str(gateway.file)], cwd=gateway.folder, capture_output=True, timeout=20)
    assert done.returncode not in (0, -9)
    message = (done.stdout + done.stderr).decode(errors="replace")
    assert "keys" in message, message
    assert "panicked" not in message
    for line in content.splitlines()[1:-1]:
        assert line.decode(errors="replace") not in message
    assert sorted(p.name for p in folder.iterdir()) == before


# The cache of verified tokens ------------------------------------------------------------------------------------------

def test_threat_a_cached_token_expires(gateways):
    """A token that was verified a moment ago is refused the moment it expires."""
    gateway = gateways(ECHO, tokens='leeway = "0s"')
    claims = claims_of(gateway.register().access)
    token = own_key(gateway).token({**claims, "exp": time.time() + 2.0})
    assert [gateway.get("/api/x", token).status_code for _ in range(3)] == [200, 200, 200]
    eventually(lambda: gateway.get("/api/x", token).status_code == 401, 5, "the cached token refused")


def test_b10_leeway_is_at_most_60_seconds(gateways):
    gateway = gateways(ECHO, tokens='leeway = "60s"')
    claims, key = claims_of(gateway.register().access), own_key(gateway)
    assert gateway.get("/api/x", key.token({**claims, "exp": int(time.time()) - 70})).status_code == 401
    assert gateway.get("/api/x", key.token({**claims, "nbf": int(time.time()) + 75})).status_code == 401
    gateway.file.write_text(gateway.file.read_text().replace('"60s"', '"61s"'))
    assert gateway.cli("check", check=False).returncode == 1


def test_threat_cache_key_confusion(signed_with):
    """Oathkeeper CVE-2026-33496: a token that is good for one route says nothing about another, in any order."""
    claims, key = claims_of(signed_with.register().access), own_key(signed_with)
    user, admin = key.token(claims), key.token({**claims, "roles": ["admin"]})
    nearly = key.token({**claims, "roles": ["administrator", "Admin", "user admin", "admin,user"]})
    for _ in range(3):
        assert signed_with.get("/api/x", user).status_code == 200
        assert signed_with.get("/admin/x", user).status_code == 403
        assert signed_with.get("/admin/x", admin).status_code == 200
        assert signed_with.get("/admin/x", nearly).status_code == 403


def test_invariant_4_the_cache_compares_the_whole_token(signed_with):
    """A warm token lends nothing to one that shares its beginning, its end, or everything but case."""
    claims, key = claims_of(signed_with.register().access), own_key(signed_with)
    good = key.token({**claims, "jti": "warm"})
    assert signed_with.get("/api/x", good).status_code == 200
    head, payload, signature = good.split(".")
    other = key.token({**claims, "jti": "cold", "roles": ["admin"]}).split(".")
    swapped = "A" if signature[5] != "A" else "B"
    for token in (
        f"{head}.{payload}.{signature[:5]}{swapped}{signature[6:]}", f"{head}.{other[1]}.{signature}",
        f"{head}.{payload}.{other[2]}", good.swapcase(), good.lower(), good + "A", good[:-1], f"{head}.{payload}.",
    ):
        assert signed_with.get("/api/x", token).status_code == 401, token
    assert signed_with.get("/api/x", good).status_code == 200


def test_invariant_4_the_cache_does_not_outlive_the_session(signed_with):
    account = signed_with.register()
    assert signed_with.get("/api/x", account.access).status_code == 200
    assert signed_with.post("/auth/logout", {"refresh_token": account.refresh}).status_code == 204
    assert signed_with.get("/api/x", account.access).status_code == 401
    # A token of the same session minted elsewhere dies with it.
    again = own_key(signed_with).token({**claims_of(account.access), "jti": "x"})
    assert signed_with.get("/api/x", again).status_code == 401


def test_the_cache_is_off_and_everything_works(gateways):
    gateway = gateways(ECHO, tokens='cache_size = "0B"')
    account = gateway.register()
    assert [gateway.get("/api/x", account.access).status_code for _ in range(3)] == [200, 200, 200]
