//! Reading the configuration again while the relay runs: on SIGHUP, when `ratite reload` asks for it, and when the file changes.
//!
//! The new configuration is checked as a whole first; one that is wrong changes nothing, and the log says what is wrong with it. No
//! connection is dropped for a new one. What can only change at a start stays as it is, and the log says that too.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use super::instruments::Instruments;
use super::service::Service;
use crate::config::{Config, ConfigError, Effect, Loaded, merge};

/// How often the file is looked at.
const LOOK: Duration = Duration::from_secs(2);

/// What came of reading the configuration again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// Why the old configuration stays; empty when the new one is in force.
    pub problems: Vec<String>,
    /// What changed and is in force.
    pub changes: Vec<String>,
    /// What changed and needs a restart.
    pub needs_restart: Vec<String>,
    /// What nobody can have meant, but does no harm.
    pub warnings: Vec<String>,
}

/// Asks for the configuration to be read again; what came of it is sent back.
pub(super) type AskReload = mpsc::Sender<oneshot::Sender<Reloaded>>;

/// What somebody asks.
pub(super) type Asked = mpsc::Receiver<oneshot::Sender<Reloaded>>;

/// Reads a configuration.
type Load = dyn Fn() -> Result<Loaded, ConfigError> + Send + Sync;

/// Where a configuration comes from.
#[derive(Clone)]
pub struct Source {
    load: Arc<Load>,
    file: Watched,
}

impl Source {
    /// Reads the configuration with `load`; `file` is looked at for changes from now on.
    pub fn new(load: impl Fn() -> Result<Loaded, ConfigError> + Send + Sync + 'static, file: &Path) -> Source {
        Source { load: Arc::new(load), file: Watched::new(file) }
    }
}

/// Puts a configuration in force. The error says why that cannot be.
pub(super) trait Apply: Send + Sync {
    fn apply(&self, config: &Config) -> Result<(), String>;
}

/// Waits for occasions to read the configuration again, and does, as long as the relay runs. `hangup` yields at each SIGHUP that means
/// this.
pub(super) async fn run(
    source: Source,
    config: Config,
    server: impl Apply,
    (instruments, service): (Arc<Instruments>, Arc<Service>),
    mut asked: Asked,
    mut hangup: mpsc::Receiver<()>,
) {
    let Source { load, file: mut watched } = source;
    let mut reloader = Reloader { config, server, instruments, service, from_file: watched.content.is_some() };
    let mut look_at = Instant::now() + LOOK;
    loop {
        tokio::select! {
            request = asked.recv() => {
                let Some(done) = request else { return };
                watched.note();
                let reloaded = reloader.reload(&load, "asked to").await;
                let _ = done.send(reloaded);
            }
            word = hangup.recv() => {
                if word.is_none() {
                    return;
                }
                watched.note();
                reloader.reload(&load, "SIGHUP").await;
            }
            () = sleep_until(look_at) => {
                look_at = Instant::now() + LOOK;
                if watched.has_changed() {
                    reloader.reload(&load, "the file has changed").await;
                }
            }
        }
    }
}

struct Reloader<S> {
    /// What is in force.
    config: Config,
    server: S,
    instruments: Arc<Instruments>,
    service: Arc<Service>,
    /// Whether there was a file the last time.
    from_file: bool,
}

impl<S: Apply> Reloader<S> {
    async fn reload(&mut self, load: &Arc<Load>, why: &str) -> Reloaded {
        self.service.reloading();
        let reloaded = self.read_again(load, why).await;
        self.service.ready(match reloaded.problems.is_empty() {
            true => "the configuration was read again",
            false => "the new configuration cannot be used; the old one stays in force",
        });
        reloaded
    }

    async fn read_again(&mut self, load: &Arc<Load>, why: &str) -> Reloaded {
        let load = Arc::clone(load);
        // It reads files.
        let loaded = tokio::task::spawn_blocking(move || load()).await;
        let reloaded = match loaded {
            Ok(Ok(loaded)) if loaded.file.is_none() && self.from_file => Err(vec!["the file is gone".to_owned()]),
            Ok(Ok(loaded)) => self.take(loaded),
            Ok(Err(error)) => Err(error.problems.iter().map(ToString::to_string).collect()),
            Err(_) => Err(vec!["the relay is ending".to_owned()]),
        };
        let mut rejected = self.instruments.rejected.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (counter, _) = &self.instruments.reloads;
        match reloaded {
            Ok(reloaded) => {
                *rejected = None;
                counter.fetch_add(1, Ordering::Relaxed);
                for warning in &reloaded.warnings {
                    tracing::warn!("configuration: {warning}");
                }
                for change in &reloaded.changes {
                    tracing::info!("configuration: {change}");
                }
                for change in &reloaded.needs_restart {
                    tracing::warn!("configuration: {change}");
                }
                let (changed, waiting) = (reloaded.changes.len(), reloaded.needs_restart.len());
                let how = if waiting > 0 { " (`ratite restart`)" } else { "" };
                tracing::info!(
                    "the configuration was read again ({why}): {changed} changes in force, {waiting} need a restart{how}"
                );
                reloaded
            }
            Err(problems) => {
                self.instruments.reloads.1.fetch_add(1, Ordering::Relaxed);
                for problem in &problems {
                    tracing::error!("configuration: {problem}");
                }
                tracing::error!(
                    "the configuration was read again ({why}) and cannot be used; the old one stays in force"
                );
                *rejected = problems.first().map(|first| match problems.len() {
                    1 => first.clone(),
                    n => format!("{first} (and {} more)", n - 1),
                });
                Reloaded { problems, ..Reloaded::default() }
            }
        }
    }

