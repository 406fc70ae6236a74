"""Writes auxiliary-text files for any class list with a language model.

Command line: ``itaclip texts --help``. The files it makes are read by
``itaclip.vocabulary``.

* ``prompts``: everything that is said to the model.
* ``answers``: what is taken off an answer, and what it must fulfil.
* ``backends``: a local instruction model, or an OpenAI-compatible endpoint.
* ``journal``: finished answers on disk, so that an interrupted run continues.
* ``generate``: one answer per class, asked again until it is valid.
"""
