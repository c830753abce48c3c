"""One module per kind of public checkpoint, with a :class:`bcfusion.importing.source.Source` named ``SOURCE``.

``bcfusion import NAME`` imports ``bcfusion.importing.sources.NAME``. The first line of a module's docstring is what the
help of the verb shows.
"""
