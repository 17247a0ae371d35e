//! Every setting, defined once: name, type, default, meaning and range. The structs, the commented default file, the
//! names of the environment variables and the errors all come from the list in this file.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use super::address::{Address, AddressSource, Network};
use super::hosts::{AddressesOrNone, Email, HostNames, OptionalFile};
use super::log::{LogFormat, LogLevel};
use super::picture::{Picture, PictureFile};
use super::rates::{KindRate, KindRates};
use super::retention::{KindRange, KindRanges, OptionalFolder, RetentionRule, RetentionRules, protected_kinds};
use super::rules::{
    Addresses, Choice, Fault, Folder, GIB, KIB, Key, Keys, MIB, Mode, Names, Networks, Raw, Rule, Secret, Switch, TIB,
    Text, Url, Urls, bytes, count, seconds,
};
use crate::nostr::PublicKey;

/// One section of the file: `[limits]`.
pub(super) struct Section {
    pub(super) name: &'static str,
    pub(super) doc: &'static [&'static str],
    pub(super) settings: &'static [Setting],
}

/// One setting of a section.
pub(super) struct Setting {
    pub(super) name: &'static str,
    pub(super) doc: &'static [&'static str],
    /// What it may hold, to follow "must be".
    pub(super) expects: fn() -> String,
    /// The value that a configuration holds, as TOML.
    pub(super) show: fn(&Config) -> String,
    /// Reads a value into a configuration.
    pub(super) read: fn(&Raw<'_>, &mut Config) -> Result<(), Fault>,
    /// Takes the value of another configuration over.
    pub(super) take: fn(&Config, &mut Config),
    /// Its value is nobody's business.
    pub(super) is_secret: fn() -> bool,
    /// When a change of it is in force.
    pub(super) effect: Effect,
}

/// When the change of a setting is in force in a running relay that reads its configuration again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// At once, for everybody.
    Now,
    /// For those who connect from then on.
    NewConnections,
    /// After a restart.
    Restart,
}

/// The name of the environment variable for a setting: `RATITE_LIMITS_MAX_LIMIT`.
pub(super) fn variable(section: &str, setting: &str) -> String {
    format!("RATITE_{section}_{setting}").to_uppercase()
}

