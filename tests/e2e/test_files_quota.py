"""Quotas: what lies below a caller's prefix never exceeds them, whoever stores it and however many at once."""

import random

import pytest

from conftest import eventually
from filesites import body_of, file_site, refused
from servers import in_parallel
from wire import Wire

MIB = 2**20
ROUTES = """
[[routes]]
path = "/q/{*key}"
files = { store = "media", prefix = "q/{sub}/", methods = ["GET", "PUT", "DELETE"], max_size = "1MiB", admin_roles = ["support"], share = "1h", quota = { bytes = "1000B", objects = 3 } }
[[routes]]
path = "/bytes/{*key}"
files = { store = "media", prefix = "bytes/{sub}/", methods = ["GET", "PUT", "DELETE"], max_size = "1MiB", quota = { bytes = "100000B" } }
[[routes]]
path = "/many/{*key}"
files = { store = "media", prefix = "many/{sub}/", methods = ["GET", "PUT"], max_size = "1MiB", quota = { objects = 1100 } }
[[routes]]
path = "/parts/{*key}"
files = { store = "parts", prefix = "parts/{sub}/", methods = ["GET", "PUT", "DELETE"], max_size = "100MiB", quota = { bytes = "12MiB" } }
"""


@pytest.fixture(scope="module", params=["s3", "directory"])
def site(request, tmp_path_factory):
    s3 = request.getfixturevalue("s3") if request.param == "s3" else None
    with file_site(tmp_path_factory.mktemp("quota"), request.param, s3, ROUTES) as made:
        yield made


@pytest.fixture
def user(site):
    return site.user()


def full(answer, size, used_bytes, used_objects):
    """A refusal on the route /q, with its numbers."""
    return refused(answer, 507, "quota_exceeded", size=size, used_bytes=used_bytes, used_objects=used_objects, quota_bytes=1000, quota_objects=3)


def moments(site):
    """What else may come of a file that others delete meanwhile: versitygw answers 500 to a HEAD in that moment."""
    return {502} if site.stored.server == "versitygw" else set()


def used(site, prefix):
    sizes = site.stored.sizes(prefix)
    return sum(sizes.values()), len(sizes)


def test_files_fit_up_to_the_last_byte(site, user):
    assert site.put("/q/a", b"x" * 400, user).status_code == site.put("/q/b", b"x" * 600, user).status_code == 201
    full(site.put("/q/c", b"x", user), 1, 1000, 2)
    assert site.put("/q/c", b"", user).status_code == 201
    full(site.put("/q/d", b"", user), 0, 1000, 3)
    assert used(site, f"q/{user.id}/") == (1000, 3)


def test_a_file_that_could_never_fit(site, user):
    refused(site.put("/q/a", b"x" * 1001, user), 413, "file_too_large", size=1001, limit=1000)
    site.put("/q/b", b"x" * 500, user)
    refused(site.put("/q/a", b"x" * 5000, user), 413, "file_too_large", size=5000, limit=1000)
    assert used(site, f"q/{user.id}/") == (500, 1)


def test_what_replaces_a_file_needs_the_difference_only(site, user):
    site.put("/q/a", b"x" * 400, user)
    site.put("/q/b", b"x" * 100, user)
    assert site.put("/q/a", b"x" * 900, user).status_code == 201
    full(site.put("/q/a", b"x" * 901, user), 901, 1000, 2)
    assert site.put("/q/a", b"x" * 100, user).status_code == 201
    assert site.put("/q/c", b"x" * 800, user).status_code == 201
    # All three may be replaced, though there is no place for a fourth.
    assert [site.put(f"/q/{name}", b"x" * 50, user).status_code for name in "abc"] == [201] * 3
    full(site.put("/q/d", b"", user), 0, 150, 3)


def test_what_is_deleted_makes_room(site, user):
    site.put("/q/a", b"x" * 1000, user)
    assert site.delete("/q/none", user).status_code == 204
    full(site.put("/q/b", b"x", user), 1, 1000, 1)
    refused(site.delete("/q/a", user, If_Match='"x"'), 412, "precondition_failed") if site.stored.server != "minio" else None
    full(site.put("/q/b", b"x", user), 1, 1000, 1)
    assert site.delete("/q/a", user).status_code == 204 and site.delete("/q/a", user).status_code == 204
    assert site.put("/q/b", b"x" * 1000, user).status_code == 201
    full(site.put("/q/c", b"x", user), 1, 1000, 1)


def test_an_upload_that_fails_takes_no_room(site, user):
    site.put("/q/a", b"x" * 10, user)
    refused(site.put("/q/b", b"x" * 900, user, Content_MD5="A" * 22 + "=="), 400, "checksum_mismatch")
    refused(site.put("/q/a", b"x" * 900, user, If_None_Match="*"), 412, "precondition_failed")
    refused(site.put("/q/a", b"x" * 900, user, If_Match='"x"'), 412, "precondition_failed")
    for at in (0, 500, 899):
        with Wire(site.gateway.port) as wire:
            wire.send(body_of("PUT", f"/q/{user.id}-{at}", 900, user), b"x" * at)
        site.logged(f"/q/{user.id}-{at}")
    assert site.put("/q/b", b"x" * 990, user).status_code == 201
    full(site.put("/q/c", b"x", user), 1, 1000, 2)


