"""The part of a TRL script that reads rows, as text.

It reads what `engine/data` reads, by the same rules, in as few lines as that takes: local files by
itself, since a Dataset made of them would have guessed types, nulls for empty cells, and one type
for what differs from row to row; everything else by `load_dataset`. A row that has nothing to learn
becomes None, and is left out. Tests compare the conversations with those of `normalise`.
"""

from collections.abc import Sequence
from typing import Literal

from .rows_seen import Rows

Kind = Literal["text", "pair", "chat"]
"""Rows as TRL has them: `text`, `prompt` and `completion` (one answer is learnt), or `messages`."""

_FILES = r"""
def rows_of(path, name, split):
    file = Path(path).expanduser()
    kind = Path(path.removesuffix(".gz")).suffix.lower()
    if kind in (".parquet", ".arrow"):
        return load_dataset(kind[1:], data_files=str(file), split="train")
    if not file.is_file():
        return load_dataset(path, name, split=split)
    with (gzip.open if path.endswith(".gz") else open)(file, "rt", encoding="utf-8-sig", newline="") as opened:
        text = opened.read()
    if re.match(r'\s*\[\s*[{\]]', text):
        return json.loads(text)
    if re.match(r'\s*\{\s*["}]', text):
        return [json.loads(line) for line in text.split("\n") if line.strip()]
    if kind in (".csv", ".tsv"):
        csv.field_size_limit(sys.maxsize)
        delimiter = max(",;\t|", key=text.partition("\n")[0].count)
        table = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
        return [{column: cell_of(cell) for column, cell in row.items()} for row in table]
    return [{"text": text.replace("\r\n", "\n")}]


def cell_of(cell):
    return json.loads(cell) if re.match(r'\[\s*\{\s*"(role|content|from|value)"\s*:', cell) else cell
"""
_LOAD = """
def load(reader, shapes, path, name=None, split="train", rows=None, columns={}):
    found = (reader(renamed(row, columns), shapes) for row in islice(rows_of(path, name, split), rows))
    return [row for row in found if row]


def renamed(row, columns):
    own = {ours: theirs for ours, theirs in columns.items() if ours not in TURN_KEYS}
    moved = [theirs for ours, theirs in own.items() if ours != theirs]
    row = {column: value for column, value in row.items() if column not in moved} | {
        ours: row[theirs] for ours, theirs in own.items()
    }
    keys = {theirs: ours for ours, theirs in columns.items() if ours in TURN_KEYS}

    def turn(value):
        if not isinstance(value, dict):
            return value
        new = {keys[key]: item for key, item in value.items() if key in keys}
        return {key: item for key, item in value.items() if key not in keys and key not in new} | new

    return {
        column: [turn(item) for item in value] if isinstance(value, list) else turn(value)
        for column, value in row.items()
    }


def shape_of(row, shapes):
    for shape in shapes:
        if all(row.get(column) is not None for column in shape.values()):
            return shape
    raise ValueError(f"a row has none of {[list(shape.values()) for shape in shapes]}: {list(row)}")
"""
_TEXT = """
def text(row, shapes):
    value = row[shape_of(row, shapes)["text"]]
    return {"text": value} if value.strip() else None
"""
_SYSTEM = """\
    system = row["system"] if row.get("system") is not None else row.get("system_prompt") or ""
    if system.strip():
        if any(turn["role"] == "system" for turn in [*before, *after][:1]):
            raise ValueError("a row has a system column and a system message")
        before = [{"role": "system", "content": system}, *before]
"""
_NO_SYSTEM = """\
    before, after = ([turn for turn in part if turn["role"] != "system"] for part in (before, after))
"""
_ANSWERS = """\
    answers = [
        place
        for place, turn in enumerate(after)
        if turn["role"] == "assistant" and turn["content"].strip()
    ]
    if not answers:
        return None
"""
_ALPACA = """
def alpaca(row, shapes):
    shape = shape_of(row, shapes)
    instruction, answer = row[shape["instruction"]], row[shape["output"]]
    more = row["input"] if row.get("input") is not None else row.get("context") or ""
    both = instruction.strip() and more.strip()
    question = f"{instruction}\\n{more}" if both else instruction or more
    history = [
        {"role": role, "content": part}
        for pair in row.get("history") or []
        for role, part in zip(("user", "assistant"), pair, strict=True)
    ]
    user = {"role": "user", "content": question}
"""
_APART = '    user |= {"instruction": instruction, "input": more} if both else {}\n'
_PAIR = """
def prompt_completion(row, shapes):
    shape = shape_of(row, shapes)
    prompt, answer = row[shape["prompt"]], row[shape["completion"]]
    if isinstance(prompt, str) and isinstance(answer, str):
        if shape["prompt"] == "question" and isinstance(row.get("context"), str):
            prompt = f"{row['context']}\\n\\n{prompt}"
    before = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else turns_of(prompt)
    after = [{"role": "assistant", "content": answer}] if isinstance(answer, str) else turns_of(answer)
    if before is None or after is None:
        return None
    if after[: len(before)] == before:
        after = after[len(before) :]
    return example(row, before, after)
"""
_MESSAGES = """
def messages(row, shapes):
    turns = turns_of(row[shape_of(row, shapes)["messages"]])
    return None if turns is None else example(row, [], turns)
"""
_TURNS = """
def turns_of(turns):
    read = []
    for turn in [turns] if isinstance(turns, dict) else turns:
        turn = {key: value for key, value in turn.items() if value is not None}
        if "human" in turn and "assistant" in turn:
            read += [
                {"role": "user", "content": turn["human"]},
                {"role": "assistant", "content": turn["assistant"]},
            ]
            continue
        role = ROLES[(turn["role"] if "role" in turn else turn["from"]).strip().lower()]
        if role in ("call", "tool") or turn.get("tool_calls"):
            return None
        content = turn.get("content", "") if "role" in turn else turn["value"]
        if isinstance(content, list):
            content = "".join(part["text"] for part in content)
        kept = {key: turn[key] for key in PASSED_ON if key in turn and "role" in turn}
        read.append({"role": role, "content": content, **kept})
    return read
"""
_AUTO = """
def auto(row, shapes):
    for reader, own in shapes:
        if any(all(row.get(column) is not None for column in shape.values()) for shape in own):
            return reader(row, own)
    raise ValueError(f"a row of no known format: {list(row)}")
"""