    /// Puts a configuration in force.
    fn take(&mut self, loaded: Loaded) -> Result<Reloaded, Vec<String>> {
        let merged = merge(&self.config, &loaded.config).map_err(|problems| {
            let after = "; together with what needs a restart this would not hold: restart the relay to take all of it";
            problems.iter().map(|problem| format!("{}{after}", problem.message)).collect::<Vec<_>>()
        })?;
        self.server.apply(&merged.config).map_err(|error| vec![error])?;
        self.config = merged.config;
        self.from_file = loaded.file.is_some();
        let (needs_restart, changes) =
            merged.changes.into_iter().partition::<Vec<_>, _>(|change| change.effect == Effect::Restart);
        let text = |changes: Vec<_>| changes.iter().map(ToString::to_string).collect();
        Ok(Reloaded {
            problems: Vec::new(),
            changes: text(changes),
            needs_restart: text(needs_restart),
            warnings: loaded.warnings.iter().map(ToString::to_string).collect(),
        })
    }
}

/// What tells one state of a file from another without reading it.
type Stamp = (SystemTime, u64, u64);

/// A file that is looked at for changes. One that is replaced as a whole, as editors do, is a change like any other; one that is gone
/// for a moment is none.
#[derive(Clone)]
struct Watched {
    path: PathBuf,
    /// As it was found the last time.
    stamp: Option<Stamp>,
    /// It had changed, and may be about to change further.
    restless: bool,
    /// What it held when it was last taken or refused.
    content: Option<Vec<u8>>,
}

impl Watched {
    fn new(path: &Path) -> Watched {
        Watched { path: path.to_owned(), stamp: stamp(path), restless: false, content: read(path) }
    }

    /// Whether it holds something else than the last time, and has come to rest.
    fn has_changed(&mut self) -> bool {
        let now = stamp(&self.path);
        if now != self.stamp {
            (self.stamp, self.restless) = (now, true);
            return false;
        }
        if !std::mem::take(&mut self.restless) {
            return false;
        }
        let content = read(&self.path);
        let changed = content.is_some() && content != self.content;
        if changed {
            self.content = content;
        }
        changed
    }

    /// It is about to be read for another reason.
    fn note(&mut self) {
        if let Some(content) = read(&self.path) {
            (self.stamp, self.content, self.restless) = (stamp(&self.path), Some(content), false);
        }
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    use std::os::unix::fs::MetadataExt as _;
    let file = std::fs::metadata(path).ok()?;
    Some((file.modified().ok()?, file.len(), file.ino()))
}

/// What a file holds, as far as it can be a configuration.
fn read(path: &Path) -> Option<Vec<u8>> {
    use std::io::Read as _;
    const LONGEST: u64 = 1 << 20;
    let mut content = Vec::new();
    std::fs::File::open(path).ok()?.take(LONGEST).read_to_end(&mut content).ok()?;
    Some(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_changed_when_it_holds_something_else_and_is_at_rest() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ratite.toml");
        let mut watched = Watched::new(&path);
        assert!(!watched.has_changed(), "there is none");
        std::fs::write(&path, "a").unwrap();
        assert!(!watched.has_changed(), "somebody may still be writing");
        std::fs::write(&path, "ab").unwrap();
        assert!(!watched.has_changed(), "somebody was");
        assert!(watched.has_changed());
        assert!(!watched.has_changed(), "told once");
        // Written anew without a change.
        let other = folder.path().join("other");
        std::fs::write(&other, "ab").unwrap();
        std::fs::rename(&other, &path).unwrap();
        assert!(!watched.has_changed() && !watched.has_changed());
        // Replaced, as editors do.
        std::fs::write(&other, "cd").unwrap();
        std::fs::rename(&other, &path).unwrap();
        assert!(!watched.has_changed() && watched.has_changed());
        std::fs::remove_file(&path).unwrap();
        assert!((0..4).all(|_| !watched.has_changed()), "gone is no other configuration");
        std::fs::write(&path, "cd").unwrap();
        assert!((0..4).all(|_| !watched.has_changed()), "it is back as it was");
        std::fs::write(&path, "ef").unwrap();
        watched.note();
        assert!((0..4).all(|_| !watched.has_changed()), "known already");
    }
}
