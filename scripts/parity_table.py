"""Compare with public code, and generate the tables of docs/parity.md.

scripts/install_public_code.sh                     the public code, into this environment
python scripts/parity_table.py                     run the tests of parity, print what they found
python scripts/parity_table.py --differences       what each deliberate difference changes in 20 steps of EBEN (minutes)
python scripts/parity_table.py --write             put the table into docs/parity.md (also with --differences)
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
TESTS = ROOT / "tests" / "parity"
PAGE = ROOT / "docs" / "parity.md"
FOUND = ("<!-- parity: scripts/parity_table.py --write -->", "<!-- /parity -->")
DIFFERENCES = ("<!-- differences: scripts/parity_table.py --differences --write -->", "<!-- /differences -->")
STEPS = 20
RATES = (1e-5, 3e-4)

#: by the names of ``SETTINGS`` in tests/parity/eben_steps.py: what ours does instead, and why
OURS = {
    "bands of the generator": (
        "the discriminators split the waveform themselves",
        "any generator can be judged, its synthesis included",
    ),
    "padding of the discriminators": (
        "every layer is padded for its dilation",
        "frames stay aligned with the signal, any length is judged",
    ),
    "STFT loss over the batch": ("norms of each item", "no loud item hides a quiet one; the same alone or in a batch"),
    "STFT loss without limits on silence": ("limits on silent targets", "the plain loss divides by the floor there"),
    "STFT loss with a clamped floor": ("the floor is added", "empty bins keep a gradient"),
    "STFT of a mirrored signal": ("zeros around the signal", "any length; the same alone or padded in a batch"),
    "A-weighting by a filter": ("no weighting; exact with `a_weighting`", "the filter is 12 dB too low at 7 kHz"),
    "features over the estimate's": (
        "relative to the target's features, a constant",
        "the paper's form; no reward for large features",
    ),
    "features over the batch": ("mean magnitude of each item", "as for the STFT loss"),
    "layers by the last": ("layers are averaged by their own number", "a mean"),
    "features without a floor": ("at least 0.001 to divide by", "layers that do not respond to a silent target"),
    "norms at the last layer": ("norms at the output, item by item", "any generator; 26 % more time instead of 53 %"),
    "average from the first norm": ("bias-corrected average", "first norms count alike, losses may join late"),
    "no limit on spikes": (
        "at most 10 times its share; norms of 0 do not count",
        "after a pause a loss would get up to 10 000 times its share",
    ),
    "norm of each part": ("the whole gradient has norm 1", "does not grow with the number of losses"),
    "eps of the balancer": ("1e-12", "at the output norms are small; 1e-4 would favour the largest"),
    "filter bank": ("a finer search of the cutoff, a gain of exactly 1", "the same on every machine"),
}


def found_by_tests() -> list[tuple[str, str, float]]:
    """Run the tests and return source, what was compared, and the largest difference."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "found"
        command = [sys.executable, "-m", "pytest", "-q", str(TESTS)]
        subprocess.run(command, check=True, env={**os.environ, "PARITY_TABLE": str(path)}, cwd=ROOT)
        if not path.exists():
            raise SystemExit("all tests were skipped: run scripts/install_public_code.sh first")
        return [tuple(json.loads(line)) for line in path.read_text().splitlines()]


def table_of_found(rows: Iterable[tuple[str, str, float]]) -> list[str]:
    lines = ["| public code | what was compared | largest relative difference |", "| --- | --- | ---: |"]
    return lines + [f"| {source} | {compared} | {difference:.0e} |" for source, compared, difference in rows]


