import ast
import subprocess
import sys
from pathlib import Path

import secateur


def test_type_checkers_see_the_names_of_the_table():
    file = Path(secateur.__file__).with_suffix(".pyi")
    seen = {
        alias.asname: node.module
        for node in ast.parse(file.read_text()).body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.name == alias.asname
    }
    assert seen == secateur._MODULES and secateur.__all__ == [*secateur._MODULES]


def test_names_are_listed_without_importing_what_they_are():
    script = "import sys, secateur as s; assert set(s.__all__) <= set(dir(s)); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0
