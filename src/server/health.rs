//! Whether the relay is well, in words and codes: what `/health` says, and why.
//!
//! | path | 200 means |
//! |---|---|
//! | `/health/live` | the process answers |
//! | `/health/ready`, `/health` | it takes clients and events; something may be wrong all the same, and then it says what |

use serde_json::{Map, Value};

use super::tls::CertificateState;
use crate::relay::Stats;

/// Less than this on the disk is nearly full, or [`DISK_PART`] of the database when that is less.
const LITTLE_DISK: u64 = 512 << 20;

/// A small relay on a small disk is not ill.
const DISK_PART: u64 = 4;

/// The part of the reserved addresses at which the database is nearly full.
const MAP_PART: u64 = 20;

/// Events that wait for live delivery when it is behind.
const MUCH_TO_DELIVER: usize = 1_000;

/// Something that is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    /// Events are refused because the database cannot be written.
    WritesFail,
    /// No new clients are taken: another relay takes over, or this one ends.
    Leaving,
    /// The database has come to the size that the operator allows, and nothing is left that may go.
    Ceiling,
    /// The last scheduled backup failed.
    Backup,
    /// There is little room left on the disk.
    DiskLow,
    /// The database nearly fills the addresses reserved for it.
    MapLow,
    /// Publishers wait for the disk or the signature checks.
    Behind,
    /// Subscribers wait for new events.
    DeliveryBehind,
    /// All connections are taken.
    Full,
    /// The certificate has ended, or soon will.
    Certificate,
    /// A changed configuration was not taken.
    Configuration,
}

impl Reason {
    /// All of them.
    pub(super) const ALL: [Reason; 11] = [
        Reason::WritesFail,
        Reason::Leaving,
        Reason::Ceiling,
        Reason::Backup,
        Reason::DiskLow,
        Reason::MapLow,
        Reason::Behind,
        Reason::DeliveryBehind,
        Reason::Full,
        Reason::Certificate,
        Reason::Configuration,
    ];

    /// For machines.
    pub(super) fn code(self) -> &'static str {
        match self {
            Reason::WritesFail => "writes_fail",
            Reason::Leaving => "leaving",
            Reason::Ceiling => "ceiling",
            Reason::Backup => "backup",
            Reason::DiskLow => "disk_low",
            Reason::MapLow => "map_low",
            Reason::Behind => "behind",
            Reason::DeliveryBehind => "delivery_behind",
            Reason::Full => "full",
            Reason::Certificate => "certificate",
            Reason::Configuration => "configuration",
        }
    }

    /// Whether nobody should be sent here meanwhile.
    fn is_fatal(self) -> bool {
        matches!(self, Reason::WritesFail | Reason::Leaving)
    }
}

/// What `/health` reports.
#[derive(Debug, Default)]
pub(super) struct Health {
    /// What is wrong, with a sentence each.
    pub problems: Vec<(Reason, String)>,
    /// Numbers by name.
    pub numbers: Map<String, Value>,
}

/// What health is judged by.
pub(super) struct Signs<'a> {
    pub stats: &'a Stats,
    /// New clients are let in.
    pub open: bool,
    /// Connections open, and how many may be.
    pub connections: (usize, usize),
    pub certificate: Option<CertificateState>,
    /// Why the last configuration was not taken.
    pub rejected: Option<String>,
    /// Unix seconds.
    pub now: u64,
}

/// What is wrong.
pub(super) fn judge(signs: &Signs<'_>) -> Vec<(Reason, String)> {
    let stats = signs.stats;
    let mut problems = Vec::new();
    let mut note = |reason, text: String| problems.push((reason, text));
    if let Some(failure) = &stats.write_failure {
        note(Reason::WritesFail, format!("events are refused: {failure}"));
    }
    if let Some(problem) = &stats.ceiling {
        note(Reason::Ceiling, problem.clone());
    }
    if let Some(failure) = &stats.backup.failure {
        note(Reason::Backup, format!("the last backup failed: {failure}"));
    }
    if !signs.open {
        note(Reason::Leaving, "no new clients are taken: this relay hands over to another one, or ends".to_owned());
    }
    let occupancy = &stats.occupancy;
    // Free pages are room as well.
    let room = occupancy.disk_free_bytes.map(|free| free.saturating_add(occupancy.free_bytes));
    if let Some(room) = room
        && room < LITTLE_DISK.min((occupancy.file_bytes / DISK_PART).max(16 << 20))
    {
        note(Reason::DiskLow, format!("there is room for only {} MiB more on the disk of the database", room >> 20));
    }
    let left = occupancy.map_bytes.saturating_sub(occupancy.file_bytes).saturating_add(occupancy.free_bytes);
    if occupancy.map_bytes > 0 && left < occupancy.map_bytes / MAP_PART {
        note(
            Reason::MapLow,
            format!("there is room for only {} MiB more in the database: raise storage.map_size", left >> 20),
        );
    }
    if stats.queued_bytes > stats.queue_bytes / 10 * 9 {
        note(Reason::Behind, format!("{} KiB of events wait to be checked and stored", stats.queued_bytes >> 10));
    }
    if stats.queues.live > MUCH_TO_DELIVER {
        note(Reason::DeliveryBehind, "live events reach subscribers late".to_owned());
    }
    let (open, most) = signs.connections;
    if open >= most {
        note(Reason::Full, format!("all {most} connections are taken: see listen.max_connections"));
    }
    if let Some(problem) = signs.certificate.as_ref().and_then(|certificate| certificate.problem(signs.now)) {
        note(Reason::Certificate, problem);
    }
    if let Some(why) = &signs.rejected {
        note(Reason::Configuration, format!("the configuration was changed and cannot be used: {why}"));
    }
    problems
}

