"""Errors without the locals that their tracebacks keep alive, GPU tensors above all."""

import traceback


def drop_frames(error: BaseException) -> None:
    """Let go of every local (GPU tensors above all) that an error's traceback keeps alive."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        if link.__traceback__ is not None:
            traceback.clear_frames(link.__traceback__)
        link.__traceback__ = None
        link = link.__cause__ or link.__context__
