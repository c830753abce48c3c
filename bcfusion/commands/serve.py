"""``bcfusion serve``: a page for the browser, to restore recordings and live sound."""

from __future__ import annotations

import argparse
import sys
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from bcfusion import system
from bcfusion.commands import INTERRUPTED, exit_status
from bcfusion.commands.shared.arguments import between, path, positive_int, positive_number, verb_parser
from bcfusion.commands.shared.blending import add_blend_options, share_of
from bcfusion.commands.shared.process_state import make_cwd_importable
from bcfusion.commands.shared.signals import cleaning_up_when_ended
from bcfusion.errors import BcfusionError, CheckpointError, ConfigError
from bcfusion.run.models import missing_folders, named_models, resolve_model
from bcfusion.serving.limits import Limits
from bcfusion.startup import loading

HELP = """\
Serve a page on which recordings are uploaded or recorded, restored, heard and downloaded; and on which a microphone is
heard live through a causal network. Without a MODEL, it offers all models that have a name. Ctrl-C ends it.

The page is for this machine alone, unless --host says otherwise. Browsers give a microphone to pages of localhost or
https only: for a phone, put a reverse proxy with https in front (--origin), or give --certificate and --key.

examples:
  bcfusion serve                                          # http://127.0.0.1:8000/
  bcfusion serve throat_causal RUN --port 0               # these models; a free port
  bcfusion serve throat --max-seconds 60 --keep-minutes 5
  bcfusion serve --origin https://voice.example.org       # behind a reverse proxy of that name
  bcfusion serve --host 0.0.0.0 --certificate cert.pem --key key.pem

Needs pip install 'bcfusion[serve]'.
"""
LIMITS = Limits()  # the defaults
PACKAGES = {
    "fastapi": "fastapi",
    "uvicorn": "uvicorn",
    "websockets": "websockets",
    "python_multipart": "python-multipart",
}


def main(argv: list[str]) -> int:
    """Run the verb and return the exit status.

    Raises:
        BcfusionError: there is no such model, a package is missing, or the address cannot be bound.
    """
    arguments = _parser().parse_args(argv)
    _check(arguments)
    given = arguments.models or list(named_models())
    if not given:
        raise CheckpointError("\n".join(["there is no model with a name: give a MODEL", *missing_folders()]))
    for text in given:
        resolve_model(text)  # before torch is loaded
    share = share_of(arguments)
    make_cwd_importable()  # for a network of the user's own

    with loading():
        import torch

        from bcfusion.live.streaming import undisturbed
        from bcfusion.serving.models import load_models
        from bcfusion.serving.names import addresses_for_others
        from bcfusion.serving.server import Settings, is_open_to_others, serve

    torch.set_num_threads(1)
    limits = Limits(
        max_seconds=arguments.max_seconds,
        max_bytes=round(1e6 * arguments.max_megabytes),
        max_streams=arguments.max_streams,
        max_jobs=arguments.max_jobs,
        keep_minutes=arguments.keep_minutes,
        requests=arguments.max_rate,
    )
    settings = Settings(
        host=arguments.host,
        port=arguments.port,
        origins=tuple(arguments.origin),
        certificate=arguments.certificate,
        key=arguments.key,
        limits=limits,
        workers=arguments.jobs,
        threads=arguments.threads or system.cores(),
        share=share,
    )

    def ready(address: str, server: object) -> None:
        print(f"{address} (Ctrl-C ends)", flush=True)
        for other in addresses_for_others(settings.host, address):
            print(f"{other} from other machines", flush=True)

    with cleaning_up_when_ended():
        models = load_models(given, arguments.backend, lambda text: print(text, file=sys.stderr, flush=True))
        if is_open_to_others(settings.host):
            print(_warning(settings.certificate is not None), file=sys.stderr, flush=True)
        with undisturbed():
            ended_by = serve(models, settings, ready)
    return INTERRUPTED if ended_by is None else 128 + ended_by


