//! Binding: every configured address or none, with words for what goes wrong; sockets passed by systemd; the limit of open
//! files.
//!
//! A TCP port is first taken for ourselves alone, so that a port in use is always noticed, and only then opened for
//! another relay beside us (`SO_REUSEPORT`, which on its own would share it in silence with any program of the same user).
//! Only with a relay over the same data, which the lock files in the data folder tell of, is it shared from the start.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::Path;

use listenfd::ListenFd;
use tokio::net::{TcpListener, TcpSocket, UnixListener};

use super::neighbours::Neighbour;
use super::socket::{BACKLOG, Listener, SocketFile, Speaks};
use super::successor::Passed;
use crate::config::{Address, Config};

/// Files the relay keeps open beside its connections: the database, listeners, standard streams, and some to spare.
const OTHER_FILES: u64 = 64;

/// An address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {}", advice(.source))]
pub struct BindError {
    /// As configured; for sockets of systemd, its name for them.
    pub address: String,
    source: io::Error,
}

fn advice(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::AddrInUse => "another program, or a ratite with another data folder, listens there; stop it or choose \
                                 another address with --listen or listen.addresses"
            .to_owned(),
        ErrorKind::AlreadyExists => "there is a file of that name which is no socket; remove it or choose another".to_owned(),
        ErrorKind::PermissionDenied => "not permitted; ports below 1024 need a privilege (CAP_NET_BIND_SERVICE), so \
                                        choose a higher port or put a proxy in front; for a Unix socket its folder must be \
                                        one that you may write to"
            .to_owned(),
        ErrorKind::NotFound => "there is no such folder; create it first".to_owned(),
        ErrorKind::AddrNotAvailable => "this machine has no such address; use 127.0.0.1 for this machine only, \
                                        0.0.0.0 or [::] for all of its addresses"
            .to_owned(),
        _ => error.to_string(),
    }
}

/// Binds all addresses, or none. `shared` are those that another relay over the same data listens on. Needs a tokio runtime
/// around it.
pub(super) fn bind(config: &Config, passed: Vec<Listener>, shared: &[Address]) -> Result<Vec<Listener>, BindError> {
    let mut listeners = passed;
    let has_tls = config.tls.source().is_some();
    if !has_tls {
        // Somebody may have named a socket like that for reasons of his own.
        listeners = listeners.into_iter().map(|listener| listener.speaking(Speaks::Plain)).collect();
    }
    let defaults = Config::default();
    let wanted = [
        (Speaks::Plain, &config.listen.addresses, &defaults.listen.addresses, true),
        (Speaks::Tls, &config.tls.listen, &defaults.tls.listen, has_tls),
        (Speaks::Redirect, &config.tls.http_listen, &defaults.tls.http_listen, has_tls),
    ];
    let was_passed: Vec<Speaks> = listeners.iter().map(|listener| listener.speaks).collect();
    for (speaks, addresses, default, is_wanted) in wanted {
        // What was passed takes the place of what nobody has asked for.
        if !is_wanted || was_passed.contains(&speaks) && addresses == default {
            continue;
        }
        for address in addresses {
            match bind_one(address, addresses, config.listen.unix_mode, shared.contains(address)) {
                Ok(listener) => listeners.push(listener.speaking(speaks)),
                Err(error) if is_without_v6(address, addresses, &error) => {
                    tracing::info!("this system has no IPv6, so {address} is not listened on");
                }
                Err(source) => return Err(BindError { address: address.to_string(), source }),
            }
        }
    }
    Ok(listeners)
}

/// Binds one of these addresses.
fn bind_one(address: &Address, beside: &[Address], unix_mode: u32, shared: bool) -> io::Result<Listener> {
    match address {
        Address::Tcp(tcp) => {
            // [::] alone takes IPv4 as well, on most systems; beside an IPv4 address of the same port it must not.
            let v6_only = tcp.is_ipv6() && has_v4(tcp, beside);
            bind_tcp(*tcp, v6_only, shared).and_then(Listener::tcp)
        }
        Address::Unix(path) => bind_unix(path, unix_mode, shared),
    }
}

/// Whether an IPv4 address of the same port is among these.
fn has_v4(address: &SocketAddr, among: &[Address]) -> bool {
    among.iter().filter_map(Address::tcp).any(|v4| v4.is_ipv4() && v4.port() == address.port())
}

/// Whether this is the usual pair, 0.0.0.0 and [::], on a machine that cannot have the second.
fn is_without_v6(address: &Address, beside: &[Address], error: &io::Error) -> bool {
    let is_missing = error.kind() == ErrorKind::AddrNotAvailable
        || error.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error());
    let is_any = |tcp: &SocketAddr| tcp.is_ipv6() && tcp.ip().is_unspecified() && has_v4(tcp, beside);
    is_missing && address.tcp().as_ref().is_some_and(is_any)
}

/// Binds the addresses on which figures are given out, or none. Beside a relay over the same data they are shared: it may listen there,
/// and gives them up when it hands over.
pub(super) fn bind_monitors(config: &Config, beside: &[Neighbour]) -> Result<Vec<Listener>, BindError> {
    let addresses = config.listen.metrics.iter();
    let bound = addresses.map(|address| {
        let bound = match address {
            Address::Tcp(tcp) => bind_tcp(*tcp, false, !beside.is_empty()).and_then(Listener::tcp),
            Address::Unix(path) => bind_unix(path, config.listen.unix_mode, !beside.is_empty()),
        };
        bound.map_err(|source| BindError { address: address.to_string(), source })
    });
    bound.collect()
}

