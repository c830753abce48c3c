"""Corpora, simulated sensors, and the path from files to batches.

``corpora`` lists utterances, ``preparation`` writes manifests of corpora on disk, ``inspect`` finds what is wrong with
recordings, ``simulation`` makes the sensors that were not recorded, ``loading`` turns rows into batches and shards, and
augments them. ``loading`` builds on ``simulation``, and all of them on ``corpora``; no import goes the other way.
"""
