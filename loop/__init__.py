"""The training loop that all stages share: any task, one or many processes, exact to resume."""
