"""Ray Data on a real local cluster with two workers: the same bytes, and nothing is lost where one is killed."""

from __future__ import annotations

import glob
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ray = pytest.importorskip("ray", reason="the Ray runner needs ray: pip install 'intarsia[ray]'")

from intarsia import batch
from intarsia.batch.manifest.line import Line
from intarsia.batch.manifest.rows import Reader
from intarsia.batch.running.jobs import Job
from intarsia.batch.running.ray_runner import Actor
from tests.batch.conftest import FAULTS, image_hashes, lines

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # what Ray warns of is Ray's


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One for all tests here; its workers fail as prompts say, and take their time."""
    marks = tmp_path_factory.mktemp("marks")
    paths = os.pathsep.join([str(FAULTS), os.getcwd()])
    settings = {
        "PYTHONPATH": paths,
        "INTARSIA_TEST_FAULTS": "0.1",
        "INTARSIA_TEST_MARKS": str(marks),
        "OMP_NUM_THREADS": "1",
    }
    old = {name: os.environ.get(name) for name in ("RAY_USAGE_STATS_ENABLED", *settings)}
    os.environ.update({"RAY_USAGE_STATS_ENABLED": "0", **settings})
    ray.init(
        num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR", object_store_memory=80 << 20
    )
    yield
    ray.shutdown()
    for name, value in old.items():
        os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)


def test_the_same_bytes_also_where_a_worker_is_killed_and_rows_are_bad(album, tmp_path, cluster):
    rows = album.rows(24)  # two batches of about a dozen, which slots of four make in rounds
    rows[5]["init_image"] = "photos/gone.png"
    rows[6]["stepz"] = 1
    rows[17]["prompt"] = "broken"
    manifest, out = album.manifest(rows), tmp_path / "out"
    killed = []

    def kill() -> None:
        """The actor that has just finished something, in the middle of its batch."""
        while not killed:
            for path in out.glob("results-ray-*.jsonl"):
                if 2 <= path.read_bytes().count(b"\n") < 8:
                    killed.extend(_writers(path)[:1])
                    for process in killed:
                        os.kill(process, signal.SIGKILL)
                    break
            time.sleep(0.01)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    stats = batch.run(manifest, out, album.with_options(runner="ray", workers=2, slots=4))
    assert killed
    made = {line["id"]: line for line in lines(out)}
    assert len(made) == stats.rows == 24
    assert len({line["run"] for line in made.values()}) == 1
    bad = {name: line["error"] for name, line in made.items() if line["status"] == "error"}
    assert bad == {"row-5": "io", "row-6": "param", "row-17": "internal"}
    assert any(line["attempts"] == 2 for line in made.values())  # what the dead one had in flight
    assert sorted(path.name for path in out.iterdir() if not path.name.endswith(".png")) == [
        ".intarsia-batch.lock", ".intarsia-outputs", "report.json", "results.jsonl",
    ]  # fmt: skip
    batch.run(
        album.manifest([row for row in rows if row["id"] not in bad], "good.jsonl"), tmp_path / "here", album.options
    )
    assert image_hashes(out) == image_hashes(tmp_path / "here")
    # what is done is done, whichever runner looks
    assert batch.run(manifest, out, album.options).before == 21


def test_a_row_that_kills_its_actor_is_given_up(album, tmp_path):
    """What Ray does in between, an actor dying and another starting, is left out: its notes say the same."""
    out = tmp_path / "out"
    out.mkdir()
    for actor in ("a", "b", "c"):
        (out / f".intarsia-begun-1of1-{actor}").write_text('"row-0"\n"row-1"\n' if actor == "a" else '"row-0"\n"torn')
    reader = Reader(album.folder, album.options, {})
    rows = [reader.row(Line(number + 1, album.row(number))) for number in range(3)]
    jobs = [json.dumps(Job.of(row).to_json()) for row in rows]
    actor = Actor(album.options.to_dict(), str(out))
    made = [json.loads(text)["record"] for text in actor({"job": jobs})["record"]]
    found = {record["id"]: (record["status"], record["attempts"]) for record in made}
    assert found == {"row-0": ("error", 3), "row-1": ("ok", 2), "row-2": ("ok", 1)}
    # an actor that gets the batch later finds it finished, and runs nothing
    times = {path.name: path.stat().st_mtime_ns for path in out.glob("*.png")}
    actor.close()
    other = Actor(album.options.to_dict(), str(out))
    again = [json.loads(text)["record"] for text in other({"job": jobs})["record"]]
    other.close()
    assert {record["id"]: record["time"] for record in again} == {record["id"]: record["time"] for record in made}
    assert {path.name: path.stat().st_mtime_ns for path in out.glob("*.png")} == times


def test_too_many_errors_stop_it(album, tmp_path, cluster):
    rows = [album.row(number, prompt="broken") for number in range(30)]
    stats = batch.run(album.manifest(rows), tmp_path / "out", album.with_options(runner="ray", max_errors="3"))
    assert stats.stopped == "4 rows failed, more than 3"
    assert len({line["id"] for line in lines(tmp_path / "out")}) == 30


def _writers(path: Path) -> list[int]:
    """Processes that have the file open."""
    found = []
    for link in glob.glob("/proc/[0-9]*/fd/*"):
        try:
            if os.readlink(link) == str(path) and int(link.split("/")[2]) != os.getpid():
                found.append(int(link.split("/")[2]))
        except OSError:
            continue
    return found
