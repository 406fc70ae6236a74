"""The training of storybook-tiny, piece by piece; see ``tools/train_storybook_tiny.py``."""
