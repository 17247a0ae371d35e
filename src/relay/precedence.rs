//! Which threads go first where more want to run than there are cores.
//!
//! Under load the threads of the sockets always have something to do. A writer that shares the cores with them as one among
//! equals takes twice as long for a commit, and what comes out of it is handed on in small portions: each subscriber is written to
//! more often, for the same events. So whoever is nearer to the disk goes first, which is little work each time, and the sockets
//! are served with all there is: on one core 1,050 subscribers get more, up to twice as much.

/// For the one thread that commits: everybody who publishes waits for it.
pub(super) const WRITER: i32 = -10;

/// For the one that gives committed events to their subscribers.
pub(super) const LIVE: i32 = -5;

/// Has the calling thread, and those that it starts from here on, go before others as the [nice value](https://man7.org/linux/man-pages/man7/sched.7.html)
/// says. Where the system does not let this process do so (neither root nor `LimitNICE=`, `RLIMIT_NICE`) everything stays as it was.
pub(super) fn take(nice: i32) {
    // Elsewhere the value is that of the whole process.
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::setpriority_process(None, nice) {
        let thread = std::thread::current().name().unwrap_or_default().to_owned();
        tracing::debug!(thread, "no precedence: {error}; LimitNICE={} in the unit would allow it", WRITER);
    }
    #[cfg(not(target_os = "linux"))]
    let _ = nice;
}
