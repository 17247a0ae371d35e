//! The typed configuration: file, environment and flags, checked as a whole.
