"""Single pictures: from a model to labels in a few lines.

:func:`~itaclip.predict.load.load` makes a :class:`~itaclip.predict.segmenter.Segmenter`, a loaded
model with its sizes and words, whose calls give a
:class:`~itaclip.predict.segmentation.Segmentation`, one picture's labels and scores. (The method
itself, tensors in and tensors out, is :class:`itaclip.segmentor.Segmentor`.)

``images`` reads pictures of any kind, ``pipeline`` as a config's evaluation does; ``words`` makes
vocabularies; ``outputs`` writes other tools' formats; ``large`` labels tile by tile; ``inspection``
and ``depth`` look inside; ``audit`` judges word lists.
"""
