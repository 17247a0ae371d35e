//! `ratite` and `ratite relay`: serve.

use clap::Args;

use super::failure::{CLEAN, Outcome};
use super::globals::Globals;
use super::output::print;
use super::{log, restart};
use crate::config::{Address, Config, LogFormat, LogLevel};
use crate::server::{self, Listening, Neighbour};

/// Serve: run the relay
#[derive(Args, Debug, Default)]
#[command(
    long_about = "Run the relay until Ctrl-C, SIGTERM, or the end of the terminal that it was started in (SIGHUP; with `nohup` it stays). It \
        then finishes what it accepted, within five seconds; a second signal, a second later or more, ends it at once. A relay \
        without a terminal, as a service has none, reads its configuration again on SIGHUP. This is also what `ratite` without a command does.\n\n\
        Nothing has to be configured: the data folder is created when it is missing. `ratite config` prints every \
        setting.",
    after_help = "\
Examples:
  ratite
  ratite relay --listen 0.0.0.0:7777 --listen '[::]:7777'
  ratite --data /srv/nostr relay"
)]
pub(super) struct RelayArgs {
    /// Listen on this address, such as 127.0.0.1:7777, [::]:7777 or unix:/run/ratite.sock; may be repeated
    #[arg(long, value_name = "ADDR", value_parser = parse_address)]
    pub(super) listen: Vec<Address>,
    /// How log lines look: auto, text, journal or json
    #[arg(long, value_name = "FORMAT", value_parser = parse_log_format)]
    pub(super) log_format: Option<LogFormat>,
    /// Come back when the relay listens, and leave it in a process of its own
    #[arg(long, hide = true)]
    pub(super) detach: bool,
}

fn parse_address(text: &str) -> Result<Address, String> {
    text.parse().map_err(|_| {
        "not an IP address with a port; write 127.0.0.1:7777 (this machine only), 0.0.0.0:7777 or [::]:7777 (everybody), or \
         unix:/run/ratite.sock"
            .to_owned()
    })
}

fn parse_log_format(text: &str) -> Result<LogFormat, String> {
    let found = LogFormat::NAMES.iter().find(|(name, _)| *name == text);
    found.map(|(_, format)| *format).ok_or_else(|| {
        let names: Vec<&str> = LogFormat::NAMES.iter().map(|(name, _)| *name).collect();
        format!("no format of log lines; there are {}", names.join(", "))
    })
}

pub(super) fn run(args: &RelayArgs, globals: &Globals) -> Outcome {
    let (loaded, source) = globals.load_for_relay(&args.listen)?;
    let config = loaded.config;
    let level = if globals.verbose { LogLevel::Debug } else { config.log.level };
    let _log = log::begin(level, true, args.log_format.unwrap_or(config.log.format));
    for warning in &loaded.warnings {
        tracing::warn!("configuration: {warning}");
    }
    if args.detach {
        return restart::detach(&config);
    }
    let greeting = Greeting::new(&config);
    server::run(config, source, &restart::successor(), |listening, beside| {
        // A closed standard output is no reason not to serve.
        let _ = print(&greeting.text(listening, beside));
    })?;
    Ok(CLEAN)
}

/// What a newcomer is told when the relay has started.
struct Greeting {
    program: String,
    url: String,
    data: String,
    data_is_default: bool,
}

impl Greeting {
    fn new(config: &Config) -> Greeting {
        Greeting {
            // As it was called: after `cargo run` it is not in the search path.
            program: std::env::args_os().next().map_or("ratite".into(), |name| name.to_string_lossy().into_owned()),
            url: config.url(),
            data: config.storage.path.display().to_string(),
            data_is_default: config.storage.path == Config::default().storage.path,
        }
    }

