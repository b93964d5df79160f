"""Wire: what goes over a run's socket, both ways.

One JSON object a line. Both sides greet first: the run with who it is, the other with what it wants. Then each request
has a number, and is answered under it: taken, later applied at a step, or refused and why. A line that is too long, is
no object, or lacks a greeting ends the connection with `error`; a request that makes no sense is refused, and no more.

    run     {"evenfall": 1, "run": "/runs/night", "pid": 5741}
    viewer  {"evenfall": 1, "watch": true}
    viewer  {"id": 7, "command": "SetLearningRate", "value": 5e-5, "mode": "hold"}
    run     {"id": 7, "taken": true}
    run     {"id": 7, "applied": 1203, "detail": ""}      or  {"id": 7, "refused": "a learning rate is ..."}
    run     {"alive": true, "log_error": null}            every few seconds, to those that watch

What happens in the run is not sent: every viewer reads it in `events.jsonl`, where it costs the run nothing.
"""

import socket
import struct
import typing
from dataclasses import asdict, dataclass, fields

import orjson

from ..errors import UserError
from ..run import commands as cmd

VERSION = 1
LONGEST = 4096
"""Bytes of a line, its end included."""
ALIVE_SECONDS = 5.0
"""How often a run tells its viewers that it is there."""

_COMMANDS: dict[str, type] = {kind.__name__: kind for kind in typing.get_args(cmd.Command)}
_Tree = dict[str, typing.Any]


class WireError(UserError):
    """What came is not of this protocol; the message says what was expected."""


@dataclass(frozen=True)
class Request:
    """A command that somebody asks of a run."""

    id: int
    command: cmd.Command


class Nonsense(WireError):
    """A request that names its number, and no command of this version."""

    def __init__(self, id: int, why: str) -> None:
        super().__init__(why)
        self.id = id


def encode(tree: _Tree) -> bytes:
    """A line. Texts are cut so that it is no longer than may be."""
    line = orjson.dumps(tree) + b"\n"
    if len(line) <= LONGEST:
        return line
    most = LONGEST // 16
    return orjson.dumps({key: value[:most] if isinstance(value, str) else value for key, value in tree.items()}) + b"\n"


def decode(line: bytes) -> _Tree:
    """The object of a line.

    Raises:
        WireError: it is none, or not a whole one.
    """
    try:
        tree = orjson.loads(line)
    except ValueError as error:
        raise WireError(f"expected one JSON object a line: {error}") from None
    if not isinstance(tree, dict):
        raise WireError("expected one JSON object a line")
    return tree


def check_greeting(tree: _Tree) -> None:
    """See that both sides speak the same.

    Raises:
        WireError: they do not.
    """
    version = tree.get("evenfall")
    if type(version) is not int:
        raise WireError('expected a greeting first: {"evenfall": 1}')
    if version != VERSION:
        raise WireError(
            f"the run's Evenfall and this one are of different versions (protocol {VERSION} and {version}): "
            "use the one that the run was started with"
        )


def encode_request(request: Request) -> bytes:
    """A command as a line."""
    return encode({"id": request.id, "command": type(request.command).__name__, **asdict(request.command)})


def decode_request(tree: _Tree) -> Request:
    """The command that a request names, each value of its field's type.

    Raises:
        WireError: it has no number.
        Nonsense: it names no command, or values that are not the command's.
    """
    id = tree.get("id")
    if type(id) is not int or not 0 <= id < 2**53:
        raise WireError("expected a request with a whole number as its id")
    name = tree.get("command")
    kind = _COMMANDS.get(name) if isinstance(name, str) else None
    if kind is None:
        raise Nonsense(id, f"no such command; there are {', '.join(_COMMANDS)}")
    hints = typing.get_type_hints(kind)
    given = {key: value for key, value in tree.items() if key not in ("id", "command")}
    if unknown := [key for key in given if key not in hints]:
        raise Nonsense(id, f"{name}: has no {unknown[0][:40]!r}")
    values = {}
    for item in fields(kind):
        if item.name in given:
            values[item.name] = _value(id, f"{name}.{item.name}", given[item.name], hints[item.name])
    try:
        return Request(id, kind(**values))
    except TypeError:
        missing = [item.name for item in fields(kind) if item.name not in given]
        raise Nonsense(id, f"{name}: needs {', '.join(missing)}") from None


def _value(id: int, name: str, value: typing.Any, hint: typing.Any) -> typing.Any:
    if words := typing.get_args(hint):  # a Literal
        if value not in words:
            raise Nonsense(id, f"{name}: takes {' | '.join(words)}")
        return value
    if hint is float and type(value) in (int, float):
        return float(value)
    if type(value) is not hint:
        raise Nonsense(id, f"{name}: takes a {hint.__name__}")
    return value


def user_of(connected: socket.socket) -> int:
    """The user whose process is at the other end.

    Raises:
        OSError: the kernel does not tell.
    """
    return struct.unpack("iII", connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[1]
