"""A web page that segments an image into any words: ``python -m itaclip app``."""