impl Health {
    /// Whether clients and events are taken.
    pub(super) fn is_ready(&self) -> bool {
        !self.problems.iter().any(|(reason, _)| reason.is_fatal())
    }

    /// In one word.
    pub(super) fn status(&self) -> &'static str {
        match (self.is_ready(), self.problems.is_empty()) {
            (true, true) => "ok",
            (true, false) => "degraded",
            (false, _) => "failing",
        }
    }

    /// As JSON.
    pub(super) fn into_json(self, version: &str) -> Value {
        let mut body = Map::new();
        body.insert("status".into(), self.status().into());
        body.insert("live".into(), true.into());
        body.insert("ready".into(), self.is_ready().into());
        if !self.problems.is_empty() {
            let codes: Vec<Value> = self.problems.iter().map(|(reason, _)| reason.code().into()).collect();
            body.insert("reasons".into(), codes.into());
            let texts: Vec<Value> = self.problems.into_iter().map(|(_, text)| text.into()).collect();
            body.insert("problems".into(), texts.into());
        }
        body.insert("version".into(), version.into());
        body.extend(self.numbers);
        Value::Object(body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relay::Queues;
    use crate::store::Occupancy;

    fn well() -> Stats {
        let occupancy = Occupancy {
            events: 10,
            file_bytes: 1 << 20,
            free_bytes: 0,
            map_bytes: 1 << 30,
            disk_free_bytes: Some(20 << 20),
        };
        Stats { queue_bytes: 1 << 20, occupancy, ..Stats::default() }
    }

    fn codes(change: impl FnOnce(&mut Signs<'_>), stats: &Stats) -> (String, Vec<&'static str>) {
        let mut signs =
            Signs { stats, open: true, connections: (1, 2), certificate: None, rejected: None, now: 1_000_000 };
        change(&mut signs);
        let health = Health { problems: judge(&signs), numbers: Map::new() };
        let status = health.status().to_owned();
        (status, health.problems.iter().map(|(reason, _)| reason.code()).collect())
    }

    #[test]
    fn every_reason_has_its_occasion() {
        assert_eq!(codes(|_| {}, &well()), ("ok".into(), vec![]));
        assert_eq!(codes(|signs| signs.open = false, &well()), ("failing".into(), vec!["leaving"]));
        assert_eq!(codes(|signs| signs.connections = (2, 2), &well()), ("degraded".into(), vec!["full"]));
        assert_eq!(
            codes(|signs| signs.rejected = Some("line 3".into()), &well()),
            ("degraded".into(), vec!["configuration"])
        );
        let certificate = CertificateState::unknown(crate::config::CertificateSource::Acme, vec!["a.test".into()]);
        assert_eq!(
            codes(|signs| signs.certificate = Some(certificate), &well()),
            ("degraded".into(), vec!["certificate"])
        );
        let stats = Stats { write_failure: Some("full".into()), ..well() };
        assert_eq!(codes(|_| {}, &stats), ("failing".into(), vec!["writes_fail"]));
        let stats = Stats { queued_bytes: 1 << 20, ..well() };
        assert_eq!(codes(|_| {}, &stats), ("degraded".into(), vec!["behind"]));
        let stats = Stats { queues: Queues { live: 1_001, ..Queues::default() }, ..well() };
        assert_eq!(codes(|_| {}, &stats), ("degraded".into(), vec!["delivery_behind"]));
    }

    #[test]
    fn little_room_is_told_in_time_and_free_pages_are_room() {
        let with = |change: fn(&mut Occupancy)| {
            let mut stats = well();
            change(&mut stats.occupancy);
            codes(|_| {}, &stats).1
        };
        assert_eq!(with(|o| o.disk_free_bytes = Some(15 << 20)), ["disk_low"]);
        assert_eq!(with(|o| (o.disk_free_bytes, o.free_bytes) = (Some(15 << 20), 2 << 20)), [""; 0]);
        assert_eq!(with(|o| o.disk_free_bytes = None), [""; 0], "nobody knows");
        assert_eq!(
            with(|o| (o.file_bytes, o.map_bytes, o.disk_free_bytes) = (8 << 30, 1 << 40, Some(500 << 20))),
            ["disk_low"]
        );
        assert_eq!(with(|o| o.file_bytes = 1000 << 20), ["disk_low", "map_low"]);
        assert_eq!(with(|o| (o.file_bytes, o.free_bytes) = (1000 << 20, 400 << 20)), [""; 0]);
    }
}
