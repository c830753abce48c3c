"""``bcfusion enhance``: recordings in, restored recordings out."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from typing import TYPE_CHECKING, BinaryIO

from bcfusion.commands import exit_status
from bcfusion.commands.enhance_options import enhance_parser, is_piped, parse_sensors
from bcfusion.commands.enhance_pipe import restore_pipe
from bcfusion.commands.enhance_plan import Job, Plan, existing, plan_inputs, plan_sensors, require_model_first
from bcfusion.commands.enhance_report import check_report
from bcfusion.commands.enhance_work import show, work
from bcfusion.commands.shared.arguments import VerbParser
from bcfusion.commands.shared.blending import check_blend, share_of
from bcfusion.commands.shared.channels import parse_channels
from bcfusion.commands.shared.computing import device_of
from bcfusion.commands.shared.model_choice import chosen_model, label_of, sensors_needed
from bcfusion.commands.shared.process_state import make_cwd_importable
from bcfusion.commands.shared.signals import cleaning_up_when_ended
from bcfusion.errors import AudioError, BcfusionError
from bcfusion.files import remove_leftovers
from bcfusion.startup import loading

if TYPE_CHECKING:
    from bcfusion.inference.enhance import Enhanced

HELP = """\
Restore recordings with a trained network: files, folders and globs in, mono files out, in the same tree of folders.
Recordings may have any length (memory does not grow with it) and any sample rate; the output has the network's rate.

examples:
  bcfusion enhance throat recording.wav --output restored         # a model by its name; bcfusion models lists them
  bcfusion enhance hf:OWNER/NAME recording.wav                    # a model of the Hugging Face hub, see docs/hub.md
  bcfusion enhance runs/bone_to_air/seanet/TIME throat.wav
  bcfusion enhance RUN recordings/ --output restored/
  bcfusion enhance RUN/checkpoints/best-stoi.ckpt 'recordings/**/*.flac' --subtype FLOAT
  bcfusion enhance RUN two_channels.wav                           # a channel for each sensor, in the network's order
  bcfusion enhance RUN many_channels.wav --channels body=2,noisy=1
  bcfusion enhance RUN . --dry-run                                # list what would be read and written, and stop
  bcfusion enhance RUN --sensor body=throat/ --sensor noisy=mic/  # a folder for each sensor, files matched by name
  bcfusion enhance RUN recordings/ --limit-db 12                  # attenuate nothing by more than 12 dB
  bcfusion enhance RUN recordings/ --format opus --report enhanced.csv
  bcfusion enhance RUN - --output - --raw-rate 48000 < in.raw > out.raw  # raw PCM, mono out, as it arrives

Recordings that cannot be restored are listed at the end, the others are not affected; the exit status is then 2. A disk
that takes no more data ends the command; given again, it continues with what is not restored yet. Ended at any moment,
it leaves whole files or none.
"""


def main(argv: list[str]) -> int:
    """Run the verb and return the exit status.

    Raises:
        BcfusionError: there is no model, no recording or no such device, or options contradict each other.
    """
    parser = _parser()
    arguments = parser.parse_intermixed_args(argv)
    check_blend(arguments)
    if bool(arguments.inputs) == bool(arguments.sensor):
        needed = sensors_needed(arguments.model, trust_code=arguments.trust_code)
        parser.error(needed or "give recordings, or --sensor NAME=FOLDER for each sensor")
    require_model_first(arguments.model, arguments.inputs)
    if arguments.sensor and arguments.channels:
        parser.error("--channels is for one file with all sensors, --sensor for a file of each: give one of them")
    with cleaning_up_when_ended():
        if not is_piped(arguments):
            return _enhance(arguments)
        sink = sys.stdout.buffer
        with redirect_stdout(sys.stderr):  # whatever is printed, by a network too: sound alone goes through the pipe
            return _enhance(arguments, sink)


def _parser() -> VerbParser:
    return enhance_parser(HELP)


def _enhance(arguments: argparse.Namespace, sink: BinaryIO | None = None) -> int:
    """Restore the recordings or, if there is a ``sink``, what arrives at the standard input."""
    make_cwd_importable()  # for a network of the user's own
    sensors = parse_sensors(arguments.sensor)
    plan = Plan()
    if arguments.report is not None:
        check_report(arguments.report, arguments.overwrite)
    if sink is None:
        from bcfusion.inference.containers import output_format

        how = output_format(arguments.format or "wav", arguments.subtype)
        plan = plan_inputs(arguments.inputs, arguments.output, arguments.suffix, how.suffix)
        if arguments.inputs and not plan.jobs:  # reported before torch is loaded
            raise AudioError("\n".join(plan.problems))
    model = chosen_model(arguments.model, trust_code=arguments.trust_code)

    with loading():
        from bcfusion.inference.batches import batches_of, enhance_batch
        from bcfusion.inference.blend import blended
        from bcfusion.inference.computing import check_precision
        from bcfusion.inference.containers import check_rate
        from bcfusion.inference.enhance import Manner, misfits
        from bcfusion.inference.writing import check_peak
        from bcfusion.run.bundle import bundle_of, in_steps, load_generator

    share = share_of(arguments)
    device = device_of(arguments.device)
    check_precision(arguments.precision, device)
    network = in_steps(load_generator(model, device=device, trust_code=arguments.trust_code), arguments.steps)
    bundle = bundle_of(network)
    assert bundle is not None  # load_generator attaches it
    generator = blended(network, arguments.strength, arguments.limit_db)
    channels = parse_channels(arguments.channels, bundle.sensors) if arguments.channels else None
    if sink is not None:
        return restore_pipe(generator, channels, arguments, sink)
    check_rate(how, bundle.sample_rate)
    protection = check_peak(arguments.peak, how)
    if sensors:
        plan = plan_sensors(sensors, bundle.sensors, arguments.output, arguments.suffix, how.suffix)
    wrong = misfits(generator, [job.sources for job in plan.jobs], not arguments.no_resample, channels)
    plan = plan.without({job: wrong[job.sources] for job in plan.jobs if job.sources in wrong})
    if not arguments.overwrite:
        plan = plan.without(existing(plan.jobs))
    if arguments.dry_run:
        return show(plan, arguments)
    remove_leftovers(job.target for job in plan.jobs)
    manner = Manner(
        chunk_seconds=arguments.chunk,
        resample=not arguments.no_resample,
        container=how.container,
        subtype=how.subtype,
        peak=protection,
        channels=None if channels is None else tuple(channels),
        precision=arguments.precision,
    )
    row = {
        "format": how.container,
        "subtype": how.subtype,
        "model": label_of(arguments.model, model),
        "strength": round(1 - share, 6),
        "precision": arguments.precision,
    }
    together = batches_of(generator, [job.sources for job in plan.jobs], arguments.batch or 1, arguments.chunk)
    batches = [[plan.jobs[position] for position in batch] for batch in together]

    def restore(jobs: Sequence[Job]) -> Iterator[Enhanced | BcfusionError | OSError]:
        return enhance_batch(generator, [(job.sources, job.target) for job in jobs], manner)

    return work(plan, batches, restore, protection, row, arguments)


if __name__ == "__main__":
    raise SystemExit(exit_status(main, sys.argv[1:]))
