"""tree.py: the project's files, as the style rules see them."""

import os
import re
import subprocess


class Tree:
    """Files below ROOT: those git knows or would add, or all but build/ where there is no git."""

    def __init__(self, root):
        self.root = root
        self._texts = {}
        self.files = sorted(self._listed() or self._found())

    def _listed(self):
        if not os.path.exists(os.path.join(self.root, ".git")):
            return []
        done = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=self.root, check=False,
                              stdout=subprocess.PIPE)  # fmt: skip
        names = {name for name in done.stdout.decode().split("\0") if name}
        return [name for name in names if os.path.isfile(os.path.join(self.root, name))]

    def _found(self):
        for directory, subdirectories, names in os.walk(self.root):
            subdirectories[:] = [name for name in subdirectories if name not in ("build", ".git", "__pycache__")]
            for name in names:
                yield os.path.relpath(os.path.join(directory, name), self.root)

    def matching(self, pattern):
        """Names that match a regular expression from their beginning to their end."""
        return [name for name in self.files if re.fullmatch(pattern, name)]

    def text(self, name):
        """"" for what is not text."""
        if name not in self._texts:
            with open(os.path.join(self.root, name), "rb") as file:
                data = file.read()
            self._texts[name] = "" if b"\0" in data else data.decode(errors="replace")
        return self._texts[name]

    def lines(self, name):
        """(number, line), from 1."""
        return enumerate(self.text(name).splitlines(), 1)

    def code_lines(self, name):
        """As lines(), of C with the contents of comments, strings and characters removed."""
        return enumerate(strip_c(self.text(name)).splitlines(), 1)


_TOKEN = re.compile(r"""/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'""", re.S)


def strip_c(text):
    """C without what a compiler does not read as code; lines stay where they are. The names in #include
    stay as well."""
    return _TOKEN.sub(_blank, text)


def _blank(match):
    token = match[0]
    if token[0] == '"':
        line = match.string[match.string.rfind("\n", 0, match.start()) + 1 : match.start()]
        return token if line.lstrip().startswith("#") else '""'
    return "''" if token[0] == "'" else " " + "\n" * token.count("\n")
