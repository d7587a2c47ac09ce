"""The parts of the app in Python that every task has. ``infer.py`` imports them; the app's file contains their code.

``images`` reads and resizes images, ``inputs`` makes tensors of files, ``network`` runs ncnn, ``selftest`` runs the
examples.
"""
