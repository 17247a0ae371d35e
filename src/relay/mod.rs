//! The core, with no socket in it: publish, query, count, subscribe.
