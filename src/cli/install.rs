//! Installing the relay as a service of systemd: the program, its user, its folders, its unit; what `packaging/install.sh` does by
//! hand.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use super::failure::Failure;

const UNIT: &str = include_str!("../../packaging/systemd/ratite.service");
const SYSUSERS: &str = include_str!("../../packaging/systemd/sysusers.conf");
const TMPFILES: &str = include_str!("../../packaging/systemd/tmpfiles.conf");

/// Where the program goes when no package has brought it.
const PROGRAM: &str = "/usr/local/bin/ratite";

/// What the unit calls it.
const PACKAGED: &str = "/usr/bin/ratite";

/// Where the service keeps its events.
pub(super) const DATA: &str = "/var/lib/ratite";

/// Whether this machine is run by systemd and we may change it.
pub(super) fn is_possible() -> bool {
    Path::new("/run/systemd/system").is_dir() && is_root()
}

/// Whether we are root.
pub(super) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Whether the service is known already, from a package or from before.
pub(super) fn is_there() -> bool {
    quiet(Command::new("systemctl").args(["cat", "ratite.service"]))
}

fn quiet(command: &mut Command) -> bool {
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

/// The user, the folders and the unit; nothing is started yet. What a package has brought is left alone.
pub(super) fn prepare() -> Result<(), Failure> {
    if is_there() {
        return Ok(());
    }
    let from = std::env::current_exe().map_err(|error| Failure::io("this program is not found", &error, ""))?;
    let mut unit = UNIT.to_owned();
    if from != Path::new(PACKAGED) {
        unit = unit.replace(PACKAGED, PROGRAM);
        if from != Path::new(PROGRAM) {
            // Beside it first: the file of a program that runs cannot be written to.
            let new = format!("{PROGRAM}.new");
            fs::copy(&from, &new)
                .and_then(|_| fs::set_permissions(&new, fs::Permissions::from_mode(0o755)))
                .and_then(|()| fs::rename(&new, PROGRAM))
                .map_err(|error| Failure::io(format!("{PROGRAM} cannot be written"), &error, ""))?;
        }
    }
    for (path, text) in [
        ("/etc/sysusers.d/ratite.conf", SYSUSERS),
        ("/etc/tmpfiles.d/ratite.conf", TMPFILES),
        ("/etc/systemd/system/ratite.service", &unit),
    ] {
        let written = Path::new(path).parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| fs::write(path, text));
        written.map_err(|error| Failure::io(format!("{path} cannot be written"), &error, ""))?;
    }
    run("systemd-sysusers", &["ratite.conf"])?;
    run("systemd-tmpfiles", &["--create", "ratite.conf"])?;
    run("systemctl", &["daemon-reload"])
}

/// Has the service start now, anew when it runs, and with the machine.
pub(super) fn start() -> Result<(), Failure> {
    run("systemctl", &["enable", "ratite.service"])?;
    run("systemctl", &["restart", "ratite.service"])
}

fn run(program: &str, arguments: &[&str]) -> Result<(), Failure> {
    let what = || format!("`{program} {}`", arguments.join(" "));
    let status = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .map_err(|error| Failure::io(format!("{} cannot be run", what()), &error, ""))?;
    if status.success() {
        return Ok(());
    }
    Err(Failure::new(format!("{} failed ({status})", what()), "`journalctl -u ratite` may say why."))
}

/// Gives what lies in these places to the user of the service, if there is one: what root has made, the relay could not open.
pub(super) fn hand_to_service(folder: &Path) -> Result<(), Failure> {
    use std::os::unix::fs::{MetadataExt as _, chown};
    // The folder says whose it is: it was made for the service.
    let Ok(owner) = fs::metadata(folder) else { return Ok(()) };
    if !is_root() || owner.uid() == 0 {
        return Ok(());
    }
    let entries = fs::read_dir(folder).map(|entries| entries.flatten().collect::<Vec<_>>()).unwrap_or_default();
    for entry in entries {
        chown(entry.path(), Some(owner.uid()), Some(owner.gid())).map_err(|error| {
            Failure::io(format!("{} cannot be given to the relay's user", entry.path().display()), &error, "")
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_calls_the_program_by_the_name_that_is_replaced() {
        assert!(UNIT.contains(&format!("ExecStart={PACKAGED} --config /etc/ratite/ratite.toml\n")));
        assert!(UNIT.contains(&format!("ExecReload={PACKAGED} ")));
        assert!(UNIT.contains("StateDirectory=ratite\n") && DATA.ends_with("/ratite"));
    }
}
