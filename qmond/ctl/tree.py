"""Print the watched processes as a tree.

Processes in brackets are not watched: shells, for example, and processes that have ended.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import orjson

from qmond.ctl.connection import connect
from qmond.ctl.ps import program, warn_if_truncated
from qmond.ctl.show.text import age, print_json, printable, tree_lines
from qmond.errors import QmondError

__all__ = ["add_arguments", "grow", "render", "run"]

Node = dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the verb."""
    parser.add_argument("--json", action="store_true", help="nested objects with `children`")


def run(options: argparse.Namespace) -> int:
    """Print the tree."""
    with connect(options.socket) as client:
        roots = grow(client.ps())
        warn_if_truncated(client)
    if options.json:
        try:
            print_json(roots)
        except orjson.JSONEncodeError as error:
            raise QmondError(
                "the tree is too deep for JSON",
                hint="`qmonctl ps --json` has the parents of each process",
            ) from error
    else:
        sys.stdout.write(render(roots))
    return 0


def grow(processes: list[Node]) -> list[Node]:
    """Return the roots of the tree. Each node has a list `children`, and `watched`: true or false.

    A node that is not watched is an ancestor of one that is.
    """
    nodes = {process["pid"]: process | {"watched": True, "children": []} for process in processes}
    placed: set[int] = set()
    roots: list[Node] = []
    for process in sorted(processes, key=lambda process: process["start"]):
        node = nodes[process["pid"]]
        for parent in process["parents"]:
            if node["pid"] in placed:
                break
            placed.add(node["pid"])
            ancestor = nodes.setdefault(parent["pid"], {**parent, "watched": False, "children": []})
            if ancestor.get("start", 0) > process["start"]:
                # the parent has ended, and its ID was reused
                placed.discard(node["pid"])
                break
            ancestor["children"].append(node)
            node = ancestor
        if node["pid"] not in placed:
            placed.add(node["pid"])
            roots.append(node)
    return [_trunk(root) for root in roots]


def _trunk(node: Node) -> Node:
    """Skip unwatched nodes with a single child, except the parent of a watched process."""
    while not node["watched"] and len(node["children"]) == 1:
        (child,) = node["children"]
        if child["watched"]:
            break
        node = child
    return node


def render(roots: list[Node]) -> str:
    """Return the tree as text."""
    return "".join(tree_lines(roots, label=_label, children=lambda node: node["children"]))


def _label(node: Node) -> str:
    if not node["watched"]:
        return f"[{printable(node['comm'])}] {node['pid']}"
    parts = (
        program(node),
        str(node["pid"]),
        node["arch"] or "native",
        node["launch"],
        age(node["age"]),
        f"{node['rate']}/s",
    )
    return "  ".join(parts)
