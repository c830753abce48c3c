"""The verbs of the command line. Nothing but the standard library is loaded here."""

from __future__ import annotations

VERBS = {
    "train": "train a network and compare its output with the input",
    "evaluate": "score a trained network, or files that another program has enhanced",
    "compare": "put runs into one table: scores, settings, sizes, speeds, clear differences",
    "enhance": "restore recordings: files, folders or globs in, files out",
    "models": "list the models that have a name, the shipped ones and your own; print their cards",
    "listen": "write a page to hear runs side by side and to rate them blindly; analyse the ratings",
    "prepare": "write the manifest of a corpus: its files, speakers, splits; measure it, make shards",
    "adapt": "fit a trained network to a new sensor by a few minutes of recorded pairs",
    "calibrate": "measure a body sensor from recorded pairs, for simulators to use",
    "inspect": "find problems in the recordings of a manifest: lag, polarity, bandwidth, levels",
    "check": "verify a configuration and its data; print hours, pace, size, cost and latency",
    "import": "make a bundle of a public checkpoint: EBEN of Vibravox, asteroid, AP-BWE, HiFi-GAN",
    "init": "copy a shipped experiment to ./conf to edit it",
}
#: verbs with the name of a module of the standard library, or of a keyword
MODULES = {"import": "import_model", "inspect": "inspect_manifest"}
HYDRA_VERBS = ("train", "evaluate", "check")  #: they take overrides of the configuration
PLANNED = ("export", "stream")
#: what users of other programs type, and what it is here
HABITS = {
    "fit": "train",
    "run": "train",
    "resume": "train resume=RUN",
    "sweep": "train -m",
    "finetune": "adapt",
    "tune": "adapt",
    "personalise": "adapt",
    "personalize": "adapt",
    "test": "evaluate",
    "score": "evaluate",
    "infer": "enhance",
    "inference": "enhance",
    "predict": "enhance",
    "restore": "enhance",
    "denoise": "enhance",
    "play": "listen",
    "rate": "listen",
    "table": "compare",
    "results": "compare",
    "preprocess": "prepare",
    "download": "prepare",
    "manifest": "prepare",
    "data": "prepare",
    "measure": "calibrate",
    "validate": "check",
    "verify": "check",
    "config": "check",
    "info": "check",
    "zoo": "models",
    "pretrained": "models",
    "list": "models",
    "model": "models",
    "card": "models",
    "convert": "import",
    "fetch": "import",
    "hub": "import",
    "from_pretrained": "import",
    "new": "init",
    "copy": "init",
}


def module_of(verb: str) -> str:
    """Return the name of the module that implements a verb."""
    return f"bcfusion.commands.{MODULES.get(verb, verb)}"
