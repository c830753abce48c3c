"""Public checkpoints of other projects as bundles: what they are, where they come from, and how their tensors map.

A source is one file of :mod:`bcfusion.importing.sources`. It knows the files of one kind of checkpoint, reads the
arguments of our network from them, and says which of their tensors is which of ours.
"""
