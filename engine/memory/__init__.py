"""One memory plan: what it holds, what it costs, what helps when memory is out."""
