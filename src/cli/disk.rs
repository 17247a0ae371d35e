//! Room on disks.

use std::path::Path;

use super::failure::Failure;
use super::text;

/// Bytes that this process may still write where `path` lies or will lie; `None` when the system does not say.
pub(super) fn free_bytes(path: &Path) -> Option<u64> {
    let there = path.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("."));
    let disk = rustix::fs::statvfs(there).ok()?;
    Some(disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// What is free there, for people.
pub(super) fn room(path: &Path) -> String {
    match free_bytes(path) {
        Some(free) => format!("{} are free there", text::size(free)),
        None => "the system does not say how much is free there".to_owned(),
    }
}

/// An error when there is no room for so many bytes.
pub(super) fn check_room(path: &Path, bytes: u64) -> Result<(), Failure> {
    match free_bytes(path) {
        Some(free) if free < bytes => {
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
            Err(Failure::new(
                format!("{} has {} free, about {} are needed", folder.display(), text::size(free), text::size(bytes)),
                "Free some space, or choose another place.",
            ))
        }
        // Where the system does not say, writing will show.
        _ => Ok(()),
    }
}
