"""What can happen to the bytes and to the fields of a file; each harm is a function of its content and a generator of random numbers."""
from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

Harm = Callable[[bytes, random.Random], bytes]


def flip(content: bytes, draw: random.Random) -> bytes:
    """One bit of one byte."""
    place = draw.randrange(len(content))
    return content[:place] + bytes([content[place] ^ (1 << draw.randrange(8))]) + content[place + 1 :]


def other_byte(content: bytes, draw: random.Random) -> bytes:
    place = draw.randrange(len(content))
    return content[:place] + bytes([(content[place] + draw.randrange(1, 256)) % 256]) + content[place + 1 :]


def flip_early(content: bytes, draw: random.Random) -> bytes:
    """One bit of the first kilobyte, where most formats have their head."""
    return flip(content[:1024], draw) + content[1024:]


def cut(content: bytes, draw: random.Random) -> bytes:
    return content[: draw.randrange(1, len(content))]


def emptied(content: bytes, draw: random.Random) -> bytes:
    return b""


def zeroed(content: bytes, draw: random.Random) -> bytes:
    """A block of zeros, as a disk leaves that never wrote it."""
    size = min(512, max(len(content) // 4, 1))
    place = draw.randrange(max(len(content) - size, 1))
    return content[:place] + bytes(size) + content[place + size :]


def doubled(content: bytes, draw: random.Random) -> bytes:
    """Written twice."""
    return content + content


BYTES: dict[str, Harm] = {"flipped": flip, "flipped in its head": flip_early, "another byte": other_byte, "cut": cut, "emptied": emptied,
                          "zeros": zeroed, "doubled": doubled}


def line_gone(content: bytes, draw: random.Random) -> bytes:
    lines = content.splitlines(keepends=True)
    del lines[draw.randrange(len(lines))]
    return b"".join(lines)


def line_twice(content: bytes, draw: random.Random) -> bytes:
    lines = content.splitlines(keepends=True)
    lines.insert(draw.randrange(len(lines)), draw.choice(lines))
    return b"".join(lines)


def lines_swapped(content: bytes, draw: random.Random) -> bytes:
    lines = content.splitlines(keepends=True)
    if len(lines) > 1:
        first, second = draw.sample(range(len(lines)), 2)
        lines[first], lines[second] = lines[second], lines[first]
    return b"".join(lines)


def letter(content: bytes, draw: random.Random) -> bytes:
    """A digit or a letter that is another one."""
    places = [k for k, byte in enumerate(content) if chr(byte).isalnum()]
    place = draw.choice(places)
    others = "0123456789" if chr(content[place]).isdigit() else "abcdefgh"
    return content[:place] + draw.choice([other for other in others if other != chr(content[place])]).encode() + content[place + 1 :]


LINES: dict[str, Harm] = {"a line gone": line_gone, "a line twice": line_twice, "lines swapped": lines_swapped, "a letter": letter}


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of everything in a JSON value that is no dict or list, and of those."""
    found = [path] if path else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        found += leaves(item, (*path, key))
    return found


def field(content: bytes, draw: random.Random) -> bytes:
    """One field of a JSON: another number or word, another type, gone, or exchanged for another field."""
    value = json.loads(content)
    path = draw.choice(leaves(value))
    place = value
    for key in path[:-1]:
        place = place[key]
    old, how = place[path[-1]], draw.randrange(5)
    if how == 0:
        del place[path[-1]]
    elif how == 1:
        place[path[-1]] = draw.choice([None, [], {}, "", "x", -1, 1e400, True])
    elif how == 2:
        other = value
        for key in draw.choice(leaves(value)):
            other = other[key]
        place[path[-1]] = json.loads(json.dumps(other))
    elif isinstance(old, bool) or old is None:
        place[path[-1]] = not old
    elif isinstance(old, int | float):
        place[path[-1]] = draw.choice([old + 1, -old - 1, old * 10 + 1, old / 3])
    else:
        place[path[-1]] = f"{old}x" if isinstance(old, str) else str(old)
    return json.dumps(value).encode()


FIELDS: dict[str, Harm] = {"a field": field}
