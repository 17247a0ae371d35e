//! `ratite restart`: a new process in place of the running one, without dropping anybody; and how that process begins.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use clap::Args;

use super::failure::{CLEAN, Failure, Outcome};
use super::globals::Globals;
use super::output::print;
use crate::config::Config;
use crate::server::{Neighbour, Successor, neighbours};

/// How long a relay may take to listen.
const START: Duration = Duration::from_secs(60);

const PAUSE: Duration = Duration::from_millis(20);

/// The flag that has a relay run in a process of its own.
pub(super) const DETACH: &str = "--detach";

/// Start the running relay anew, without dropping anybody
#[derive(Args, Debug)]
#[command(
    long_about = "Start the running relay anew, without dropping anybody: after an upgrade, or when settings have changed that count only \
        from the start. The relay starts its successor, with the same command line, from the file that the program is now. When that \
        one listens, the old one hands over as with `ratite drain`; when it does not, the old one goes on and says why in its \
        log.\n\n\
        SIGUSR2 asks a relay for the same. A service stays the same service: systemd is told of the new process.",
    after_help = "\
Examples:
  ratite restart
  ratite --config /etc/ratite/ratite.toml restart --if-running

Exit codes: 0 the successor serves, 1 the relay goes on as it was, or none runs."
)]
pub(super) struct RestartArgs {
    /// Be content when no relay runs, as scripts may be
    #[arg(long)]
    if_running: bool,
}

pub(super) fn run(args: &RestartArgs, globals: &Globals) -> Outcome {
    let config = globals.load()?;
    let data = config.storage.path.display();
    let serving = || {
        let mut running = neighbours(&config.storage.path)
            .map_err(|error| Failure::io(format!("cannot look for relays in {data}"), &error, "Check the folder."))?;
        running.retain(|relay| !relay.hands_over);
        Ok::<_, Failure>(running)
    };
    let Some(old) = serving()?.pop() else {
        if args.if_running {
            return Ok(CLEAN);
        }
        return Err(Failure::new(
            format!("no relay runs over {data}"),
            "Name its folder with --data, or its configuration with --config.",
        ));
    };
    old.ask_to_renew().map_err(|error| {
        let what = format!("the relay in process {} cannot be asked to start anew", old.pid);
        Failure::io(what, &error, "Run this as the user that runs the relay.")
    })?;
    let began = Instant::now();
    // A little longer than the relay itself waits for its successor.
    while began.elapsed() < START + Duration::from_secs(10) {
        let now = serving()?;
        let is_old = |relay: &Neighbour| relay.pid == old.pid;
        if let Some(new) = now.iter().rfind(|relay| !is_old(relay))
            && !now.iter().any(is_old)
        {
            print(&format!(
                "process {} serves; process {} keeps its clients for a while and ends\n",
                new.pid, old.pid
            ))?;
            return Ok(CLEAN);
        }
        if !now.iter().any(|relay| is_old(relay) && relay.failed_renewals == old.failed_renewals) {
            break;
        }
        std::thread::sleep(PAUSE);
    }
    Err(Failure::new("no successor came up", "The log of the relay says why; what runs goes on as it was."))
}

/// How the relay that takes over from this one is started.
pub(super) fn successor() -> Successor {
    let arguments = std::env::args_os().skip(1).chain([OsString::from(DETACH)]).collect();
    Successor { program: program(), arguments }
}

/// The file of this program as it was named, so that an upgrade counts: a link may lead elsewhere by then.
fn program() -> PathBuf {
    let named = std::env::args_os().next().map(PathBuf::from).filter(|name| name.components().count() > 1);
    let named = named.and_then(|name| std::path::absolute(name).ok()).filter(|name| name.is_file());
    named.or_else(|| std::env::current_exe().ok()).unwrap_or_else(|| "ratite".into())
}

/// Starts a relay in a process of its own, whose parent is gone when this comes back: when the relay listens.
pub(super) fn detach(config: &Config) -> Outcome {
    let mut command = Command::new(program());
    command.args(std::env::args_os().skip(1).filter(|argument| argument != DETACH)).stdin(Stdio::null());
    let mut relay = command.spawn().map_err(|error| Failure::io("the relay cannot be started", &error, ""))?;
    let began = Instant::now();
    while began.elapsed() < START {
        let ended = relay.try_wait().map_err(|error| Failure::io("the relay is lost", &error, ""))?;
        if let Some(status) = ended {
            return Err(Failure::new(format!("the relay ended before it listened ({status})"), ""));
        }
        if neighbours(&config.storage.path).is_ok_and(|running| running.iter().any(|it| it.pid == relay.id())) {
            return Ok(CLEAN);
        }
        std::thread::sleep(PAUSE);
    }
    // It would only stand in the way of the next one.
    let _ = relay.kill();
    let _ = relay.wait();
    Err(Failure::new(format!("the relay did not listen within {} seconds", START.as_secs()), ""))
}
