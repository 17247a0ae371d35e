//! `ratite setup`: from nothing to a configured relay, in four questions.

use std::fs;
use std::io::{self, BufRead as _, IsTerminal as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;

use super::disk::free_bytes;
use super::failure::{CLEAN, Failure, Outcome};
use super::globals::Globals;
use super::output::print;
use super::probe::{self, Port};
use super::{install, text};
use crate::config::{self, Config, DEFAULT_FILE, SYSTEM_FILE};
use crate::nostr::{PublicKey, nip19};
use crate::relay::{Relay, Settings, admin};
use crate::store::Store;

/// Ask what matters, write the configuration, install the service
#[derive(Args, Debug)]
#[command(
    long_about = "Ask for what only you can know: the name of the relay with your e-mail address, your public key, whether everybody may \
        write, and how much disk it may use. Each answer is checked: whether the name leads to this machine, whether its ports \
        can be reached, whether the disk has the room. Then the configuration is written, with every other setting as a comment, and the \
        service installed if you like.\n\n\
        A configuration that is there is not replaced without asking, and a copy of it is kept. As root this sets up the service of \
        this machine (/etc/ratite/ratite.toml, /var/lib/ratite), as another user a relay in the current folder.",
    after_help = "\
Examples:
  ratite setup
  ratite setup --yes --name relay.example.org --email you@example.org --owner npub1… --max-disk 20GB --install

Exit codes: 0 done, 1 nothing was changed, or not everything could be done."
)]
pub(super) struct SetupArgs {
    /// The name of the relay, such as relay.example.org
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Your e-mail address, for the certificate; without it, a proxy of yours has to do TLS
    #[arg(long, value_name = "ADDRESS", requires = "name")]
    email: Option<String>,
    /// Your public key, as npub1… or hexadecimal
    #[arg(long, value_name = "NPUB")]
    owner: Option<String>,
    /// Only you and those whom you list may write; otherwise everybody
    #[arg(long)]
    listed: bool,
    /// How much disk the events may use, such as 20GB
    #[arg(long, value_name = "SIZE")]
    max_disk: Option<String>,
    /// Ask nothing: flags and defaults count
    #[arg(long, short)]
    yes: bool,
    /// Replace a configuration that is there; a copy is kept
    #[arg(long)]
    force: bool,
    /// Install and start the service as well, when nothing is asked
    #[arg(long)]
    install: bool,
}

/// What the relay is to be like.
#[derive(Debug, Default, PartialEq, Eq)]
struct Answers {
    name: Option<String>,
    email: Option<String>,
    owner: Option<PublicKey>,
    listed: bool,
    max_disk: Option<String>,
}

impl Answers {
    /// The settings that follow from them.
    fn settings(&self, data: Option<&Path>) -> Vec<(&'static str, String)> {
        let mut settings = Vec::new();
        match (&self.name, &self.email) {
            (Some(name), Some(email)) => {
                settings.push(("tls.names", name.clone()));
                settings.push(("tls.email", email.clone()));
            }
            (Some(name), None) => settings.push(("info.url", format!("wss://{name}"))),
            _ => {}
        }
        if let Some(owner) = &self.owner {
            settings.push(("info.pubkey", nip19::encode_npub(owner)));
            settings.push(("policy.admins", nip19::encode_npub(owner)));
        }
        if let Some(size) = &self.max_disk {
            settings.push(("retention.max_size", size.clone()));
        }
        if let Some(data) = data {
            settings.push(("storage.path", data.display().to_string()));
        }
        settings
    }
}

