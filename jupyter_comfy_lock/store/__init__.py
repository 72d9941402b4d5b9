"""Where locks and tasks are kept. The only place that decides who wins."""
