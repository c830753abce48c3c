"""The model card: README.md of a repository, from what a bundle, its card and its run record. Nothing is invented."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Sequence
from typing import Literal

from bcfusion.evaluation.statistics import PairedDifference, Summary
from bcfusion.evaluation.systems import ENHANCED, INPUT
from bcfusion.hub.facts import Facts, ScoreFacts, scores_of_card
from bcfusion.hub.front_matter import front_matter, licence_of
from bcfusion.report.table import heading, markdown_rows, number, size_text
from bcfusion.run.card import Corpus, Scores

__all__ = ["card_text"]

_RESTORES = {
    "bone_to_air": "Restores air-conducted speech from a body-conduction sensor.",
    "fusion": "Restores clean speech from a body-conduction sensor and an air microphone in noise.",
    "bandwidth_extension": "Extends narrow-band speech to wide-band speech.",
}


def card_text(facts: Facts, repository: str, *, licence: str | None = None, without_onnx: str = "") -> str:
    """Return the text of the card.

    Args:
        facts: of the model.
        repository: ``owner/name`` that it goes to.
        licence: the hub's identifier of the licence of the weights; None: what the model's card says.
        without_onnx: why there is no exported file.
    """
    name = repository.partition("/")[2]
    parts = [
        f"# {name}",
        _summary(facts),
        "\n".join(_use(facts, repository)),
        "\n".join(_scores(facts)),
        "\n".join(_properties(facts, licence)),
        *_list("Where it helps", facts.card.helps if facts.card else ()),
        *_list("Where it does not help, or needs care", facts.card.limits if facts.card else ()),
        "\n".join(_training(facts)),
        "\n".join(_onnx(facts, repository, without_onnx)),
        *_list("Notes", facts.card.notes if facts.card else ()),
    ]
    return front_matter(facts, name, licence) + "\n" + "\n\n".join(part for part in parts if part) + "\n"


def _summary(facts: Facts) -> str:
    recipe = str(facts.bundle.training.get("recipe") or "")
    text = (
        facts.card.summary if facts.card else _RESTORES.get(recipe, "What it was trained to restore is not recorded.")
    )
    about = {} if facts.card is None else facts.card.sensors
    sensors = " and ".join(code(each) + (f" ({about[each]})" if each in about else "") for each in facts.bundle.sensors)
    return (
        f"{text}\n\nIt takes {sensors} at {facts.bundle.sample_rate} Hz and gives one channel at that rate. "
        "It was made with bcfusion, in which it can also be scored, adapted to another sensor, and trained further."
    )


# ---------------------------------------------------------------- use


def _use(facts: Facts, repository: str) -> Iterator[str]:
    sensors, trust = facts.bundle.sensors, ", trust_code=True" if facts.own_code else ""
    source = (
        '"recording.wav"' if len(sensors) == 1 else json.dumps([f"{each}.wav" for each in sensors], ensure_ascii=False)
    )
    yield from ("## Use", "", "In Python, with `pip install 'bcfusion[hub]'`:", "", "```python")
    yield from ("import bcfusion", "from bcfusion.inference.enhance import enhance_file", "")
    yield f'model = bcfusion.load_generator("hf:{repository}"{trust})'
    yield f'enhance_file(model, {source}, "restored.wav")'
    yield from ("```", "", "On the command line:", "", "```bash")
    option = " --trust-code" if facts.own_code else ""
    recordings = (
        "recording.wav"
        if len(sensors) == 1
        else " ".join(f"--sensor {shlex.quote(f'{each}={each}.wav')}" for each in sensors)
    )
    yield f"bcfusion enhance hf:{repository} {recordings} --output restored{option}"
    if facts.bundle.causal:
        channels = ",".join(f"{each}={number}" for number, each in enumerate(sensors, 1))
        yield f"bcfusion stream hf:{repository} --channels {shlex.quote(channels)}{option}"
    yield "```"
    if len(sensors) > 1:
        yield from (
            "",
            f"A recording may also hold the sensors as channels, in the order {', '.join(map(code, sensors))}.",
        )
    if facts.own_code:
        yield from (
            "",
            f"The network needs {code(facts.own_code)}, which is neither part of bcfusion nor of this repository: "
            "install it, read it, and only then consent to it by `trust_code=True` (`--trust-code`).",
        )


def _onnx(facts: Facts, repository: str, without: str) -> Iterator[str]:
    if facts.onnx is None:
        if without:
            yield from ("## ONNX", "", f"There is no `model.onnx`: {without}")
        return
    count, frame = len(facts.bundle.sensors), facts.onnx.frame
    step = f"is one step of a stream, of {1000 * frame / facts.bundle.sample_rate:g} ms"
    kind = step if frame else "restores whole files"
    yield from ("## ONNX", "")
    yield (
        f"`model.onnx` {kind}, and needs neither torch nor bcfusion. Its output differs from that of the network by at "
        f"most {facts.onnx.difference:.0e}; what a program has to know is in its metadata."
    )
    yield from (
        "",
        "```python",
        "import numpy as np",
        "import onnxruntime",
        "from huggingface_hub import hf_hub_download",
    )
    yield from ("", f'session = onnxruntime.InferenceSession(hf_hub_download("{repository}", "model.onnx"))')
    if not frame:
        yield f"x = np.zeros((1, {count}, {facts.bundle.sample_rate}), np.float32)  # of any length"
        yield '[y] = session.run(["y"], {"x": x})  # (1, 1, samples)'
    else:
        yield from (
            "inputs = session.get_inputs()",
            "state = [np.zeros(each.shape, np.float32) for each in inputs[1:]]",
        )
        yield f"for frame in np.zeros((10, 1, {count}, {frame}), np.float32):  # as they arrive"
        yield "    values = {each.name: value for each, value in zip(inputs, [frame, *state])}"
        yield f"    y, *state = session.run(None, values)  # y: (1, 1, {frame})"
    yield "```"


# ---------------------------------------------------------------- scores


def _scores(facts: Facts) -> Iterator[str]:
    yield from ("## Scores", "")
    if (stated := scores_of_card(facts.card)) is not None:
        yield from _of_card(stated)
    elif facts.scores is not None:
        yield from _measured(facts.scores)
    else:
        yield "It has no scores: how well it does is not recorded. Compare its output with the input first."


def _of_card(scores: Scores) -> Iterator[str]:
    metrics = scores.metrics
    rows = [
        ["", *(heading(key, score.higher_is_better) for key, score in metrics.items())],
        ["input", *(number(key, score.input) for key, score in metrics.items())],
        ["output", *(number(key, score.enhanced) for key, score in metrics.items())],
        [
            "change",
            *(number(key, score.change, "+") + _ends(key, score.interval, "+") for key, score in metrics.items()),
        ],
    ]
    yield scores.what
    yield from ("", _table(rows))
    count = f"Means over {scores.utterances} recordings" if scores.utterances else "Means"
    intervals = (
        ", with 95 % bootstrap intervals of the change" if any(each.interval for each in metrics.values()) else ""
    )
    yield from ("", f"{count}{intervals}.")
    if scores.command:
        yield from ("", "Scored by:", "", "```bash", scores.command, "```")


def _measured(scores: ScoreFacts) -> Iterator[str]:
    summary = scores.summary
    shown = [key for key in summary.higher_is_better if summary.systems[ENHANCED][key].count]
    systems = [*scores.inputs, ENHANCED]
    titles = {INPUT: "input", ENHANCED: "output"}
    rows = [["", *(heading(key, summary.higher_is_better[key]) for key in shown)]]
    for system in systems:
        own = summary.systems[system]
        rows.append([titles.get(system) or code(system), *(_cell(key, own[key], "") for key in shown)])
    for before in scores.inputs:
        changes = summary.differences[ENHANCED, before]
        rows.append(
            [f"change of {titles.get(before) or code(before)}", *(_cell(key, changes[key], "+") for key in shown)]
        )
    which = {"test": "the test files", "valid": "the validation files, which also chose the checkpoint"}
    speakers = f" of {_count(scores.speakers, 'speaker')}" if scores.speakers else ""
    speakers += f" ({', '.join(map(code, scores.corpora))})" if scores.corpora else ""
    files = which.get(scores.split, "files that it was evaluated on")
    yield f"On {files}: {_count(summary.utterances, 'utterance')}{speakers}."
    yield from ("", _table(rows))
    yield from ("", "Means with 95 % bootstrap intervals over utterances, which `scores.csv` has one by one.")


def code(text: object) -> str:
    """Return a name of a run in one line of Markdown code, so that nothing in it is markup or ends its place."""
    line = " ".join(str(text).split())
    longest = max(map(len, re.findall("`+", line)), default=0)
    space = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{'`' * (longest + 1)}{space}{line}{space}{'`' * (longest + 1)}"


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


def _table(rows: Sequence[Sequence[str]]) -> str:
    head, *others = rows
    return markdown_rows([head, ["---"] * len(head), *others])


def _cell(key: str, value: Summary | PairedDifference, sign: Literal["", "+"]) -> str:
    ends = (value.low, value.high)
    return number(key, value.mean, sign) + _ends(
        key, ends if all(end == end for end in ends) else None, sign
    )  # NaN differs from itself


def _ends(key: str, ends: tuple[float, float] | None, sign: Literal["", "+"]) -> str:
    if ends is None:
        return ""
    low, high = (number(key, end, sign) for end in ends)
    return f" [{low}, {high}]"


# ---------------------------------------------------------------- properties


def _properties(facts: Facts, licence: str | None) -> Iterator[str]:
    bundle = facts.bundle
    steps = f" along a {code(facts.path)}, in {_count(facts.steps, 'step')}" if facts.path else ""
    rows = [["property", "value"], ["network", code(facts.network) + steps], ["latency", _latency(facts)]]
    if facts.onnx is not None:
        factor = f"{facts.onnx.real_time_factor:.3f} in onnxruntime, on one thread of the machine that exported it"
        rows.append(["real-time factor", factor])
    rows.append(["parameters", f"{facts.parameters:,}".replace(",", " ")])
    if facts.macs is not None:
        rows.append(["operations", f"{facts.macs / 1e6:.1f} M multiply-accumulates per second of sound"])
    sizes = f"{size_text(facts.size)}, stored in {bundle.dtype}"
    rows.append(["weights", sizes + (f"; ONNX {size_text(facts.onnx.size)}" if facts.onnx is not None else "")])
    rows.append(["licence", licence_of(facts.card, licence)[1] or "not stated"])
    yield from ("## Properties", "", _table(rows))


def _latency(facts: Facts) -> str:
    bundle = facts.bundle
    if bundle.latency_ms is None:
        return "it needs the whole file"
    if not bundle.causal:
        return f"it looks {bundle.latency_ms:.1f} ms ahead, and cannot stream"
    frame, ahead = (1000 * count / bundle.sample_rate for count in (bundle.hop, facts.lookahead))
    parts = f"a frame of {frame:.1f} ms and {ahead:.1f} ms of look-ahead"
    return f"{frame + ahead:.1f} ms: {parts}; it is causal and can stream"


# ---------------------------------------------------------------- training


def _training(facts: Facts) -> Iterator[str]:
    yield from ("## Training", "")
    yield from _lines(facts)
    card = facts.card
    if card is None or not card.data:
        data = facts.choices.get("data")
        if data == "demo":
            yield "- data: the demo corpus, which bcfusion synthesises; no recordings"
        else:
            known = f" ({code(f'data={data}')})" if data else ""
            yield f"- data: its name and its licence are not recorded{known}"
    else:
        yield from ("", "Data and licences:", "")
        yield from (f"- {_corpus(corpus)}" for corpus in card.data)
        for corpus in card.data:
            if corpus.notice:
                yield from ("", f"{corpus.name}: {corpus.notice}")
    if card is not None and card.training:
        yield from ("", "Made by:", "", "```bash", *card.training, "```")


def _lines(facts: Facts) -> Iterator[str]:
    training, session = facts.bundle.training, facts.session
    for key in ("recipe", "experiment"):
        if training.get(key):
            yield f"- {key}: {code(training[key])}"
    if training.get("overrides"):
        yield f"- settings of the task and the network: {code(' '.join(training['overrides']))}"
    if isinstance(training.get("step"), int):
        yield f"- steps: {training['step']}"
    losses = {name: node.get("weight", 1.0) for name, node in (training.get("losses") or {}).items()}
    if losses:
        yield "- losses: " + ", ".join(f"{code(name)} (weight {weight:g})" for name, weight in losses.items())
    if facts.choices.get("degradation"):
        yield f"- sensor: {code('degradation=' + facts.choices['degradation'])}"
    if origin := training.get("hub"):
        repository, revision = (code(origin.get(key)) for key in ("repository", "revision"))
        yield f"- from {repository} of the Hugging Face hub, revision {revision}"
    if facts.adapted_to:
        yield f"- adapted to {_count(facts.adapted_to, 'recorded pair')}"
    if (origin := training.get("imported")) and (checkpoint := origin.get("checkpoint") or {}).get("repository"):
        yield f"- imported from {code(checkpoint['repository'])}, revision {code(checkpoint.get('revision'))}"
    version = session.get("bcfusion") or facts.bundle.bcfusion
    commit = f", commit {code(session['git'])}" if session.get("git") else ""
    torch = (session.get("packages") or {}).get("torch")
    yield f"- bcfusion {version}{commit}" + (f", torch {torch}" if torch else "")
    if session.get("device"):
        yield f"- device: {code(session['device'])}" + (f"; seed {session['seed']}" if "seed" in session else "")


def _corpus(corpus: Corpus) -> str:
    amount, attribution = (f", {text}" if text else "" for text in (corpus.amount, corpus.attribution))
    return f"**{corpus.name}**{amount}: {corpus.licence}{attribution}"


def _list(title: str, texts: Sequence[str]) -> list[str]:
    lines = "\n".join("- " + re.sub(r"\s+", " ", text) for text in texts)
    return [f"## {title}\n\n{lines}"] if texts else []
