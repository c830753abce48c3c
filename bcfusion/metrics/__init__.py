"""Quality measures of one utterance, in NumPy, and the processes that compute them beside the network.

One file a measure; ``base.py`` holds what they share, ``pool.py`` scores whole test sets. Nothing here imports torch,
but metrics by networks when they score.
"""