pub(super) fn run(args: &SetupArgs, globals: &Globals) -> Outcome {
    let asks = !args.yes;
    if asks && !(io::stdin().is_terminal() && io::stdout().is_terminal()) {
        return Err(Failure::new(
            "setup asks questions, but this is no terminal",
            "Give the answers as flags: ratite setup --yes --name relay.example.org --email you@example.org --owner npub1…",
        ));
    }
    let target = target(globals);
    let data = data_folder(globals, &target)?;
    let mut answers = Answers { listed: args.listed, ..Answers::default() };
    let shown = data.clone().unwrap_or_else(|| Config::default().storage.path);
    if asks {
        print(&format!(
            "This writes {} and asks four things. Enter takes what stands in brackets; Ctrl-C changes nothing.\n\n",
            target.display()
        ))?;
    }
    ask_name(args, asks, &mut answers)?;
    ask_owner(args, asks, &mut answers)?;
    ask_listed(args, asks, &mut answers)?;
    ask_disk(args, asks, &shown, &mut answers)?;

    let settings = answers.settings(data.as_deref());
    let settings: Vec<(&str, &str)> = settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let (file, config) = config::template_with(&settings)?;
    let as_service = match asks {
        true => install::is_possible() && is_yes("\nInstall the service, which starts with this machine?", true)?,
        false => args.install,
    };
    if as_service && !install::is_possible() {
        return Err(Failure::new(
            "the service cannot be installed: that takes root, and systemd",
            "Run this with sudo, or leave out --install; packaging/README.md tells of other ways.",
        ));
    }
    let may_replace = args.force || (asks && may_replace(&target)?);
    keep_copy(&target, may_replace)?;
    if as_service {
        install::prepare()?;
    }
    write(&target, &file)?;
    print(&format!("\nwritten: {}\n", target.display()))?;
    if answers.listed {
        allow_owner(&config, answers.owner)?;
    }
    if as_service {
        install::start()?;
        print("the service runs, and starts with this machine; `journalctl -u ratite -f` shows its log\n")?;
    }
    print(&next_steps(&target, &config, &answers, as_service))?;
    Ok(CLEAN)
}

/// The file to write: the one that is named; as root that of the service, else one in the current folder.
fn target(globals: &Globals) -> PathBuf {
    let named = globals.config.clone().or_else(|| std::env::var_os("RATITE_CONFIG").map(PathBuf::from));
    named.unwrap_or_else(|| if install::is_root() { SYSTEM_FILE } else { DEFAULT_FILE }.into())
}

/// Where the events go, when not to the default: where they are already, or the folder of the service.
fn data_folder(globals: &Globals, target: &Path) -> Result<Option<PathBuf>, Failure> {
    if globals.data.is_some() {
        return Ok(globals.data.clone());
    }
    if target.is_file()
        && let Ok(loaded) = globals.load_from(Some(target.to_owned()))
        && loaded.config.storage.path != Config::default().storage.path
    {
        return Ok(Some(loaded.config.storage.path));
    }
    Ok((target == Path::new(SYSTEM_FILE)).then(|| install::DATA.into()))
}

fn ask_name(args: &SetupArgs, asks: bool, answers: &mut Answers) -> Result<(), Failure> {
    if let Some(name) = &args.name {
        (answers.name, answers.email) = check_name(name, args.email.as_deref())
            .map_err(|problem| Failure::new(told(&problem), "Correct --name or --email."))?;
        return warn(&look_at_name(answers));
    }
    if !asks {
        return Ok(());
    }
    print(
        "1. The name of the relay, and your e-mail address for its certificate, such as\n   relay.example.org \
         you@example.org\n   The name alone if a proxy of yours does TLS; nothing for a relay of this machine only.\n",
    )?;
    loop {
        let answer = ask("   name and e-mail []: ")?;
        let mut words = answer.split([' ', ',']).filter(|word| !word.is_empty());
        let Some(name) = words.next() else { return Ok(()) };
        let email = words.next();
        if words.next().is_some() {
            print("   a name and an e-mail address, with a space between them\n")?;
            continue;
        }
        match check_name(name, email) {
            Err(problem) => print(&format!("   {}\n", told(&problem)))?,
            Ok((name, email)) => {
                (answers.name, answers.email) = (name, email);
                let problems = look_at_name(answers);
                warn(&problems)?;
                if problems.is_empty() || is_yes("   Take it all the same?", true)? {
                    return Ok(());
                }
            }
        }
    }
}

