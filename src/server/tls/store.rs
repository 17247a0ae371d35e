//! What the relay keeps of its certificates, in the folder `tls` of the data folder: the account with the authority, the
//! certificate, the answers to challenges, and the lock that lets one relay order at a time. Readable by its own user only.
//!
//! Every authority has a folder of its own, so that one that was tried before leaves nothing in the way. Several relays over the
//! same data share all of it: whichever is asked for the answer to a challenge has it.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

/// Characters of a token of ACME at most; those of Let's Encrypt have 43.
const LONGEST_TOKEN: usize = 128;

/// The files of one authority.
#[derive(Clone, Debug)]
pub(super) struct CertificateStore {
    folder: PathBuf,
}

/// The right to order. Ends when it is dropped, and with the process.
pub(super) struct Turn {
    _file: File,
}

/// What a challenge is answered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer<'a> {
    /// HTTP-01: the text at this token's path.
    Http { token: &'a str },
    /// TLS-ALPN-01: the digest, in hexadecimal, in the certificate for this name.
    Alpn { name: &'a str },
}

impl CertificateStore {
    /// The files for an authority, below a data folder. Nothing is made yet.
    pub fn of(data: &Path, directory: &str) -> CertificateStore {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-');
        let name: String = directory
            .trim_start_matches("https://")
            .chars()
            .map(|c| if is_plain(c) { c.to_ascii_lowercase() } else { '_' })
            .take(200)
            .collect();
        CertificateStore { folder: data.join("tls").join(name.trim_start_matches('.')) }
    }

    /// The certificate with its key.
    pub fn certificate(&self) -> PathBuf {
        self.folder.join("certificate.pem")
    }

    /// The account with the authority.
    pub fn account(&self) -> PathBuf {
        self.folder.join("account.json")
    }

    /// What is to be remembered of failed attempts.
    pub fn attempts(&self) -> PathBuf {
        self.folder.join("attempts.json")
    }

    /// Makes the folder, for this user only.
    pub fn make(&self) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)
    }

    /// Writes a file that only this user may read: the whole of it or nothing, and on disk when this returns.
    pub fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let beside = path.with_extension(format!("new-{}", std::process::id()));
        let written = (|| {
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            std::fs::rename(&beside, path)?;
            File::open(&self.folder)?.sync_all()
        })();
        if written.is_err() {
            let _ = std::fs::remove_file(&beside);
        }
        written
    }

    /// The right to order, unless another relay over the same data has it.
    pub fn turn(&self) -> io::Result<Option<Turn>> {
        self.make()?;
        let mut options = OpenOptions::new();
        let file = options.write(true).create(true).truncate(false).mode(0o600).open(self.folder.join("lock"))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Turn { _file: file })),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Where the answer to a challenge lies; `None` for what cannot be one.
    fn place(&self, answer: Answer<'_>) -> Option<PathBuf> {
        let is_token = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
        let is_name = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.');
        let name = match answer {
            Answer::Http { token } if (1..=LONGEST_TOKEN).contains(&token.len()) && token.bytes().all(is_token) => {
                format!("http-{token}")
            }
            Answer::Alpn { name } if (1..=253).contains(&name.len()) && name.bytes().all(is_name) => {
                format!("alpn-{name}")
            }
            _ => return None,
        };
        Some(self.folder.join(name))
    }

    /// Has a challenge answered with this from now on.
    pub fn put_answer(&self, answer: Answer<'_>, text: &str) -> io::Result<()> {
        let place = self.place(answer).ok_or(io::ErrorKind::InvalidInput)?;
        self.write(&place, text.as_bytes())
    }

    /// What a challenge is answered with, if it is one of ours.
    pub fn answer(&self, answer: Answer<'_>) -> Option<String> {
        std::fs::read_to_string(self.place(answer)?).ok()
    }

    /// Forgets all answers, those that an earlier relay left behind as well. Only who has the turn may do so.
    pub fn clear_answers(&self, _: &Turn) {
        let Ok(files) = std::fs::read_dir(&self.folder) else { return };
        for file in files.flatten() {
            let name = file.file_name();
            let name = name.to_string_lossy();
            if name.starts_with("http-") || name.starts_with("alpn-") || name.contains(".new-") {
                let _ = std::fs::remove_file(file.path());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn what_is_kept_is_whole_and_for_its_own_user_only() {
        let data = tempfile::tempdir().unwrap();
        let store = CertificateStore::of(data.path(), "https://acme-v02.api.letsencrypt.org/directory");
        store.make().unwrap();
        store.write(&store.certificate(), b"first").unwrap();
        store.write(&store.certificate(), b"second").unwrap();
        assert_eq!(std::fs::read(store.certificate()).unwrap(), b"second");
        assert_eq!(store.certificate(), data.path().join("tls/acme-v02.api.letsencrypt.org_directory/certificate.pem"));
        assert_eq!(
            (mode(&store.certificate()), mode(&store.folder), mode(&data.path().join("tls"))),
            (0o600, 0o700, 0o700)
        );
        assert_eq!(std::fs::read_dir(&store.folder).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn authorities_do_not_share_a_folder_and_none_leads_out_of_it() {
        let folder = |directory| CertificateStore::of(Path::new("/d"), directory).folder;
        assert_ne!(folder("https://a.org/dir"), folder("https://a.org/dir2"));
        assert_eq!(folder("https://../../etc"), Path::new("/d/tls/_.._etc"));
        assert_eq!(folder("https://a:14000/dir?x=/y"), Path::new("/d/tls/a_14000_dir_x__y"));
    }

    #[test]
    fn one_orders_at_a_time() {
        let data = tempfile::tempdir().unwrap();
        let store = CertificateStore::of(data.path(), "https://a.org");
        let turn = store.turn().unwrap().unwrap();
        assert!(store.turn().unwrap().is_none());
        drop(turn);
        assert!(store.turn().unwrap().is_some());
    }

    #[test]
    fn answers_are_found_by_every_relay_until_they_are_cleared() {
        let data = tempfile::tempdir().unwrap();
        let store = CertificateStore::of(data.path(), "https://a.org");
        let turn = store.turn().unwrap().unwrap();
        let (http, alpn) = (Answer::Http { token: "tok-EN_1" }, Answer::Alpn { name: "relay.test" });
        store.put_answer(http, "text").unwrap();
        store.put_answer(alpn, "00ff").unwrap();
        store.write(&store.certificate(), b"kept").unwrap();
        let other = store.clone();
        assert_eq!((other.answer(http).as_deref(), other.answer(alpn).as_deref()), (Some("text"), Some("00ff")));
        for no in [
            Answer::Http { token: "" },
            Answer::Http { token: "../account.json" },
            Answer::Http { token: "other" },
            Answer::Alpn { name: "other.test" },
            Answer::Alpn { name: "a/b" },
            Answer::Alpn { name: &"a".repeat(300) },
        ] {
            assert_eq!(store.answer(no), None, "{no:?}");
        }
        store.clear_answers(&turn);
        assert_eq!((store.answer(http), store.answer(alpn)), (None, None));
        assert_eq!(std::fs::read(store.certificate()).unwrap(), b"kept");
    }
}
