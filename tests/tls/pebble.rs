//! Pebble, a certificate authority for tests, and the names that it looks up: every name is this machine.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::json;
use tempfile::TempDir;
use tokio_rustls::rustls::ClientConfig;

use crate::wire::eventually;
use crate::wire::process::is_installed;
use crate::wire::tls::{Authority, client_config, try_shake_hands, write_at_once};

/// Whether it is installed.
pub fn is_here() -> bool {
    is_installed("pebble", "-h")
}

/// A port of this machine that nobody uses, below those that systems give out by themselves.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    loop {
        // Processes of tests that run at the same time begin elsewhere.
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = 11_000 + (std::process::id() as u16).wrapping_mul(37).wrapping_add(step) % 20_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Where pebble is, what it trusts, and where it looks for proof.
pub struct Setting {
    folder: TempDir,
    port: u16,
    management: u16,
    /// Where it looks for proof over HTTP and over TLS.
    pub http: u16,
    pub tls: u16,
    /// How long its certificates live, in seconds.
    pub life: u64,
    /// Names that it refuses.
    pub blocked: Vec<String>,
    pub environment: Vec<(String, String)>,
    /// Signs its own certificate.
    authority: Authority,
}

impl Setting {
    pub fn new() -> Setting {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::new();
        let (certificate, key) = authority.issue(&["localhost"]);
        write_at_once(&folder.path().join("pebble.pem"), &certificate);
        write_at_once(&folder.path().join("pebble.key"), &key);
        authority.write_certificate(folder.path());
        Setting {
            folder,
            port: free_port(),
            management: free_port(),
            http: free_port(),
            tls: free_port(),
            life: 90 * 86_400,
            blocked: Vec::new(),
            environment: vec![("PEBBLE_WFE_NONCEREJECT".into(), "0".into()), ("PEBBLE_AUTHZREUSE".into(), "0".into())],
            authority,
        }
    }

    pub fn directory(&self) -> String {
        format!("https://localhost:{}/dir", self.port)
    }

    /// Trusted by who asks it.
    pub fn authority_file(&self) -> PathBuf {
        self.folder.path().join("authority.pem")
    }

    /// Starts it and waits until it answers.
    pub fn start(&self) -> Pebble {
        let names = names();
        let config = json!({"pebble": {
            "listenAddress": format!("127.0.0.1:{}", self.port),
            "managementListenAddress": format!("127.0.0.1:{}", self.management),
            "certificate": self.folder.path().join("pebble.pem"),
            "privateKey": self.folder.path().join("pebble.key"),
            "httpPort": self.http,
            "tlsPort": self.tls,
            "domainBlocklist": self.blocked,
            "certificateValidityPeriod": self.life,
        }});
        let path = self.folder.path().join("pebble.json");
        std::fs::write(&path, config.to_string()).unwrap();
        let mut command = Command::new("pebble");
        command.arg("-config").arg(&path).args(["-dnsserver", &names.to_string()]).env("PEBBLE_VA_NOSLEEP", "1");
        command.envs(self.environment.iter().cloned()).stdin(Stdio::null()).stderr(Stdio::null());
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let said = Arc::new(Mutex::new(Vec::new()));
        let (lines, log) = (BufReader::new(child.stdout.take().unwrap()).lines(), Arc::clone(&said));
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(|line| log.lock().unwrap().push(line)));
        let pebble = Pebble {
            child,
            said,
            management: ([127, 0, 0, 1], self.management).into(),
            client: client_config(&self.authority.certificate, &["http/1.1"]),
        };
        let acme = SocketAddr::from(([127, 0, 0, 1], self.port));
        eventually("pebble answers", || {
            let answers = |address| try_shake_hands(&pebble.client, address, "localhost").is_ok();
            answers(acme) && answers(pebble.management)
        });
        pebble
    }
}

/// Pebble, running; ended when it is dropped.
pub struct Pebble {
    child: Child,
    said: Arc<Mutex<Vec<String>>>,
    management: SocketAddr,
    client: Arc<ClientConfig>,
}

impl Pebble {
    /// The certificate that all of its certificates lead to; another one after every start.
    pub fn root(&self) -> String {
        let mut stream = try_shake_hands(&self.client, self.management, "localhost").unwrap();
        stream.write_all(b"GET /roots/0 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer[answer.find("-----BEGIN").unwrap()..].to_owned()
    }

    /// How many lines of its log have these words.
    pub fn said(&self, words: &str) -> usize {
        self.said.lock().unwrap().iter().filter(|line| line.contains(words)).count()
    }

    /// Orders that were placed.
    pub fn orders(&self) -> usize {
        self.said("Added order")
    }
}

impl Drop for Pebble {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A name server for which every name is 127.0.0.1, to the end of the process.
fn names() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut query = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut query) {
            if let Some(answer) = answer(&query[..length]) {
                let _ = socket.send_to(&answer, from);
            }
        }
    });
    address
}

/// The answer to a query with one question (RFC 1035): an address for those who ask for one over IPv4, and nothing else.
fn answer(query: &[u8]) -> Option<Vec<u8>> {
    let name_end = 12 + query.get(12..)?.iter().position(|byte| *byte == 0)?;
    let question = query.get(12..name_end + 5)?;
    let is_a = question[question.len() - 4..] == [0, 1, 0, 1];
    let mut answer = query[..2].to_vec();
    answer.extend([0x81, 0x80, 0, 1, 0, u8::from(is_a), 0, 0, 0, 0]);
    answer.extend(question);
    if is_a {
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 127, 0, 0, 1]);
    }
    Some(answer)
}
