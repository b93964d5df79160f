"""What torch's memory allocator must be told before torch is imported; loads nothing itself."""

import os


def grow_segments() -> None:
    """Let the allocator grow its segments instead of taking new ones.

    Packed rows have another number of tokens in every step. Segments of fixed size, gigabytes of
    activations each time, would be cut up until a step waits for memory to be given back and taken
    anew. What a user has set stays.
    """
    if "PYTORCH_CUDA_ALLOC_CONF" not in os.environ:  # its older name
        os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
