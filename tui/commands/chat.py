"""`evenfall chat`, without screens: a prompt, and under it the base's and the tuned model's answer.

Reads lines from the terminal or a pipe. Each prompt stands alone, so the two answers can be compared.
"""

import argparse
import math
import sys
from typing import TYPE_CHECKING

from ..safe_text import safe_str
from .parser import Commands, add_overrides, add_run, positive

if TYPE_CHECKING:
    from ...engine.inference.chat import Chat


def add(commands: Commands) -> None:
    parser = commands.add("chat", _chat, "ask a run's model, with and without its adapter")
    add_run(parser)
    add_overrides(parser, "model.name_or_path=PLACE, where the base has moved to")
    parser.add_argument(
        "--system", metavar="TEXT", help="system text; without it that of the training rows, where they all had one"
    )
    parser.add_argument("--max-new-tokens", type=positive, default=256, metavar="N")
    parser.add_argument("--temperature", type=_temperature, default=0.0, metavar="T")


def _temperature(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is no number from 0")
    return value


def report(message: str, fraction: float | None) -> None:
    """Say what loading is at, out of the way of answers that are piped on."""
    del fraction
    print(safe_str(message), file=sys.stderr, flush=True)


def talk(chat: "Chat", *, system: str, max_new_tokens: int, temperature: float) -> int:
    """Answer each line of standard input twice, until it ends. Returns the exit code."""
    asked = sys.stdin.isatty()
    first = [{"role": "system", "content": system}] if system else []
    if asked:
        print(f"{safe_str(chat.name)} on {safe_str(chat.device)}. Ctrl-D ends.")
    while True:
        if asked:
            print("\n> ", end="", flush=True)
        line = sys.stdin.readline()
        if not line:
            break
        prompt = line.strip()
        if not prompt:
            continue
        if not asked:
            print(f"\n> {safe_str(prompt)}")
        for name, adapter in (("base ", False), ("tuned", True)):
            reply = chat.reply(
                [*first, {"role": "user", "content": prompt}],
                adapter=adapter,
                max_new_tokens=max_new_tokens,
                temperature=temperature,
            )
            speed = reply.tokens / reply.seconds if reply.seconds else 0.0
            text = safe_str(reply.text, 65536, lines=True)
            print(f"{name}  {text}   [{reply.tokens} tokens, {speed:.0f}/s]", flush=True)
    chat.close()
    return 0


def _chat(args: argparse.Namespace) -> int:
    from ...engine.config.run_config import ConfigError
    from ...engine.run.find import find_run
    from ...engine.session.imports import import_engine

    run = find_run(args.run, args.runs)
    import_engine()
    from ...engine.inference.chat import Chat

    chat = Chat.open(run, report, args.overrides)
    if args.system and not chat.takes_system:
        raise ConfigError("--system: this model has no chat template, so it is asked without a system text")
    system = chat.system if args.system is None else args.system.strip()
    if system and args.system is None:
        report(f"system text of the training rows: {safe_str(system, 200)} (--system takes another)", None)
    return talk(chat, system=system, max_new_tokens=args.max_new_tokens, temperature=args.temperature)