/// The name and the address as the configuration takes them.
fn check_name(name: &str, email: Option<&str>) -> Result<(Option<String>, Option<String>), config::ConfigError> {
    let name = name.trim_start_matches("wss://").trim_end_matches('/').to_lowercase();
    let url = format!("wss://{name}");
    // Without an address the name is checked as that of a certificate all the same.
    let tls = [("tls.names", name.as_str()), ("tls.email", email.unwrap_or("you@example.org")), ("info.url", &url)];
    config::template_with(&tls)?;
    Ok((Some(name), email.map(str::to_owned)))
}

/// What is wrong, for somebody who has given an answer and not a setting.
fn told(problem: &config::ConfigError) -> String {
    let text = problem.to_string();
    text.lines().map(|line| line.trim_start_matches("--set: ")).collect::<Vec<_>>().join("\n   ")
}

/// What stands between this name and a relay that everybody can reach.
fn look_at_name(answers: &Answers) -> Vec<String> {
    let Some(name) = &answers.name else { return Vec::new() };
    let addresses = match probe::resolve(name) {
        Ok(addresses) => addresses,
        Err(problem) => {
            return vec![format!("{problem}: set its address where you bought it, and wait until it is known")];
        }
    };
    let list: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    let mut problems = Vec::new();
    if !addresses.iter().any(|address| probe::is_own(*address)) {
        problems.push(format!(
            "{name} leads to {}, which is no address of this machine; that is right only behind a router that passes it on",
            list.join(" and ")
        ));
    }
    // With a proxy in front the ports are its own.
    for number in answers.email.iter().flat_map(|_| [443, 80]) {
        match probe::port(number) {
            Port::Taken => problems.push(format!(
                "port {number} is taken by another program (`ss -ltnp` shows which): stop it, or have it pass connections on"
            )),
            Port::Closed(why) => {
                if install::is_root() {
                    problems.push(format!("port {number} cannot be listened on: {why}"));
                }
            }
            Port::Free(listener) => {
                for address in &addresses {
                    if let Err(why) = probe::arrives((*address, number).into(), &listener) {
                        // The listener is IPv4's alone.
                        if address.is_ipv4() {
                            problems.push(format!("{why}; open port {number} in the firewall of this machine and its host"));
                        }
                    }
                }
            }
        }
    }
    problems
}

fn ask_owner(args: &SetupArgs, asks: bool, answers: &mut Answers) -> Result<(), Failure> {
    let parse = |text: &str| {
        nip19::parse_pubkey(text).map_err(|error| format!("this is not a public key: {error}; it begins with npub1"))
    };
    if let Some(owner) = &args.owner {
        answers.owner = Some(parse(owner).map_err(|problem| Failure::new(format!("--owner: {problem}"), ""))?);
        return Ok(());
    }
    if !asks {
        return Ok(());
    }
    print("2. Your public key (npub1…): the relay names you as its administrator, and obeys you.\n")?;
    loop {
        let answer = ask("   npub []: ")?;
        match parse(&answer) {
            _ if answer.is_empty() => return Ok(()),
            Ok(key) => {
                answers.owner = Some(key);
                return Ok(());
            }
            Err(problem) => print(&format!("   {problem}\n"))?,
        }
    }
}

fn ask_listed(args: &SetupArgs, asks: bool, answers: &mut Answers) -> Result<(), Failure> {
    if answers.owner.is_none() {
        if args.listed {
            return Err(Failure::new("a relay for listed people needs one on the list", "Name yourself with --owner."));
        }
        if asks {
            print("3. Everybody may write: a list of those who may begins with your own key.\n")?;
        }
        return Ok(());
    }
    if asks && !args.listed {
        print("3. Who may write: everybody, or only you and those whom you list (`ratite admin allowpubkey`).\n")?;
        answers.listed = !is_yes("   Open to everybody?", true)?;
    }
    Ok(())
}

