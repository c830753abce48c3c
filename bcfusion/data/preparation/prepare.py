"""From a corpus's own layout to rows of a manifest: read headers, check, measure; in parallel, and resumable."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from bcfusion import system
from bcfusion.audio import UnreadableAudio
from bcfusion.contracts import SPLITS, UNKNOWN_SPEAKER, Row
from bcfusion.data.corpora.headers import NAMED, THREADS, first_few
from bcfusion.data.corpora.manifest import read_manifest, write_manifest
from bcfusion.data.inspect.alignment import Alignment
from bcfusion.data.inspect.certainty import all_believed, settled
from bcfusion.data.parallel import in_batches
from bcfusion.data.preparation.adapters import NEEDED, Adapter, Recording
from bcfusion.data.preparation.journal import Journal
from bcfusion.data.preparation.recording_facts import CONFIDENCE, CUT, REMARKS, facts_of
from bcfusion.errors import AudioError, DataError
from bcfusion.files import normal_name

_BATCH = {False: 64, True: 4}  # recordings that a worker gets at once: a header takes 0.1 ms, a measurement 50

_MEASURES = "bandwidth, alignment with both polarities"  # a journal of other measurements is of no use

DUPLICATE_ID = "with a repeated id"
SHARED_SPEAKER = "of speakers who are in another split too"


@dataclass(frozen=True)
class Job:
    """What to prepare.

    Attributes:
        name: of the corpus, for the journal and the column ``corpus``.
        adapter: reads its layout.
        root: its folder.
        options: of the adapter.
        target: the manifest, .jsonl or .csv.
        measure: whether bandwidth, and with a body sensor lag and polarity, are measured from the samples.
        workers: threads that read headers, or processes that measure; None: 8 threads, or one process per core.
        max_unreadable_share: share of the recordings, in [0, 1], that may be left out, for any reason.
        keep_shared_speakers: whether recordings of a speaker may be in several splits.
        unpack: folder where an adapter of archives writes its recordings, which manifests of one corpus may share;
            None: a folder beside the manifest.
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
    unpack: Path | None = None

    @property
    def unpacked(self) -> Path:
        """Folder where an adapter of archives writes its recordings."""
        return self.target.with_name(f"{self.target.stem}_audio") if self.unpack is None else self.unpack

    @property
    def partial(self) -> Path:
        """The journal of an unfinished run, beside the manifest."""
        return self.target.with_name(f"{self.target.name}.partial")


@dataclass
class LeftOut:
    """The recordings that are not in the manifest: their number by reason, and the first few of each."""

    counts: Counter[str] = field(default_factory=Counter)
    first: dict[str, list[AudioError]] = field(default_factory=dict)

    def add(self, kind: str, problem: AudioError) -> None:
        """Count a recording that is left out for the reason ``kind``."""
        self.counts[kind] += 1
        if len(self.first.setdefault(kind, [])) < NAMED:
            self.first[kind].append(problem)

    def lines(self, total: int) -> list[str]:
        """Return two lines: how many are left out for each reason, and the first few; none if nothing is left out."""
        if not self.counts:
            return []
        kinds = ", ".join(f"{count} {kind}" for kind, count in self.counts.most_common())
        # the first of each kind, then more of the most frequent
        frequent = [kind for kind, _ in self.counts.most_common()]
        named = [self.first[kind][0] for kind in frequent]
        named += [problem for kind in frequent for problem in self.first[kind][1:]]
        count = self.counts.total()
        more = f"; and {count - NAMED} more" if count > NAMED else ""
        return [f"{count} of {total} recordings are left out: {kinds}", f"  {first_few(named[:NAMED])}{more}"]


@dataclass(frozen=True)
class Prepared:
    """A manifest that was written.

    Attributes:
        rows: of the manifest.
        left_out: recordings that are not in it.
        total: recordings of the corpus.
        resumed: recordings whose facts an interrupted run had found.
        lengths: a line for each kind of file whose length is not that of its header: how many, and the first few.
    """

    rows: list[Row]
    left_out: LeftOut
    total: int
    resumed: int
    lengths: tuple[str, ...] = ()


def prepare(job: Job, progress: bool = True) -> Prepared:
    """Write the manifest of a corpus.

    A run that was interrupted or killed resumes where it stopped when the same job is prepared again: a journal beside
    the manifest holds what is known of each recording. Unreadable ones are tried again. The manifest appears whole or
    not at all, its rows in the order of the adapter.

    Args:
        job: what to prepare.
        progress: whether to show a progress bar on a terminal.

    Raises:
        DataError: the folder holds something else or nothing, too many recordings must be left out (the journal stays),
            a worker process was killed, or the manifest cannot be written.
    """
    recordings = list(tqdm(_recordings(job), desc="listing", unit=" files", disable=None if progress else True))
    if not recordings:
        raise DataError(f"{job.root}: {job.name} finds no recordings in it\nexpected layout:\n{job.adapter.layout}")
    if job.unpack is not None and not any(_lies_below(job.unpack, recording) for recording in recordings):
        raise DataError(f"--unpack {job.unpack}: {job.name} has nothing to unpack, its files are used where they are")
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
        workers = job.workers or (system.cores() if job.measure else THREADS)
        look_at = partial(facts_of, sensor=NEEDED[job.adapter.kind], measure=job.measure)
        # closed, so that an interrupt ends the workers too, wherever it occurs
        batches = in_batches(look_at, missing, _BATCH[job.measure], workers, processes=job.measure)
        with bar, closing(batches):
            for found in batches:
                journal.add([facts for facts in found if isinstance(facts, dict)])
                for facts in found:
                    if isinstance(facts, dict):
                        known[facts["id"]] = facts
                    else:
                        left_out.add(facts.kind, UnreadableAudio(facts.text, facts.path))
                bar.update(len(found))
        if left_out.counts.total() > job.max_unreadable_share * total:
            raise DataError("\n".join([*left_out.lines(total), _too_many(job, left_out, total)]))
        rows = _rows([recording for recording in recordings if recording.id in known], known, job.name)
        write_manifest(job.target, rows)
        journal.remove()
    prepared = [known[recording.id] for recording in recordings if recording.id in known]
    return Prepared(rows, left_out, total, resumed, tuple(_of_lengths(prepared)))


