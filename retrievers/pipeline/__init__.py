"""How the steps of a query run: timed, retried, batched, traced."""
