//! Lines to standard output or a file, compressed when the name says so. A file appears under its name only when it is
//! complete, so that a backup that was interrupted is never taken for a whole one.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use super::failure::Failure;

/// Where a command writes its lines.
pub(super) struct Output {
    /// Taken when the output is finished.
    writer: Option<Writer>,
    name: String,
    /// The file being written, and the name it gets in the end.
    rename: Option<(PathBuf, PathBuf)>,
}

enum Writer {
    Stdout(BufWriter<io::Stdout>),
    Plain(BufWriter<File>),
    Gzip(flate2::write::GzEncoder<BufWriter<File>>),
    Zstd(zstd::stream::write::Encoder<'static, BufWriter<File>>),
}

const BUFFER: usize = 128 << 10;

impl Output {
    /// Standard output.
    pub(super) fn stdout() -> Output {
        Output {
            writer: Some(Writer::Stdout(BufWriter::with_capacity(BUFFER, io::stdout()))),
            name: "standard output".to_owned(),
            rename: None,
        }
    }

    /// A file, or standard output for `-`. Names that end in .gz or .zst are compressed.
    pub(super) fn file(path: &Path) -> Result<Output, Failure> {
        if path.as_os_str() == "-" {
            return Ok(Output::stdout());
        }
        let name = path.display().to_string();
        let failed = |error: &io::Error| {
            Failure::io(
                format!("{name} cannot be written"),
                error,
                "Check that the folder exists and that you may write to it.",
            )
        };
        // A link stays, and the file that it leads to is replaced.
        let path = &match fs::symlink_metadata(path) {
            Ok(metadata) if metadata.is_symlink() => path.canonicalize().map_err(|_| {
                Failure::new(format!("{name} is a link that leads nowhere"), "Remove it, or name another file.")
            })?,
            _ => path.to_owned(),
        };
        let existing = fs::metadata(path).ok();
        if existing.as_ref().is_some_and(fs::Metadata::is_dir) {
            return Err(Failure::new(format!("{name} is a folder"), "Name a file in it."));
        }
        spare_databases(path)?;
        // Devices and pipes are written directly: there is nothing to put in their place.
        let direct = existing.as_ref().is_some_and(|metadata| !metadata.is_file());
        let target = if direct { path.to_owned() } else { unfinished(path) };
        let file = if direct { File::create(&target) } else { begin(&target) };
        let file = file.map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => Failure::new(
                format!("{name} is being written by another command"),
                "Wait for its end, or name another file.",
            ),
            _ => failed(&error),
        })?;
        if let Some(existing) = existing.filter(|_| !direct) {
            // Who could not read the old file shall not read the new one.
            file.set_permissions(existing.permissions()).map_err(|error| failed(&error))?;
        }
        let file = BufWriter::with_capacity(BUFFER, file);
        let extension = path.extension().unwrap_or_default().to_ascii_lowercase();
        let writer = if extension == "gz" {
            Writer::Gzip(flate2::write::GzEncoder::new(file, flate2::Compression::default()))
        } else if extension == "zst" || extension == "zstd" {
            Writer::Zstd(zstd::stream::write::Encoder::new(file, 0).map_err(|error| failed(&error))?)
        } else {
            Writer::Plain(file)
        };
        let rename = (!direct).then(|| (target, path.to_owned()));
        Ok(Output { writer: Some(writer), name, rename })
    }

    /// Writes all of it.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let written = match &mut self.writer {
            Some(Writer::Stdout(writer)) => writer.write_all(bytes),
            Some(Writer::Plain(writer)) => writer.write_all(bytes),
            Some(Writer::Gzip(writer)) => writer.write_all(bytes),
            Some(Writer::Zstd(writer)) => writer.write_all(bytes),
            None => Ok(()),
        };
        written.map_err(|error| self.failed(&error))
    }

    /// Brings everything to its place: out of the buffers, onto the disk, under its name.
    pub(super) fn finish(mut self) -> Result<(), Failure> {
        let file = match self.writer.take() {
            None => return Ok(()),
            Some(Writer::Stdout(mut writer)) => return writer.flush().map_err(|error| self.failed(&error)),
            Some(Writer::Plain(writer)) => Ok(writer),
            Some(Writer::Gzip(writer)) => writer.finish(),
            Some(Writer::Zstd(writer)) => writer.finish(),
        };
        let file = file.and_then(|mut writer| {
            writer.flush()?;
            writer.into_inner().map_err(io::IntoInnerError::into_error)
        });
        let written = file.and_then(|file| match &self.rename {
            None => Ok(()),
            Some((unfinished, path)) => {
                file.sync_all()?;
                fs::rename(unfinished, path)
            }
        });
        written.map_err(|error| self.failed(&error))?;
        self.rename = None;
        Ok(())
    }

    fn failed(&self, error: &io::Error) -> Failure {
        Failure::io(format!("{} cannot be written", self.name), error, "Check the disk, then run it again.")
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if let Some((unfinished, _)) = &self.rename {
            // Best effort: what is left over is named like what it is.
            let _ = fs::remove_file(unfinished);
        }
    }
}

