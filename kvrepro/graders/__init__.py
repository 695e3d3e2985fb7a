"""Graders: `grade` one reply or `grade_many`, strictly or the way DynTS does. Loads neither torch nor sympy."""

from kvrepro.graders.grading import grade, grade_many
from kvrepro.graders.score import GRADERS, KINDS, REVISION, STATUSES, Score

__all__ = ["GRADERS", "KINDS", "REVISION", "STATUSES", "Score", "grade", "grade_many"]
