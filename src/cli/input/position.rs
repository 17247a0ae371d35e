//! Where in a source we are: a place between two events, from which it can be read on.

/// A place in a source, before an event or behind the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
pub(in crate::cli) struct Position {
    /// Bytes of its text before it, unpacked and without a byte order mark.
    pub(in crate::cli) offset: u64,
    /// The number of the line it lies in, from 1.
    pub(in crate::cli) number: u64,
    /// JSON lists that are open around it.
    pub(in crate::cli) lists: u64,
    /// Bytes of the file that were read to come here, as they lie on disk, and perhaps some more.
    pub(in crate::cli) consumed: u64,
    /// Whether everything lies before it.
    pub(in crate::cli) is_end: bool,
}

impl Position {
    /// The beginning.
    pub(in crate::cli) const START: Position = Position { offset: 0, number: 1, lists: 0, consumed: 0, is_end: false };
}
