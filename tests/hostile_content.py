"""Content that nobody wrote by hand: valid files of each kind, and what hypothesis makes of them.

A valid file is changed by its structure (a value, a key, a cell becomes another) and by its bytes (cut, overwritten,
doubled). The values are those that programs trip over, and those with which a stranger would try to run code or to
leave a folder.
"""

from __future__ import annotations

import copy
import csv
import io
import json
from collections.abc import Callable, Sequence
from typing import Any

import yaml
from hypothesis import strategies as st

LONG = 10**400
HOSTILE: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2**31, 2**63, -(2**63) - 1, LONG, 0.5, -0.0, 1e308, 1e-320),
    *(float("inf"), float("-inf"), float("nan")),
    *("", " ", "0", "-1", "1e999", "nan", "inf", "9" * 5000, "\0", "a\0b", "\ud800", "\udcff", "\x1b[31m", "\u202e"),
    *(
        "../../../etc/passwd",
        "/etc/passwd",
        "/dev/zero",
        "~",
        "~root/x",
        "..",
        ".",
        "a" * 300,
        "x/" * 2000,
        "file:///etc",
    ),
    *("air", "body", "train", "x.wav", "x.wav::0+10", "x.wav::" + "9" * 30 + "+1", "x.wav::0+" + "9" * 18),
    *("${oc.env:HOME}", "os.system", "builtins.eval", "bcfusion.generators.seanet.SEANet", "torch.nn.Identity"),
    *([], {}, [[]], [None], {"": None}, [1, "2", None], {"_target_": "os.system", "_args_": ["false"]}),
    {"_target_": "hostile_content.touched", "_partial_": True},
    {"_target_": "bcfusion.generators.seanet.SEANet", "channels": {"_target_": "hostile_content.touched"}},
)
#: calls of what a file may name and nobody may call
TOUCHED: list[Any] = []


def touched(*given: Any, **named: Any) -> int:
    """Note that something that a file names was called."""
    TOUCHED.append((given, named))
    return 0


scalars = st.sampled_from(HOSTILE) | st.integers() | st.floats() | st.text(max_size=20) | st.none() | st.booleans()
keys = st.sampled_from(["id", "air", "paths", "split", "_target_", "sensors", "shape", "", "\ud800"]) | st.text(
    max_size=8
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4), max_leaves=8
)


def places(value: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the place of every entry of a tree of dictionaries and lists, its root included."""
    found = [place]
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in entries:
        found += places(inner, (*place, key))
    return found


@st.composite
def changed_trees(draw: st.DrawFn, tree: Any) -> Any:
    """Change a few entries of a tree: another value, no value, a key more."""
    made = copy.deepcopy(tree)
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.sampled_from(places(made)))
        if not place:
            if draw(st.integers(0, 9)) == 0:
                return copy.deepcopy(draw(values))
            continue
        inner = made
        for key in place[:-1]:
            inner = inner[key]
        kind = draw(st.sampled_from(["replace", "replace", "replace", "delete", "add"]))
        if kind == "delete":
            del inner[place[-1]]
        elif kind == "add" and isinstance(inner, dict):
            inner[draw(keys)] = copy.deepcopy(draw(values))
        else:
            inner[place[-1]] = copy.deepcopy(draw(values))
    return made


@st.composite
def changed_bytes(draw: st.DrawFn, content: bytes) -> bytes:
    """Change a few bytes: cut, overwrite, insert, double."""
    made = content
    for _ in range(draw(st.integers(1, 4))):
        begin = draw(st.integers(0, len(made)))
        size = draw(st.sampled_from([1, 2, 4, 8, 16, 100]))
        kind = draw(st.sampled_from(["cut", "set", "set", "insert", "delete", "double"]))
        patch = draw(
            st.binary(min_size=1, max_size=9)
            | st.sampled_from(
                [b"\0" * 8, b"\xff" * 4, b"\xff" * 8, b"\x7f\xff\xff\xff", b"\0\0\0\x80", b"\n", b'"', b","]
            )
        )
        if kind == "cut":
            made = made[:begin]
        elif kind == "set":
            made = made[:begin] + patch + made[begin + len(patch) :]
        elif kind == "insert":
            made = made[:begin] + patch + made[begin:]
        elif kind == "delete":
            made = made[:begin] + made[begin + size :]
        else:
            made = made[: begin + size] + made[begin:]
    return made


def as_json(tree: Any) -> bytes:
    return json.dumps(tree).encode()


def as_lines(tree: Any) -> bytes:
    """Return a list as JSON Lines."""
    return b"".join(as_json(line) + b"\n" for line in (tree if isinstance(tree, list) else [tree]))


def as_yaml(tree: Any) -> bytes:
    """Return a tree as YAML; JSON, where YAML's writer refuses it."""
    try:
        return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True).encode("utf-8", "backslashreplace")
    except (yaml.YAMLError, ValueError):
        return as_json(tree)


def as_csv(tree: Any) -> bytes:
    """Return a list of rows, the first of which is the header."""
    text = io.StringIO()
    rows = tree if isinstance(tree, list) else [[tree]]
    writer = csv.writer(text)
    for row in rows:
        try:
            writer.writerow(
                [
                    str(cell) if not isinstance(cell, int) or abs(cell) < LONG else "9" * 500
                    for cell in (row if isinstance(row, list) else [row])
                ]
            )
        except csv.Error:
            text.write("\n")
    return text.getvalue().encode("utf-8", "surrogatepass")


def contents(tree: Any, written: Callable[[Any], bytes]) -> st.SearchStrategy[bytes]:
    """Return files like the one that ``written`` makes of a tree, and files of any bytes."""
    own = written(tree)
    return changed_trees(tree).map(written) | changed_bytes(own) | st.binary(max_size=64)


def deep(opening: bytes, closing: bytes = b"", count: int = 3000) -> bytes:
    """Return brackets in brackets."""
    return opening * count + closing * count


#: files that are small and cost much, or end a parser in an unusual way: they are given to every reader
BOMBS: Sequence[bytes] = (
    b"",
    b"\xef\xbb\xbf",
    b"\xff\xfe\x00",
    b"\0" * 1000,
    deep(b"["),
    deep(b'{"a":'),
    deep(b'[{"id":'),
    deep(b"- "),
    b'{"id": ' + b"9" * 6000 + b"}",
    b'{"id": 1e999, "air": 1e999}',
    b"a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c]\n",
    b"a: &a\n  <<: *a\n",
    b"!!python/object/apply:os.system ['false']\n",
    b"!!python/object/apply:hostile_content.touched []\n",
    b"? [a]\n: b\n",
    b"a: 1:2:3:4:5:6:7:8:9:1:1:1\nb: 2001-02-30\n",
    b"id,air\n" + b'"' * 200_001,
    b"id,air\n" + b"x" * 200_000 + b"\n",
    b"a,a,a\n1,2\n1,2,3,4\n",
    b"\r\r\n\n\r",
)