    fn text(&self, listening: &Listening, beside: &[Neighbour]) -> String {
        let written = |scheme, addresses: &[Address]| -> Vec<String> {
            let write = |address: &Address| match address {
                Address::Tcp(address) => format!("{scheme}://{address}"),
                Address::Unix(_) => address.to_string(),
            };
            addresses.iter().map(write).collect()
        };
        let places = [written("wss", &listening.tls), written("ws", &listening.plain)].concat();
        let first = |addresses: &[Address]| addresses.iter().find_map(Address::tcp);
        let http = written("http", &listening.http).join(" and ");
        let client = match first(&listening.plain) {
            _ if !self.url.is_empty() => self.url.clone(),
            _ if !listening.tls.is_empty() => "wss:// and the name in your certificate".to_owned(),
            Some(address) if address.ip().is_unspecified() => {
                format!("ws://<the address of this machine>:{}", address.port())
            }
            Some(address) => format!("ws://{address}"),
            None => "the address of your proxy".to_owned(),
        };
        let http = if http.is_empty() { http } else { format!("  http     {http} leads to https\n") };
        let program = &self.program;
        // Those that hand over already need not be asked.
        let older: Vec<String> =
            beside.iter().filter(|relay| !relay.hands_over).map(|relay| relay.pid.to_string()).collect();
        let flag = if self.data_is_default { String::new() } else { format!(" --data {}", self.data) };
        format!(
            "ratite {} is listening on {}\n  \
               client   add {client} to the relays of your Nostr client\n{http}  \
               data     {}\n  \
               import   {program}{flag} import FILE.jsonl   (in another terminal, while this one runs)\n  \
               config   {program} config   (prints every setting; nothing has to be set)\n  \
               stop     Ctrl-C\n{}",
            env!("CARGO_PKG_VERSION"),
            places.join(" and "),
            self.data,
            if older.is_empty() {
                String::new()
            } else {
                format!(
                    "  beside   process {}, which serves the same data; `{program}{flag} drain` has it hand its clients over\n",
                    older.join(", ")
                )
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on(addresses: &[&str]) -> Listening {
        let plain = addresses.iter().map(|address| address.parse().unwrap()).collect();
        Listening { plain, ..Listening::default() }
    }

    #[test]
    fn the_first_line_says_where_and_the_rest_what_to_do_next() {
        let mut config = Config::default();
        let text = Greeting::new(&config).text(&on(&["127.0.0.1:7777"]), &[]);
        assert!(text.starts_with("ratite "), "{text}");
        assert!(text.lines().next().unwrap().ends_with(" is listening on ws://127.0.0.1:7777"), "{text}");
        assert!(text.contains("add ws://127.0.0.1:7777 to the relays"), "{text}");
        assert!(text.contains("data     ./ratite-data\n"), "{text}");
        assert!(text.contains(" import FILE.jsonl"), "{text}");

        config.storage.path = "/srv/nostr".into();
        let text = Greeting::new(&config).text(&on(&["0.0.0.0:80", "[::]:80"]), &[]);
        assert!(text.contains("is listening on ws://0.0.0.0:80 and ws://[::]:80\n"), "{text}");
        assert!(text.contains("add ws://<the address of this machine>:80 to"), "{text}");
        assert!(text.contains(" --data /srv/nostr import"), "{text}");

        config.info.url = "wss://relay.example.org".to_owned();
        let text = Greeting::new(&config).text(&on(&["0.0.0.0:80"]), &[]);
        assert!(text.contains("add wss://relay.example.org to"), "{text}");

        config.info.url = String::new();
        let text = Greeting::new(&config).text(&on(&["unix:/run/ratite.sock"]), &[]);
        assert!(text.contains("is listening on unix:/run/ratite.sock\n"), "{text}");
        assert!(text.contains("add the address of your proxy to"), "{text}");
    }

    #[test]
    fn with_tls_the_first_line_says_wss() {
        let mut config = Config::default();
        config.tls.names = vec!["relay.example.org".into()];
        let mut listening = on(&["127.0.0.1:7777"]);
        listening.tls = on(&["0.0.0.0:443"]).plain;
        listening.http = on(&["0.0.0.0:80"]).plain;
        let text = Greeting::new(&config).text(&listening, &[]);
        assert!(
            text.lines().next().unwrap().ends_with(" is listening on wss://0.0.0.0:443 and ws://127.0.0.1:7777"),
            "{text}"
        );
        assert!(text.contains("\n  client   add wss://relay.example.org to the relays"), "{text}");
        assert!(text.contains("\n  http     http://0.0.0.0:80 leads to https\n  data "), "{text}");
        config.tls.names.clear();
        let text = Greeting::new(&config).text(&listening, &[]);
        assert!(text.contains("add wss:// and the name in your certificate to the relays"), "{text}");
    }
}
