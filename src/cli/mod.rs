//! Owns the CLI.
