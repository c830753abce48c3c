"""From a corpus' own layout to rows of a manifest: reads headers, checks, measures; in parallel, and resumable."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import Counter, deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from bcfusion.audio import UnreadableAudio
from bcfusion.contracts import UNKNOWN_SPEAKER, Row
from bcfusion.data.corpora.folder import some
from bcfusion.data.corpora.manifest import read_manifest, write_manifest
from bcfusion.data.preparation.adapters import NEEDED, SPLITS, Adapter, Recording
from bcfusion.data.preparation.journal import Journal
from bcfusion.data.preparation.recording_facts import CONFIDENCE, Facts, Problem, facts_of
from bcfusion.errors import AudioError, DataError

# Headers are waited for, not computed: with this many reads under way a network disk is busy.
_THREADS = 8
_BATCH = {False: 64, True: 4}  # recordings handed to a worker at once: headers take 0.1 ms, measures 50
_AHEAD = 4  # batches for each worker that are under way
_NAMED = 3

TWICE = "with an id that another has"
SHARED = "of speakers who are in another split too"


@dataclass(frozen=True)
class Job:
    """What to prepare.

    Attributes:
        name: of the corpus, for the journal. adapter: reads its layout. root: its folder.
        options: of the adapter. target: the manifest, .jsonl or .csv.
        measure: whether bandwidth, and with a body sensor lag and polarity, are measured from the samples.
        workers: threads that read headers, or processes that measure; None: 8 threads, or a process for each core.
        max_unreadable_share: of the recordings, in [0, 1], that may be left out, for whatever reason.
        keep_shared_speakers: whether recordings of a speaker may stand in several splits.
    """

    name: str
    adapter: Adapter
    root: Path
    options: Mapping[str, str]
    target: Path
    measure: bool = False
    workers: int | None = None
    max_unreadable_share: float = 0.05
    keep_shared_speakers: bool = False

    @property
    def unpacked(self) -> Path:
        """Folder beside the manifest for an adapter of archives."""
        return self.target.with_name(f"{self.target.stem}_audio")

    @property
    def partial(self) -> Path:
        """The journal of an unfinished run, beside the manifest."""
        return self.target.with_name(f"{self.target.name}.partial")


@dataclass
class LeftOut:
    """What is not in the manifest, by kind, with the first few of each kind."""

    counts: Counter[str] = field(default_factory=Counter)
    first: dict[str, list[AudioError]] = field(default_factory=dict)

    def add(self, kind: str, problem: AudioError) -> None:
        """Count a recording."""
        self.counts[kind] += 1
        if len(self.first.setdefault(kind, [])) < _NAMED:
            self.first[kind].append(problem)

    def lines(self, total: int) -> list[str]:
        """Two lines, however many there are: how many of each kind, and the first few; none where nothing is."""
        if not self.counts:
            return []
        kinds = ", ".join(f"{count} {kind}" for kind, count in self.counts.most_common())
        # of each kind the first, then more of the most frequent
        frequent = [kind for kind, _ in self.counts.most_common()]
        named = [self.first[kind][0] for kind in frequent]
        named += [problem for kind in frequent for problem in self.first[kind][1:]]
        count = self.counts.total()
        more = f"; and {count - _NAMED} more" if count > _NAMED else ""
        return [f"{count} of {total} recordings are left out: {kinds}", f"  {some(named[:_NAMED])}{more}"]


@dataclass(frozen=True)
class Prepared:
    """A manifest that was written: its rows, what was left out, and how many recordings an earlier run had done."""

    rows: list[Row]
    left_out: LeftOut
    total: int
    resumed: int


def prepare(job: Job, progress: bool = True) -> Prepared:
    """Write the manifest of a corpus.

    A run that was ended, by whatever means, goes on where it was when the same job is prepared again: what is known of
    each recording is in a journal beside the manifest. The unreadable are looked at again. The manifest appears whole
    or not at all, its rows in the order of the adapter.

    Args:
        job: what to prepare.
        progress: whether a bar is shown, on a terminal.

    Raises:
        DataError: the folder holds something else, there is nothing in it, too many recordings must be left out (the
            journal stays), a worker process was ended, or the place cannot be written to.
    """
    recordings = list(tqdm(_recordings(job), desc="listing", unit=" files", disable=None if progress else True))
    if not recordings:
        raise DataError(f"{job.root}: {job.name} finds no recordings in it\nexpected layout:\n{job.adapter.layout}")
    total = len(recordings)
    left_out = LeftOut()
    recordings = _distinct(recordings, left_out)
    if job.adapter.kind == "speech" and not job.keep_shared_speakers:
        recordings = _speaker_disjoint(recordings, left_out)
    with Journal(job.partial, _depends_on(job)) as journal:
        known = journal.done
        resumed = sum(recording.id in known for recording in recordings)
        missing = [recording for recording in recordings if recording.id not in known]
        bar = tqdm(
            total=len(recordings),
            initial=resumed,
            desc="measuring" if job.measure else "reading headers",
            unit=" files",
            disable=None if progress else True,
        )
        # closed, so that an interrupt ends the workers too, wherever it falls
        with bar, closing(_look_at(missing, job)) as looked_at:
            for found in looked_at:
                journal.add([facts for facts in found if isinstance(facts, dict)])
                for facts in found:
                    if isinstance(facts, dict):
                        known[facts["id"]] = facts
                    else:
                        left_out.add(facts.kind, UnreadableAudio(facts.text, facts.path))
                bar.update(len(found))
        if left_out.counts.total() > job.max_unreadable_share * total:
            raise DataError("\n".join([*left_out.lines(total), _too_many(job, left_out, total)]))
        rows = [_row(recording, known[recording.id], job.name) for recording in recordings if recording.id in known]
        write_manifest(job.target, rows)
        journal.remove()
    return Prepared(rows, left_out, total, resumed)


def rows_of(job: Job) -> list[Row]:
    """The rows of a manifest that :func:`prepare` has written before.

    Raises:
        DataError: it has problems, or lines without duration or sample rate, which are of another origin.
    """
    rows = []
    for entry in read_manifest(job.target, NEEDED[job.adapter.kind]):
        if entry.duration is None or entry.sample_rate is None:
            raise DataError(f"{job.target}: {entry.id} has no duration or no sample_rate: --overwrite prepares it anew")
        rows.append(entry.row(entry.duration, entry.sample_rate))
    return rows


def _recordings(job: Job) -> Iterator[Recording]:
    sensor = NEEDED[job.adapter.kind]
    for recording in job.adapter.recordings(job.root, job.options, job.unpacked):
        if recording.split not in SPLITS or sensor not in recording.paths:
            raise DataError(f"the adapter of {job.name} gives {recording}: no {sensor}, or a split of another name")
        yield recording


def _depends_on(job: Job) -> dict[str, Any]:
    return {
        "corpus": job.name,
        "root": os.path.abspath(job.root),
        "options": dict(sorted(job.options.items())),
        "measure": job.measure,
    }


def _too_many(job: Job, left_out: LeftOut, total: int) -> str:
    advice = [f"no manifest is written: that is more than --max-unreadable-share {job.max_unreadable_share:g} allows"]
    if left_out.counts[SHARED] > job.max_unreadable_share * total:
        advice.append("--keep-shared-speakers leaves them in, but scores will be too good")
    return "; ".join(advice)


def _distinct(recordings: Sequence[Recording], left_out: LeftOut) -> list[Recording]:
    seen: dict[str, Recording] = {}
    for recording in recordings:
        first = seen.setdefault(recording.id, recording)
        if first is not recording:
            files = " and ".join(str(next(iter(one.paths.values()))) for one in (first, recording))
            left_out.add(TWICE, AudioError(f"{files} are both {recording.id}"))
    return list(seen.values())


def _speaker_disjoint(recordings: Sequence[Recording], left_out: LeftOut) -> list[Recording]:
    """Keep each speaker in one split: test before valid before train, so that what scores are made of stays whole."""
    splits: dict[str, set[str]] = {}
    for recording in recordings:
        splits.setdefault(recording.speaker, set()).add(recording.split)
    kept = []
    for recording in recordings:
        mine = splits[recording.speaker]
        stays = max(mine, key=SPLITS.index)
        if recording.split == stays or recording.speaker == UNKNOWN_SPEAKER:
            kept.append(recording)
        else:
            left_out.add(SHARED, AudioError(f"{recording.id} of {recording.split}: {recording.speaker} is in {stays}"))
    return kept


def _look_at(recordings: Sequence[Recording], job: Job) -> Generator[list[Facts | Problem], None, None]:
    """Facts or problems of all recordings, in their order, a batch at a time."""
    size = _BATCH[job.measure]
    batches = iter([recordings[begin : begin + size] for begin in range(0, len(recordings), size)])
    sensor = NEEDED[job.adapter.kind]
    workers = job.workers or (len(os.sched_getaffinity(0)) if job.measure else _THREADS)
    with _pool(workers, job.measure) as pool:
        under_way: deque[Future[list[Facts | Problem]]] = deque()
        try:
            for batch in batches:
                under_way.append(pool.submit(_look_at_batch, batch, sensor, job.measure))
                if len(under_way) >= workers * _AHEAD:
                    yield under_way.popleft().result()
            while under_way:
                yield under_way.popleft().result()
        except BrokenProcessPool as error:
            raise DataError("a worker process was ended, perhaps for want of memory: give fewer --workers") from error
        finally:
            for future in under_way:
                future.cancel()


def _pool(workers: int, measure: bool) -> Executor:
    if not measure or workers == 1:
        return ThreadPoolExecutor(workers)
    # not forked: this process may hold threads of a numeric library
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, mp_context=context, initializer=_leave_interrupts_to_the_parent)


def _leave_interrupts_to_the_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _look_at_batch(recordings: Sequence[Recording], sensor: str, measure: bool) -> list[Facts | Problem]:
    return [facts_of(recording, sensor, measure) for recording in recordings]


def _row(recording: Recording, facts: Mapping[str, Any], corpus: str) -> Row:
    confidence = {CONFIDENCE: facts[CONFIDENCE]} if CONFIDENCE in facts else {}
    return Row(
        id=recording.id,
        paths={sensor: os.fspath(path) for sensor, path in recording.paths.items()},
        speaker=recording.speaker,
        split=recording.split,
        sample_rate=facts["sample_rate"],
        duration=facts["duration"],
        offset=recording.offset,
        lag=facts.get("lag", recording.lag),
        polarity=facts.get("polarity", recording.polarity),
        extra={"corpus": corpus, **recording.extra, **confidence},
        channels=recording.channels,
        bandwidth=facts.get("bandwidth"),
    )
