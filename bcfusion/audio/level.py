"""The level of a signal: over all of it, or only while somebody speaks."""

from __future__ import annotations

from torch import Tensor

#: length of the frames that are speech or pause
FRAME_SECONDS = 0.02
#: dB below the loudest frame; frames below that are pauses. ITU-T P.56 sets its threshold 15.9 dB below the active
#: level, which itself lies 10 to 15 dB below the loudest 20 ms of speech.
ACTIVE_RANGE = 30.0
#: root mean square below which a signal is only the rounding of 16 bits, and its level means nothing: -80 dB
SILENCE_LEVEL = 1e-4


def level(signal: Tensor) -> float:
    """Return the root mean square, summed in double precision: a quiet slice squared is near the floor of single."""
    return float(signal.double().square().mean().sqrt())


def active_level(signal: Tensor, sample_rate: int) -> float:
    """Return the root mean square of the frames that are speech: those within 30 dB of the loudest, of 20 ms each.

    Pauses do not count, so the level of a slice does not depend on how much of it is pause. For a steady signal it is
    the root mean square of the whole.

    Args:
        signal: ``(1, T)``, any T of at least one sample; a remainder after the last whole frame is counted with it.
        sample_rate: in Hz.

    Returns:
        0 if the signal is zero.
    """
    squares = signal.double().square().flatten()
    frame = min(max(1, round(FRAME_SECONDS * sample_rate)), len(squares))
    whole = len(squares) // frame * frame
    energies = squares[:whole].view(-1, frame).sum(-1)
    lengths = energies.new_full(energies.shape, frame)
    energies[-1] += squares[whole:].sum()
    lengths[-1] += len(squares) - whole
    powers = energies / lengths
    active = powers >= powers.max() * 10.0 ** (-ACTIVE_RANGE / 10.0)
    return float((energies[active].sum() / lengths[active].sum()).sqrt())


def amplitude(decibels: float) -> float:
    """Return the factor on the amplitude that raises a level by that many dB."""
    return 10.0 ** (decibels / 20.0)