def readers(
    kind: Kind, rows: Sequence[Rows], *, drop_system: bool, last: bool, to_end: bool, apart: bool
) -> list[str]:
    """The functions that the script needs.

    Args:
        rows: the data sets that are read.
        last: only the last answer is learnt.
        to_end: what follows the last answer is kept, as it is learnt too.
        apart: the chat template takes an alpaca row's instruction and input apart.
    """
    formats = {one.format for one in rows}
    if kind == "text":
        return [_FILES, _LOAD, _TEXT]
    auto = "auto" in formats
    end = "" if to_end else "answers[-1] + 1"
    if kind == "chat":
        example = f'    return {{"messages": [*before, *after[:{end}]]}}\n'
    else:
        example = f"    first = answers[{-1 if last else 0}]\n"
        example += (
            '    return {"prompt": [*before, *after[:first]], '
            f'"completion": after[first:{end}]}}\n'
        )
    # As a prompt and one answer, what came before is part of the prompt.
    history = "history, [" if kind == "pair" and not last else "[], [*history, "
    alpaca = _ALPACA + (_APART if apart else "")
    alpaca += (
        f'    return example(row, {history}user, {{"role": "assistant", "content": answer}}])\n'
    )
    return [
        _FILES,
        _LOAD,
        "\ndef example(row, before, after):\n"
        + (_NO_SYSTEM if drop_system else _SYSTEM) + _ANSWERS + example,
        *([alpaca] if auto or "alpaca" in formats else []),
        *([_TURNS] if formats != {"alpaca"} else []),
        *([_PAIR] if auto or "prompt_completion" in formats else []),
        *([_MESSAGES] if auto or {"messages", "sharegpt"} & formats else []),
        *([_AUTO] if auto else []),
    ]  # fmt: skip
