"""YAML text to plain values that remember their lines, for strict configuration files.

PyYAML's own loader keeps the last of two equal keys and forgets where a value stood; its node
tree has both. Aliases, tags and several documents are errors: a file that needs them is not a
configuration that a person should have to read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import yaml

from niyama.wording import shown

FieldPath = tuple[str, ...]

_PREFIX = "tag:yaml.org,2002:"
_MAX_NUMBER_CHARS = 64
_PLAIN = ("str", "null", "bool", "int", "float", "timestamp", "merge", "value")


class YamlError(ValueError):
    """Text that is not strict YAML; `line` counts from 1."""

    def __init__(self, line: int, message: str) -> None:
        """Take the line and a message without it."""
        super().__init__(message)
        self.line = line


@dataclass(slots=True)
class Tree:
    """A document: its value of dict, list, str, int, float, bool and None, and its lines."""

    value: object = None
    lines: dict[FieldPath, int] = field(default_factory=dict[FieldPath, int])

    def line_of(self, path: FieldPath) -> int:
        """Return the line of a field, or of the nearest field around it that exists."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)


def _nothing(path: FieldPath) -> bool:
    return False


def read_tree(text: str, is_text: Callable[[FieldPath], bool] = _nothing) -> Tree:
    """Return the one document in the text; every key is a str, as it is written.

    Args:
        text: The YAML.
        is_text: Whether the scalar at a path is a str as it is written, too, even if it looks like a
            number, a truth value or null: a name, say, that is a key elsewhere.

    Raises:
        YamlError: the text is not YAML, is empty, or uses an alias, a tag or a key twice.
    """
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        if root is None:
            raise YamlError(1, "the file is empty")
        return _Reader(is_text).read(root)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise YamlError(mark.line + 1 if mark else 1, f"not YAML: {error.problem or error.context}") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise YamlError(
            line, f"not YAML: the character {shown(chr(error.character))} is not allowed"
        ) from None
    except yaml.YAMLError as error:
        raise YamlError(1, f"not YAML: {error}") from None
    except RecursionError:
        raise YamlError(1, "not usable YAML: nested too deeply") from None


class _Reader:
    def __init__(self, is_text: Callable[[FieldPath], bool]) -> None:
        self.tree = Tree()
        self.is_text = is_text
        self.seen: set[int] = set()
        self.scalars = yaml.constructor.SafeConstructor()

    def read(self, root: yaml.Node) -> Tree:
        self.tree.value = self.value((), root)
        return self.tree

    def value(self, path: FieldPath, node: yaml.Node) -> object:
        if id(node) in self.seen:
            line = self.tree.line_of(path)
            raise YamlError(line, f"{_dotted(path)}: an alias (*name) is not allowed; write the value out")
        self.seen.add(id(node))
        line = node.start_mark.line + 1
        self.tree.lines.setdefault(path, line)
        if isinstance(node, yaml.MappingNode) and node.tag == f"{_PREFIX}map":
            return self.mapping(path, node)
        if isinstance(node, yaml.SequenceNode) and node.tag == f"{_PREFIX}seq":
            return [self.value((*path, str(index)), item) for index, item in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode):
            return self.scalar(path, node)
        raise YamlError(
            line, f"{_dotted(path)}: the tag {shown(node.tag)} is not allowed; write the value alone"
        )

    def mapping(self, path: FieldPath, node: yaml.MappingNode) -> dict[str, object]:
        entries: dict[str, object] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                raise YamlError(line, f"{_dotted(path)}: a key must be a single word")
            key = str(key_node.value)
            key_path = (*path, key)
            if key in entries:
                first = self.tree.lines[key_path]
                raise YamlError(
                    line, f"{_dotted(key_path)}: given twice, first in line {first}; allowed: once"
                )
            self.tree.lines[key_path] = line
            entries[key] = self.value(key_path, value_node)
        return entries

    def scalar(self, path: FieldPath, node: yaml.ScalarNode) -> object:
        kind = node.tag.removeprefix(_PREFIX)
        if kind in _PLAIN and self.is_text(path):
            return str(node.value)
        if kind == "null":
            return None
        if kind in ("bool", "int", "float") and len(node.value) <= _MAX_NUMBER_CHARS:
            try:
                return self.scalars.construct_object(node)
            except (ValueError, KeyError, IndexError):
                return str(node.value)
        if kind in _PLAIN:
            return str(node.value)
        line = node.start_mark.line + 1
        raise YamlError(
            line, f"{_dotted(path)}: the tag {shown(node.tag)} is not allowed; write the value alone"
        )


def _dotted(path: FieldPath) -> str:
    return dotted(path) or "the file"


def dotted(path: FieldPath) -> str:
    """Return a path as messages show it, `classes.chat.ttft`; long or odd names are cut."""
    return ".".join(name if len(name) <= 64 and name.isprintable() else shown(name) for name in path)
