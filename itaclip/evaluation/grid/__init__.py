"""Ablations: studies as data, evaluated together as far as their settings share work.

``studies`` says what is varied, ``published`` what the papers measured; ``plan`` turns both into
settings, ``evaluate`` into figures, ``store`` keeps these, ``report`` makes tables and plots.
"""

from .evaluate import evaluate_plan
from .plan import Plan, make_plan
from .store import Store
from .studies import STUDIES, Study

__all__ = ["STUDIES", "Plan", "Store", "Study", "evaluate_plan", "make_plan"]
