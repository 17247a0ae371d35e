//! Retention: has what the operator's rules let go removed, and keeps the database below its ceiling, without standing in a writer's way.
//!
//! One thread looks for what is to go, in short slices, and gives it to the writer in small transactions. How small, the clock decides:
//! each is to take some milliseconds, and after each the disk is left to others for as long as it took.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};

use super::queue::{Pruned, ToWriter};
use super::{Core, RelayError, lock};
use crate::config;
use crate::nostr::PublicKey;
use crate::store::{
    Amount, Budget, Doomed, Progress, RetentionReport, RuleReport, Store, StoreError, Surplus, Survey, Terms,
};

/// How often the thread looks whether there is something to do.
const LOOK: Duration = Duration::from_secs(1);

/// What one transaction should take beside publishers, and what it takes at most however slow the disk is.
const GENTLE: Duration = Duration::from_millis(10);
const SLOW_DISK: Duration = Duration::from_millis(30);

/// What it may take when nobody else writes.
const HURRIED: Duration = Duration::from_millis(200);

/// Events removed in the first transaction, before anything is known of the disk, and at most.
const FIRST: usize = 16;
const MOST: usize = 20_000;

/// Events that are found before they are removed, in the order in which they lie in the database.
const GATHERED: usize = 20_000;

/// A slice of searching beside others, who get the processor for as long again.
const SLICE: Budget = Budget { keys: 50_000, time: Duration::from_millis(5) };

/// Authors looked at in one step when those without events are forgotten.
const AUTHORS: usize = 1_000;

/// What the rule is called that stands for the ceiling.
pub const CEILING: &str = "max_size";

/// What retention goes by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// The section of the configuration.
    pub config: config::Retention,
    /// The owner's keys.
    pub owners: Vec<PublicKey>,
    /// The keys that the configuration lists; those on the list of allowed keys come to them.
    pub listed: Vec<PublicKey>,
}

impl Retention {
    /// What a configuration asks for.
    pub fn from_config(config: &config::Config) -> Retention {
        Retention { config: config.retention.clone(), owners: config::owners(config), listed: config::listed(config) }
    }

    /// Whether there is anything to do.
    pub fn is_on(&self) -> bool {
        self.config.max_size > 0 || !self.config.rules.is_empty()
    }

    fn high_water(&self) -> u64 {
        percent(self.config.max_size, self.config.high_water)
    }

    fn low_water(&self) -> u64 {
        percent(self.config.max_size, self.config.low_water)
    }
}

fn percent(bytes: u64, share: u8) -> u64 {
    bytes / 100 * u64::from(share)
}

/// How the database stands to its ceiling.
#[derive(Default)]
pub(super) struct Ceiling {
    /// It is reached: no event is stored.
    reached: AtomicBool,
    /// Nothing is left that may go.
    hopeless: AtomicBool,
}

impl Ceiling {
    /// Why no event is stored, if none is.
    pub fn refusal(&self) -> Option<String> {
        let reached = self.reached.load(Relaxed);
        reached.then(|| "error: the database is full: it has reached retention.max_size".to_owned())
    }

    /// What is wrong, if something is: events are refused, or will be before long.
    pub fn problem(&self) -> Option<String> {
        let near = || "nothing is left that may go, and the database comes close to retention.max_size".to_owned();
        match (self.reached.load(Relaxed), self.hopeless.load(Relaxed)) {
            (true, _) => Some("events are refused: the database has reached retention.max_size".to_owned()),
            (false, true) => Some(near()),
            (false, false) => None,
        }
    }

    /// Whether it is reached and there is hope that it soon is not.
    pub fn is_being_lowered(&self) -> bool {
        self.reached.load(Relaxed) && !self.hopeless.load(Relaxed)
    }

    /// Forgets that it was reached when there is none any more.
    pub fn settle(&self, max_size: u64) {
        if max_size == 0 {
            self.reached.store(false, Relaxed);
            self.hopeless.store(false, Relaxed);
        }
    }

    /// Compares the database with its ceiling.
    pub fn measure(&self, store: &Store, max_size: u64) -> Result<u64, StoreError> {
        let used = store.used_bytes()?;
        // It may have been lifted a moment ago.
        self.reached.store(max_size > 0 && used >= max_size, Relaxed);
        Ok(used)
    }
}

