"""``bcfusion prepare``: write the manifest of a public corpus or of your own folder."""

from __future__ import annotations

import argparse
import logging
import shlex
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from bcfusion.commands import exit_status
from bcfusion.commands.shared.arguments import between, path, positive_int, verb_parser
from bcfusion.commands.shared.corpora import ADAPTERS, corpus_names
from bcfusion.commands.shared.process_state import make_cwd_importable
from bcfusion.contracts import SPLITS
from bcfusion.errors import DataError
from bcfusion.files import on_disk
from bcfusion.nearest import did_you_mean

if TYPE_CHECKING:
    from bcfusion.contracts import Row
    from bcfusion.data.preparation.adapters import Adapter
    from bcfusion.data.preparation.prepare import Job

HELP = """\
Write the manifest of a corpus: read its layout and splits, check the header of every file, measure if asked to.
A run that was interrupted resumes where it stopped when the same command is given again.

examples:
  bcfusion prepare --list                                               # the corpora
  bcfusion prepare librispeech --help                                   # its layout, source and options
  bcfusion prepare librispeech --root /data --out librispeech.jsonl
  bcfusion prepare pairs --root rec --body throat --splits speakers --measure --out pairs.jsonl
  bcfusion prepare vctk --root /data --download --out vctk.jsonl --shards vctk_shards
  bcfusion prepare mylab.corpora.helmet --root /data --out helmet.jsonl   # your own adapter: its module

then: bcfusion train data=manifest data.path=librispeech.jsonl
"""


def main(argv: list[str]) -> int:
    """Run the verb and return the exit status.

    Raises:
        BcfusionError: there is no such corpus, its layout is not found, or too much of it cannot be used.
    """
    if "--list" in argv:
        print(_list())
        return 0
    if not argv or argv[0].startswith("-"):
        parser = _parser()
        if not {"-h", "--help"} & set(argv):
            parser.error("the corpus comes first: bcfusion prepare CORPUS --root DIR --out FILE")
        parser.parse_args(["--help"])
    make_cwd_importable()  # for an adapter of the user's own
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    name, *rest = argv
    adapter = _adapter(name)
    arguments = _parser(name, adapter).parse_args(rest)
    return _work(_job(name, adapter, arguments), arguments)


def _parser(name: str | None = None, adapter: Adapter | None = None) -> argparse.ArgumentParser:
    """Return the parser of the verb itself, for its help, or of one corpus."""
    parser = verb_parser("prepare" if name is None else f"prepare {name}", HELP)
    if adapter is None:
        parser.add_argument("corpus", metavar="CORPUS", help="one of --list, or your own module with an ADAPTER")
        parser.add_argument("--list", action="store_true", help="print the corpora and stop")
    else:
        parser.description = (
            f"{name}: {adapter.summary}\nsource: {adapter.source}\n\nlayout:\n{_indented(adapter.layout)}\n"
        )
    parser.add_argument("--root", metavar="DIR", type=path, required=True, help="folder of the corpus")
    parser.add_argument("--out", metavar="FILE", type=path, required=True, help="the manifest, .jsonl or .csv")
    parser.add_argument("--measure", action="store_true", help="measure bandwidth; with body also lag and polarity")
    parser.add_argument(
        "--workers", metavar="N", type=positive_int, help="default: 8 threads; with --measure one process per core"
    )
    parser.add_argument("--download", action="store_true", help="fetch the corpus to --root first, if that is possible")
    parser.add_argument(
        "--unpack", metavar="DIR", type=path, help="where parquet files are unpacked; default: a folder beside FILE"
    )
    parser.add_argument("--shards", metavar="DIR", type=path, help="also write shards of the corpus; see data=shards")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing manifest")
    parser.add_argument(
        "--max-unreadable-share",
        metavar="SHARE",
        type=between(0, 1),
        default=0.05,
        help="share of the recordings that may be left out, for any reason; default: 0.05",
    )
    parser.add_argument(
        "--keep-shared-speakers",
        action="store_true",
        help="keep speakers in several splits; otherwise only in the last of train, valid, test that has them",
    )
    if adapter is not None and adapter.options:
        own = parser.add_argument_group(f"options of {name}")
        for option in adapter.options:
            default = "" if option.default is None else f"; default: {option.default}"
            try:
                own.add_argument(
                    f"--{option.name}",
                    dest=_dest(option.name),
                    metavar="{" + ",".join(option.choices) + "}" if option.choices else "VALUE",
                    choices=option.choices or None,
                    default=option.default,
                    help=(option.help + default).replace("%", "%%"),
                )
            except argparse.ArgumentError as error:
                raise DataError(f"the adapter of {name} has an option that the verb has already: {error}") from error
    return parser


