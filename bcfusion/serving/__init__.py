"""A server for the browser: recordings are uploaded and restored, and live sound goes through causal networks.

``app`` has the routes, ``guard`` decides which requests reach them, ``uploads`` and ``jobs`` restore recordings, and
``live`` carries streams between WebSockets and networks. Needs the extra ``serve``.
"""
