import threading

import pytest

from psec_jax.data.download import DownloadFailed, download
from psec_jax.errors import BrokenFile

CONTENT = bytes(range(256)) * 4000


def check(path):
    """Accepts what the server has, and nothing else."""
    if path.read_bytes() != CONTENT:
        raise BrokenFile(f"{path} is not what it should be")


@pytest.fixture
def target(server, tmp_path):
    server.content = CONTENT
    return tmp_path / "folder" / "data.hdf5"


@pytest.fixture
def fetch(server, target):
    return lambda: download(server.url("some/data.hdf5"), target, check, shown=False)


def part(target):
    return target.with_name(target.name + ".part")


def failure(fetch, server, target):
    """The one line that a download fails with: the address, and where the file belongs."""
    with pytest.raises(DownloadFailed) as error:
        fetch()
    message = str(error.value)
    assert server.url("some/data.hdf5") in message and str(target.parent) in message
    assert "\n" not in message and not target.exists()
    return message


def test_a_file_is_fetched_once(server, target, fetch):
    assert fetch() == fetch() == target
    assert target.read_bytes() == CONTENT
    assert server.requests == [None] and not part(target).exists()


@pytest.mark.parametrize("cuts", [[1], [300_001], [1, 500_000, 2]])
def test_a_broken_download_goes_on_where_it_stopped(server, target, fetch, cuts):
    server.faults.extend(server.cut(count) for count in cuts)
    for done in range(1, len(cuts) + 1):
        said = failure(fetch, server, target)
        assert f"the connection broke after {sum(cuts[:done]):,} of {len(CONTENT):,}" in said
    fetch()
    assert target.read_bytes() == CONTENT
    stops = [sum(cuts[:done]) for done in range(1, len(cuts) + 1)]
    assert server.requests == [None, *(f"bytes={stop}-" for stop in stops)]
    assert server.sent == len(CONTENT)


def test_a_server_that_cannot_go_on_is_asked_for_all(server, target, fetch):
    server.faults.extend([server.cut(1000), server.other(CONTENT)])
    failure(fetch, server, target)
    fetch()
    assert target.read_bytes() == CONTENT
    assert server.requests == [None, "bytes=1000-"]


@pytest.mark.parametrize("content", [CONTENT + b"!", b"?" * (len(CONTENT) + 9)])
def test_another_longer_file_is_thrown_away_unchecked(server, target, content):
    target.parent.mkdir()
    part(target).write_bytes(content)
    download(server.url("data.hdf5"), target, lambda path: None, shown=False)
    assert target.read_bytes() == CONTENT
    assert server.requests == [f"bytes={len(content)}-", None]


def test_a_whole_file_that_was_not_yet_moved_is_not_fetched_again(server, target, fetch):
    target.parent.mkdir()
    part(target).write_bytes(CONTENT)
    fetch()
    assert target.read_bytes() == CONTENT
    assert server.sent == 0


@pytest.mark.parametrize("damaged", [CONTENT[:-1] + b"?", CONTENT[:-1], b"", b"<html>"])
def test_a_damaged_file_is_fetched_again(server, target, fetch, damaged):
    server.faults.append(server.other(damaged))
    fetch()
    assert target.read_bytes() == CONTENT
    assert server.requests == [None, None]


def test_the_rest_of_another_file_is_fetched_again_from_its_beginning(server, target, fetch):
    target.parent.mkdir()
    part(target).write_bytes(b"?" * 1000)
    fetch()
    assert target.read_bytes() == CONTENT
    assert server.requests == ["bytes=1000-", None]


def test_a_file_that_is_damaged_twice_is_refused(server, target, fetch):
    server.faults.extend([server.other(b"<html>")] * 2)
    said = failure(fetch, server, target)
    assert "came damaged twice" in said and "is not what it should be" in said
    assert not part(target).exists()
    fetch()
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize("code", [404, 403, 500, 503])
def test_what_the_server_says_is_passed_on(server, target, fetch, code):
    server.faults.append(server.status(code))
    assert f"the server said {code} " in failure(fetch, server, target)
    assert len(server.requests) == 1


def test_without_a_server_one_line_says_what_to_do(nowhere, tmp_path):
    with pytest.raises(DownloadFailed) as error:
        download(nowhere, tmp_path / "data.hdf5", check, shown=False)
    said = str(error.value)
    assert f"could not download {nowhere} (" in said and "Connection refused" in said
    assert said.endswith(f"fetch it by other means and put it into {tmp_path}")
    assert "\n" not in said and not (tmp_path / "data.hdf5").exists()


def test_a_file_appears_only_when_it_is_whole_and_checked(server, target):
    seen = []

    def watch(path):
        seen.append(target.exists())
        check(path)

    def late(handler, start):
        seen.append(target.exists())
        server.send(handler, 200, CONTENT)

    server.faults.append(late)
    download(server.url("data.hdf5"), target, watch, shown=False)
    assert seen == [False, False] and target.exists()


def test_of_two_that_fetch_at_once_one_waits_for_the_other(server, target, fetch):
    asked, go_on = threading.Event(), threading.Event()

    def slow(handler, start):
        asked.set()
        go_on.wait(10)
        server.send(handler, 200, CONTENT)

    server.faults.append(slow)
    found = []
    threads = [threading.Thread(target=lambda: found.append(fetch())) for _ in range(2)]
    threads[0].start()
    assert asked.wait(10)
    threads[1].start()
    threads[1].join(0.2)
    assert threads[1].is_alive() and not target.exists()
    go_on.set()
    for thread in threads:
        thread.join(10)
    assert found == [target] * 2 and target.read_bytes() == CONTENT
    assert server.requests == [None]


def test_progress_is_shown_and_can_be_hidden(server, target, capsys):
    for shown in (False, True):
        target.unlink(missing_ok=True)
        download(server.url("data.hdf5"), target, check, shown)
        output = capsys.readouterr()
        assert output.out == ""
        assert ("data.hdf5" in output.err) == shown


def test_a_folder_that_cannot_be_written_to_is_named(server, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=rf"cannot write in {tmp_path}/file"):
        download(server.url("data.hdf5"), tmp_path / "file" / "data.hdf5", check, shown=False)
    assert server.requests == []