def _dest(option: str) -> str:
    return f"option {option}"  # distinct from the names of the verb's own options


def _list() -> str:
    from bcfusion.data.preparation.adapters import Downloads

    lines = []
    for name in corpus_names():
        adapter: Adapter = import_module(f"{ADAPTERS}.{name}").ADAPTER
        fetched = " [--download]" if isinstance(adapter, Downloads) else ""
        lines.append(f"{name:<16}{adapter.kind:<8}{adapter.summary}{fetched}")
    return "\n".join(lines)


def _adapter(name: str) -> Adapter:
    """Return the adapter of a corpus: ours by its name, a user's own by its module.

    Raises:
        DataError: there is none.
    """
    module = name if "." in name else f"{ADAPTERS}.{name}"
    try:
        found = import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not (module == error.name or module.startswith(f"{error.name}.")):
            raise  # the module exists, but imports something that does not
        if "." in name:
            raise DataError(
                f"there is no module {name}: nothing named {error.name} is found from {Path.cwd()}"
            ) from None
        names = corpus_names()
        raise DataError(
            f"there is no corpus '{name}'{did_you_mean(name, names)}\ncorpora: {', '.join(names)}"
        ) from None
    if not hasattr(found, "ADAPTER"):
        raise DataError(f"{module} has no ADAPTER: see {ADAPTERS}.Adapter")
    adapter: Adapter = found.ADAPTER
    return adapter


def _job(name: str, adapter: Adapter, arguments: argparse.Namespace) -> Job:
    from bcfusion.data.preparation.prepare import Job

    given = {option.name: getattr(arguments, _dest(option.name)) for option in adapter.options}
    return Job(
        name=name,
        adapter=adapter,
        root=on_disk(arguments.root),
        options={option: value for option, value in given.items() if value is not None},
        target=arguments.out,
        measure=arguments.measure,
        workers=arguments.workers,
        max_unreadable_share=arguments.max_unreadable_share,
        keep_shared_speakers=arguments.keep_shared_speakers,
        unpack=arguments.unpack,
    )


def _work(job: Job, arguments: argparse.Namespace) -> int:
    from bcfusion.data.corpora.manifest import SUFFIXES
    from bcfusion.data.preparation.prepare import prepare, rows_of

    if job.target.suffix not in SUFFIXES:
        raise DataError(f"--out {job.target}: a manifest ends in {' or '.join(SUFFIXES)}")
    exists = job.target.exists() and not arguments.overwrite
    if exists and arguments.shards is None:
        raise DataError(f"{job.target} exists: --overwrite replaces it, --shards DIR writes shards of it")
    if exists:
        rows = rows_of(job)
        print(f"{job.target}: exists, {len(rows)} recordings")
    else:
        if arguments.download:
            _download(job)
        try:
            prepared = prepare(job)
        except KeyboardInterrupt:
            print(f"\ninterrupted: the same command resumes from {job.partial}", file=sys.stderr)
            raise
        rows = prepared.rows
        for line in prepared.left_out.lines(prepared.total):
            print(line, file=sys.stderr)
        for line in prepared.lengths:
            print(f"warning: {line}", file=sys.stderr)
        again = f", {prepared.resumed} of them known from an earlier run" if prepared.resumed else ""
        print(f"{job.target}: {len(rows)} recordings{again}")
        print(_table(rows))
        for line in (*_alignment(rows, job.target), *_lacking(rows, job)):
            print(f"  {line}")
    if arguments.shards is not None:
        from bcfusion.data.loading.shards.write import write_shards

        rows = rows_of(job)  # as a repeated command reads them, which compares what the shards were made of
        shards = write_shards(
            rows, arguments.shards, workers=arguments.workers or 4, max_unreadable_share=arguments.max_unreadable_share
        )
        print(f"{arguments.shards}: {len(shards)} shards of {len(rows)} recordings")
    return 0


