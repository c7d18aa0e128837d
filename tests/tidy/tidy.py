#!/usr/bin/env python3
"""tidy.py ROOT: the rules of ARCHITECTURE.md and STYLE.md that a program can check.

Each check_* function takes a Tree and yields one line for each breach; main prints them and exits 1 when there are any.
Comments and strings are blanked before code is searched, so that a word in a comment is no breach. What needs a
compiler (types, unused code) is not looked at here: the compiler's warnings are errors. test_tidy.py holds a breach of
every rule.
"""
import os
import re
import subprocess
import sys

ROOMS = ["base", "kernel", "kv", "format", "text", "grammar", "model", "engine", "eval", "server", "cli"]
# Rooms that see less than all to their left (the library's kvasir.h is seen by those who implement or use it).
SEES = {"server": {"base"}, "cli": {"base", "eval", "server"}}
SEES_LIBRARY_HEADER = {"engine", "eval", "server", "cli"}

LINES_MAX = 1000
BANNED = ["strcpy", "strcat", "sprintf", "vsprintf", "gets", "strtok", "atoi", "atol", "atof", "strdup", "strndup", "alloca",
          "rand", "srand"]
BASE_ONLY = {"malloc": "mem_alloc", "calloc": "mem_zero", "realloc": "mem_resize", "free": "mem_free",
             "aligned_alloc": "mem_aligned", "posix_memalign": "mem_aligned", "fopen": "file_read", "mmap": "file_map_open"}
# (folder, function): where a function of another library makes the general rule impossible.
ALLOWED = {
    ("src/cli", "free"): "libedit hands out lines from malloc",
    ("src/eval", "free"): "jansson prints into memory from malloc",
    ("src/server", "free"): "jansson and libevent hand out memory from malloc",
    ("src/cli", "_exit"): "the second Ctrl-C ends the program from a signal handler, where exit() is not allowed",
}
# Hosts that text in this repository may name: public places where a reader finds sources.
HOSTS = {"github.com", "arxiv.org", "huggingface.co", "www.apache.org", "json-schema.org", "docs.python.org", "example.com",
         "fetch.spec.whatwg.org", "cve.mitre.org", "nvd.nist.gov", "www.rfc-editor.org", "spec.openapis.org", "aclanthology.org", "prng.di.unimi.it",
         "llvm.org", "www.unicode.org", "ai.google.dev", "www.w3.org"}
TEXT_KINDS = (".c", ".h", ".md", ".sh", ".py", ".txt", ".json", ".cmake", ".html", ".css", ".js", "run")
FREE_TEXT = ("tests/data/", "tests/fuzz/corpus/", "LICENSE")  # other people's texts


