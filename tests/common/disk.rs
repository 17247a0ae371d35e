//! A small disk for one test.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A small disk of its own; unmounted when it is dropped.
pub struct Disk(pub PathBuf);

impl Disk {
    /// `None`, and why, where mounting is not allowed.
    pub fn mount(mebibytes: usize, folder: &Path) -> Option<Disk> {
        let options = format!("size={mebibytes}m");
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(folder).output();
        match mount {
            Ok(output) if output.status.success() => Some(Disk(folder.into())),
            other => {
                eprintln!("no disk can be mounted here, the test over a full disk was passed over: {other:?}");
                None
            }
        }
    }

    /// Bytes that are free.
    #[allow(dead_code, reason = "not every test asks")]
    pub fn free(&self) -> u64 {
        let disk = rustix::fs::statvfs(&self.0).unwrap();
        disk.f_bavail * disk.f_frsize
    }

    /// Fills it up to the last page but so many bytes, with a file `ballast` that may be there already.
    #[allow(dead_code, reason = "not every test does")]
    pub fn leave(&self, bytes: u64) {
        let mut ballast = File::options().append(true).create(true).open(self.0.join("ballast")).unwrap();
        let page = vec![1; 4096];
        while self.free() > bytes && ballast.write_all(&page).is_ok() {}
    }

    /// Makes room again.
    #[allow(dead_code, reason = "not every test does")]
    pub fn relieve(&self) {
        std::fs::remove_file(self.0.join("ballast")).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