/// Refuses to replace a file of a data folder. Who has the database open would go on in a file without a name, and what it
/// promises to keep would be gone with it.
pub(super) fn spare_databases(path: &Path) -> Result<(), Failure> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let is_of_a_database = matches!(&*name, "data.mdb" | "lock.mdb" | "relay.key")
        || (name.starts_with("relay-") && name.ends_with(".lock"));
    let beside = |path: &Path| path.with_file_name("lock.mdb").exists();
    // Certificates and their keys lie in a folder of their own.
    let is_of_tls = path.ancestors().skip(1).any(|folder| folder.file_name() == Some("tls".as_ref()) && beside(folder));
    if path.exists() && (is_of_a_database && beside(path) || is_of_tls) {
        return Err(Failure::new(format!("{} belongs to a database", path.display()), "Name another file."));
    }
    Ok(())
}

/// Opens the file that is to get another name, empty and locked. Two commands that wrote to one file would make a mess of it.
fn begin(path: &Path) -> io::Result<File> {
    let file = File::options().write(true).create(true).truncate(false).open(path)?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        // Some network file systems know no locks; there it is up to the user.
        Err(Errno::NOSYS | Errno::NOTSUP | Errno::INVAL | Errno::NOLCK) => {}
        locked => locked?,
    }
    // Between the two calls the other command may have finished: then this is its file now.
    let same = fs::metadata(path).is_ok_and(|named| file.metadata().is_ok_and(|own| own.ino() == named.ino()));
    if !same {
        return Err(io::ErrorKind::WouldBlock.into());
    }
    file.set_len(0)?;
    Ok(file)
}

/// The name a file has while it is being written.
fn unfinished(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".unfinished");
    PathBuf::from(name)
}

/// Prints the answer of a command that is not a stream of events.
pub(super) fn print(text: &str) -> Result<(), Failure> {
    let mut output = Output::stdout();
    output.write(text.as_bytes())?;
    output.finish()
}

/// Prints one JSON value on a line of its own.
pub(super) fn print_json(value: &impl serde::Serialize) -> Result<(), Failure> {
    let mut text = serde_json::to_string(value)
        .map_err(|error| Failure::new(format!("the answer cannot be written as JSON: {error}"), ""))?;
    text.push('\n');
    print(&text)
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn the_name_decides_about_compression() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst"] {
            let path = folder.path().join(name);
            let mut output = Output::file(&path).unwrap();
            output.write(b"line\n").unwrap();
            assert!(!path.exists(), "the name appears only when the file is complete");
            output.finish().unwrap();
            let bytes = fs::read(&path).unwrap();
            let mut text = String::new();
            match name {
                "a.jsonl.gz" => flate2::read::GzDecoder::new(&bytes[..]).read_to_string(&mut text).unwrap(),
                "a.jsonl.zst" => {
                    zstd::stream::read::Decoder::new(&bytes[..]).unwrap().read_to_string(&mut text).unwrap()
                }
                _ => (&bytes[..]).read_to_string(&mut text).unwrap(),
            };
            assert_eq!(text, "line\n", "{name}");
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3, "nothing unfinished is left");
    }

    #[test]
    fn what_is_not_finished_leaves_the_old_file_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("backup.jsonl");
        fs::write(&path, "old").unwrap();
        let mut output = Output::file(&path).unwrap();
        output.write(b"new").unwrap();
        drop(output);
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_link_stays_and_its_file_is_replaced_with_the_same_permissions() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("file"), folder.path().join("link"));
        fs::write(&file, "old").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        std::os::unix::fs::symlink("file", &link).unwrap();
        let mut output = Output::file(&link).unwrap();
        output.write(b"new").unwrap();
        output.finish().unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read_to_string(&file).unwrap(), "new");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        fs::remove_file(&file).unwrap();
        assert!(Output::file(&link).is_err(), "a link that leads nowhere");
    }

    #[test]
    fn one_file_is_written_by_one_command_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("backup.jsonl");
        let mut first = Output::file(&path).unwrap();
        assert!(Output::file(&path).is_err());
        first.write(b"first").unwrap();
        first.finish().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "first");
        assert!(Output::file(&path).is_ok());
    }

    #[test]
    fn folders_and_missing_folders_fail_at_once() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Output::file(folder.path()).is_err());
        assert!(Output::file(&folder.path().join("no/such/file")).is_err());
    }
}
