"""Binary32 arithmetic units."""
