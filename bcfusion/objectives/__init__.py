"""Generative objectives: a network learns to lead a signal along a path from the sensor, or from noise, to the target.

``paths`` says what is between both ends, ``noise`` draws what does not depend on how a file is cut, ``domains`` is
where the path lies, and ``bridge`` is the generator that all of them make of a network.
"""
