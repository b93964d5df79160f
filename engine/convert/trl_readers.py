"""The part of a TRL script that reads rows, as text.

It reads what `engine/data` reads, by the same rules, in as few lines as that takes: local files by
itself, since a Dataset made of them would have guessed types, nulls for empty cells, and one type
for what differs from row to row; everything else by `load_dataset`. A row that has nothing to learn
becomes None, and is left out; one that cannot be read ends the script, but where SKIP_BAD is set it
is counted and left out too. Tests compare the conversations with those of `normalise`.
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
    how = {"encoding": "utf-8-sig", "errors": "surrogateescape" if SKIP_BAD else "strict", "newline": ""}
    with (gzip.open if path.endswith(".gz") else open)(file, "rt", **how) as opened:
        text = opened.read()
    if re.match(r'\s*\[\s*[{\]]', text):
        return parsed(text)
    if kind in (".json", ".jsonl", ".ndjson") or re.match(r'\s*\{\s*["}]', text):
        lines = text.split("\n") if parsed(text, skip=True) is None else [text]
        return [parsed(line, skip=SKIP_BAD) for line in lines if line.strip()]
    if kind in (".csv", ".tsv"):
        csv.field_size_limit(sys.maxsize)
        delimiter = max(",;\t|", key=text.partition("\n")[0].count)
        table = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
        return [None if SKIP_BAD and is_ragged(row) else cells_of(row) for row in table]
    return [{"text": text.replace("\r\n", "\n")}]


def parsed(text, skip=False):
    try:
        value = json.loads(text, parse_constant=lambda word: None)
        json.dumps(value, ensure_ascii=False).encode()  # what is no UTF-8 ends here
    except (RecursionError, ValueError):
        if not skip:
            raise
        return None
    return value


def is_ragged(row):
    return None in row or any(cell is None for column, cell in row.items() if column)


def cells_of(row):
    return {column: cell_of(cell) for column, cell in row.items() if column != ""}


def cell_of(cell):
    return json.loads(cell) if re.match(r'\[\s*\{\s*"(role|content|from|value)"\s*:', cell) else cell
"""
_LOAD = """
def load(reader, shapes, path, name=None, split="train", rows=None, columns={}):
    found, bad = [], 0
    for row in islice(rows_of(path, name, split), rows):
        try:
            found.append(whole(reader(renamed(row, columns), shapes)))
        except (AttributeError, KeyError, TypeError, ValueError):
            if not SKIP_BAD:
                raise
            bad += 1
    if bad and not found:
        raise ValueError(f"{path}: none of its {bad} rows can be read")
    if bad:
        print(f"{path}: {bad} rows cannot be read and are left out", file=sys.stderr)
    return [row for row in found if row]


def whole(row):
    for part in (row or {}).values():
        for text in [part] if isinstance(part, str) else [text for turn in part for text in turn.values()]:
            text.encode()  # or it is no text
    return row


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
    first = [turn["content"] for turn in [*before, *after][:1] if turn["role"] == "system"]
    if system.strip() and [text.strip() for text in first] != [system.strip()]:
        if first:
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
    if after and after[0]["role"] in ("user", "system"):
        raise ValueError("a completion begins with no answer")
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
        key = "content" if "role" in turn else "value"
        content = turn.get(key, "") if role == "assistant" else turn[key]
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
    kind: Kind, rows: Sequence[Rows], *, skip_bad: bool, drop_system: bool, last: bool, to_end: bool,
    apart: bool,
) -> list[str]:  # fmt: skip
    """The functions that the script needs.

    Args:
        rows: the data sets that are read.
        skip_bad: lines and rows that cannot be read are left out.
        last: only the last answer is learnt.
        to_end: what follows the last answer is kept, as it is learnt too.
        apart: the chat template takes an alpaca row's instruction and input apart.
    """
    formats = {one.format for one in rows}
    files = f"\nSKIP_BAD = {skip_bad}  # whether rows that cannot be read are left out\n\n{_FILES}"
    if kind == "text":
        return [files, _LOAD, _TEXT]
    auto = "auto" in formats
    end = "" if to_end else "answers[-1] + 1"
    if kind == "chat":
        example = f'    return {{"messages": [*before, *after[:{end}]]}}\n'
    else:
        example = f"    first = answers[{-1 if last else 0}]\n"
        example += f'    return {{"prompt": [*before, *after[:first]], "completion": after[first:{end}]}}\n'
    # As a prompt and one answer, what came before is part of the prompt.
    history = "history, [" if kind == "pair" and not last else "[], [*history, "
    alpaca = _ALPACA + (_APART if apart else "")
    alpaca += f'    return example(row, {history}user, {{"role": "assistant", "content": answer}}])\n'
    return [
        files,
        _LOAD,
        "\ndef example(row, before, after):\n"
        + (_NO_SYSTEM if drop_system else _SYSTEM) + _ANSWERS + example,
        *([alpaca] if auto or "alpaca" in formats else []),
        *([_TURNS] if formats != {"alpaca"} else []),
        *([_PAIR] if auto or "prompt_completion" in formats else []),
        *([_MESSAGES] if auto or {"messages", "sharegpt"} & formats else []),
        *([_AUTO] if auto else []),
    ]  # fmt: skip