def test_an_upload_that_runs_has_its_room(site, user):
    with Wire(site.gateway.port) as wire:
        wire.send(body_of("PUT", "/q/running", 600, user, Expect="100-continue"))
        assert wire.response(interim=True).status == 100
        wire.send(b"x" * 300)
        full(site.put("/q/other", b"x" * 401, user), 401, 600, 1)
        assert site.put("/q/other", b"x" * 400, user).status_code == 201
        assert wire.send(b"x" * 300).response().status == 201
    full(site.put("/q/third", b"x", user), 1, 1000, 2)


def test_an_upload_that_is_given_up_gives_its_room_back(site, user):
    with Wire(site.gateway.port) as wire:
        assert wire.send(body_of("PUT", "/q/running", 600, user, Expect="100-continue")).response(interim=True).status == 100
        wire.send(b"x" * 599)
        full(site.put("/q/other", b"x" * 401, user), 401, 600, 1)
    eventually(lambda: site.put("/q/other", b"x" * 1000, user).status_code == 201, 10, "room")


def test_b50_what_has_no_room_is_not_asked_for(site, user):
    site.put("/q/a", b"x" * 500, user)
    for size, status in ((501, 507), (1001, 413)):
        with Wire(site.gateway.port) as wire:
            assert wire.send(body_of("PUT", "/q/b", size, user, Expect="100-continue")).response(interim=True).status == status


def test_what_others_stored_counts(site, user):
    """Behind the gateway's back, before it has counted; and after, once it counts anew."""
    site.stored.put(f"q/{user.id}/deep/er/a", b"x" * 700)
    full(site.put("/q/b", b"x" * 301, user), 301, 700, 1)
    assert site.put("/q/b", b"x" * 100, user).status_code == 201
    site.stored.put(f"q/{user.id}/c", b"x" * 500)
    site.gateway.restart()
    full(site.put("/q/d", b"", user), 0, 1300, 3)
    full(site.put("/q/b", b"x" * 101, user), 101, 1300, 3)
    # What makes it less is let through, though it is too much still.
    assert site.put("/q/b", b"x" * 99, user).status_code == site.put("/q/deep/er/a", b"", user).status_code == 201
    full(site.put("/q/b", b"x" * 501, user), 501, 599, 3)
    assert site.put("/q/b", b"x" * 500, user).status_code == 201


def test_everybody_has_a_quota_of_his_own(site, user):
    other = site.user()
    assert site.put("/q/a", b"x" * 1000, user).status_code == site.put("/q/a", b"x" * 1000, other).status_code == 201
    full(site.put("/q/b", b"x", user), 1, 1000, 1)
    assert site.put("/bytes/a", b"x" * 1000, user).status_code == 201
    site.delete("/q/a", other)
    full(site.put("/q/b", b"x", user), 1, 1000, 1)


def test_whoever_stores_for_another_takes_of_his_quota(site, user):
    """By a link, and by the prefix."""
    support = site.user("support")
    link = site.send("POST", "/q/a?share", user, content=b'{"method":"PUT"}').json()["url"]
    assert site.put(link, b"x" * 600).status_code == 201
    assert site.put(f"/q/b?prefix=q/{user.id}/", b"x" * 400, support).status_code == 201
    full(site.put(f"/q/c?prefix=q/{user.id}/", b"x", support), 1, 1000, 2)
    full(site.put(site.send("POST", "/q/c?share", user, content=b'{"method":"PUT"}').json()["url"], b"x"), 1, 1000, 2)
    assert site.put("/q/a", b"x" * 1000, support).status_code == 201


def test_more_objects_than_a_page(site, user):
    in_parallel(lambda part: [site.stored.put(f"many/{user.id}/{n}", b"") for n in part], [range(at, 1099, 4) for at in range(4)])
    assert site.put("/many/one", b"one", user).status_code == 201
    refused(site.put("/many/two", b"two", user), 507, "quota_exceeded", size=3, used_bytes=3, used_objects=1100, quota_objects=1100)
    assert site.put("/many/one", b"another", user).status_code == 201


def test_uploads_in_parts_count_too(site, user):
    data = b"x" * (6 * MIB)
    assert site.put("/parts/a", data, user).status_code == site.put("/parts/b", data, user).status_code == 201
    refused(site.put("/parts/c", data, user), 507, "quota_exceeded", size=6 * MIB, used_bytes=12 * MIB, used_objects=2, quota_bytes=12 * MIB)
    assert used(site, f"parts/{user.id}/") == (12 * MIB, 2) and not site.stored.unfinished()


# Several at once -----------------------------------------------------------------------------------------------


def test_many_want_the_last_room(site, user):
    answers = in_parallel(lambda n: site.put(f"/bytes/{n}", b"x" * 10_000, user), list(range(25)))
    assert sorted(answer.status_code for answer in answers) == [201] * 10 + [507] * 15
    assert used(site, f"bytes/{user.id}/") == (100_000, 10)
    for answer in answers:
        if answer.status_code == 507:
            assert answer.json()["used_bytes"] + 10_000 > answer.json()["quota_bytes"] == 100_000