def measure_differences(note: Callable[[str], None]) -> dict[str, list[float]]:
    """Return for each setting the relative difference of the generator's change, one per rate, and of the STFT loss."""
    sys.path.insert(0, str(TESTS))
    import eben_steps
    import torch
    from parity import double_precision, muffled, relative, speech_like

    torch.set_num_threads(1)
    held_out = speech_like(eben_steps.ITEMS, eben_steps.SAMPLES, seed=1000)

    def flat(parameters: Mapping[str, Any]) -> Any:
        names = sorted(name for name in parameters if name.startswith("generator"))
        return torch.cat([parameters[name].detach().flatten() for name in names])

    forms = {"the public form: rounding errors alone": eben_steps.PUBLISHED}
    for name in (name for name in OURS if name in eben_steps.SETTINGS):
        forms[name] = [o for key, os_ in eben_steps.SETTINGS.items() if key != name for o in os_]
    forms["filter bank"] = [*eben_steps.PUBLISHED, "generator.cutoff=null", "generator.filter_gain=1.0"]
    forms["all of them"] = ["adversarial=hinge_clipped", "balancer=eben", "generator.cutoff=null"]
    forms["all of them"] += ["generator.filter_gain=1.0"]
    results: dict[str, list[float]] = {}
    with double_precision():
        for rate in RATES:
            torch.manual_seed(0)
            public = eben_steps.PublicStep(lr=rate)
            ours = {}
            for name, overrides in forms.items():
                ours[name] = eben_steps.OurStep(*eben_steps.NARROW, *overrides, f"optimizer.lr={rate}")
                public.copy_to(ours[name], filters="generator.cutoff=null" not in overrides)
            start = flat(public.parameters)
            for inputs, target in eben_steps.batches(STEPS):
                public(inputs, target)
            change = flat(public.parameters) - start
            with torch.no_grad():
                expected = public.stft(public.module.generator(muffled(held_out))[0], held_out)
            for name, step in ours.items():
                for inputs, target in eben_steps.batches(STEPS):
                    step(inputs, target)
                with torch.no_grad():
                    output = step.generator(muffled(held_out))
                    estimate = output["estimate"] if isinstance(output, dict) else output
                    loss = public.stft(estimate, held_out)
                found = [relative(flat(step.parameters) - start, change), float(loss / expected) - 1]
                results.setdefault(name, []).extend(found)
                note(f"{rate:g} {name}: {found}")
    return results


def table_of_differences(results: Mapping[str, list[float]], settings: Mapping[str, list[str]]) -> list[str]:
    lines = [
        "| ours | why | options for the published form | change of the generator, 1e-5 | 3e-4 | STFT loss, 3e-4 |",
        "| --- | --- | --- | ---: | ---: | ---: |",
    ]
    options = {**settings, "filter bank": ["generator.cutoff=0.158866584", "generator.filter_gain=null"]}
    for name, found in results.items():
        slow, _, fast, loss = found
        ours, why = OURS.get(name, (name, ""))
        given = ", ".join(f"`{option}`" for option in options.get(name, []))
        lines.append(f"| {ours} | {why} | {given} | {percent(slow)} | {percent(fast)} | {percent(loss)} |")
    return lines


def percent(share: float) -> str:
    if abs(share) < 1e-6:
        return "0"
    return f"{100 * share:.0f} %" if abs(share) >= 0.1 else f"{100 * share:.2g} %"


def write(lines: Iterable[str], markers: tuple[str, str]) -> None:
    text = PAGE.read_text()
    begin, end = markers
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    PAGE.write_text("\n".join([f"{before}{begin}", "", *lines, "", f"{end}{after}"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--differences", action="store_true", help="measure the deliberate differences instead")
    parser.add_argument("--write", action="store_true", help=f"update {PAGE.relative_to(ROOT)}")
    arguments = parser.parse_args()
    if arguments.differences:
        results = measure_differences(lambda line: print(line, file=sys.stderr))
        import eben_steps

        lines, markers = table_of_differences(results, eben_steps.SETTINGS), DIFFERENCES
    else:
        lines, markers = table_of_found(found_by_tests()), FOUND
    print("\n".join(lines))
    if arguments.write:
        write(lines, markers)


if __name__ == "__main__":
    main()
