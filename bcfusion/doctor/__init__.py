"""What ``bcfusion doctor`` looks at: one small check after another, each in one module by what it concerns.

No module here loads anything but the standard library when it is imported: the checks are for installations in which
something else cannot be. What they load, they load in a process of its own; see :mod:`bcfusion.doctor.examination`.
"""
