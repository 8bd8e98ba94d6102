"""The model: blueprint, decoder, the kernel's own layers, decode state, sampling, generation, checkpoint.

Read `blueprint` (what a model is made of; no torch), then `decoder` (how the parts run), then `checkpoint`.
"""
