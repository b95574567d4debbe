"""A lesson in another language of prose: `solutions/NN_topic/topic.de.po` -> `course-de/NN_topic/topic.ipynb`.

The file beside the source is gettext's, for which translators have editors; each text cell of the lesson is a message of
it. Code, exercises, checks and questions' points are those of the one source, so a hand-in in any language is graded by it.
"""

import io
import re
from pathlib import Path

from .lessons import ROOT, LessonError

BADGE = "badge"  # the id of the cell by which a lesson is opened in Colab
HEADER = "# The text cells of a lesson. `autograder build --language` keeps this file in step with the lesson."


def build_lesson(path, language, *, check=False, root=ROOT):
    """Build one lesson in `language`, such as "de"; the files that were (or with `check`, are) out of date.

    The `.po` file is made or brought up to date: a new text is added, untranslated; one that changed keeps its translation,
    marked `fuzzy`, until a person has looked at it. Both stay in the original language, and are told.
    """
    from .build import _text, expand, released, write

    _known(language)
    notebook = expand(path)
    file = path.with_suffix(f".{language}.po")
    cells = {number: cell for number, cell in enumerate(notebook.cells, 1) if _is_text(cell)}
    catalog = _catalog(file, language, [cell.source for cell in cells.values()])
    missing, outdated = [], []
    for cell in notebook.cells:
        if cell.get("id") == BADGE:
            cell.source = cell.source.replace(f"/course/{path.parent.name}/", f"/course-{language}/{path.parent.name}/")
    for number, cell in cells.items():
        message = catalog[cell.source]
        where = f"cell {number}, {cell.source.strip().splitlines()[0][:60]!r}"
        if message.fuzzy:
            outdated.append(where)
        elif not message.string:
            missing.append(where)
        else:
            cell.source = message.string  # its id stays: nothing but the text is another
    release = Path(root) / f"course-{language}" / path.parent.name / f"{path.stem}.ipynb"
    stale = write({file: _po(catalog), release: _text(released(notebook))}, check=check, root=root)
    done = len(cells) - len(missing) - len(outdated)
    print(f"{path.parent.name} in {language}: {done} of {len(cells)} text cells; the others are in the original language")
    for what, those in (("not translated", missing), ("changed since it was translated", outdated)):
        if those:
            print(f"  {what}: {those[0]}" + f" and {len(those) - 1} more" * (len(those) > 1) + f": {file.relative_to(root)}")
    return stale


def _is_text(cell):
    return cell.cell_type == "markdown" and cell.get("id") != BADGE and "nbgrader" not in cell.metadata and bool(cell.source.strip())


def _known(language):
    from babel import Locale, UnknownLocaleError

    try:
        Locale.parse(language)
    except (UnknownLocaleError, ValueError) as error:
        raise LessonError(f"{language!r} is no language: {error}; expected a code such as de, es or pt_BR") from None


def _catalog(file, language, texts):
    """The translations in `file`, if there is one, brought up to date with `texts`."""
    from babel.messages import Catalog
    from babel.messages.pofile import PoFileError, read_po

    about = {"project": "object detection", "version": "1", "charset": "utf-8", "header_comment": HEADER}
    catalog = Catalog(language, fuzzy=False, **about)
    try:
        if file.exists():
            with open(file, "rb") as opened:
                catalog = read_po(opened, locale=language, abort_invalid=True)
    except (PoFileError, UnicodeDecodeError) as error:
        raise LessonError(f"{file}: {error}; expected gettext's PO format") from None
    template = Catalog()
    for text in texts:
        template.add(text)
    catalog.update(template, update_creation_date=False)
    return catalog


def _po(catalog):
    from babel.messages.pofile import write_po

    text = io.BytesIO()
    write_po(text, catalog, width=0)
    return re.sub(r'"Generated-By: .*\n', "", text.getvalue().decode())  # a newer Babel is no change of the file
