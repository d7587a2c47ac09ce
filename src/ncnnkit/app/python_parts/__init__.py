"""The parts of the app in Python that all tasks share. They are copied into the folder ``parts`` of an app.

``images`` reads and resizes images, ``inputs`` makes tensors of files, ``network`` runs ncnn, ``selftest`` runs the
examples.
"""
