"""Single pictures: `load()`, `Segmenter`, `Segmentation`, words and looks inside a model."""