/// What a look at the whole database found, or a run over it removed: by rule, and because the database is too large.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Each rule with what it lets go, in the order of the configuration.
    pub rules: Vec<(String, Amount)>,
    /// What has to go beside that so that the database becomes small enough.
    pub ceiling: Amount,
    /// Bytes of the database that were in use at the beginning.
    pub used: u64,
    /// Whether it came to its end.
    pub complete: bool,
}

impl Plan {
    /// All of it.
    pub fn total(&self) -> Amount {
        let mut total = self.ceiling;
        self.rules.iter().for_each(|(_, amount)| total += *amount);
        total
    }

    fn add(&mut self, rule: Option<usize>, amount: Amount) {
        match rule.and_then(|rule| self.rules.get_mut(rule)) {
            Some((_, sum)) => *sum += amount,
            None => self.ceiling += amount,
        }
    }
}

/// Is told how far a run is, in thousandths, and what it has found or removed; may end it.
pub type Watch<'w> = dyn FnMut(u64, Amount) -> ControlFlow<()> + 'w;

/// How a run treats what it finds.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// Only counts it.
    Look,
    /// Removes it beside others, who are to notice nothing.
    Gentle,
    /// Removes it as fast as can be.
    Hurried,
}

/// Removes the first of these events in one transaction: fewer than all when the time is up before its commit, when it has become large,
/// or when the database is too full for more. Called by the writer.
pub(super) fn prune(core: &Core, seqs: &[u64], time: Duration) -> Result<Pruned, StoreError> {
    let began = Instant::now();
    let (done, _) = core.store().remove_some(core.settings().clock.now(), seqs.len(), |batch, few| {
        // A transaction that found no room is begun again, smaller, and has its own time.
        let (began, mut done) = (Instant::now(), 0);
        for &seq in &seqs[..few] {
            batch.remove(seq)?;
            done += 1;
            if began.elapsed() >= time || batch.is_large() {
                break;
            }
        }
        Ok(done)
    })?;
    let took = began.elapsed();
    core.figures.prunes.observe_time(took);
    core.figures.pruned.observe(done as u64);
    Ok(Pruned { done, took })
}

impl Mode {
    /// What a transaction may take before its commit, however much was asked of it.
    fn time(self) -> Duration {
        if self == Mode::Hurried { HURRIED } else { SLOW_DISK }
    }
}

/// How many events a transaction takes, learned from how long the last ones took.
struct Pace {
    mode: Mode,
    step: usize,
    /// The least that a transaction takes here, whatever is in it: what the disk needs.
    least: Duration,
}

impl Pace {
    fn new(mode: Mode) -> Pace {
        Pace { mode, step: FIRST, least: SLOW_DISK }
    }

    fn learn(&mut self, pruned: &Pruned) {
        // What was an exception once is forgotten by and by.
        self.least = pruned.took.min(self.least + self.least / 64);
        let goal = match self.mode {
            Mode::Hurried => HURRIED,
            _ => (self.least * 2).clamp(GENTLE, SLOW_DISK),
        };
        let change = goal.as_secs_f64() / pruned.took.as_secs_f64().max(1e-6);
        let step = self.step.min(pruned.done.max(1)) as f64 * change.clamp(0.2, 1.5);
        self.step = (step as usize + 1).min(MOST);
    }
}

/// A run over the database.
struct Run<'r> {
    core: &'r Core,
    mode: Mode,
    pace: Pace,
    /// Bytes of the database for each byte of a record.
    scale: f64,
    plan: Plan,
    watch: &'r mut Watch<'r>,
}

