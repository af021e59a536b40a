"""The files of prometheus-client's multiprocess mode, and the merge of those of ended workers.

Each worker writes its counters and histograms to files of its own. After its end, gunicorn's master adds their values
to one file for each type, such as `counter_ended.db`. The number of files therefore does not grow with each restart of
a worker. Readers hold a shared lock and the merge an exclusive one, so that no reader counts a worker
twice or not at all.

| Private API of prometheus-client | Used for |
|---|---|
| `mmap_dict.MmapedDict` | reads and writes a file |
| names of files: `<type>_<process id>.db`, `gauge_<mode>_<process id>.db` | finds the files of a process |
| keys of entries: the JSON of family, sample, labels and help text | finds the entries of the same series |
"""

from __future__ import annotations

import fcntl
import json
import logging
import math
import struct
import time
from collections import defaultdict
from collections.abc import Collection, Iterable
from functools import cache
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

from prometheus_client.metrics_core import Metric
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

log = logging.getLogger(__name__)

_ENDED = "ended"
# Seconds for which the merge waits for readers. A worker that hangs while it reads must not stop the master.
_LOCK_TIMEOUT = 1.0
# Bytes that an entry of a file takes in addition to its key, at most: length, padding, value and timestamp.
_ENTRY_BYTES = 4 + 8 + 8 + 8


class FileCollector(Collector):
    """Adds up the files of all workers, for a registry of prometheus-client.

    The result is that of prometheus-client's `MultiProcessCollector`, which takes four times as long because it parses
    and adds up single labels. This class first adds up the values by their keys.
    """

    def __init__(self, directory: str) -> None:
        """:param directory: the directory of the files."""
        self._directory = Path(directory)

    def collect(self) -> list[Metric]:
        """The metrics of running and ended workers."""
        with open(self._directory / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH)
            # A worker that has just started may have a file that is still empty.
            files = [path for path in self._directory.glob("*.db") if not _is_empty(path)]
            kinds = _add_up(files)
        metrics: dict[str, Metric] = {}
        for kind, totals in kinds.items():
            _add_metrics(metrics, kind, totals)
        return list(metrics.values())


class _Key(NamedTuple):
    """The parsed key of an entry.

    :ivar series: the labels without `le`.
    :ivar bound: the upper bound of a histogram bucket; -inf for all other samples.
    """

    family: str
    sample: str
    labels: dict[str, str]
    help_text: str
    series: tuple[tuple[str, str], ...]
    bound: float


# The number of keys is bounded, because the number of label values is bounded.
@cache
def _parse(key: str) -> _Key:
    family, sample, labels, help_text = json.loads(key)
    series = tuple((name, value) for name, value in labels.items() if name != "le")
    return _Key(family, sample, labels, help_text, series, float(labels.get("le", "-inf")))


_first_keys: dict[str, str] = {}


@cache
def _first_key(key: str) -> str:
    """The first key of the same series, which differs if another version of the service has another help text."""
    return _first_keys.setdefault(json.dumps(json.loads(key)[:3]), key)


def _add_up(files: Iterable[Path]) -> dict[str, dict[str, float]]:
    """Add up the values of all files by the first key of their series, for each type of metric."""
    kinds: dict[str, dict[str, float]] = {}
    timestamps: dict[str, float] = {}
    for path in files:
        kind, mode = path.stem.split("_")[:2]
        totals = kinds.setdefault(kind, {})
        try:
            entries = MmapedDict.read_all_values_from_file(str(path))  # type: ignore[no-untyped-call]
        except FileNotFoundError:
            # The master removes the gauges of a worker that has ended, without the lock.
            continue
        if mode == "livemax":
            for raw, value, _, _ in entries:
                key = _first_key(raw)
                totals[key] = max(totals.get(key, value), value)
        elif mode == "livemostrecent":
            for raw, value, timestamp, _ in entries:
                key = _first_key(raw)
                if timestamp > timestamps.get(key, 0.0):
                    totals[key], timestamps[key] = value, timestamp
        else:
            for raw, value, _, _ in entries:
                key = _first_key(raw)
                totals[key] = totals.get(key, 0.0) + value
    return kinds


def _add_metrics(metrics: dict[str, Metric], kind: str, totals: dict[str, float]) -> None:
    histograms: dict[tuple[str, tuple[tuple[str, str], ...]], list[tuple[float, _Key, float]]] = defaultdict(list)
    for raw, value in totals.items():
        key = _parse(raw)
        metric = metrics.get(key.family)
        if metric is None:
            metric = metrics[key.family] = Metric(key.family, key.help_text, kind)
        if kind == "histogram":
            histograms[key.family, key.series].append((key.bound, key, value))
        else:
            metric.samples.append(Sample(key.sample, key.labels, value))
    # OpenMetrics requires that all samples of a series follow each other.
    for (family, series), entries in histograms.items():
        samples, count = metrics[family].samples, 0.0
        for bound, key, value in sorted(entries, key=itemgetter(0)):
            if bound == -math.inf:
                samples.append(Sample(key.sample, key.labels, value))
                continue
            # A file has the count of each bucket alone. Prometheus expects cumulative counts.
            count += value
            samples.append(Sample(key.sample, key.labels, count))
        samples.append(Sample(f"{family}_count", dict(series), count))


def merge_ended(directory: str, running: Collection[int]) -> None:
    """Add the counters and histograms of ended workers to those of earlier ones, and remove their files.

    If readers hold the lock for too long, the files stay until the next call.

    :param directory: the directory of the files.
    :param running: process ids whose files are in use.
    :raises OSError: no space is left, for example. The files stay.
    """
    names_in_use = {_ENDED, *map(str, running)}
    ended = defaultdict(list)
    for path in Path(directory).glob("*.db"):
        kind, _, name = path.stem.partition("_")
        # The files of the gauges are removed when a worker ends.
        if kind != "gauge" and name not in names_in_use:
            ended[kind].append(path)
    if not ended:
        return
    with open(Path(directory) / "lock", "w") as lock:
        if not _lock_for_merge(lock.fileno()):
            return
        for kind, paths in ended.items():
            _merge(Path(directory) / f"{kind}_{_ENDED}.db", paths)


def _lock_for_merge(descriptor: int) -> bool:
    latest = time.monotonic() + _LOCK_TIMEOUT
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > latest:
                return False
            time.sleep(0.005)


def _merge(target: Path, paths: list[Path]) -> None:
    totals: dict[str, float] = defaultdict(float)
    for path in (target, *paths):
        for key, value in _read(path):
            totals[key] += value
    new = target.with_suffix(".new")
    # Takes the space now: a write to a mapped file kills the process if no space is left.
    new.write_bytes(bytes(8 + sum(len(key.encode()) + _ENTRY_BYTES for key in totals)))
    merged = MmapedDict(str(new))  # type: ignore[no-untyped-call]
    for key, value in totals.items():
        merged.write_value(key, value, 0.0)  # type: ignore[no-untyped-call]
    merged.close()  # type: ignore[no-untyped-call]
    new.replace(target)
    for path in paths:
        path.unlink()


def _read(path: Path) -> list[tuple[str, float]]:
    if _is_empty(path):
        return []
    try:
        entries = list(MmapedDict.read_all_values_from_file(str(path)))  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError, struct.error) as error:
        log.error("The metrics in %s are lost: %s", path.name, error)
        return []
    return [(key, value) for key, value, _, _ in entries]


def _is_empty(path: Path) -> bool:
    """Whether the file has no content; also if it does not exist (any more)."""
    try:
        return path.stat().st_size == 0
    except FileNotFoundError:
        return True
