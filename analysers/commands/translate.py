"""`python -m analysers.commands.translate RUN OTHER_RUN`: strengths of one run in the other's.

Prints the table and writes translation.csv and translation.svg into the working directory.
"""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Sequence
from pathlib import Path

from analysers.commands.options import DONE, USAGE
from analysers.runs.conclude import load_study
from analysers.translation import HEAD, rows, translate
from generation.errors import UserError
from generation.files import write_text
from reports.comparison import draw
from reports.drawing import standalone


def main(arguments: Sequence[str]) -> int:
    """Print and write the translation; the exit code."""
    try:
        if len(arguments) != 2:
            raise UserError("Name two finished runs, such as: runs/on-one-base runs/on-another.")
        first, second = (load_study(Path(one)) for one in arguments)
        found = translate(first, second)
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr)
        return USAGE
    table = [HEAD, *rows(found)]
    for row in table:
        print("  ".join(f"{cell:>15}" for cell in row))
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(table)
    write_text(Path("translation.csv"), text.getvalue())
    write_text(Path("translation.svg"), standalone(draw(found, axes=(HEAD[0], HEAD[2]))))
    return DONE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
