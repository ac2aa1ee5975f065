"""Commands: one `main` for each, which scripts in `tools/` open too."""
