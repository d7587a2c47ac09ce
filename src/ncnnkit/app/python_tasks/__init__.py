"""What the app in Python does with the outputs: a module for each kind of task. The app's file contains the chosen one.

Each has the same names:

- ``JOINS_TILES``: whether the predictions for the tiles of an image become one.
- ``makes(facts)``: what ``--json`` calls the image that it makes, ``mask`` or ``image``; empty: it makes none.
- ``answer(tiles, facts)``: the prediction from the outputs for an image or its tiles; ``facts`` are ``infer.json``.
- ``agreement(found, wanted)``: from 0 to 1, with an example of the self-test: ``wanted`` is ``Example.found``.
- ``lines(found, labels, top)``: a prediction in words.
- ``describe(found, labels, top)``: for ``--json``.
- ``draw(found, labels, image)``: onto a Pillow image.
- ``picture(found)``: the image that it makes, uint8.

``cpp_tasks`` has the same in C++.
"""