def _parser() -> argparse.ArgumentParser:
    parser = verb_parser("serve", HELP)
    parser.add_argument(
        "models",
        metavar="MODEL",
        nargs="*",
        help="run directory, bundle, .ckpt, or name of a model; default: all names",
    )
    address = parser.add_argument_group("address")
    address.add_argument("--host", default="127.0.0.1", help="address to listen at; default: 127.0.0.1, this machine")
    address.add_argument("--port", type=between(0, 65535, int), default=8000, help="0: a free one; default: 8000")
    address.add_argument(
        "--origin",
        metavar="URL",
        action="append",
        default=[],
        type=_origin,
        help="where else browsers reach this server, such as https://voice.example.org; may be given again",
    )
    address.add_argument("--certificate", metavar="PEM", type=path, help="serve https with this certificate")
    address.add_argument("--key", metavar="PEM", type=path, help="of the certificate")
    bounds = parser.add_argument_group("bounds")
    bounds.add_argument(
        "--max-seconds",
        metavar="S",
        type=positive_number,
        default=LIMITS.max_seconds,
        help=f"of a recording; default: {LIMITS.max_seconds:g}",
    )
    bounds.add_argument(
        "--max-megabytes",
        metavar="MB",
        type=positive_number,
        default=LIMITS.max_bytes / 1e6,
        help=f"of an upload; default: {LIMITS.max_bytes / 1e6:g}",
    )
    bounds.add_argument(
        "--max-streams",
        metavar="N",
        type=positive_int,
        default=LIMITS.max_streams,
        help=f"live streams at a time, of one other address half of them; default: {LIMITS.max_streams}",
    )
    bounds.add_argument(
        "--max-jobs",
        metavar="N",
        type=positive_int,
        default=LIMITS.max_jobs,
        help="recordings that arrive, wait or are restored at a time, of one other address half of them; "
        f"default: {LIMITS.max_jobs}",
    )
    bounds.add_argument(
        "--max-rate",
        metavar="N",
        type=positive_number,
        default=LIMITS.requests,
        help=f"requests per second of one address; default: {LIMITS.requests:g}",
    )
    bounds.add_argument(
        "--keep-minutes",
        metavar="M",
        type=positive_number,
        default=LIMITS.keep_minutes,
        help=f"after which a result is deleted; all are deleted at the end; default: {LIMITS.keep_minutes:g}",
    )
    computing = parser.add_argument_group("computing")
    computing.add_argument(
        "--jobs", metavar="N", type=positive_int, default=1, help="recordings that are restored at a time; default: 1"
    )
    computing.add_argument(
        "--threads",
        metavar="N",
        type=positive_int,
        help="that compute the live streams together, and each recording; the streams of one model take turns where "
        "PyTorch computes them; default: the cores of this machine",
    )
    computing.add_argument(
        "--backend",
        choices=("auto", "onnx", "torch"),
        default="auto",
        help="what computes live streams; default: onnx where it is installed and can do it, else torch",
    )
    add_blend_options(parser)
    return parser


def _check(arguments: argparse.Namespace) -> None:
    missing = [package for module, package in PACKAGES.items() if find_spec(module) is None]
    if missing:
        raise BcfusionError(f"bcfusion serve needs {', '.join(missing)}: pip install 'bcfusion[serve]'")
    if (arguments.certificate is None) != (arguments.key is None):
        raise ConfigError(["--certificate and --key belong together: give both, or neither"])
    for option in ("certificate", "key"):
        file: Path | None = getattr(arguments, option)
        if file is not None and not file.is_file():
            raise ConfigError([f"--{option} {file}: no such file"])


def _origin(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path not in ("", "/") or parts.query:
        raise argparse.ArgumentTypeError(f"{text} is not an origin such as https://voice.example.org")
    return text


def _warning(encrypted: bool) -> str:
    if encrypted:
        return "warning: everybody who reaches this address can use it; there is no password"
    return (
        "warning: everybody who reaches this address can use it; there is neither encryption nor a password, and "
        "browsers give the microphone to pages of https or localhost only\n"
        "put a reverse proxy with https in front (--origin), or give --certificate and --key"
    )


if __name__ == "__main__":
    raise SystemExit(exit_status(main, sys.argv[1:]))