def _download(job: Job) -> None:
    from bcfusion.data.preparation.adapters import Downloads

    if not isinstance(job.adapter, Downloads):
        raise DataError(
            f"{job.name} cannot be fetched automatically: get it from {job.adapter.source}\n"
            f"expected layout:\n{_indented(job.adapter.layout)}"
        )
    job.adapter.download(job.root, job.options)


def _table(rows: Sequence[Row]) -> str:
    """Return a line per split: its recordings, speakers, hours and sample rates."""
    from bcfusion.data.corpora.speakers import speakers_text

    by_split: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_split[row.split].append(row)
    lines = []
    for split in SPLITS:
        found = by_split.get(split, [])
        speakers = speakers_text({row.speaker for row in found})
        hours = sum(row.duration for row in found) / 3600
        rates = ", ".join(f"{rate} Hz" for rate in sorted({row.sample_rate for row in found}))
        lines.append(f"  {split:<6}{len(found):>9} files {speakers:>15} {hours:>10.2f} h   {rates}".rstrip())
    return "\n".join(lines)


def _alignment(rows: Sequence[Row], manifest: Path) -> Iterator[str]:
    """Yield what was measured of lag and polarity, by the rule and in the words of ``inspect``."""
    from bcfusion.data.preparation.recording_facts import CONFIDENCE

    measured = [row for row in rows if CONFIDENCE in row.extra]
    if not measured:
        return
    from bcfusion.data.inspect.alignment import ENOUGH, Alignment
    from bcfusion.data.inspect.certainty import summary

    results = [
        Alignment(row.lag, row.polarity, row.extra[CONFIDENCE]) if row.extra[CONFIDENCE] >= ENOUGH else None
        for row in measured
    ]
    yield summary(results, "recordings")
    if uncertain := results.count(None):
        yield (
            f"lag and polarity of {uncertain} recordings are uncertain and were left unchanged: "
            f"bcfusion inspect {shlex.quote(str(manifest))}"
        )


def _lacking(rows: Sequence[Row], job: Job) -> Iterator[str]:
    """Yield what a split without recordings means, and what to do about it."""
    here = {row.split for row in rows}
    if job.adapter.kind != "speech":
        if not here & {"valid", "test"}:
            yield "no recordings in valid or test: a run refuses the manifest, because evaluation needs its own"
        if "train" not in here:
            yield "no recordings in train: the manifest serves evaluation only"
        return
    from bcfusion.data.corpora.speakers import known_speakers

    ways = [f"add that part of {job.name}"]
    if any(option.name == "splits" for option in job.adapter.options):
        ways = ["move some recordings into a folder valid"]
        ways += ["divide the speakers with --splits speakers"] if len(known_speakers(rows)) > 1 else []
    ways.append("change the column split of some lines")
    if "train" not in here:
        yield "no recordings in train: the manifest serves evaluation only (bcfusion evaluate)"
    elif "valid" not in here:
        yield f"no recordings in valid: training needs some to select the best checkpoint: {', or '.join(ways)}"
    elif "test" not in here:
        yield "no recordings in test: final scores are measured on valid, which selects the checkpoint too"


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.rstrip().splitlines())


if __name__ == "__main__":
    raise SystemExit(exit_status(main, sys.argv[1:]))
