"""An audit of a vocabulary on one's own pictures, with or without masks."""

from .measure import Audit, WordList, audit
from .report import html_page, tables

__all__ = ["Audit", "WordList", "audit", "html_page", "tables"]
