"""SECURITY part C for Redis and MongoDB: every fault of either, and what callers see of it (invariant 9).

Each cell leaves one line of its observations; the table at the end is made of them (`fault-matrix.md` beside the
lines, in the folder of this run).
"""

import contextlib
import json
import re
import time

import pytest

from conftest import eventually
from faults import MONGODB, REDIS, Fault, Watch, World
from relay import Relay
from servers import MongoServer, Redis, Sentinel

TOKENS = ("cached token", "new token")
SERVICES = ("login", "refresh", "logout")
RECOVERY = 5.0
ANSWER = 1.0


@pytest.fixture(scope="module")
def observations(tmp_path_factory, pytestconfig):
    cells = []
    yield cells
    folder = tmp_path_factory.getbasetemp()
    (folder / "fault-matrix.jsonl").write_text("".join(json.dumps(cell) + "\n" for cell in cells))
    (folder / "fault-matrix.md").write_text(table(cells))
    with pytestconfig.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print(f"\n{folder}/fault-matrix.md\n\n{table(cells)}")


COLUMNS = ("dependency", "fault", "requests with a token", "login", "refresh", "logout", "works again after", "logged", "metrics", "/readyz")


def table(cells):
    """The matrix in Markdown."""
    lines = [COLUMNS, ["---"] * len(COLUMNS), *([cell[column] for column in COLUMNS] for cell in cells)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


@pytest.fixture
def world(tmp_path, fleets, request):
    """The gateway and the stores that the fault in `request.param` needs."""
    fault = request.param
    redis, users, started = Redis(tmp_path), "", []
    redis.relay = Relay(redis.port)
    started += [redis, redis.relay]
    url, mongo, sentinel, replica = f"redis://127.0.0.1:{redis.relay.port}", None, None, None
    if fault.dependency == "MongoDB":
        mongo = MongoServer(tmp_path)
        mongo.relay = Relay(mongo.port)
        started += [mongo, mongo.relay]
        users = mongo.users(mongo.relay.port)
    if fault.name == "failover":
        replica = Redis(tmp_path)
        replica.replicate(redis.port)
        sentinel = Sentinel(tmp_path, redis)
        started += [replica, sentinel]
        url = sentinel.url
    try:
        fleet = fleets(redis, users=users, tokens='refresh_grace = "60s"')
        gateway = fleet.add(url)
        (gateway.folder / "data").symlink_to(fleet.folder / "data")
        world = World(gateway, redis, mongo, sentinel)
        world.replica = replica
        yield world
    finally:
        for server in started:
            server.stop()


CELLS = [pytest.param(fault, fault, id=str(fault)) for fault in REDIS + MONGODB]


@pytest.mark.parametrize("world, fault", CELLS, indirect=["world"])
def test_c(world, fault: Fault, observations):
    """Tokens go on being accepted; what needs the store says 503 at once and works soon after; the operator can see it."""
    cell = {"dependency": fault.dependency, "fault": fault.name, "/readyz": "200", "metrics": "-", "recovery": None, "wrong": []}
    with Watch(world) as watch:
        watch.wait_for(5, 0)
        start = time.monotonic()
        before = errors(world, fault)
        fault.begin(world)
        if fault.down:
            what_is_seen_while_it_is_down(world, fault, watch, cell, start)
            assert errors(world, fault) > before
        else:
            watch.wait_for(20, start)
            assert world.ready()[0] == 200
        fault.end(world)
        end = time.monotonic()
        # Data that is gone is gone: those callers log in again, which `after_a_loss` does.
        services = [kind for kind in SERVICES if not fault.loses]
        eventually(lambda: all(watch.first_good(kind, end) for kind in services), 20, "every service working again")
        watch.wait_for(10, end)
        eventually(lambda: world.ready()[0] == 200, RECOVERY, "being ready again")
    back = [watch.first_good(kind, end) for kind in services]
    if fault.loses:
        after_a_loss(world, fault)
    elif fault.down:
        cell["recovery"] = max(max(back) - end, 0)
    if fault.down:
        # A line is read here a little after it was written.
        eventually(lambda: all(back for _, back in logged(world, fault).values()), 10, "every part being reported to be back")
    describe(cell, watch, fault, start, end, logged(world, fault))
    observations.append(cell)
    verdict(world, fault, watch, cell, start, end)


def what_is_seen_while_it_is_down(world, fault, watch, cell, start):
    for kind in fault.down:
        eventually(lambda: any(s.status == 503 for s in watch.of(kind, start)), 10, f"503 at {kind}")
    part = "users" if fault.dependency == "MongoDB" else "sessions"
    other = "sessions" if part == "users" else "users"
    steady = time.monotonic()
    with noting(cell):
        status, report = eventually(lambda: (r := world.ready())[0] == 503 and r, 3, "/readyz telling of it")
        cell["/readyz"] = f"{status}, `{part}`: {without_address(report[part])}"
        assert report[part] != "ok" and report[other] == "ok" and not report["ready"], report
    with noting(cell):
        assert world.ready("?exclude=sessions&exclude=users")[0] == 200, "the requests that need no store are served"
    for name in fault.parts:
        with noting(cell):
            eventually(lambda: world.gateway.metric(f'portcullis_store_up{{part="{name}"}}') == 0, 3, f"store_up of {name} being 0")
    cell["metrics"] = f"`portcullis_store_up` 0 for {', '.join(fault.parts)}; `portcullis_store_errors_total` grows"
    if fault.deaf:
        cell["metrics"] += ", `portcullis_revocation_lag_seconds` too"
    if fault.lasts:
        if fault.deaf:
            eventually(lambda: world.gateway.metric("portcullis_revocation_lag_seconds") > 1, 5, "the lag")
        watch.wait_for(10, steady)
        for kind in fault.down:
            assert {s.status for s in watch.of(kind, steady)} == {503}, kind


@contextlib.contextmanager
def noting(cell):
    """What is wrong inside is kept for the verdict, so that the cell goes on."""
    try:
        yield
    except AssertionError as error:
        cell["wrong"].append(str(error).splitlines()[0])


def errors(world, fault):
    lines = world.gateway.metrics().splitlines()
    counted = [line for line in lines if line.startswith("portcullis_store_errors_total") and any(f'"{p}"' in line for p in fault.parts)]
    return sum(float(line.rsplit(" ", 1)[1]) for line in counted)


LINES = ("store unavailable", "store available again")


def logged(world, fault):
    """How often each part was reported to be gone, and to be back."""
    lines = [json.loads(line) for line in world.gateway.process.stderr().splitlines() if line.startswith("{")]
    of = {part: [line["message"] for line in lines if line.get("part") == part] for part in fault.parts}
    return {part: tuple(messages.count(text) for text in LINES) for part, messages in of.items()}


def describe(cell, watch, fault, start, end, log):
    cell["requests with a token"] = answers(watch, TOKENS, start)
    for kind in SERVICES:
        cell[kind] = answers(watch, [kind], start, end if kind in fault.down else None, {503} if kind in fault.down else None)
        later = {s.status for s in watch.of(kind, end)} - {200, 204, 503}
        if later:
            cell[kind] += f"; afterwards {', '.join(map(str, sorted(later)))}: log in (register) anew"
    cell["works again after"] = "-" if cell["recovery"] is None else f"{cell['recovery']:.1f} s"
    lines = [(text, [part for part, times in log.items() if times[n]]) for n, text in enumerate(LINES)]
    cell["logged"] = "; ".join(f"`{text}` part={', '.join(parts)}" for text, parts in lines if parts) or "-"
    cell["transitions"] = log


def answers(watch, kinds, since, until=None, statuses=None):
    """Which answers requests of these kinds got, and within which time."""
    seen = [s for kind in kinds for s in watch.of(kind, since) if until is None or s.began < until]
    seen = [s for s in seen if statuses is None or s.status in statuses]
    return f"{', '.join(map(str, sorted({s.status for s in seen})))} within {max(s.seconds for s in seen):.2f} s"


def without_address(text):
    return re.sub(r"127\.0\.0\.1:\d+", "HOST:PORT", text.splitlines()[0])


def after_a_loss(world, fault):
    """Those whom the store forgot are strangers; nobody else, and no longer than it takes to log in again."""
    answer = world.gateway.refresh(world.account.refresh)
    assert answer.status_code == 403, answer.text
    if fault.dependency == "Redis":
        account = world.account.take(eventually(lambda: (r := world.gateway.login(world.account.email)).status_code == 200 and r, 5).json())
    else:
        account = world.gateway.register(world.account.email)
    assert world.gateway.refresh(account.refresh).status_code == 200
    assert world.gateway.get("/api/x", account.access).status_code == 200


def verdict(world, fault, watch, cell, start, end):
    for kind in TOKENS + ("public",):
        wrong = [s for s in watch.of(kind) if s.status != 200 or s.seconds > ANSWER]
        assert not wrong, f"{kind}: {wrong[:3]}"
    revived = [s for s in watch.of("ended token") if s.status != 401]
    assert not revived, f"a session that has ended: {revived[:3]}"
    for kind in SERVICES:
        for s in watch.of(kind):
            allowed = {200, 204, 503} if kind in fault.down else {200, 204}
            if fault.loses and s.began + s.seconds >= end:
                allowed |= {401, 403, 429} if fault.dependency == "MongoDB" else {403}
            assert s.status in allowed, f"{kind}: {s}, {s.began - start:.2f} s after the beginning, {s.began - end:.2f} s after the end"
            assert s.status != 503 or (s.retry_after and s.code == "store_unavailable"), s
            assert s.seconds <= ANSWER, f"{kind}: {s}"
    if cell["recovery"] is not None:
        assert cell["recovery"] <= RECOVERY
    if not fault.loses:
        assert world.gateway.refresh(watch.refresh_token).status_code == 200, "logged out by a fault that lost nothing"
    for part, (gone, back) in cell["transitions"].items():
        expected = (1, 1) if fault.down else (0, 0)
        assert (gone, back) == expected, f"{part}: `store unavailable` {gone} times, `store available again` {back} times"
    for part in fault.parts:
        assert world.gateway.metric(f'portcullis_store_up{{part="{part}"}}') == 1
    assert world.gateway.metric("portcullis_revocation_lag_seconds") < 1
    assert world.gateway.metric("portcullis_panics_total") == 0
    assert not cell["wrong"]
