"""What a check of a data set finds, and how it is printed."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..runtime.files import printable

EXAMPLES = 20  # problems of one kind that are printed


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        severity: ``"error"`` (scores would be wrong, or the run would stop) or ``"warning"``.
        file: the file or folder it is about.
        message: what is wrong and how to mend it.
        kind: problems of a kind are printed together.
    """

    severity: str
    file: str
    message: str
    kind: str = ""

    def __str__(self) -> str:
        return printable(f"{self.severity}: {self.file}: {self.message}")


def has_errors(problems: Iterable[Problem]) -> bool:
    """Say whether any problem is more than a warning."""
    return any(problem.severity == "error" for problem in problems)


def format_problems(problems: Sequence[Problem], examples: int = EXAMPLES) -> list[str]:
    """Return one line per problem, grouped by kind; at most ``examples`` of a kind."""
    groups: dict[tuple[str, str], list[Problem]] = defaultdict(list)
    for problem in problems:
        groups[problem.severity, problem.kind or problem.message].append(problem)
    lines = []
    for (severity, _), group in groups.items():
        lines += [str(problem) for problem in group[:examples]]
        if len(group) > examples:
            lines.append(f"{severity}: … and {len(group) - examples} more of this kind")
    return lines
