"""`evenfall export`: write the adapter or the merged model, checked."""

import argparse

from .parser import Commands, add_run


def add(commands: Commands) -> None:
    parser = commands.add("export", _export, "write the adapter or the merged model, checked")
    add_run(parser)
    parser.add_argument(
        "forms",
        nargs="*",
        metavar="FORM",
        help="adapter, merged; and key=value, such as model.name_or_path=PLACE, where the base has moved to",
    )
    parser.add_argument("--checkpoint", type=int, metavar="STEP", help="instead of the final one")


def _export(args: argparse.Namespace) -> int:
    from ...engine.run.find import find_run
    from ...engine.session.imports import import_engine
    from .plain import PlainLines

    say = PlainLines().say
    run = find_run(args.run, args.runs)
    import_engine()
    from ...engine.export.run import export_run

    forms = [word for word in args.forms if "=" not in word]
    overrides = [word for word in args.forms if "=" in word]
    done = export_run(
        run, forms, checkpoint=args.checkpoint, overrides=overrides, report=lambda text, fraction: say(text)
    )
    for item in done:
        say(f"{item.form}: {item.path} ({item.megabytes:.1f} MB); {item.check}")
    return 0
