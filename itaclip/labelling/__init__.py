"""Labelling collections of pictures, on one machine or on a cluster; see docs/labelling.md.

A source is cut into shards; pictures are read, decoded, segmented and packed by the same stages in
one process or on Ray Data; every shard becomes a part, which is written as a whole.
"""
