"""The teacher's kit: copy the course, release a term's edition, grade what students hand in.

    for graded in lab.course.grade("hand-ins"):
        print(graded.name, graded.points)

`pruning-lab course` does the same from the command line; notebooks/TEACHING.md says how.
"""

from pruning_lab.course.editions import as_text, for_term, notebooks
from pruning_lab.course.grading import Grade, Graded, Grades, grade
from pruning_lab.course.handing_back import as_json, write
from pruning_lab.course.scoring import Entry, Fame, fame, score

__all__ = ["Entry", "Fame", "Grade", "Graded", "Grades", "as_json", "as_text", "fame", "for_term"]
__all__ += ["grade", "notebooks", "score", "write"]
