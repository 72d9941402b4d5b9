"""What a lock and a task are: rules and records, without a clock and without I/O."""
