"""The merge of the metrics files of ended workers: no value is lost or counted twice."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.mmap_dict import MmapedDict, mmap_key
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from observability.metrics_files import FileCollector, merge_ended
from observability.text_format import generate_text


def write(
    path: Path, name: str, value: float, timestamp: float = 0.0, help_text: str = "Help.\\\n", /, **labels: str
) -> None:
    """Add a value to a file, as a worker does."""
    file = MmapedDict(str(path))
    family = name.removesuffix("_bucket").removesuffix("_sum").removesuffix("_total")
    file.write_value(mmap_key(family, name, list(labels), list(labels.values()), help_text), value, timestamp)
    file.close()


def read(directory: Path, name: str, **labels: str) -> float | None:
    registry = CollectorRegistry()
    registry.register(FileCollector(str(directory)))
    return registry.get_sample_value(name, labels)


def test_values_of_ended_workers_are_added_exactly(tmp_path: Path) -> None:
    """Counters and each bucket of a histogram; the files of running workers stay as they are."""
    for process in range(1, 6):
        write(tmp_path / f"counter_{process}.db", "requests_total", process, route="/a")
        write(tmp_path / f"counter_{process}.db", "requests_total", 1, route=f"/{process}/é")
        for bound, count in (("1.0", 1), ("+Inf", process)):
            write(tmp_path / f"histogram_{process}.db", "seconds_bucket", count, le=bound)
        write(tmp_path / f"histogram_{process}.db", "seconds_sum", process / 2)
        write(tmp_path / f"gauge_livesum_{process}.db", "workers", 1)

    def values() -> list[float | None]:
        return [
            read(tmp_path, "requests_total", route="/a"),
            read(tmp_path, "requests_total", route="/3/é"),
            read(tmp_path, "seconds_bucket", le="1.0"),
            read(tmp_path, "seconds_bucket", le="+Inf"),
            read(tmp_path, "seconds_count"),
            read(tmp_path, "seconds_sum"),
            read(tmp_path, "workers"),
        ]

    before = values()
    assert before == [15, 1, 5, 20, 20, 7.5, 5]
    for running in ({3, 4, 5}, {5}, {5}, set()):
        merge_ended(str(tmp_path), running)
        assert values() == before
        processes = {path.stem.rpartition("_")[2] for path in tmp_path.glob("[ch]*.db")}
        assert processes == {"ended", *map(str, running)}
    assert len(list(tmp_path.glob("gauge_*"))) == 5


def test_concurrent_readers_see_each_worker_exactly_once(tmp_path: Path) -> None:
    """A worker is in its own file or in that of the ended workers, never in both or in none."""
    workers = 200
    for process in range(workers):
        write(tmp_path / f"counter_{process}.db", "requests_total", 1)

    def end_one_worker_after_the_other() -> None:
        for ended in range(1, workers + 1):
            merge_ended(str(tmp_path), range(ended, workers))

    thread = threading.Thread(target=end_one_worker_after_the_other)
    thread.start()
    seen = {read(tmp_path, "requests_total")}
    while thread.is_alive():
        seen.add(read(tmp_path, "requests_total"))
        # The merge gets the lock only between two readers.
        thread.join(timeout=0.001)
    assert seen == {float(workers)}
    merge_ended(str(tmp_path), ())
    assert [path.name for path in tmp_path.glob("*.db")] == ["counter_ended.db"]


def test_files_of_killed_workers_do_not_fail_the_merge(tmp_path: Path) -> None:
    """A worker that was killed while it created or extended its file."""
    write(tmp_path / "counter_1.db", "requests_total", 7)
    (tmp_path / "counter_2.db").touch()
    (tmp_path / "counter_3.db").write_bytes(bytes(1 << 16))
    assert read(tmp_path, "requests_total") == 7
    (tmp_path / "counter_4.db").write_bytes(b"\xff\xff\0\0garbage" * 100)
    merge_ended(str(tmp_path), ())
    assert read(tmp_path, "requests_total") == 7
    assert [path.name for path in tmp_path.glob("*.db")] == ["counter_ended.db"]


def test_no_value_is_lost_if_the_merge_fails(tmp_path: Path) -> None:
    """The files stay, and a later merge succeeds."""
    write(tmp_path / "counter_1.db", "requests_total", 7)
    obstacle = tmp_path / "counter_ended.new"
    obstacle.mkdir()
    with pytest.raises(OSError, match="directory"):
        merge_ended(str(tmp_path), ())
    assert read(tmp_path, "requests_total") == 7
    obstacle.rmdir()
    merge_ended(str(tmp_path), {os.getpid()})
    assert read(tmp_path, "requests_total") == 7


def samples(metrics: list[Metric]) -> list[tuple[object, ...]]:
    return sorted(
        (metric.name, metric.type, metric.documentation, sample.name, *sorted(sample.labels.items()), sample.value)
        for metric in metrics
        for sample in metric.samples
    )


def test_values_equal_those_of_prometheus_client(tmp_path: Path) -> None:
    """Each type of metric and each mode of a gauge, with several workers and labels, as samples and as text."""
    for process in (1, 2, 3):
        for route in ("/a", 'quo"te\\', "line\n"):
            write(tmp_path / f"counter_{process}.db", "requests_total", process, route=route, method="GET")
            for bound in ("+Inf", "0.5", "10.0"):
                write(tmp_path / f"histogram_{process}.db", "seconds_bucket", process, route=route, le=bound)
            write(tmp_path / f"histogram_{process}.db", "seconds_sum", process / 7, route=route)
        write(tmp_path / f"gauge_livesum_{process}.db", "memory", 1e9)
        for number, value in enumerate((process, -process)):
            write(tmp_path / f"gauge_livemax_{process}.db", f"nodes{number}", value)
            write(tmp_path / f"gauge_livemostrecent_{process}.db", f"jobs{number}", value, abs(process - 2), kind="x")
    found = FileCollector(str(tmp_path)).collect()
    merged = MultiProcessCollector.merge([str(path) for path in tmp_path.glob("*.db")])  # type: ignore[no-untyped-call]
    assert samples(found) == samples(merged)
    registry = CollectorRegistry()
    registry.register(FileCollector(str(tmp_path)))
    assert generate_text(registry) == generate_latest(registry)
    # This parser requires that the samples of a series follow each other.
    families = list(text_string_to_metric_families(openmetrics.generate_latest(registry).decode()))
    assert len(families) == len(found)


def test_a_series_with_another_help_text_is_the_same_series(tmp_path: Path) -> None:
    """A reload can start workers of a new version, while the files of ended workers have the earlier help text."""
    for process, text in ((1, "Old."), (2, "New.")):
        write(tmp_path / f"counter_{process}.db", "requests_total", process, 0.0, text, route="/a")
        write(tmp_path / f"histogram_{process}.db", "seconds_bucket", process, 0.0, text, le="+Inf")
        write(tmp_path / f"gauge_livemax_{process}.db", "nodes", process, 0.0, text)
        write(tmp_path / f"gauge_livemostrecent_{process}.db", "jobs", process, process, text)
    merge_ended(str(tmp_path), {2})
    found = [sample for metric in FileCollector(str(tmp_path)).collect() for sample in metric.samples]
    assert sorted((sample.name, sample.value) for sample in found) == [
        ("jobs", 2),
        ("nodes", 2),
        ("requests_total", 3),
        ("seconds_bucket", 3),
        ("seconds_count", 3),
    ]
