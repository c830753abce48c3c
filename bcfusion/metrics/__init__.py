"""Quality measures of one utterance, in NumPy: one file per metric.

``base.py`` is what they share; ``optional.py`` serves metrics that need networks or further packages. Nothing here
imports torch at import time; metrics that run a network import it when they score.
"""
