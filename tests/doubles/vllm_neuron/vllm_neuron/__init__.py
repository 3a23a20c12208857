"""A double of vllm-neuron 0.21 and later: its compile cache, and what its worker does with it.

Knobs (``NEURON_DOUBLE``) beyond those of ``neuron_double``: ``half`` leaves the last graph without
its completion marker, ``raises`` ends a compile without a device by raising, as some versions do.
"""