/// The sockets that systemd opened for us (`LISTEN_FDS`), if it did, and what a successor needs to have them too. With TLS on, it is
/// spoken on those that are named `https` (`FileDescriptorName=`), and those that are named `http` lead there. Asking once is all: the
/// variables are then gone.
pub(super) fn passed_by_systemd() -> Result<(Vec<Listener>, Passed), BindError> {
    let all_names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let names: Vec<&str> = all_names.split(':').collect();
    let mut passed = ListenFd::from_env();
    let listeners: Vec<Listener> = (0..passed.len())
        .map(|i| {
            let name = names.get(i).copied().unwrap_or_default();
            let speaks = match name {
                "https" => Speaks::Tls,
                "http" => Speaks::Redirect,
                _ => Speaks::Plain,
            };
            take_passed(&mut passed, i).map(|listener| listener.speaking(speaks)).map_err(|source| {
                let name = if name.is_empty() { "socket" } else { name };
                BindError { address: format!("the {name} that systemd passed (number {i})"), source }
            })
        })
        .collect::<Result<_, _>>()?;
    let kept = Passed::keep(&listeners, all_names).unwrap_or_else(|error| {
        tracing::warn!("no successor can have the sockets that systemd passed: {error}");
        Passed::default()
    });
    Ok((listeners, kept))
}

fn take_passed(passed: &mut ListenFd, i: usize) -> io::Result<Listener> {
    if let Ok(Some(listener)) = passed.take_tcp_listener(i) {
        listener.set_nonblocking(true)?;
        return Listener::tcp(TcpListener::from_std(listener)?);
    }
    match passed.take_unix_listener(i) {
        Ok(Some(listener)) => {
            listener.set_nonblocking(true)?;
            let path = listener.local_addr()?.as_pathname().unwrap_or(Path::new("?")).to_owned();
            Ok(Listener::unix(UnixListener::from_std(listener)?, &path, None))
        }
        _ => Err(io::Error::new(
            ErrorKind::InvalidInput,
            "neither a listening TCP socket nor a listening Unix socket (ListenStream=) that no program has taken yet",
        )),
    }
}

fn bind_tcp(address: SocketAddr, v6_only: bool, shared: bool) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // A restart must not wait for connections of the last run to leave the kernel's tables.
    socket.set_reuseaddr(true)?;
    if v6_only {
        rustix::net::sockopt::set_ipv6_v6only(&socket, true)?;
    }
    if shared {
        socket.set_reuseport(true)?;
    }
    socket.bind(address)?;
    let listener = socket.listen(BACKLOG)?;
    if !shared {
        // From now on a successor may join. Where the system does not allow this so late, it cannot, and says so.
        let _ = rustix::net::sockopt::set_socket_reuseport(&listener, true);
    }
    Ok(listener)
}

/// Binds beside the path and moves the socket there, so that the path never leads to nothing and never with the wrong
/// permissions.
pub(super) fn bind_unix(path: &Path, mode: u32, shared: bool) -> io::Result<Listener> {
    match std::fs::symlink_metadata(path) {
        Ok(file) if !file.file_type().is_socket() => return Err(ErrorKind::AlreadyExists.into()),
        // A socket that nobody listens on was left behind and may be replaced.
        Ok(_) if !shared && somebody_listens(path)? => return Err(ErrorKind::AddrInUse.into()),
        _ => {}
    }
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}", std::process::id()));
    let beside = Path::new(&beside);
    let _ = std::fs::remove_file(beside);
    let listener = UnixListener::bind(beside)?;
    let moved = std::fs::set_permissions(beside, std::fs::Permissions::from_mode(mode))
        .and_then(|()| std::fs::rename(beside, path))
        .and_then(|()| SocketFile::at(path));
    match moved {
        Ok(file) => Ok(Listener::unix(listener, path, Some(file))),
        Err(error) => {
            let _ = std::fs::remove_file(beside);
            Err(error)
        }
    }
}

fn somebody_listens(path: &Path) -> io::Result<bool> {
    match UnixStream::connect(path) {
        Ok(_) => Ok(true),
        Err(error) if matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::NotFound) => Ok(false),
        // A full queue, or a socket of another type: somebody is there.
        Err(error) if error.kind() == ErrorKind::WouldBlock || error.raw_os_error().is_none() => Ok(true),
        Err(error) => Err(error),
    }
}

/// Asks the system for as many open files as `connections` and `spare` further ones need; most systems start a program with
/// 1,024 and allow it far more. When they do not, a line in the log says what will happen.
pub(super) fn raise_file_limit(connections: usize, spare: usize) {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let wanted = connections as u64 + spare as u64 + OTHER_FILES;
    let mut limit = getrlimit(Resource::Nofile);
    let allowed = limit.current.unwrap_or(u64::MAX);
    if allowed >= wanted {
        return;
    }
    let reachable = wanted.min(limit.maximum.unwrap_or(u64::MAX));
    limit.current = Some(reachable);
    let granted = if setrlimit(Resource::Nofile, limit).is_ok() { reachable } else { allowed };
    if granted < wanted {
        tracing::warn!(
            "the system allows {granted} open files, fewer than listen.max_connections = {connections} needs: raise the limit \
             (`ulimit -n {wanted}`, or LimitNOFILE={wanted} in a systemd unit), or lower the setting"
        );
    }
}
