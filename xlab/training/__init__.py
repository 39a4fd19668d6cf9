"""What happens to a model while it learns: objectives, optimisers, schedules, metrics."""
