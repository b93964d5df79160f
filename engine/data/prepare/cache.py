"""Tokenised blocks on disk, found again by their content.

A block's key is a hash of its rows, the settings, and all of the tokenizer: so a renamed file, a second run or an
epoch that begins again finds what was made, and nothing that has changed is ever found. Files are safetensors in
`~/.cache/evenfall/tokens`, about five bytes a token; those that nobody has used for 30 days are removed.

Losing the cache costs time only: what cannot be written is not, and a file that cannot be read is made anew.
"""

import contextlib
import hashlib
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ..pack.examples import Examples
from ..read.slices import Slice
from ..report.places import Places
from .block import Account, Block, BlockSettings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_LAYOUT = "5"
"""Of the files, and of what the code makes of a row: raised when either changes."""
_UNUSED_DAYS = 30
_SPARE_BYTES = 5_000_000_000
"""Disk space that is left alone: checkpoints need it more."""
_COLUMNS = ("ids", "trained", "lengths", "numbers", "rows", "file")


class BlockCache:
    """Blocks made with one tokenizer.

    Args:
        folder: where the files are; made when the first block is kept.
    """

    def __init__(self, folder: Path, tokenizer: "PreTrainedTokenizerBase") -> None:
        self._folder = folder
        self._tokenizer = _fingerprint(tokenizer)
        self._pruned = False

    def key(self, part: Slice, settings: BlockSettings) -> str:
        """What the block of these rows is found under."""
        digest = hashlib.blake2b(self._tokenizer, digest_size=20)
        digest.update(repr(settings).encode() + part.digest)
        return digest.hexdigest()

    def has(self, key: str) -> bool:
        """Whether there is a block under a key; it may still turn out to be damaged."""
        return self._file(key).is_file()

    def load(self, key: str, part: Slice) -> Block | None:
        """The block of these rows, if it is there and whole."""
        file = self._file(key)
        try:
            with safe_open(str(file), "np") as stored:
                told = orjson.loads((stored.metadata() or {})["evenfall"])
                columns = {name: stored.get_tensor(name) for name in _COLUMNS}
                problems = stored.get_tensor("problems")
                account, roles = told["account"], told["account"]["roles"]
            os.utime(file)
        except (OSError, SafetensorError, KeyError, orjson.JSONDecodeError):
            return None
        names = part.files

        def places(told: Any) -> Places:
            first = {kind: [(names[file], n) for file, n in rows] for kind, rows in told[1].items()}
            return Places(Counter(told[0]), first)

        return Block(
            Examples(files=tuple(names[place] for place in told["files"]), **columns),
            Account(
                rows=account["rows"], dropped=places(account["dropped"]), found=places(account["found"]),
                notes=Counter(account["notes"]),
                lengths=Counter(dict(account["lengths"])),
                errors=[(names[file], text) for file, text in account["errors"]],
                roles=Counter(roles),
                systems=Counter(account["systems"]),
            ),
            problems,
        )  # fmt: skip

    def save(self, key: str, part: Slice, block: Block) -> None:
        """Keep the block of these rows; where the disk has no room for it, do nothing."""
        file = self._file(key)
        names = part.files
        files = [names.index(name) for name in block.examples.files]  # it may be renamed meanwhile
        account = block.account

        def numbered(places: Places) -> Any:
            first = {kind: [(names.index(file), n) for file, n in rows] for kind, rows in places.first.items()}
            return places.counts, first

        told = orjson.dumps(
            {
                "files": files,
                "account": {
                    "rows": account.rows,
                    "dropped": numbered(account.dropped),
                    "found": numbered(account.found),
                    "notes": account.notes,
                    "lengths": list(account.lengths.items()),
                    "errors": [(names.index(file), text) for file, text in account.errors],
                    "roles": account.roles,
                    "systems": account.systems,
                },
            }
        ).decode()
        arrays = {name: np.ascontiguousarray(getattr(block.examples, name)) for name in _COLUMNS}
        arrays["problems"] = block.problems
        own = file.with_name(f".{file.name}.{os.getpid()}")
        with contextlib.suppress(OSError, SafetensorError):
            file.parent.mkdir(parents=True, exist_ok=True)
            if shutil.disk_usage(file.parent).free < _SPARE_BYTES:
                return
            if not self._pruned:
                self._prune()
            try:
                save_file(arrays, str(own), {"evenfall": told})
                own.replace(file)
            finally:
                own.unlink(missing_ok=True)

    def _file(self, key: str) -> Path:
        return self._folder / key[:2] / f"{key}.safetensors"

    def _prune(self) -> None:
        self._pruned = True
        oldest = time.time() - _UNUSED_DAYS * 24 * 3600
        for file in _files(self._folder):
            with contextlib.suppress(OSError):
                if file.stat().st_mtime < oldest:
                    file.unlink()


def _files(folder: Path) -> Iterator[Path]:
    yield from folder.glob("??/*.safetensors")
    yield from folder.glob("??/.*.safetensors.*")  # of a process that was killed while it wrote


def cache_folder() -> Path:
    """Where tokenised blocks are kept."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return cache / "evenfall" / "tokens"


def _fingerprint(tokenizer: "PreTrainedTokenizerBase") -> bytes:
    digest = hashlib.blake2b(_LAYOUT.encode(), digest_size=20)
    for package in ("evenfall", "transformers", "trl"):  # templates are rendered by these
        with contextlib.suppress(PackageNotFoundError):
            digest.update(f"{package} {version(package)}\0".encode())
    digest.update(tokenizer.backend_tokenizer.to_str().encode())  # type: ignore[attr-defined]
    digest.update(repr(tokenizer.chat_template).encode(errors="surrogatepass"))
    digest.update(repr(sorted(tokenizer.special_tokens_map.items())).encode())
    return digest.digest()
