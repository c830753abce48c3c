"""Serve one page on this machine from memory: no other file can be requested."""

from __future__ import annotations

import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from bcfusion.errors import BcfusionError

__all__ = ["page_server", "serve"]

HOST = "127.0.0.1"


def page_server(text: str, port: int) -> ThreadingHTTPServer:
    """Return a server of the page, bound but not started; its address is ``server_address``.

    Args:
        text: the HTML document.
        port: 0 for a free one.

    Raises:
        BcfusionError: the port is taken, or not allowed.
    """
    body = text.encode("utf-8")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = self.path.partition("?")[0] == "/"
            self.send_response(200 if found else 404)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(body) if found else 0))
            self.end_headers()
            if found:
                self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:
            """Print nothing."""

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            """Report bugs, but not a browser that ends its request early, as on a reload."""
            if not isinstance(sys.exception(), ConnectionError):
                super().handle_error(request, client_address)

    try:
        return Server((HOST, port), Handler)
    except OSError as error:
        raise BcfusionError(f"--port {port}: {error.strerror}; omit it to use a free one") from error


def serve(text: str, port: int) -> None:
    """Serve the page until the process is interrupted."""
    with page_server(text, port) as server:
        print(f"http://{HOST}:{server.server_address[1]}/ (Ctrl-C ends)", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()
