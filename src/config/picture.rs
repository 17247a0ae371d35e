//! Pictures of the operator's that the relay serves itself.

use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::hosts::OptionalFile;
use super::plain;
use super::rules::{Fault, Raw, Rule, toml_text};

/// The largest picture, in bytes: it is kept in memory.
const MOST: u64 = 1 << 20;

/// How pictures begin, and what they are then.
const BEGINNINGS: [(&[u8], &str); 4] = [
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"RIFF", "image/webp"),
];

/// A picture in a file, as it was when the configuration was read.
#[derive(Clone, PartialEq, Eq)]
pub struct Picture {
    path: PathBuf,
    content: Result<(&'static str, Bytes), String>,
}

impl Picture {
    fn read(path: PathBuf) -> Picture {
        let content = read(&path);
        Picture { path, content }
    }

    /// Its media type and its bytes; `None` when it could not be read.
    pub fn content(&self) -> Option<(&'static str, Bytes)> {
        self.content.as_ref().ok().cloned()
    }

    /// Why there is nothing to show.
    pub(super) fn fault(&self) -> Option<String> {
        self.content.as_ref().err().map(|why| format!("{} {why}", self.path.display()))
    }
}

impl fmt::Debug for Picture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.content.as_ref().map(|(kind, bytes)| (*kind, bytes.len()));
        f.debug_struct("Picture").field("path", &self.path).field("content", &bytes).finish()
    }
}

fn read(path: &Path) -> Result<(&'static str, Bytes), String> {
    let unreadable = |error: std::io::Error| format!("cannot be read: {}", plain(&error));
    // Devices and pipes may never end, or never begin.
    if !path.metadata().map_err(unreadable)?.is_file() {
        return Err("is not a file".to_owned());
    }
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(MOST + 1).read_to_end(&mut bytes)).map_err(unreadable)?;
    if bytes.len() as u64 > MOST {
        return Err("is larger than 1 MiB".to_owned());
    }
    let is = |(beginning, kind): &&(&[u8], &str)| {
        bytes.starts_with(beginning) && (*kind != "image/webp" || bytes.get(8..12) == Some(b"WEBP"))
    };
    let (_, kind) = BEGINNINGS.iter().find(is).ok_or("is not a picture that browsers know: PNG, JPEG, WebP or GIF")?;
    Ok((kind, bytes.into()))
}

/// The file of a picture, or none.
pub(super) struct PictureFile;

impl Rule<Option<Picture>> for PictureFile {
    fn read(&self, raw: &Raw<'_>) -> Result<Option<Picture>, Fault> {
        Ok(OptionalFile.read(raw)?.map(Picture::read))
    }

    fn show(&self, value: &Option<Picture>) -> String {
        toml_text(&value.as_ref().map(|picture| picture.path.display().to_string()).unwrap_or_default())
    }

    fn expects(&self) -> String {
        "the path of a PNG, JPEG, WebP or GIF file of at most 1 MiB, or empty".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_is_known_by_how_it_begins() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("picture");
        let kind = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            let picture = Picture::read(path.clone());
            picture.content().map(|(kind, _)| kind).ok_or_else(|| picture.fault().unwrap())
        };
        assert_eq!(kind(b"\x89PNG\r\n\x1a\n and so on"), Ok("image/png"));
        assert_eq!(kind(b"\xff\xd8\xff\xe0 and so on"), Ok("image/jpeg"));
        assert_eq!(kind(b"GIF89a and so on"), Ok("image/gif"));
        assert_eq!(kind(b"RIFF\0\0\0\0WEBP and so on"), Ok("image/webp"));
        for other in [&b"RIFF\0\0\0\0WAVE and so on"[..], b"RIFF", b"", b"<svg onload=\"alert(1)\"></svg>"] {
            assert!(kind(other).unwrap_err().ends_with(" is not a picture that browsers know: PNG, JPEG, WebP or GIF"));
        }
        let mut large = b"GIF89a".to_vec();
        large.resize(MOST as usize, 0);
        assert_eq!(kind(&large), Ok("image/gif"));
        large.push(0);
        assert!(kind(&large).unwrap_err().ends_with(" is larger than 1 MiB"));
        for (path, why) in [("/nowhere/at.png", "no such file"), ("/dev/zero", "is not a file"), ("/", "is not a file")]
        {
            assert!(Picture::read(path.into()).fault().unwrap().contains(why), "{path}");
        }
    }
}
