"""From raw downloads to the folders that MMSegmentation reads, for eight benchmarks.

The modules, in the order of the data's way:

==================  ==========================================================================
``archives``        take the wanted members out of zip and tar files
``sources``         find a folder in the tree, in raw downloads or on the net
``labels``          look-up tables from raw label values to classes, refusing unlisted values
``rle``             decode run-length encoded masks
``convert``         run over all masks: parallel, atomic, resumable
``manifest``        write down what was prepared
``voc`` … ``ade``   what is particular to one family of benchmarks
``benchmarks``      the table of all eight
==================  ==========================================================================

Needs only the standard library, NumPy, Pillow and tqdm (SciPy for ``.mat`` files); what is missing
is fetched by :mod:`itaclip.runtime.download`.
"""
