"""The queue: scheduled queues, ready queues of paths, the retry schedule and the scheduler that joins them."""