def _of_lengths(facts: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield a line for recordings of which an end is missing, and one for those whose length had to be counted."""
    for kind, cut in (("were cut off; what is left of them is listed", True), ("do not state their length", False)):
        found = [remark for fact in facts if fact.get(CUT) is cut for remark in fact[REMARKS]]
        if found:
            more = f"; and {len(found) - NAMED} more" if len(found) > NAMED else ""
            yield f"{len(found)} file(s) {kind}: {'; '.join(found[:NAMED])}{more}"


def rows_of(job: Job) -> list[Row]:
    """Return the rows of a manifest that :func:`prepare` has written before.

    Raises:
        DataError: it has problems, or lines without duration or sample rate, so that something else has written it.
    """
    rows = []
    for entry in read_manifest(job.target, NEEDED[job.adapter.kind]):
        if entry.duration is None or entry.sample_rate is None:
            raise DataError(
                f"{job.target}: {entry.id} has no duration or no sample_rate: prepare it again with --overwrite"
            )
        rows.append(entry.row(entry.duration, entry.sample_rate))
    return rows


def _recordings(job: Job) -> Iterator[Recording]:
    sensor = NEEDED[job.adapter.kind]
    for recording in job.adapter.recordings(job.root, job.options, job.unpacked):
        if recording.split not in SPLITS or sensor not in recording.paths:
            raise DataError(f"the adapter of {job.name} yields {recording}: no {sensor}, or an unknown split")
        # one spelling, as other corpora of the same speakers and lists of transcripts may have another
        yield replace(recording, id=normal_name(recording.id), speaker=normal_name(recording.speaker))


def _lies_below(folder: Path, recording: Recording) -> bool:
    return any(path.is_relative_to(folder) for path in recording.paths.values())


def _depends_on(job: Job) -> dict[str, Any]:
    return {
        "corpus": job.name,
        "root": os.path.abspath(job.root),
        "options": dict(sorted(job.options.items())),
        "measure": _MEASURES if job.measure else False,
    }


def _too_many(job: Job, left_out: LeftOut, total: int) -> str:
    advice = [f"no manifest was written: that is more than --max-unreadable-share {job.max_unreadable_share:g} allows"]
    if left_out.counts[SHARED_SPEAKER] > job.max_unreadable_share * total:
        advice.append("--keep-shared-speakers keeps them, but scores will be too good")
    return "; ".join(advice)


def _distinct(recordings: Sequence[Recording], left_out: LeftOut) -> list[Recording]:
    seen: dict[str, Recording] = {}
    for recording in recordings:
        first = seen.setdefault(recording.id, recording)
        if first is not recording:
            files = " and ".join(str(next(iter(one.paths.values()))) for one in (first, recording))
            left_out.add(DUPLICATE_ID, AudioError(f"{files} both have the id {recording.id}"))
    return list(seen.values())


def _speaker_disjoint(recordings: Sequence[Recording], left_out: LeftOut) -> list[Recording]:
    """Keep each speaker in one split, test before valid before train, so that evaluation sets stay complete."""
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
            left_out.add(
                SHARED_SPEAKER, AudioError(f"{recording.id} of {recording.split}: {recording.speaker} is in {stays}")
            )
    return kept


def _rows(recordings: Sequence[Recording], known: Mapping[str, Mapping[str, Any]], corpus: str) -> list[Row]:
    """Return the rows of recordings; lag and polarity are measured if they are certain, by the rule of ``inspect``."""
    measured = [known[recording.id].get("alignment") for recording in recordings]
    found = settled(recordings, [None if each is None else _alignment(*each) for each in measured])
    return [
        _row(recording, known[recording.id], corpus, own, sure)
        for recording, own, sure in zip(recordings, found, all_believed(recordings, found), strict=True)
    ]


def _alignment(own: Sequence[float], *known: Sequence[float]) -> Alignment:
    return Alignment(*_values(own), tuple(Alignment(*_values(each)) for each in known))


def _values(stored: Sequence[float]) -> tuple[float, int, float]:
    lag, polarity, confidence = stored
    return lag, int(polarity), confidence


def _row(
    recording: Recording, facts: Mapping[str, Any], corpus: str, own: Alignment | None, sure: Alignment | None
) -> Row:
    told = sure or own
    # rounded down, so that an uncertain one does not reach the threshold
    confidence = {} if told is None else {CONFIDENCE: math.floor(1000 * told.confidence) / 1000}
    return Row(
        id=recording.id,
        paths={sensor: os.fspath(path) for sensor, path in recording.paths.items()},
        speaker=recording.speaker,
        split=recording.split,
        sample_rate=facts["sample_rate"],
        duration=facts["duration"],
        offset=recording.offset,
        lag=recording.lag if sure is None else round(sure.lag_seconds, 6),
        polarity=recording.polarity if sure is None else sure.polarity,
        extra={"corpus": corpus, **recording.extra, **confidence},
        channels=recording.channels,
        bandwidth=facts.get("bandwidth"),
    )
