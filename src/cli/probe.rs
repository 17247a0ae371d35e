//! What can be found out about a machine from within: where a name leads, which addresses and ports are its own. Every look is
//! bounded in time.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs as _, UdpSocket};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::config::plain;

/// How long a name server or a peer may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// Does something that may hang, and gives up on it in time.
pub(super) fn within<T: Send + 'static>(span: Duration, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (done, result) = mpsc::channel();
    // A thread that hangs ends with the process.
    std::thread::Builder::new().name("probe".to_owned()).spawn(move || drop(done.send(work()))).ok()?;
    result.recv_timeout(span).ok()
}

/// The addresses that a name leads to, each once.
pub(super) fn resolve(name: &str) -> Result<Vec<IpAddr>, String> {
    let asked = name.to_owned();
    let found = within(PATIENCE, move || (asked.as_str(), 0).to_socket_addrs().map(Vec::from_iter));
    match found {
        None => Err(format!("no name server answers for {name} within {} seconds", PATIENCE.as_secs())),
        Some(Err(_)) => Err(format!("the name {name} leads nowhere")),
        Some(Ok(addresses)) => {
            let mut unique: Vec<IpAddr> = Vec::new();
            for address in addresses {
                if !unique.contains(&address.ip()) {
                    unique.push(address.ip());
                }
            }
            if unique.is_empty() { Err(format!("the name {name} leads nowhere")) } else { Ok(unique) }
        }
    }
}

/// Whether this machine has the address: only then can a socket be bound to it.
pub(super) fn is_own(address: IpAddr) -> bool {
    UdpSocket::bind((address, 0)).is_ok()
}

/// What stands at a port of this machine.
pub(super) enum Port {
    /// Nobody listens.
    Free(TcpListener),
    /// Somebody does.
    Taken,
    /// It cannot be looked at: why.
    Closed(String),
}

/// Looks at a port, on all IPv4 addresses of this machine.
pub(super) fn port(number: u16) -> Port {
    match TcpListener::bind((Ipv4Addr::UNSPECIFIED, number)) {
        Ok(listener) => Port::Free(listener),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Port::Taken,
        Err(error) => Port::Closed(plain(&error)),
    }
}

/// Whether a connection to this address arrives at the listener. A refusal, and silence, are told in words.
pub(super) fn arrives(at: SocketAddr, listener: &TcpListener) -> Result<(), String> {
    let stream = TcpStream::connect_timeout(&at, PATIENCE)
        .map_err(|error| format!("{at} cannot be reached from here: {}", plain(&error)))?;
    let own = stream.local_addr().map_err(|error| plain(&error))?;
    listener.set_nonblocking(true).map_err(|error| plain(&error))?;
    let began = Instant::now();
    while began.elapsed() < PATIENCE {
        match listener.accept() {
            // Behind a router that turns addresses around, the port is what is left of the connection.
            Ok((_, peer)) if peer.port() == own.port() || !is_own(at.ip()) => return Ok(()),
            Ok(_) => {}
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
    Err(format!("somebody answers at {at}, but not this machine"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_addresses_are_looked_up() {
        assert!(resolve("localhost").unwrap().iter().all(|address| address.is_loopback() && is_own(*address)));
        assert!(resolve("no-such-name.invalid").unwrap_err().contains("no-such-name.invalid"));
        // An address for documentation: nobody has it.
        assert!(!is_own("192.0.2.1".parse().unwrap()));
        assert_eq!(within(Duration::from_millis(10), || std::thread::sleep(PATIENCE)), None);
    }

    #[test]
    fn a_connection_is_known_by_whoever_accepts_it() {
        let here = TcpListener::bind("127.0.0.1:0").unwrap();
        let there = TcpListener::bind("127.0.0.1:0").unwrap();
        assert_eq!(arrives(here.local_addr().unwrap(), &here), Ok(()));
        let error = arrives(there.local_addr().unwrap(), &here).unwrap_err();
        assert!(error.contains("but not this machine"), "{error}");
        let nobody = { TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap() };
        assert!(arrives(nobody, &here).unwrap_err().contains("cannot be reached"));
        assert!(matches!(port(there.local_addr().unwrap().port()), Port::Taken));
    }
}
