"""No enumeration by timing: 2,000 interleaved pairs of known and unknown addresses (Traefik CVE-2026-32595)."""

import http.client
import json
import math
import random
import statistics
import time
import uuid

import pytest

from conftest import Gateway

PAIRS = 2_000
# An account allows a hundred failures at most, so the pairs are spread over many.
ACCOUNTS = 50
# Of a rank statistic that lies at 0.5 when the two distributions are the same. With 2,000 pairs its standard
# deviation is 0.009; a skipped hash moves it beyond 0.9 (see the last test).
BOUND = 0.06


def superiority(ours, theirs):
    """Mann-Whitney: the probability that one of `ours` is larger than one of `theirs`, and the z score of that."""
    pooled = sorted([(value, 0) for value in ours] + [(value, 1) for value in theirs])
    rank_sum, ties, at = 0.0, 0.0, 0
    while at < len(pooled):
        end = at
        while end < len(pooled) and pooled[end][0] == pooled[at][0]:
            end += 1
        count = end - at
        rank_sum += (at + end + 1) / 2 * sum(1 for _, group in pooled[at:end] if group == 0)
        ties += count**3 - count
        at = end
    n, m = len(ours), len(theirs)
    u = rank_sum - n * (n + 1) / 2
    variance = n * m / 12 * ((n + m + 1) - ties / ((n + m) * (n + m - 1)))
    return u / (n * m), (u - n * m / 2) / math.sqrt(variance)


def test_the_statistic_itself():
    """A wrong formula would make every other test here pass."""
    assert superiority([1, 2, 3], [4, 5, 6])[0] == 0
    assert superiority([4, 5, 6], [1, 2, 3])[0] == 1
    assert superiority([1, 2, 3], [1, 2, 3]) == (0.5, 0.0)
    # By hand: ranks 1, 3.5, 5 of 6; U = 9.5 - 6 = 3.5; variance 9/12 * (7 - 6/30) = 5.1.
    probability, z = superiority([1, 3, 4], [2, 3, 5])
    assert probability == pytest.approx(3.5 / 9) and z == pytest.approx((3.5 - 4.5) / math.sqrt(5.1))


class Clock:
    """Times logins over one kept-alive connection."""

    def __init__(self, gateway):
        self.connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=30)

    def login(self, email, status=401):
        body = json.dumps({"email": email, "password": "a wrong password"})
        begun = time.perf_counter()
        self.connection.request("POST", "/auth/login", body, {"Content-Type": "application/json"})
        answer = self.connection.getresponse()
        answer.read()
        took = time.perf_counter() - begun
        assert answer.status == status
        return took


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    config = "[throttle]\nfree_failures = 100\nmax_failures = 100\naddress_failures = 1000000\n[log]\naccess = false\n"
    gateway = Gateway(tmp_path_factory.mktemp("timing"), config)
    yield gateway.start()
    gateway.stop()


def import_accounts(gateway, disabled=False):
    emails = [f"{uuid.uuid4().hex}@example.com" for _ in range(ACCOUNTS)]
    lines = [json.dumps({"email": e, "password": "the right password", "disabled": disabled}) for e in emails]
    gateway.cli("user", "import", "-", stdin="\n".join(lines))
    return emails


def unknown_accounts():
    return [f"{uuid.uuid4().hex}@example.com" for _ in range(ACCOUNTS)]


def interleave(gateway, one, other, pairs):
    """Times of logins at `one` and `other`, in pairs whose order is drawn."""
    clock, drawn, times = Clock(gateway), random.Random(7), ([], [])
    for n in range(pairs):
        both = [(0, one[n % len(one)]), (1, other[n % len(other)])]
        drawn.shuffle(both)
        for group, email in both:
            times[group].append(clock.login(email))
    return times


def assert_alike(one, other):
    probability, z = superiority(one, other)
    ratio = statistics.median(one) / statistics.median(other)
    assert abs(probability - 0.5) < BOUND, f"P(slower) = {probability:.3f}, z = {z:.1f}, medians {ratio:.3f}"


def test_b32_known_and_unknown_addresses_take_the_same_time(gateway):
    """The time of the answer would tell which addresses have accounts."""
    interleave(gateway, unknown_accounts(), unknown_accounts(), 50)
    assert_alike(*interleave(gateway, import_accounts(gateway), unknown_accounts(), PAIRS))


def test_b32_a_disabled_account_takes_the_same_time(gateway):
    """As above, for accounts that are switched off."""
    assert_alike(*interleave(gateway, import_accounts(gateway, disabled=True), unknown_accounts(), 800))


def test_the_bound_would_catch_a_skipped_hash(gateway):
    """A test that passes whatever the gateway does is none. A throttled login does all but the hash."""
    locked = unknown_accounts()[0]
    clock = Clock(gateway)
    for _ in range(100):
        clock.login(locked)
    drawn, hashed, skipped = random.Random(7), [], []
    for email in unknown_accounts() * 6:
        calls = [(hashed, email, 401), (skipped, locked, 429)]
        drawn.shuffle(calls)
        for times, address, status in calls:
            times.append(clock.login(address, status))
    probability, z = superiority(hashed, skipped)
    assert probability > 0.5 + 2 * BOUND and z > 6, f"P(slower) = {probability:.3f}, z = {z:.1f}"
