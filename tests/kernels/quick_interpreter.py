"""Triton's interpreter without its needless work: the same arithmetic on the same arrays, sooner.

Most of the interpreter's time goes into describing values, not into computing them. `quicken` does
away with what has no effect on any value that a kernel reads or writes:

* a check of every sum and product for overflow, done in int64 and then dropped: its outcome is told
  by `device_assert`, which does nothing outside of debugging;
* patching the whole of ``triton.language`` anew for each call of a device function: once in a launch
  is enough;
* building the shape of each value, and the types that go with it, again and again.
"""

from dataclasses import replace
from functools import cache
from typing import Any


@cache
def quicken() -> None:
    """Once a process; what Triton has built by then goes on to work."""
    import triton.language as tl
    from triton.language.semantic import TritonSemantic
    from triton.runtime import interpreter

    builder = interpreter.interpreter_builder
    assert not builder.options.debug, "overflow would be told of"
    builder.options = replace(builder.options, sanitize_overflow=False)
    _patch_language_once_a_launch(interpreter)
    _know_types_by_name(interpreter)
    _share_shapes(tl.core)
    _broadcast_only_what_differs(TritonSemantic)


def _patch_language_once_a_launch(interpreter: Any) -> None:
    patched: set[int] = set()  # the globals of functions that see a patched language
    restore = interpreter._LangPatchScope.restore

    def restored(self) -> None:
        patched.clear()
        restore(self)

    def call(self, *args, **kwargs):
        if id(self.fn.__globals__) not in patched:
            interpreter._patch_lang(self.fn)
            patched.add(id(self.fn.__globals__))
        function = self.rewrite()
        try:
            return function(*args, **kwargs)
        except Exception as error:
            raise interpreter.InterpreterError(repr(error)) from error

    interpreter._LangPatchScope.restore = restored
    interpreter.InterpretedFunction.__call__ = call


def _know_types_by_name(interpreter: Any) -> None:
    known: dict[str, Any] = {}
    real = interpreter._get_np_dtype

    def numpy_type(dtype):
        name = dtype.name
        if name not in known:
            known[name] = real(dtype)
        return known[name]

    interpreter._get_np_dtype = numpy_type


def _share_shapes(core: Any) -> None:
    """A shape is never changed, so all blocks and tensors of that shape can hold the same one."""
    blocks: dict[tuple[tuple[int, ...], str], tuple[Any, int, str]] = {}
    tensors: dict[tuple[int, ...], tuple[Any, Any]] = {}
    constexpr, shape_type = core.constexpr, core.tuple
    block_type, tensor = core.block_type, core.tensor
    new_block, new_tensor = block_type.__init__, tensor.__init__

    def init_block(self, element_ty, shape) -> None:
        values = shape.values if isinstance(shape, shape_type) else shape
        sizes = tuple([s.value if isinstance(s, constexpr) else s for s in values])
        known = blocks.get((sizes, element_ty.name))
        if known is None:
            new_block(self, element_ty, shape)
            blocks[sizes, element_ty.name] = self.shape, self.numel, self.name
        else:
            self.element_ty = element_ty
            self.shape, self.numel, self.name = known

    def init_tensor(self, handle, type) -> None:
        sizes = tuple(type.shape.values) if type.is_block() else ()
        known = tensors.get(sizes)
        if known is None:
            new_tensor(self, handle, type)
            tensors[sizes] = self.shape, self.numel
        else:
            self.handle, self.type, self.dtype = handle, type, type.scalar
            self.shape, self.numel = known

    block_type.__init__ = init_block
    tensor.__init__ = init_tensor


def _broadcast_only_what_differs(semantic: Any) -> None:
    real = semantic.broadcast_impl_value

    def filled(self, scalar, like):
        kind = like.with_element_ty(scalar.type.scalar)
        return self.make_tensor(self.builder.create_splat(kind, scalar.handle), kind)

    def broadcast(self, lhs, rhs):
        left, right = lhs.type, rhs.type
        if not right.is_block():
            return (lhs, filled(self, rhs, left)) if left.is_block() else (lhs, rhs)
        if not left.is_block():
            return filled(self, lhs, right), rhs
        if left.shape.values == right.shape.values:
            return lhs, rhs
        return real(self, lhs, rhs)

    semantic.broadcast_impl_value = broadcast
