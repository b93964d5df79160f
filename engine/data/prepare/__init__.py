"""From rows to what a run trains on: blocks, ahead of the loop, cached, held out, dropped."""