fn ask_disk(args: &SetupArgs, asks: bool, data: &Path, answers: &mut Answers) -> Result<(), Failure> {
    let free = free_bytes(data);
    let check = |size: &str| -> Result<u64, String> {
        let (_, config) = config::template_with(&[("retention.max_size", size)]).map_err(|error| told(&error))?;
        let size = config.retention.max_size;
        match free {
            Some(free) if size > free => {
                Err(format!("only {} are free where {} lies", text::size(free), data.display()))
            }
            _ => Ok(size),
        }
    };
    if let Some(size) = &args.max_disk {
        check(size).map_err(|problem| Failure::new(format!("--max-disk: {problem}"), "Name less, such as 10GB."))?;
        answers.max_disk = Some(size.clone());
        return Ok(());
    }
    // Half of what is free leaves room for backups and for everything else; 0 is no limit.
    let default = free.map(|free| format!("{} GB", (free / 2 / 1_000_000_000).max(1)));
    if !asks {
        return Ok(());
    }
    let free = free.map_or_else(|| "an unknown amount".to_owned(), text::size);
    print(&format!(
        "4. How much disk the events may use; {free} are free where {} lies. When it is reached, the\n   oldest of \
         strangers go first; yours never.\n",
        data.display()
    ))?;
    loop {
        let default = default.as_deref().unwrap_or("");
        let mut answer = ask(&format!("   size [{default}]: "))?;
        if answer.is_empty() {
            answer = default.to_owned();
        }
        if answer.is_empty() {
            return Ok(());
        }
        match check(&answer) {
            Ok(_) => {
                answers.max_disk = Some(answer);
                return Ok(());
            }
            Err(problem) => print(&format!("   {problem}\n"))?,
        }
    }
}

/// Asks, and reads a line.
fn ask(question: &str) -> Result<String, Failure> {
    print(question)?;
    let mut line = String::new();
    let length = io::stdin().lock().read_line(&mut line);
    match length {
        Ok(0) => Err(Failure::new("the answers ended; nothing was changed", "Run `ratite setup` again.")),
        Ok(_) => Ok(line.trim().to_owned()),
        Err(error) => Err(Failure::io("the answer cannot be read", &error, "Run `ratite setup` again.")),
    }
}

fn is_yes(question: &str, default: bool) -> Result<bool, Failure> {
    let choice = if default { "Y/n" } else { "y/N" };
    loop {
        match ask(&format!("{question} [{choice}] "))?.to_lowercase().as_str() {
            "" => return Ok(default),
            "y" | "yes" => return Ok(true),
            "n" | "no" => return Ok(false),
            _ => print("   y or n\n")?,
        }
    }
}

fn warn(problems: &[String]) -> Result<(), Failure> {
    for problem in problems {
        print(&format!("   ! {problem}\n"))?;
    }
    Ok(())
}

/// Whether the file that is there may go: nobody has touched it, or its owner says so.
fn may_replace(target: &Path) -> Result<bool, Failure> {
    if is_untouched(target) {
        return Ok(true);
    }
    is_yes(&format!("{} is there already. Replace it? A copy is kept.", target.display()), false)
}

/// Whether there is no file, or it is what a package has put there.
fn is_untouched(target: &Path) -> bool {
    let Ok(text) = fs::read_to_string(target) else { return !target.exists() };
    let settings = text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with(['#', '[']));
    settings.eq([format!("path = \"{}\"", install::DATA)].iter().map(String::as_str))
}