def test_many_want_the_last_places(site, user):
    answers = in_parallel(lambda n: site.put(f"/q/{n}", b"x", user), list(range(12)))
    assert sorted(answer.status_code for answer in answers) == [201] * 3 + [507] * 9
    assert used(site, f"q/{user.id}/") == (3, 3)


def test_many_replace_one_file(site, user):
    """Each needs no more than the file has, and afterwards what is counted is what is there."""
    assert site.put("/q/a", b"x" * 900, user).status_code == 201
    answers = in_parallel(lambda n: site.put("/q/a", b"%d" % n * 900, user), list(range(9)))
    assert {answer.status_code for answer in answers} == {201}
    full(site.put("/q/b", b"x" * 101, user), 101, 900, 1)
    assert site.put("/q/b", b"x" * 100, user).status_code == 201


def test_many_store_one_new_file(site, user):
    answers = in_parallel(lambda n: site.put("/q/a", b"%d" % n * 100, user), list(range(8)))
    assert {answer.status_code for answer in answers} <= {201, 507} and 201 in [answer.status_code for answer in answers]
    assert used(site, f"q/{user.id}/") == (100, 1)
    assert site.put("/q/b", b"x" * 900, user).status_code == 201


def test_many_delete_one_file(site, user):
    """It makes room once."""
    site.put("/bytes/0", b"", user)
    for turn in range(5):
        assert site.put("/bytes/a", b"x" * 100_000, user).status_code == 201
        answers = in_parallel(lambda _: site.delete("/bytes/a", user), list(range(8)))
        assert 204 in {answer.status_code for answer in answers} <= {204} | moments(site)
        answers = [site.put(f"/bytes/b{n}", b"x" * 60_000, user) for n in range(3)]
        assert [answer.status_code for answer in answers] == [201, 507, 507]
        assert site.delete("/bytes/b0", user).status_code == 204


def test_many_replace_and_delete_one_file(site, user):
    """Whoever comes last: what is there afterwards is what counts."""
    site.put("/bytes/0", b"", user)
    for turn in range(5):
        in_parallel(lambda n: site.put("/bytes/a", b"x" * 50_000, user) if n % 2 else site.delete("/bytes/a", user), list(range(8)))
        answers = [site.put(f"/bytes/b{n}", b"x" * 30_000, user) for n in range(4)]
        assert used(site, f"bytes/{user.id}/")[0] <= 100_000, answers
        for name in ("a", "b0", "b1", "b2", "b3"):
            site.delete(f"/bytes/{name}", user)


@pytest.mark.parametrize("seed", range(3))
def test_one_after_the_other_in_any_order(site, user, seed):
    """Compared with what a few lines of Python allow."""
    rng, files = random.Random(seed), {}
    for _ in range(60):
        name, size = rng.choice("abcde"), rng.choice([0, 1, 100, 250, 333, 500, 999, 1000])
        if rng.random() < 0.25:
            assert site.delete(f"/q/{name}", user).status_code == 204
            files.pop(name, None)
            continue
        after = {**files, name: size}
        grows = size > files.get(name, 0)
        fits = (not grows or sum(after.values()) <= 1000) and (name in files or len(after) <= 3)
        answer = site.put(f"/q/{name}", b"x" * size, user)
        if fits:
            assert answer.status_code == 201, (files, name, size, answer.text)
            files = after
        else:
            full(answer, size, sum(files.values()), len(files))
    assert {key.rsplit("/")[-1]: size for key, size in site.stored.sizes(f"q/{user.id}/").items()} == files


@pytest.mark.parametrize("seed", range(3))
def test_at_once_in_any_order(site, user, seed):
    """Uploads, replacements, deletions, and uploads that break off: never more than the quota is there, and in the end there is room for the rest."""
    # Its folder would come and go with the last file, and versitygw answers 409 in between.
    site.put("/bytes/0", b"", user)

    def work(rng):
        for _ in range(3):
            path, kind = f"/bytes/{rng.choice('abcdef')}", rng.random()
            if kind < 0.2:
                assert site.delete(path, user).status_code in {204} | moments(site)
            elif kind < 0.35:
                with Wire(site.gateway.port) as wire:
                    wire.send(body_of("PUT", path, 30_000, user), b"x" * 20_000)
            else:
                assert site.put(path, b"x" * rng.choice([10_000, 20_000, 40_000]), user).status_code in {201, 507} | moments(site)

    for turn in range(6):
        in_parallel(work, [random.Random(f"{seed} {turn} {worker}") for worker in range(6)])
        # Looked at when all is quiet: a listing is not of one moment.
        assert used(site, f"bytes/{user.id}/")[0] <= 100_000
    for name in "abcdef":
        site.delete(f"/bytes/{name}", user)
    assert used(site, f"bytes/{user.id}/") == (0, 1)
    eventually(lambda: site.put("/bytes/all", b"x" * 100_000, user).status_code == 201, 10, "room for everything")
