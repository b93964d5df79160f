"""`evenfall demo`: train a tiny model offline and show what it learnt."""

import argparse
from typing import TYPE_CHECKING

from .parser import Commands, add_overrides, add_plain
from .train import add_beside, require_alone, train_run

if TYPE_CHECKING:
    from ...engine.run.directory import RunDirectory


def add(commands: Commands) -> None:
    parser = commands.add("demo", _demo, "train a tiny model offline and show what it learnt")
    add_overrides(parser, "train.learning_rate=1e-4")
    add_plain(parser)
    add_beside(parser)


def _demo(args: argparse.Namespace) -> int:
    from ...engine.inference.demo import demo_config
    from ...engine.run.find import create_run

    config = demo_config([f"output_dir={args.runs}", *args.overrides])
    require_alone(args, config)
    run = create_run(config)
    code = train_run(args, run, leave_when_done=True)
    if code == 0 and run.adapter.exists():
        return _show_answers(run)
    return code


def _show_answers(run: "RunDirectory") -> int:
    from ...engine.inference.demo import compare_answers
    from .plain import PlainLines

    say = PlainLines().say
    say("\nThe same questions, asked of the model before and after:\n")
    answers = compare_answers(run, lambda message, fraction: None)
    for answer in answers:
        mark = "✓" if answer.learnt else "✗"
        say(f"{mark} {answer.question}\n    before  {answer.before}\n    after   {answer.after}")
        if not answer.learnt:
            say(f"    wanted  {answer.expected}")
    learnt = sum(answer.learnt for answer in answers)
    say(
        f"\n{learnt} of {len(answers)} answered right only after training."
        f"\nGo on:  evenfall chat {run.name}  ·  evenfall export {run.name} merged  ·  evenfall"
    )
    return 0 if learnt * 2 > len(answers) else 1