/// Keeps what is there under another name, if it may go.
fn keep_copy(target: &Path, may_replace: bool) -> Result<(), Failure> {
    if !target.exists() {
        return Ok(());
    }
    if !may_replace && !is_untouched(target) {
        return Err(Failure::new(
            format!("{} is there already; nothing was changed", target.display()),
            "--force replaces it and keeps a copy; --config names another file.",
        ));
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let mut copy = target.as_os_str().to_owned();
    copy.push(format!(".before-{now}"));
    fs::copy(target, &copy)
        .map_err(|error| Failure::io(format!("no copy of {} can be kept", target.display()), &error, ""))?;
    print(&format!("kept: {}\n", Path::new(&copy).display()))
}

/// Writes the file, whole or not at all, as readable as the one before it.
fn write(target: &Path, text: &str) -> Result<(), Failure> {
    let failed = |error: io::Error| Failure::io(format!("{} cannot be written", target.display()), &error, "");
    let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(failed)?;
    let mut new = target.as_os_str().to_owned();
    new.push(".new");
    fs::write(&new, text).map_err(failed)?;
    match fs::metadata(target) {
        Ok(before) => {
            use std::os::unix::fs::{MetadataExt as _, chown};
            fs::set_permissions(&new, before.permissions()).map_err(failed)?;
            if install::is_root() {
                chown(&new, Some(before.uid()), Some(before.gid())).map_err(failed)?;
            }
        }
        // The service must be able to read it.
        Err(_) => fs::set_permissions(&new, fs::Permissions::from_mode(0o644)).map_err(failed)?,
    }
    fs::rename(&new, target).map_err(failed)
}

/// Puts the owner on the list of those who may write: once somebody is on it, nobody else may.
fn allow_owner(config: &Config, owner: Option<PublicKey>) -> Result<(), Failure> {
    let Some(owner) = owner else { return Ok(()) };
    let store = Store::open(&config.storage.path, config.storage.map_size)?;
    let relay = Relay::start(store, Settings::from_config(config))?;
    let allowed = admin::call(&relay, "allowpubkey", &[owner.to_string().into()]);
    relay.shutdown();
    allowed.map_err(|error| Failure::new(error, "`ratite admin allowpubkey NPUB` tries again."))?;
    install::hand_to_service(&config.storage.path)?;
    print("only you may write for now; `ratite admin allowpubkey NPUB` lists others\n")
}

fn next_steps(target: &Path, config: &Config, answers: &Answers, as_service: bool) -> String {
    let mut steps = String::new();
    let flag = match target {
        target if target == Path::new(DEFAULT_FILE) || target == Path::new(SYSTEM_FILE) => String::new(),
        target => format!(" --config {}", target.display()),
    };
    if !as_service {
        steps.push_str(&format!("start it:  ratite{flag}\n"));
    }
    if answers.name.is_some() && answers.email.is_none() {
        steps.push_str("proxy:     have it pass https on to 127.0.0.1:7777; packaging/proxies has nginx and Caddy\n");
    }
    let url = config.url();
    let url = if url.is_empty() { "ws://127.0.0.1:7777".to_owned() } else { url };
    steps.push_str(&format!("look:      ratite{flag} doctor\nclients:   {url}\n"));
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_become_settings_that_pass_the_check() {
        let owner = nip19::parse_pubkey(&"7f".repeat(32)).unwrap();
        let answers = Answers {
            name: Some("relay.example.org".into()),
            email: Some("you@example.org".into()),
            owner: Some(owner),
            listed: true,
            max_disk: Some("20GB".into()),
        };
        let settings = answers.settings(Some(Path::new("/srv/nostr")));
        let settings: Vec<(&str, &str)> = settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let (text, config) = config::template_with(&settings).unwrap();
        assert_eq!(config.url(), "wss://relay.example.org");
        assert_eq!((config.info.pubkey, &config.policy.admins), (Some(owner), &vec![owner]));
        assert_eq!(config.retention.max_size, 20_000_000_000);
        assert_eq!(config.storage.path, Path::new("/srv/nostr"));
        assert!(text.contains("\nnames = [\"relay.example.org\"]\n"), "{text}");

        let behind_a_proxy = Answers { name: Some("relay.example.org".into()), ..Answers::default() };
        assert_eq!(behind_a_proxy.settings(None), [("info.url", "wss://relay.example.org".to_owned())]);
        assert_eq!(Answers::default().settings(None), []);
    }

    #[test]
    fn names_are_taken_as_people_write_them() {
        let taken = check_name("wss://Relay.Example.org/", Some("you@example.org")).unwrap();
        assert_eq!(taken, (Some("relay.example.org".into()), Some("you@example.org".into())));
        assert!(check_name("relay example", None).is_err());
        assert!(check_name("https://relay.example.org", None).is_err());
        assert!(check_name("relay.example.org", Some("you")).is_err());
    }
}
