//! How the log of a relay looks, and how much it says.

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For the journal where systemd reads them, else for people.
    #[default]
    Auto,
    /// For people, with the time.
    Text,
    /// For systemd's journal: with the priority, without the time, which the journal adds.
    Journal,
    /// For machines: one JSON object a line.
    Json,
}

impl LogFormat {
    /// Every format by its name in the configuration.
    pub const NAMES: [(&str, LogFormat); 4] = [
        ("auto", LogFormat::Auto),
        ("text", LogFormat::Text),
        ("journal", LogFormat::Journal),
        ("json", LogFormat::Json),
    ];
}

/// Which lines are written: these and what weighs more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogLevel {
    /// What somebody has to mend.
    Error,
    /// What somebody should look at.
    Warn,
    /// What happened.
    #[default]
    Info,
    /// What clients do; with their addresses.
    Debug,
}

impl LogLevel {
    /// Every level by its name in the configuration.
    pub const NAMES: [(&str, LogLevel); 4] =
        [("error", LogLevel::Error), ("warn", LogLevel::Warn), ("info", LogLevel::Info), ("debug", LogLevel::Debug)];
}
