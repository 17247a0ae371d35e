//! Asking a running relay through its operator's door: a socket in the data folder that speaks HTTP.

use std::io::{self, Read as _, Write as _};
use std::ops::ControlFlow;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::failure::Failure;
use super::globals::Globals;
use crate::server::{Neighbour, neighbours};

/// No answer takes longer, from a relay that is alive.
const PATIENCE: Duration = Duration::from_secs(30);

/// How often whoever waits is told.
const LOOK: Duration = Duration::from_millis(100);

/// No answer is longer.
const LONGEST: u64 = 64 << 20;

/// The relays that run over the data of the configuration, the newest last; at least one.
pub(super) fn running(globals: &Globals) -> Result<Vec<Neighbour>, Failure> {
    let config = globals.load()?;
    let data = config.storage.path.display();
    let running = neighbours(&config.storage.path)
        .map_err(|error| Failure::io(format!("cannot look for relays in {data}"), &error, "Check the folder."))?;
    if running.is_empty() {
        return Err(Failure::new(
            format!("no relay runs over {data}"),
            "Name its folder with --data, or its configuration with --config.",
        ));
    }
    Ok(running)
}

/// The relay that serves new clients; while it is being replaced, the newer one.
pub(super) fn serving(globals: &Globals) -> Result<Neighbour, Failure> {
    let mut running = running(globals)?;
    let at = running.iter().rposition(|relay| !relay.hands_over).unwrap_or(running.len() - 1);
    Ok(running.swap_remove(at))
}

/// Sends a request such as `GET /stats.json` and returns the body of the answer.
pub(super) fn ask(relay: &Neighbour, request: &str) -> Result<String, Failure> {
    let began = Instant::now();
    ask_patiently(relay, request, &mut || match began.elapsed() < PATIENCE {
        true => ControlFlow::Continue(()),
        false => ControlFlow::Break(()),
    })
}

/// The same of something that takes long: `waiting` is called again and again until the answer comes, and may end it.
pub(super) fn ask_patiently(
    relay: &Neighbour,
    request: &str,
    waiting: &mut dyn FnMut() -> ControlFlow<()>,
) -> Result<String, Failure> {
    let failed = |error: &io::Error| {
        let what = format!("the relay in process {} cannot be reached", relay.pid);
        match error.kind() {
            io::ErrorKind::PermissionDenied => Failure::io(what, error, "Run this as the user that runs the relay."),
            io::ErrorKind::WouldBlock => Failure::new(format!("{what}: it does not answer"), "Look into its log."),
            _ => Failure::io(what, error, "Its log says whether it could open its socket in the data folder."),
        }
    };
    let mut exchange = || -> io::Result<String> {
        let mut stream = UnixStream::connect(relay.desk())?;
        stream.set_read_timeout(Some(LOOK))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        write!(stream, "{request} HTTP/1.1\r\nHost: relay\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")?;
        let (mut stream, mut answer) = (stream.take(LONGEST), Vec::new());
        loop {
            match stream.read_to_end(&mut answer) {
                Ok(_) => return String::from_utf8(answer).map_err(|_| io::ErrorKind::InvalidData.into()),
                // What came before that is in `answer`.
                Err(error) if error.kind() != io::ErrorKind::WouldBlock || waiting().is_break() => return Err(error),
                Err(_) => {}
            }
        }
    };
    let answer = exchange().map_err(|error| failed(&error))?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    if head.split(' ').nth(1) != Some("200") {
        let status = head.lines().next().unwrap_or("nothing");
        return Err(Failure::new(
            format!("the relay in process {} does not answer {request}: {status}", relay.pid),
            "It may be another version of ratite, or be ending.",
        ));
    }
    Ok(body.to_owned())
}