macro_rules! settings {
    ($(
        $(#[doc = $section_doc:literal])+
        $section:ident: $Section:ident {
            $( $(#[doc = $doc:literal])+ $name:ident: $type:ty = $default:expr, $rule:expr $(, $effect:ident)?; )+
        }
    )+) => {
        /// The whole configuration. [`Config::default`] is what a relay runs with when nothing is configured.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct Config {
            $( $(#[doc = $section_doc])+ pub $section: $Section, )+
        }

        $(
            $(#[doc = $section_doc])+
            #[derive(Clone, Debug, PartialEq, Eq)]
            pub struct $Section {
                $( $(#[doc = $doc])+ pub $name: $type, )+
            }

            impl Default for $Section {
                fn default() -> Self {
                    $Section { $( $name: $default, )+ }
                }
            }
        )+

        /// Every section with its settings, in the order of the file.
        pub(super) const SECTIONS: &[Section] = &[$(
            Section {
                name: stringify!($section),
                doc: &[$($section_doc),+],
                settings: &[$(
                    Setting {
                        name: stringify!($name),
                        doc: &[$($doc),+],
                        expects: || Rule::<$type>::expects(&$rule),
                        show: |config| Rule::<$type>::show(&$rule, &config.$section.$name),
                        read: |raw, config| {
                            config.$section.$name = Rule::<$type>::read(&$rule, raw)?;
                            Ok(())
                        },
                        take: |from, to| to.$section.$name.clone_from(&from.$section.$name),
                        is_secret: || Rule::<$type>::is_secret(&$rule),
                        // What says nothing needs a restart.
                        effect: [$(Effect::$effect,)? Effect::Restart][0],
                    },
                )+],
            },
        )+];
    };
}

/// This machine itself.
fn loopback() -> Vec<Network> {
    [(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0)), 8), (IpAddr::V6(Ipv6Addr::LOCALHOST), 128)]
        .into_iter()
        .filter_map(|(address, prefix)| Network::new(address, prefix))
        .collect()
}

/// This port of every address that this machine has.
fn any(port: u16) -> Vec<Address> {
    vec![(Ipv4Addr::UNSPECIFIED, port).into(), (Ipv6Addr::UNSPECIFIED, port).into()]
}

// Behind the rule stands when a change is in force: `Now`, `NewConnections`, or nothing when it takes a restart.
settings! {
    /// What the relay says about itself: to clients (NIP-11) and on its page in a browser.
    info: Info {
        /// The name of the relay. Clients have room for about 30 characters.
        name: String = "ratite relay".to_owned(), Text(100), Now;
        /// What the relay is for, in plain text. Two line ends begin a new paragraph.
        description: String = String::new(), Text(5_000), Now;
        /// The address under which clients reach the relay, such as "wss://relay.example.org". Needed when they come
        /// through a proxy or under a name of your own.
        url: String = String::new(), Url(&["wss://", "ws://"]), Now;
        /// Further addresses under which clients reach it, such as one in Tor. Clients authenticate for one of these, for url or
        /// for one of tls.names; while none is set, for the name that a trusted proxy was asked for, or the address and port that
        /// the relay listens on. Set url when your proxy answers for any name.
        other_urls: Vec<String> = Vec::new(), Urls(&["wss://", "ws://"]), Now;
        /// Names of people here, each with its key: with "alice=npub1…", alice@ and the relay's host name leads to that key
        /// (NIP-05). The name _ stands for the host alone.
        names: Vec<(String, PublicKey)> = Vec::new(), Names, Now;
        /// The public key of the administrator.
        pubkey: Option<PublicKey> = None, Key, Now;
        /// How to reach the administrator: "mailto:you@example.org" or an https address.
        contact: String = String::new(), Text(500), Now;
        /// Address of a square picture.
        icon: String = String::new(), Url(&["https://", "http://"]), Now;
        /// Address of a wide picture.
        banner: String = String::new(), Url(&["https://", "http://"]), Now;
        /// A square picture of your own, which the relay serves at /icon. Its page shows it, and when icon is not set, clients are told
        /// that address. It is read together with the configuration.
        icon_file: Option<Picture> = None, PictureFile, Now;
        /// A wide picture of your own, in the same way at /banner.
        banner_file: Option<Picture> = None, PictureFile, Now;
        /// Address of the terms of service.
        terms_of_service: String = String::new(), Url(&["https://", "http://"]), Now;
        /// Address of the privacy policy.
        privacy_policy: String = String::new(), Url(&["https://", "http://"]), Now;
    }

    /// Where the relay listens and how it treats connections. Memory is about max_connections × what a connection
    /// needs, at worst outbox_bytes for each peer that reads too slowly.
    listen: Listen {
        /// The addresses to listen on. 127.0.0.1 can be reached from this machine only, 0.0.0.0 from everywhere (over IPv6 it
        /// is two colons in brackets), unix:/run/ratite.sock by those who may open that file. Sockets that systemd passes are
        /// listened on as well; when this setting is left at its default, they take its place.
        addresses: Vec<Address> = vec![(Ipv4Addr::LOCALHOST, 7777).into()], Addresses;
        /// The permissions of Unix sockets: who may connect. 660 is the user and the group of the relay.
        unix_mode: u32 = 0o660, Mode;
        /// Proxies in front of the relay, as addresses or networks; "none" for none. Only what comes from them is asked for the
        /// address of the client it was made for. Whoever connects through a Unix socket counts as one of them.
        trusted_proxies: Vec<Network> = loopback(), Networks, NewConnections;
        /// Where these proxies write the address of their client. With several addresses the last one that is not itself a
        /// trusted proxy counts. Name what your proxy really sets: any other header comes from the client as it likes.
        client_address_from: AddressSource = AddressSource::XForwardedFor, Choice(&AddressSource::NAMES), NewConnections;
        /// How many connections may be open at once; further ones are turned away.
        max_connections: usize = 10_000, count(1..=1_000_000), Now;
        /// How long a peer may take to send its HTTP request, the handshake of TLS included.
        header_timeout: u64 = 10, seconds(1..=300), NewConnections;
        /// How often an open connection is sent a ping. Many proxies close connections that are silent for a minute.
        ping_interval: u64 = 50, seconds(5..=3_600), Now;
        /// A connection that leaves a ping unanswered for this long is closed.
        ping_timeout: u64 = 25, seconds(1..=3_600), Now;
        /// How much may wait to be sent to one connection; a peer that lets more pile up is disconnected. At least twice
        /// limits.max_message_length. Over TLS 64 KiB more may be encrypted already.
        outbox_bytes: usize = 2 * 1024 * 1024, bytes(64 * KIB..=GIB), NewConnections;
        /// Whether messages are compressed for clients that ask for it (permessage-deflate). Saves about a third of the bytes.
        /// Live events are compressed once for all; long answers cost several times the CPU time, so they are compressed only
        /// while nobody else waits.
        compression: bool = true, Switch, NewConnections;
        /// Addresses on which monitors get figures (Prometheus, at /metrics) and the relay's health, such as "127.0.0.1:9777"; "none"
        /// for none. Everybody who can reach them can read them, unless metrics_token is set.
        metrics: Vec<Address> = Vec::new(), AddressesOrNone;
        /// A secret that monitors have to show, as "Authorization: Bearer" and the secret. When it is set, /metrics is served
        /// on the addresses for clients as well.
        metrics_token: String = String::new(), Secret(200), Now;
        /// How long a relay that was asked to hand over (`ratite drain`) lets its clients stay before it begins to send them away.
        drain_wait: u64 = 60, seconds(1..=86_400).or_zero("at once"), Now;
        /// Over how long it then spreads their leaving, so that not all of them knock at the next relay at the same moment.
        drain_spread: u64 = 300, seconds(1..=86_400).or_zero("at once"), Now;
    }

    /// wss:// without a proxy. With names and an e-mail address the relay gets its certificate itself, from Let's Encrypt, and
    /// renews it; or it uses the certificate in your files. With neither, TLS is off.
    tls: Tls {
        /// The names of this relay, such as "relay.example.org". They must lead to this machine, and ports 443 and 80 must reach
        /// it from everywhere.
        names: Vec<String> = Vec::new(), HostNames, Now;
        /// Your e-mail address, for the certificate authority. Setting it means that you agree to its terms: those of Let's
        /// Encrypt are at letsencrypt.org/repository.
        email: String = String::new(), Email, Now;
        /// A certificate of your own, with those that it is signed by behind it, as PEM. Read again when it changes.
        certificate: Option<PathBuf> = None, OptionalFile, Now;
        /// Its private key, as PEM. Both may stand in one file.
        key: Option<PathBuf> = None, OptionalFile, Now;
        /// The addresses on which TLS is spoken. Those of listen.addresses stay without.
        listen: Vec<Address> = any(443), Addresses;
        /// Where plain HTTP is answered with a redirect to https, and where the certificate authority looks for proof; "none" for
        /// nowhere.
        http_listen: Vec<Address> = any(80), AddressesOrNone;
        /// The certificate authority to ask: where its ACME service (RFC 8555) begins.
        acme_directory: String = "https://acme-v02.api.letsencrypt.org/directory".to_owned(), Url(&["https://"]), Now;
        /// Certificates to trust when talking to it, as PEM, beside those that everybody trusts. For an authority of your own.
        acme_ca: Option<PathBuf> = None, OptionalFile, Now;
    }

    /// How much one address may do, so that one peer cannot take the relay from all others. An address is an IPv4 address or an
    /// IPv6 network of 64 bits, which is what one customer gets. Rates are per minute, and as much may come at once. Who asks
    /// for more is told so ("rate-limited:"); who goes on all the same is shut out for a while.
    rates: Rates {
        /// Addresses and networks without these limits; "none" for none.
        exempt: Vec<Network> = loopback(), Networks, NewConnections;
        /// Connections that one address may hold open. Many people can share one address.
        connections: u32 = 200, count(1..=1_000_000).or_off(), Now;
        /// New connections from one address in a minute.
        new_connections: u32 = 300, count(1..=1_000_000).or_off(), Now;
        /// Messages of any kind from one address in a minute.
        messages: u32 = 6_000, count(1..=100_000_000).or_off(), Now;
        /// Bytes of messages from one address in a minute. At least limits.max_message_length.
        message_bytes: u64 = 64 * 1024 * 1024, bytes(4 * KIB..=64 * GIB).or_off(), Now;
        /// Events from one address in a minute, AUTH among them.
        events: u32 = 600, count(1..=100_000_000).or_off(), Now;
        /// Questions (REQ) from one address in a minute. Clients begin with 20 to 50.
        reqs: u32 = 1_200, count(1..=100_000_000).or_off(), Now;
        /// Counts (COUNT) from one address in a minute.
        counts: u32 = 300, count(1..=100_000_000).or_off(), Now;
        /// Events of one author in a minute, whatever address they come from.
        events_per_author: u32 = 300, count(1..=100_000_000).or_off(), Now;
        /// The same for kinds that need a rate of their own, as "kind=rate" or "from-to=rate"; the first that fits counts, and 0
        /// is no limit.
        events_per_author_by_kind: Vec<KindRate> = vec![KindRate::EPHEMERAL], KindRates, Now;
        /// How long an address that goes on in spite of its limits may not connect. Every further time it is twice as long.
        penalty: u64 = 10, seconds(1..=86_400).or_off(), Now;
        /// The longest that it grows to.
        max_penalty: u64 = 3_600, seconds(1..=2_592_000), Now;
        /// How many addresses and how many authors are remembered at once. At the bound the most harmless are forgotten. An
        /// address takes at most 200 bytes, an author 70.
        remembered: usize = 50_000, count(1_000..=10_000_000), Now;
    }

    /// Where events are kept.
    storage: Storage {
        /// The folder that holds the database; created when missing. A relative path begins where the relay is started.
        path: PathBuf = PathBuf::from("./ratite-data"), Folder;
        /// The most that the database may ever take. This reserves addresses, not disk or memory; only small or
        /// restricted machines need less.
        map_size: u64 = TIB, bytes(16 * MIB..=64 * TIB);
        /// How much may wait for its signature check and for the disk before publishers have to wait. At least twice
        /// limits.max_message_length.
        queue_bytes: usize = 32 * 1024 * 1024, bytes(MIB..=16 * GIB);
        /// How much memory the texts of events may take that are asked for again and again, such as the newest notes.
        kept_texts_bytes: usize = 16 * 1024 * 1024, bytes(64 * KIB..=16 * GIB);
    }

    /// How long events are kept, and how large the database may become. What has expired or was deleted by its author goes
    /// anyway. `ratite prune --dry-run` shows what would go.
    retention: Retention {
        /// Which events are kept how long: before the colon kinds, people or both, behind it a time, a number of events per author,
        /// both ("90d and 500 per author") or "forever". The first rule that fits counts, and what fits none is kept. People are:
        /// owner (info.pubkey and policy.admins), listed (people, info.names, and the list of allowed keys), authenticated (who has
        /// published an event here while logged in with its key) and others. "all" is everything.
        rules: Vec<RetentionRule> = Vec::new(), RetentionRules, Now;
        /// Kinds that no rule and no max_size removes: profiles, contacts, lists of relays and whatever else people have one of,
        /// requests to delete and to vanish.
        protected_kinds: Vec<KindRange> = protected_kinds(), KindRanges, Now;
        /// The public keys of people whose events you care about.
        people: Vec<PublicKey> = Vec::new(), Keys, Now;
        /// The most that the database is to hold. Free pages within its file do not count: they are used again before the file
        /// grows. When it is nearly reached, the oldest events go, those of others first, then of the authenticated, then of the
        /// listed; never the owner's. When nothing is left that may go, events are refused.
        max_size: u64 = 0, bytes(16 * MIB..=64 * TIB).or_off(), Now;
        /// At how many percent of max_size that begins.
        high_water: u8 = 95, count(2..=100), Now;
        /// And at how many it ends.
        low_water: u8 = 90, count(1..=99), Now;
        /// How often the rules are applied. max_size is looked after all the time.
        interval: u64 = 3_600, seconds(60..=2_592_000), Now;
        /// Whether a running relay removes anything by itself. When this is off it only counts what would go, for `ratite info`, and
        /// `ratite prune` removes it.
        apply: bool = true, Switch, Now;
    }

    /// Backups that a running relay makes by itself, each checked after it was written. `ratite restore` brings one back.
    backup: Backup {
        /// The folder to write them to; without one there are none. Best on another disk. It is created when it is missing.
        folder: Option<PathBuf> = None, OptionalFolder, Now;
        /// How often.
        interval: u64 = 86_400, seconds(60..=31_536_000), Now;
        /// How many are kept; with a further one the oldest goes.
        keep: u32 = 7, count(1..=10_000), Now;
    }

    /// What clients may ask for and send. The relay tells clients these limits (NIP-11).
    limits: Limits {
        /// The longest message a client may send, in bytes.
        max_message_length: usize = 131_072, bytes(4 * KIB..=64 * MIB), NewConnections;
        /// How many subscriptions one connection may hold open.
        max_subscriptions: usize = 100, count(1..=100_000), Now;
        /// How many filters one subscription may have.
        max_filters: usize = 20, count(1..=10_000), Now;
        /// How much memory the filters of one connection may take, those of its subscriptions and of its waiting questions
        /// together: a filter of 1,000 authors takes about 80 kB.
        max_filter_bytes: usize = 4 * 1024 * 1024, bytes(64 * KIB..=GIB);
        /// The same for all connections together. Each has 16 KiB of its own, whatever others take, and the connections of one
        /// address get a quarter of the rest at most.
        max_filter_bytes_total: usize = 128 * 1024 * 1024, bytes(MIB..=1024 * GIB);
        /// The most stored events that one filter returns, whatever limit it asks for.
        max_limit: u64 = 5_000, count(1..=1_000_000), Now;
        /// How many stored events a filter returns that asks for no limit. When this is not set and max_limit is
        /// smaller, max_limit counts.
        default_limit: u64 = 500, count(1..=1_000_000), Now;
        /// The longest subscription id, in characters. NIP-01 promises clients 64 and allows no more.
        max_subid_length: usize = 64, count(64..=64), Now;
        /// The most tags an event may have.
        max_event_tags: usize = 5_000, count(1..=100_000), Now;
        /// The longest content of an event, in characters.
        max_content_length: usize = 65_536, count(1..=67_108_864), Now;
        /// How old an event may be when it is published.
        created_at_lower_limit: u64 = 0, seconds(1..=3_155_760_000).or_off(), Now;
        /// How far in the future an event may be dated when it is published.
        created_at_upper_limit: u64 = 900, seconds(1..=3_155_760_000).or_off(), Now;
        /// How many index entries one question may make the relay look at before it is refused as too expensive.
        max_scan_keys: u64 = 10_000_000, count(1_000..=1_000_000_000_000), Now;
    }

    /// Who may read what, and who may write what.
    policy: Policy {
        /// The public keys of those who may manage the relay while it runs (NIP-86): ban and allow keys, events and kinds,
        /// change its name.
        admins: Vec<PublicKey> = Vec::new(), Keys, Now;
        /// Whether clients can authenticate (NIP-42). They are sent a challenge at once when info.url or info.other_urls is
        /// set, and otherwise when they ask for something that needs it. Without it nobody can read private messages or
        /// publish protected events.
        auth: bool = true, Switch, NewConnections;
        /// Whether private messages (kinds 4, 13, 14, 15, 444, 1059 and 21059) are given only to those they concern. When
        /// this is off, everybody can see who gets messages, and when.
        guard_private: bool = true, Switch, NewConnections;
        /// Whether to take the layers of a private message (kinds 13, 14, 15 and 444) by themselves. They are meant to
        /// travel inside a gift wrap only; a client that publishes them has gone wrong.
        accept_unwrapped: bool = false, Switch, Now;
        /// Whether deletion requests delete (NIP-09). When this is off they are kept like any other event; what was deleted before
        /// stays deleted.
        deletion_requests: bool = true, Switch, Now;
        /// Whether requests to vanish are obeyed (NIP-62). When this is off they are refused; who has vanished before stays so.
        requests_to_vanish: bool = true, Switch, Now;
        /// Whether an event ends when its expiration tag says so (NIP-40). When this is off the tag means nothing; what is over
        /// by then goes when it is on again.
        expiration: bool = true, Switch, Now;
        /// Whether events that are marked as protected are taken from nobody but their author, and reposts of them from nobody
        /// (NIP-70). When this is off the mark means nothing.
        protected_events: bool = true, Switch, Now;
        /// Whether COUNT is answered (NIP-45).
        count: bool = true, Switch, Now;
        /// Whether the end of stored events says so when nothing was left out (NIP-67). Two widespread client libraries do not
        /// understand it, and wait.
        eose_hints: bool = false, Switch, Now;
        /// How much proof of work an event must show, in leading zero bits of its id (NIP-13).
        min_pow_difficulty: u8 = 0, count(1..=255).or_off(), Now;
    }

    /// Members, and invite codes with which people become members by themselves (NIP-43). `ratite admin` makes codes and lists
    /// members; clients that speak NIP-86 do the same for the keys in policy.admins, who belong to the relay without being listed.
    membership: Membership {
        /// Whether the relay has members. It publishes who they are, signed with a key of its own, which is made for that: `ratite
        /// key` shows it. The list of allowed keys is then the list of members.
        enabled: bool = false, Switch, Now;
        /// Whether only members may publish. Private messages to members are taken from everybody.
        restrict_writes: bool = true, Switch, Now;
        /// Whether only members may read. With both, clients have to authenticate before anything else.
        restrict_reads: bool = false, Switch, Now;
        /// How many invite codes that nobody has used yet a member may have. Members ask the relay for them with their client.
        invites_per_member: u32 = 0, count(1..=1_000).or_zero("codes from administrators only"), Now;
        /// How long such a code is good for. It admits one person.
        invite_lifetime: u64 = 7 * 86_400, seconds(60..=315_360_000), Now;
    }

    /// What the relay writes to its standard error. A line that would come again and again is left out after a while, and how often
    /// is said instead.
    log: Log {
        /// How lines look: "text" for people, "journal" for systemd's journal, "json" for machines; "auto" is "journal" where that
        /// reads them and "text" elsewhere.
        format: LogFormat = LogFormat::Auto, Choice(&LogFormat::NAMES);
        /// Which lines are written. Addresses of clients and what they send stand in none above "debug". `--verbose` is "debug", and
        /// the variable RUST_LOG counts more than both.
        level: LogLevel = LogLevel::Info, Choice(&LogLevel::NAMES);
    }
}
