"""The extras: which are installed, and what each is for."""

from __future__ import annotations

from collections.abc import Iterator

from bcfusion.doctor.finding import Finding, note, ok
from bcfusion.doctor.installation import fits
from bcfusion.doctor.project import NAME, installed_version, normal, packaging, read_project
from bcfusion.doctor.remedies import install_extra

__all__ = ["FOR", "extras"]

#: what each extra is for, as it is typed
FOR = {
    "clustering": "generator.inference=k_means of chimera",
    "codec": "generator=codec",
    "corpora": "prepare vibravox, prepare taps; --download",
    "dev": "tests, linters, and all extras but distillmos and ray",
    "distillmos": "metrics=[distill_mos]",
    "docs": "mkdocs build: the site of the documentation",
    "hub": "push, pull, hf:OWNER/NAME; import of a public checkpoint from the Hugging Face hub",
    "joblib": "-m hydra/launcher=joblib",
    "live": "stream and record with a sound card",
    "metrics": "metrics=[visqol], [dnsmos], [nisqa], [speaker_similarity]",
    "mlflow": "logger=mlflow",
    "onnx": "export; stream by onnxruntime",
    "optuna": "-m hparams_search=optuna",
    "pesq": "losses=[pesq_surrogate]",
    "ray": "-m hydra/launcher=ray",
    "serve": "serve: a page to restore recordings and live sound in a browser",
    "shards": "data=shards with URLs",
    "slurm": "-m hydra/launcher=submitit_slurm, submitit_local",
    "stoi": "losses=[stoi_surrogate]",
    "trackio": "logger=trackio",
    "wandb": "logger=wandb",
}


def extras() -> Iterator[Finding]:
    """Look at the packages of each extra."""
    project, parts = read_project(), packaging("requirements")
    if project is None or not project.extras or parts is None:
        yield note("extras", "not known: this copy of bcfusion has no metadata", install_extra())
        return
    for extra in sorted(project.extras):
        needed = [parts.Requirement(line) for line in project.extras[extra]]
        needed = [each for each in needed if normal(each.name) != NAME]  # of dev: the other extras
        needed = [each for each in needed if each.marker is None or each.marker.evaluate()]
        purpose = FOR.get(extra, "")
        versions = {each.name: installed_version(each.name) for each in needed}
        missing = [name for name, version in versions.items() if version is None]
        others = [
            f"{each.name} is {versions[each.name]}, not {each.specifier}"
            for each in needed
            if each.name not in missing and not fits(each, versions[each.name])
        ]
        if 2 * len(missing) >= len(needed) > 0:  # other packages may have brought the rest
            yield ok(extra, f"not installed, for {purpose}")
        elif missing or others:
            state = "; ".join([*others, *([f"not installed: {', '.join(missing)}"] if missing else [])])
            yield note(extra, f"{state}; for {purpose}", install_extra(extra))
        else:
            yield ok(extra, f"installed, for {purpose}")
