"""A double of neuronx-distributed at the boundary that NxD Inference uses, following 0.18
(commit fbac349), ``src/neuronx_distributed``. Only what is written and raised is here.
"""
