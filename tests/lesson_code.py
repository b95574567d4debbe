"""Functions as the lessons' sources have them, read from there: the exercises' answers, and the forms of their last pages."""

import ast
import contextlib
import functools

from autograder.lessons import read_cells, sources


@functools.cache
def function_of(lesson, name):
    """A function or class of a lesson, such as ("06_nms", "nms_in_blocks"): of an exercise, or of an ordinary cell.

    Its lesson's setup and exercise cells are run before it, and of the cell that defines it all definitions.
    """
    path = {path.parent.name: path for path in sources()}[lesson]
    cells = [cell for cell in read_cells(path) if cell.cell_type == "code"]
    given = [cell.source for cell in cells if (meta := cell.metadata.get("nbgrader")) and not meta["grade"]]
    space = {"__name__": lesson}
    with contextlib.chdir(path.parent):  # where `earlier` looks for the lessons beside this one
        for source in given:
            exec(compile(source, f"setup and exercises of {lesson}", "exec"), space)
    if name not in space:
        for cell in cells:
            nodes = [node for node in ast.parse(cell.source).body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
            if name in [node.name for node in nodes]:
                exec(compile(ast.Module(nodes, []), f"{name} of {lesson}", "exec"), space)
    return space[name]
