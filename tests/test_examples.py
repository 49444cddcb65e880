"""Examples are found in pages, and a difference in their output is seen."""

from pathlib import Path

import pytest
from examples import Example, Likeness, examples_in

PAGE = """Text.

```sh
one a   # with a comment
# only a comment
two "over
lines" | three
```

```
$ show
  all 4711

$ show | grep 'a
b'
# none
```

```
a drawing
```

```python
print(1)
```
"""


def test_finds_each_in_its_order(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text(PAGE)
    assert list(examples_in(tmp_path / "page.md", "p")) == [
        Example("p:4", "sh", "one a   # with a comment"),
        Example("p:4", "sh", 'two "over\nlines" | three'),
        Example("p:11", "sh", "show", ("  all 4711",)),
        Example("p:11", "sh", "show | grep 'a\nb'", ()),
        Example("p:11", "sh", "none", ()),
        Example("p:24", "python", "print(1)\n"),
    ]


@pytest.mark.parametrize(
    ("shown", "came"),
    [
        (["a 05:07:57.072668 b"], ["a 23:59:59.1 b"]),
        (["at 2026-11-28T04:00:00Z"], ["at 2026-01-01T00:00:01Z"]),
        (["1622 a", "└─ 1624 of 1622"], ["77 a", "└─ 78 of 77"]),
        (["pid  name", "1622 a"], ["  pid   name".strip(), "122622  a"]),
        (["took 0.04 s"], ["took 12.5 s"]),
        (["98 events, and 6 more in x"], ["101 events, and 32 more in x"]),
        (["pid:1622", "1622"], ["pid:77777", "77777"]),
        (["a … z"], ["a b c z"]),
        (["first", "…", "last"], ["first", "x", "y", "last"]),
        (["first", "…"], ["first", "x"]),
        (["127.0.0.1:4444"], ["127.0.0.1:4444"]),
    ],
)
def test_like_is_like(shown: list[str], came: list[str]) -> None:
    assert Likeness().difference(shown, came) == ""


@pytest.mark.parametrize(
    ("shown", "came"),
    [
        (["a 05:07:57.072668"], ["a"]),
        (["1622", "1622"], ["77", "78"]),
        (["1622", "1623"], ["77", "77"]),
        (["1622 1622"], ["77 78"]),
        (["exit 0"], ["exit 1"]),
        (["127.0.0.1:4444"], ["127.0.0.1:4445"]),
        (["one", "two"], ["one"]),
        (["one"], ["one", "two"]),
        (["first", "…", "last"], ["first", "x"]),
        (["2 processes"], ["3 processes"]),
    ],
)
def test_a_difference_is_told(shown: list[str], came: list[str]) -> None:
    assert Likeness().difference(shown, came)
