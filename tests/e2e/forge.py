"""Tokens made by the tests: with the gateway's own keys, with keys of other issuers, and malformed in any way.

Nothing here shares code with the gateway: signatures are made by PyJWT and cryptography.
"""

import base64
import json
import os
import time
import uuid

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

RSA_KEYS = {}


def b64u(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def unb64u(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def segment(value) -> str:
    """base64url of bytes, of text, or of the JSON of anything else."""
    if isinstance(value, str):
        value = value.encode()
    return b64u(value if isinstance(value, bytes) else json.dumps(value).encode())


def claims_of(token: str) -> dict:
    return json.loads(unb64u(token.split(".")[1]))


def header_of(token: str) -> dict:
    return json.loads(unb64u(token.split(".")[0]))


def rsa_key(bits=2048, name="a"):
    """RSA keys are slow to make: one for each name."""
    if (bits, name) not in RSA_KEYS:
        RSA_KEYS[bits, name] = rsa.generate_private_key(65537, bits)
    return RSA_KEYS[bits, name]


def make_private(alg):
    if alg == "EdDSA":
        return ed25519.Ed25519PrivateKey.generate()
    if alg.startswith("ES"):
        return ec.generate_private_key(ec.SECP384R1() if alg == "ES384" else ec.SECP256R1())
    if alg.startswith("HS"):
        return os.urandom(32)
    return rsa_key(name=str(uuid.uuid4()))


class Key:
    """A key that signs with one algorithm. `private` is a cryptography key, or bytes for HMAC."""

    def __init__(self, alg, kid=None, private=None):
        self.alg, self.kid = alg, kid or f"test-{uuid.uuid4().hex[:8]}"
        self.private = private if private is not None else make_private(alg)

    def sign(self, data: bytes, alg=None) -> bytes:
        return jwt.PyJWS(algorithms=None).get_algorithm_by_name(alg or self.alg).sign(data, self.private)

    def header(self, **changes) -> dict:
        return {"typ": "at+jwt", "alg": self.alg, "kid": self.kid, **changes}

    def token(self, payload, header=None) -> str:
        """A token with this signature. `payload` and `header` may be dicts, text or bytes."""
        signed = f"{segment(self.header() if header is None else header)}.{segment(payload)}"
        return f"{signed}.{b64u(self.sign(signed.encode()))}"

    def public_pem(self) -> bytes:
        return self.private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    def jwk(self, **more) -> dict:
        algorithm = jwt.PyJWS(algorithms=None).get_algorithm_by_name(self.alg)
        public = self.private if isinstance(self.private, bytes) else self.private.public_key()
        jwk = algorithm.to_jwk(public, as_dict=True)
        jwk.pop("key_ops", None)
        return {**jwk, "kid": self.kid, "alg": self.alg, "use": "sig", **more}


def own_key(gateway) -> Key:
    """The key a gateway signs with, from its data folder."""
    folder = gateway.folder / "data/keys"
    [entry] = [k for k in json.loads((folder / "keys.json").read_text())["keys"] if not k.get("retired")]
    if entry["algorithm"] == "HS256":
        return Key("HS256", entry["kid"], (folder / f"key-{entry['kid']}.key").read_bytes())
    pem = (folder / f"key-{entry['kid']}.pem").read_bytes()
    return Key(entry["algorithm"], entry["kid"], serialization.load_pem_private_key(pem, None))


def foreign_claims(issuer, subject="ann", audience="api", **more) -> dict:
    now = int(time.time())
    return {"iss": issuer, "sub": subject, "aud": audience, "exp": now + 600, "iat": now, **more}


def without(payload: dict, *names) -> dict:
    return {k: v for k, v in payload.items() if k not in names}
