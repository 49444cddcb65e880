"""A process and its descendants, by the lines that tell of them."""

from typing import Any

from qmond.events.tree import Tree

ROOT = 50


def follow(tree: Tree, name: str, **event: Any) -> bool:
    return tree.follow(name, event, [event["parent" if "parent" in event else "pid"]])


def test_children_and_who_comes_under_watch_below_them_are_members_until_they_end() -> None:
    tree = Tree(ROOT)
    assert not follow(tree, "READ", pid=51)
    assert follow(tree, "TRACK_FORK", parent=ROOT, child=51)
    assert follow(tree, "READ", pid=51)
    assert follow(tree, "TRACK_ADOPT", pid=52, ppid=9, parents=[{"pid": 9}, {"pid": 51}])
    assert follow(tree, "TRACK_ADOPT", pid=53, ppid=52)
    assert not follow(tree, "TRACK_ADOPT", pid=60, ppid=1, parents=[{"pid": 1}])
    assert tree.members == {ROOT, 51, 52, 53}
    assert follow(tree, "EXIT", pid=51), "its end is of the tree, too"
    assert not follow(tree, "READ", pid=51)
    assert tree.members == {ROOT, 52, 53}


def test_a_number_that_another_process_has_now_is_no_member() -> None:
    """The end of the process that had it before was lost."""
    for name, event in {
        "TRACK_FORK": {"parent": 60, "child": 51},
        "TRACK_ADOPT": {"pid": 51, "ppid": 60},
    }.items():
        tree = Tree(ROOT)
        follow(tree, "TRACK_FORK", parent=ROOT, child=51)
        assert not tree.follow(name, event, event.values())
        assert tree.members == {ROOT}


def test_a_process_whose_parent_has_ended_stays_a_member_when_it_is_adopted_again() -> None:
    """As after a restart of the daemon that was no handover."""
    tree = Tree(ROOT)
    follow(tree, "TRACK_FORK", parent=ROOT, child=51, start=7.12)
    follow(tree, "TRACK_FORK", parent=51, child=52, start=7.45)
    follow(tree, "EXIT", pid=51)
    assert follow(tree, "TRACK_ADOPT", pid=52, ppid=1, parents=[{"pid": 1}], start=7.456789)
    assert follow(tree, "READ", pid=52)
    assert not follow(tree, "TRACK_ADOPT", pid=52, ppid=1, parents=[{"pid": 1}], start=9.45)


def test_the_root_stays_a_member() -> None:
    tree = Tree(ROOT)
    assert follow(tree, "EXIT", pid=ROOT)
    assert follow(tree, "TRACK_ADOPT", pid=ROOT, ppid=1)
    assert tree.members == {ROOT}