impl Run<'_> {
    fn amount(&self, doomed: &Doomed) -> Amount {
        Amount { events: 1, bytes: (doomed.bytes as f64 * self.scale) as u64 }
    }

    fn budget(&self) -> Budget {
        if self.mode == Mode::Gentle { SLICE } else { Budget::COMMAND }
    }

    /// Leaves the machine to others for a while.
    fn rest(&self, worked: Duration) {
        match self.mode {
            Mode::Gentle => std::thread::sleep(worked),
            // Another process may wait for the write lock, which is given to whoever is awake.
            Mode::Hurried => std::thread::sleep(worked / 20),
            Mode::Look => {}
        }
    }

    /// Whether nobody wants to go on, where nothing was removed for a while.
    fn is_to_end(&mut self, thousandths: u64) -> bool {
        self.core.closed.load(Relaxed) || (self.watch)(thousandths, self.plan.total()).is_break()
    }

    /// Removes these, or only counts them.
    fn take(&mut self, mut doomed: Vec<Doomed>, thousandths: u64) -> Result<ControlFlow<()>, RelayError> {
        // Neighbours share pages.
        doomed.sort_unstable_by_key(|doomed| doomed.seq);
        if self.mode == Mode::Look {
            for doomed in &doomed {
                self.plan.add(doomed.rule, self.amount(doomed));
            }
            return Ok((self.watch)(thousandths, self.plan.total()));
        }
        let mut left = &doomed[..];
        while !left.is_empty() {
            if self.core.closed.load(Relaxed) {
                return Ok(ControlFlow::Break(()));
            }
            let next = &left[..self.pace.step.min(left.len())];
            let seqs = next.iter().map(|doomed| doomed.seq).collect();
            let (done, pruned) = crossbeam_channel::bounded(1);
            let _ = self.core.writer.send(ToWriter::Prune { seqs, time: self.mode.time(), done });
            let pruned = pruned.recv().map_err(|_| RelayError::Closed)??;
            for doomed in &next[..pruned.done] {
                self.plan.add(doomed.rule, self.amount(doomed));
            }
            left = &left[pruned.done..];
            self.pace.learn(&pruned);
            if (self.watch)(thousandths, self.plan.total()).is_break() {
                return Ok(ControlFlow::Break(()));
            }
            self.rest(pruned.took);
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Goes through all rules. Keeps the numbers of what is only counted, if asked to.
    fn apply_rules(&mut self, terms: &Arc<Terms>, seen: Option<&mut Seen>) -> Result<ControlFlow<()>, RelayError> {
        let mut survey = Survey::new(terms.clone(), self.core.settings().clock.now());
        let mut gathered = Vec::new();
        let mut seen = seen;
        loop {
            let began = Instant::now();
            let state = survey.run(&self.core.store(), self.budget(), &mut |doomed| gathered.push(doomed))?;
            self.rest(began.elapsed());
            if self.is_to_end(survey.thousandths()) {
                return Ok(ControlFlow::Break(()));
            }
            if state == Progress::Done || gathered.len() >= GATHERED || self.mode == Mode::Look {
                let found = std::mem::take(&mut gathered);
                if let Some(seen) = &mut seen {
                    found.iter().for_each(|doomed| seen.insert(doomed.seq));
                }
                let flow = self.take(found, survey.thousandths())?;
                if flow.is_break() {
                    return Ok(flow);
                }
            }
            if state == Progress::Done {
                return Ok(ControlFlow::Continue(()));
            }
        }
    }

    /// Removes the oldest until the database has no more than `goal` bytes in use; says whether that was reached, and breaks when it
    /// was ended before.
    fn shrink(&mut self, terms: &Arc<Terms>, goal: u64) -> Result<ControlFlow<(), bool>, RelayError> {
        const ENDED: Result<ControlFlow<(), bool>, RelayError> = Ok(ControlFlow::Break(()));
        let mut surplus = Surplus::new(terms.clone());
        loop {
            let used = self.core.ceiling.measure(&self.core.store(), self.core.settings().retention.config.max_size)?;
            if used <= goal {
                return Ok(ControlFlow::Continue(true));
            }
            // Pages come free only when all or most of what is on them has gone, so it is looked at again and again.
            let wanted = ((used - goal) as f64 / self.scale / 2.0) as u64;
            let (mut gathered, mut bytes) = (Vec::new(), 0);
            let mut state = Progress::More;
            while state == Progress::More && (gathered.is_empty() || bytes < wanted && gathered.len() < GATHERED) {
                let began = Instant::now();
                state = surplus.run(&self.core.store(), self.budget(), &mut |doomed| {
                    bytes += doomed.bytes;
                    gathered.push(doomed);
                    if bytes < wanted && gathered.len() < GATHERED {
                        ControlFlow::Continue(())
                    } else {
                        ControlFlow::Break(())
                    }
                })?;
                self.rest(began.elapsed());
                if self.is_to_end(0) {
                    return ENDED;
                }
                if bytes >= wanted {
                    break;
                }
            }
            let nothing = gathered.is_empty();
            if self.take(gathered, 0)?.is_break() {
                return ENDED;
            }
            if nothing && state == Progress::Done {
                return Ok(ControlFlow::Continue(false));
            }
        }
    }

    /// Counts what would go for the ceiling when `seen` is gone already.
    fn count_surplus(
        &mut self,
        terms: &Arc<Terms>,
        high: u64,
        low: u64,
        seen: &Seen,
    ) -> Result<ControlFlow<()>, RelayError> {
        let used = self.plan.used.saturating_sub(self.plan.total().bytes);
        if used <= high {
            return Ok(ControlFlow::Continue(()));
        }
        let mut surplus = Surplus::new(terms.clone());
        let wanted = ((used - low) as f64 / self.scale) as u64;
        let mut bytes = 0;
        loop {
            let (scale, mut found) = (self.scale, Amount::default());
            let state = surplus.run(&self.core.store(), self.budget(), &mut |doomed| {
                if bytes >= wanted {
                    return ControlFlow::Break(());
                }
                if !seen.contains(doomed.seq) {
                    bytes += doomed.bytes;
                    found += Amount { events: 1, bytes: (doomed.bytes as f64 * scale) as u64 };
                }
                ControlFlow::Continue(())
            })?;
            self.plan.add(None, found);
            if (self.watch)(1000, self.plan.total()).is_break() {
                return Ok(ControlFlow::Break(()));
            }
            if bytes >= wanted || state == Progress::Done {
                return Ok(ControlFlow::Continue(()));
            }
        }
    }
}

/// A set of sequence numbers, a bit for each there ever was.
#[derive(Default)]
struct Seen(Vec<u64>);

impl Seen {
    fn insert(&mut self, seq: u64) {
        let word = (seq / 64) as usize;
        if word >= self.0.len() {
            self.0.resize(word + 1, 0);
        }
        self.0[word] |= 1 << (seq % 64);
    }

    fn contains(&self, seq: u64) -> bool {
        self.0.get((seq / 64) as usize).is_some_and(|word| word & 1 << (seq % 64) != 0)
    }
}

/// The terms in force: those of the configuration, and the list of allowed keys as it stands.
fn terms(core: &Core) -> Arc<Terms> {
    let settings = core.settings();
    let retention = &settings.retention;
    let mut listed: HashSet<PublicKey> = retention.listed.iter().copied().collect();
    listed.extend(core.moderation.lists().allowed_keys());
    Arc::new(Terms::new(&retention.config, retention.owners.iter().copied().collect(), listed))
}

/// Looks at the whole database once: counts what is to go, or removes it, the rules first and then what is too much.
pub(super) fn run(core: &Core, mode: Mode, watch: &mut Watch<'_>) -> Result<Plan, RelayError> {
    let settings = core.settings();
    let (terms, retention) = (terms(core), &settings.retention);
    let rules = terms.rules().iter().map(|rule| (rule.to_string(), Amount::default())).collect();
    let plan = Plan { rules, used: core.store().used_bytes()?, ..Plan::default() };
    // The watch is borrowed for the run only; the run is over when this function returns.
    let mut told = |thousandths, amount| watch(thousandths, amount);
    let scale = core.store().bytes_per_record_byte()?;
    let mut run = Run { core, mode, pace: Pace::new(mode), scale, plan, watch: &mut told };
    let looks = mode == Mode::Look;
    let mut seen = Seen::default();
    let mut flow = ControlFlow::Continue(());
    let has_ceiling = retention.config.max_size > 0;
    if !terms.rules().is_empty() {
        flow = run.apply_rules(&terms, (looks && has_ceiling).then_some(&mut seen))?;
    }
    if flow.is_continue() && has_ceiling {
        let (high, low) = (retention.high_water(), retention.low_water());
        if looks {
            flow = run.count_surplus(&terms, high, low, &seen)?;
        } else if core.store().used_bytes()? > high {
            flow = match run.shrink(&terms, low)? {
                ControlFlow::Continue(_) => ControlFlow::Continue(()),
                ControlFlow::Break(()) => ControlFlow::Break(()),
            };
        }
    }
    run.plan.complete = flow.is_continue();
    let plan = run.plan;
    if plan.complete {
        report(core, &plan, looks)?;
    }
    Ok(plan)
}

/// Keeps what a run found or did, for all who want to know.
fn report(core: &Core, plan: &Plan, looks: bool) -> Result<(), RelayError> {
    let before = core.store().retention_report()?.unwrap_or_default();
    let mut rules = plan.rules.clone();
    if core.settings().retention.config.max_size > 0 {
        rules.push((CEILING.to_owned(), plan.ceiling));
    }
    let rules = rules.into_iter().map(|(rule, amount)| {
        let mut removed =
            before.rules.iter().find(|known| known.rule == rule).map_or(Amount::default(), |known| known.removed);
        if !looks {
            removed += amount;
        }
        RuleReport { rule, due: if looks { amount } else { Amount::default() }, removed }
    });
    let report = RetentionReport { at: core.settings().clock.now(), rules: rules.collect() };
    match core.write(|store| store.keep_retention_report(&report)) {
        // Where there is no room for it, it is all the more important to go on and make some.
        Err(StoreError::Full) => Ok(()),
        kept => Ok(kept?),
    }
}

/// The thread.
pub(super) fn keep_house(core: &Arc<Core>, stop: Receiver<()>) {
    let mut last_run: Option<(u64, Retention)> = None;
    loop {
        match stop.recv_timeout(LOOK) {
            Err(RecvTimeoutError::Timeout) => {}
            _ => return,
        }
        // They may have changed since the last time.
        let settings = core.settings();
        let (retention, now) = (&settings.retention, settings.clock.now());
        let config = &retention.config;
        if config.max_size > 0
            && let Err(error) = look_at_ceiling(core)
        {
            tracing::warn!(
                "the database is larger than retention.max_size allows, and cannot be made smaller: {error}"
            );
        }
        // Other rules are a reason to look at once.
        let is_due =
            last_run.as_ref().is_none_or(|(at, by)| now >= at.saturating_add(config.interval) || by != retention);
        if !is_due || config.rules.is_empty() {
            continue;
        }
        last_run = Some((now, retention.clone()));
        let mode = if config.apply { Mode::Gentle } else { Mode::Look };
        let began = Instant::now();
        match run(core, mode, &mut |_, _| ControlFlow::Continue(())) {
            Ok(plan) if plan.complete && config.apply && plan.total().events > 0 => {
                let Amount { events, bytes } = plan.total();
                tracing::info!(
                    events,
                    bytes,
                    seconds = began.elapsed().as_secs(),
                    "retention: removed what no rule keeps"
                );
            }
            Ok(_) => {}
            Err(RelayError::Closed) => return,
            Err(error) => tracing::warn!("retention failed, it is tried again later: {error}"),
        }
        if let Err(error) = forget_authors(core) {
            tracing::warn!("forgetting authors without events failed: {error}");
        }
    }
}

/// Keeps the database below its ceiling.
fn look_at_ceiling(core: &Core) -> Result<(), RelayError> {
    let settings = core.settings();
    let retention = &settings.retention;
    let ceiling = &core.ceiling;
    let used = ceiling.measure(&core.store(), retention.config.max_size)?;
    let over = used > retention.high_water();
    if !over || !retention.config.apply {
        ceiling.hopeless.store(over, Relaxed);
        return Ok(());
    }
    let rules = terms(core);
    let mode = Mode::Gentle;
    let plan = Plan { used, ..Plan::default() };
    let scale = core.store().bytes_per_record_byte()?;
    let mut nobody = |_, _| ControlFlow::Continue(());
    let mut run = Run { core, mode, pace: Pace::new(mode), scale, plan, watch: &mut nobody };
    let reached = run.shrink(&rules, retention.low_water())?;
    let removed = run.plan.ceiling;
    // Nobody but the relay ends it, when it is closed.
    let ControlFlow::Continue(reached) = reached else { return Ok(()) };
    if !reached && !ceiling.hopeless.swap(true, Relaxed) {
        tracing::error!(
            "the database comes close to retention.max_size, and nothing is left that may go: events will be refused; raise it, or \
             protect less"
        );
    } else if reached {
        ceiling.hopeless.store(false, Relaxed);
    }
    if removed.events > 0 {
        tracing::info!(
            events = removed.events,
            bytes = removed.bytes,
            "retention: removed the oldest events, the database came close to retention.max_size"
        );
        let mut report = core.store().retention_report()?.unwrap_or_default();
        match report.rules.iter_mut().find(|known| known.rule == CEILING) {
            Some(known) => known.removed += removed,
            None => report.rules.push(RuleReport { rule: CEILING.into(), removed, ..RuleReport::default() }),
        }
        core.write(|store| store.keep_retention_report(&report))?;
    }
    Ok(())
}

fn forget_authors(core: &Core) -> Result<(), StoreError> {
    let mut last = None;
    loop {
        last = core.write(|store| store.forget_authors(last, AUTHORS))?;
        if last.is_none() || core.closed.load(Relaxed) {
            return Ok(());
        }
        std::thread::sleep(SLICE.time);
    }
}

impl super::Relay {
    /// Counts what the rules of retention and its ceiling let go, and removes nothing. Blocks. `watch` is told how far it is.
    pub fn plan_retention(&self, watch: &mut Watch<'_>) -> Result<Plan, RelayError> {
        run(&self.core, Mode::Look, watch)
    }

    /// Removes what the rules of retention and its ceiling let go, beside others who write when `gentle`. Blocks. Removed events may be
    /// published again.
    pub fn prune(&self, gentle: bool, watch: &mut Watch<'_>) -> Result<Plan, RelayError> {
        run(&self.core, if gentle { Mode::Gentle } else { Mode::Hurried }, watch)
    }
}

/// Why the writer's transactions are watched: it measures the database against its ceiling whenever so many bytes were stored.
pub(super) fn note_stored(core: &Core, bytes: usize) {
    let max_size = core.settings().retention.config.max_size;
    if max_size == 0 {
        return;
    }
    let mut unmeasured = lock(&core.unmeasured);
    *unmeasured += bytes as u64;
    if *unmeasured >= (max_size / 200).max(1 << 18) {
        *unmeasured = 0;
        if let Err(error) = core.ceiling.measure(&core.store(), max_size) {
            tracing::warn!("the size of the database cannot be measured: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How long the transactions of a run take on a disk that needs `commit` for each and `each` for each event in it, both microseconds.
    fn transactions(mode: Mode, commit: impl Fn(usize) -> u64, each: u64, count: usize) -> Vec<(usize, Duration)> {
        let mut pace = Pace::new(mode);
        let run = (0..count).map(|i| {
            let done = pace.step;
            let took = Duration::from_micros(commit(i) + each * done as u64);
            pace.learn(&Pruned { done, took });
            (done, took)
        });
        run.collect()
    }

    #[test]
    fn no_transaction_beside_publishers_takes_fifty_milliseconds_on_any_disk_that_commits_within_thirty() {
        for commit in [100, 500, 1_000, 5_000, 10_000, 20_000, 30_000] {
            for each in [1, 5, 20, 100, 500, 1_000] {
                let run = transactions(Mode::Gentle, |_| commit, each, 500);
                let longest = run.iter().map(|(_, took)| *took).max().unwrap();
                assert!(longest <= Duration::from_millis(50), "{commit} and {each} each: {longest:?}");
            }
        }
    }

    #[test]
    fn after_a_disk_became_slower_transactions_become_smaller_at_once_and_larger_again_when_it_recovers() {
        let slow = 300..330;
        let disk = |i: usize| if slow.contains(&i) { 25_000 } else { 500 };
        let run = transactions(Mode::Gentle, disk, 20, 2_000);
        let before = run[slow.start - 1].0;
        assert!(before > 300, "{before} events when the disk is fast");
        // The one that met it could not know.
        let long = run[slow.start + 1..].iter().filter(|(_, took)| *took > Duration::from_millis(50)).count();
        assert_eq!(long, 0);
        assert!(run[slow.end - 1].0 < before);
        assert!(run.last().unwrap().0 > 300);
    }

    #[test]
    fn a_transaction_ends_when_its_time_is_up() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path(), 1 << 30).unwrap();
        let settings =
            crate::relay::Settings { unattended: false, ..crate::relay::Settings::from_config(&Default::default()) };
        let relay = crate::relay::Relay::start(store, settings).unwrap();
        let note = |n: u8| crate::nostr::Event {
            id: crate::nostr::EventId([n; 32]),
            pubkey: PublicKey([n; 32]),
            created_at: 1_700_000_000,
            kind: crate::nostr::Kind(1),
            tags: crate::nostr::Tags::new(),
            content: "".into(),
            sig: crate::nostr::Signature([0; 64]),
        };
        relay.ingest((0..20).map(note).collect(), true).recv().unwrap();
        let prune = |seqs: std::ops::Range<u64>, time| {
            let (done, pruned) = crossbeam_channel::bounded(1);
            relay.core.writer.send(ToWriter::Prune { seqs: seqs.collect(), time, done }).unwrap();
            pruned.recv().unwrap().unwrap().done
        };
        assert_eq!(prune(0..20, Duration::ZERO), 1, "there is no end without one");
        assert_eq!(prune(1..20, Duration::MAX), 19);
        assert_eq!(relay.store().occupancy().unwrap().events, 0);
        relay.shutdown();
    }
}
