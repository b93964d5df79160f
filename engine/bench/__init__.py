"""`evenfall bench`: Evenfall's speed, and that of other stacks, on the same work.

The work is a random model of a known shape in NF4 (`model.py`), rows (`rows.py`) and an initial adapter, all
on disk. Each stack does it in a process of its own (`child.py`), one after the other, and sends back
one `StackResult`: `stack_evenfall.py` through the loop that trains every run, `stack_trainer.py` for
those that train through TRL. What they took is then judged: a speed is shown only where the losses
are those of another stack, step by step (`compare.py`).
"""
