"""Lab 03's checks: one function for each [[check]] of lab.toml."""
