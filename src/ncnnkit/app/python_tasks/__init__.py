"""How the app in Python decodes and prints outputs: one module for each kind of task.

An app contains the module of its task as ``parts/task.py``. All modules have the same names:

- ``JOINS_TILES``: whether the predictions for the tiles of an image are merged into one.
- ``makes(facts)``: the name in ``--json`` of the image that the task makes, ``mask`` or ``image``; empty if none.
- ``answer(tiles, facts)``: the prediction from the outputs for an image or its tiles; ``facts`` is ``infer.json``.
- ``agreement(found, wanted)``: agreement from 0 to 1 with an example of the self-test; ``wanted`` is ``Example.found``.
- ``lines(found, labels, top)``: the prediction as lines of text.
- ``describe(found, labels, top)``: the prediction as a dict for ``--json``.
- ``draw(found, labels, image)``: draws the prediction onto a Pillow image.
- ``picture(found)``: the image that the task makes, uint8; None if it makes none.

``cpp_tasks`` is the same in C++.
"""