def blank(source, strings=True):
    """The source with comments (and string contents) replaced by spaces; lines stay where they were."""
    def spaces(match):
        text = match.group(0)
        if text[0] in "\"'":
            return text[0] + re.sub(r"[^\n]", " ", text[1:-1]) + text[-1] if strings else text
        return re.sub(r"[^\n]", " ", text)
    return re.sub(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', spaces, source, flags=re.S)


class Tree:
    """The files of a checkout that are (or would be) committed, read once."""

    def __init__(self, root):
        self.root = root
        names = self.committed()
        self.files = {}
        for name in names:
            path = os.path.join(root, name)
            if os.path.isfile(path) and name.endswith(TEXT_KINDS + ("LICENSE", ".clang-format")):
                with open(path, encoding="utf-8", errors="replace") as file:
                    self.files[name] = file.read()

    def committed(self):
        try:
            listed = subprocess.run(["git", "-C", self.root, "ls-files", "-z"], capture_output=True, check=True)
            return sorted(listed.stdout.decode().split("\0"))[1:]
        except (OSError, subprocess.CalledProcessError):  # an archive without git: everything but build trees
            names = []
            for folder, folders, files in os.walk(self.root):
                folders[:] = [f for f in folders if not f.startswith(("build", ".git"))]
                names += [os.path.relpath(os.path.join(folder, f), self.root) for f in files]
            return sorted(names)

    def sources(self, *prefixes):
        for name, text in self.files.items():
            if name.endswith((".c", ".h")) and name.startswith(prefixes or ("src/", "include/")):
                yield name, text


def line_of(text, offset):
    return text.count("\n", 0, offset) + 1


def calls(code, function):
    return re.finditer(r"(?<![\w.>])" + function + r"\s*\(", code)


def room_of(name):
    parts = name.split("/")
    return parts[1] if parts[0] == "src" and len(parts) > 2 else None


def check_rooms(tree):
    """A room includes its own headers and the outward headers of rooms to its left, nothing else of ours."""
    for name, text in tree.sources("src/"):
        room = room_of(name)
        if room not in ROOMS:
            yield f"{name}: src/ holds rooms only, and '{room}' is none ({' '.join(ROOMS)})"
            continue
        for match in re.finditer(r'^[ \t]*#[ \t]*include[ \t]*"([^"]+)"', text, re.M):
            target, where = match.group(1), f"{name}:{line_of(text, match.start())}"
            if target == "kvasir.h":
                if room not in SEES_LIBRARY_HEADER:
                    yield f"{where}: {room} must not see kvasir.h: the library is built on it"
                continue
            other = target.split("/")[0] if "/" in target else room
            if other == room:
                own = target if "/" in target else f"{room}/{target}"
                if f"src/{own}" not in tree.files:
                    yield f"{where}: \"{target}\" is no file of {room}"
            elif other not in ROOMS:
                yield f"{where}: \"{target}\" names no room"
            elif ROOMS.index(other) > ROOMS.index(room):
                yield f"{where}: {room} includes {target}, of a room to its right"
            elif other not in SEES.get(room, ROOMS):
                yield f"{where}: {room} must not know {other}"
            elif target != f"{other}/{other}.h":
                yield f"{where}: {target} is private to {other}; {room} may include {other}/{other}.h"


def check_architecture(tree):
    """ARCHITECTURE.md names every room, and what it names exists: files, and functions as `file.c:function`."""
    text = tree.files.get("ARCHITECTURE.md")
    if text is None:
        yield "ARCHITECTURE.md is missing"
        return
    for room in sorted({room_of(name) for name, _ in tree.sources("src/")} - {None}):
        if f"`src/{room}`" not in text:
            yield f"ARCHITECTURE.md: does not name the room `src/{room}`"
    journey = re.search(r"^## A token's journey$(.*?)(?=^## |\Z)", text, re.M | re.S)
    steps = re.findall(r"`(src/[\w/]+\.c):(\w+)`", journey.group(1)) if journey else []
    if len(steps) < 10:
        yield "ARCHITECTURE.md: \"A token's journey\" must tell at least ten steps as `src/ROOM/FILE.c:FUNCTION`"
    for file, function in re.findall(r"`((?:src|tests)/[\w/]+\.[ch]):(\w+)`", text):
        if file not in tree.files:
            yield f"ARCHITECTURE.md: {file} does not exist"
        elif not re.search(r"^(?!#|\s)[^;\n=]*\b" + function + r"\(", tree.files[file], re.M):
            yield f"ARCHITECTURE.md: {file} does not define {function}()"


def check_links(tree):
    """Paths that a page names exist."""
    known = set(tree.files) | {os.path.dirname(name) for name in tree.committed()} | set(tree.committed())
    known |= {os.path.dirname(name) for name in known}
    for page in [name for name in tree.files if name.endswith(".md")]:
        for match in re.finditer(r"\]\((?!https?:|#)([^)#\s]+)|`((?:src|tests|docs|scripts|include)/[\w./-]*\w)/?`",
                                 tree.files[page]):
            path = match.group(2) or os.path.normpath(os.path.join(os.path.dirname(page), match.group(1)))
            if path not in known and not re.search(r"(^|/|_)(ROOM|NAME|FILE)\b", path):  # those stand for any
                yield f"{page}:{line_of(tree.files[page], match.start())}: {path} does not exist"


def check_readme(tree):
    """Options and variables that the README names exist, and it names every variable that the program reads."""
    readme = tree.files.get("README.md", "")
    program = "".join(text for _, text in tree.sources("src/cli/"))
    commands = re.search(r"^## Commands$(.*?)(?=^## |\Z)", readme, re.M | re.S)
    for option in sorted(set(re.findall(r"(?<![\w-])--([a-z][a-z-]*[a-z])", commands.group(1) if commands else ""))):
        if f'"{option}"' not in program:
            yield f"README.md: --{option} is no option"
    read, named = (set(re.findall(pattern, text)) for pattern, text in
                   ((r'"(KVASIR_[A-Z_]+)"', program), (r"`(KVASIR_[A-Z_]+)`", readme)))
    for variable in sorted(named - read):
        yield f"README.md: the program does not read {variable}"
    for variable in sorted(read - named):
        yield f"README.md: does not name {variable}, which the program reads"


def check_functions(tree):
    """No banned function; memory and files by base only; the environment by the cli only; only main exits."""
    for name, text in tree.sources("src/"):
        code, room = blank(text), room_of(name)
        rules = {f: "is banned (STYLE.md)" for f in BANNED}
        if room != "base":
            rules.update({f: f"is base's alone; use {better}" for f, better in BASE_ONLY.items()})
            rules.update({f: "ends the program: return a status (only main exits)" for f in ("abort", "_exit")})
            if name != "src/cli/main.c":
                rules["exit"] = "ends the program: return a status (only main exits)"
        if room != "cli":
            rules["getenv"] = rules["secure_getenv"] = "is the cli's alone: pass a configuration"
        for function, why in rules.items():
            if (f"src/{room}", function) in ALLOWED:
                continue
            for match in calls(code, function):
                yield f"{name}:{line_of(code, match.start())}: {function}() {why}"


def check_style(tree):
    """Files open with a comment and stay readable; structs are not typedef'd; work left over is not hidden in comments."""
    for name, text in tree.sources("src/", "include/", "tests/"):
        if name.startswith(FREE_TEXT):
            continue
        if not text.startswith("/* "):
            yield f"{name}:1: a file opens with a comment: purpose, invariants, what it does not do"
        lines = text.count("\n")
        if lines > LINES_MAX:
            yield f"{name}: {lines} lines, more than {LINES_MAX}"
        for match in re.finditer(r"typedef\s+(struct|union|enum)\b", blank(text)):
            yield f"{name}:{line_of(text, match.start())}: a typedef'd {match.group(1)}"
        for match in re.finditer(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X)\b", text):
            yield f"{name}:{line_of(text, match.start())}: {match.group(1)}: do it, or open an issue"
        for match in re.finditer(r"[ \t]+$", text, re.M):
            yield f"{name}:{line_of(text, match.start())}: white space at the end of a line"


def check_words(tree):
    """Nothing of one developer's machine, and only well-known hosts."""
    machine = re.compile(r"(?<![\w.])/(?:wo" + r"rk|ro" + r"ot|ho" + r"me/\w+)/")
    for name, text in tree.files.items():
        if name.startswith(FREE_TEXT):
            continue
        for match in machine.finditer(text):
            yield f"{name}:{line_of(text, match.start())}: a path of one machine: {match.group(0)}"
        for match in re.finditer(r"https?://([\w.-]*\w)", text):
            host = match.group(1).lower()
            invented = host.endswith((".example", ".invalid"))  # nobody's: RFC 2606
            if host not in HOSTS and not invented and not host.startswith(("localhost", "127.0.0.1")):
                yield f"{name}:{line_of(text, match.start())}: {host} is not among the hosts that tidy.py allows"


CHECKS = [check_rooms, check_architecture, check_links, check_readme, check_functions, check_style, check_words]


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    tree = Tree(sys.argv[1])
    if not any(True for _ in tree.sources("src/")):
        sys.exit(f"{sys.argv[1]} holds no sources")
    breaches = [line for check in CHECKS for line in check(tree)]
    for line in breaches:
        print(line)
    print(f"tidy: {len(breaches)} breaches in {len(tree.files)} files")
    sys.exit(1 if breaches else 0)


if __name__ == "__main__":
    main()
