//! The relay's own key: what it says of itself is signed with it (NIP-11 `self`, NIP-43).
//!
//! It lies in the data folder, in a file that only the relay's user may read, and is made when it is first needed. Clients know a relay
//! by it, so it never changes by itself: one that cannot be read is an error, not a reason to make another.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use secp256k1::Keypair;

use crate::nostr::nip19::{self, Entity};
use crate::nostr::{Event, Kind, PublicKey, Tags, UnsignedEvent};

/// The file, in the data folder: an nsec, or 64 hexadecimal digits, on one line.
pub const FILE: &str = "relay.key";

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The file cannot be read or written.
    #[error("the relay's own key in {path} cannot be {what}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// "read" or "written".
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// What the file holds is no key.
    #[error("{path} holds no secret key: {why}")]
    NoKey {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: nip19::Nip19Error,
    },
}

/// The relay's own key.
#[derive(Clone)]
pub struct Identity {
    keypair: Keypair,
    pubkey: PublicKey,
}

impl Identity {
    /// The key of this data folder; `None` when none was made yet.
    pub fn load(folder: &Path) -> Result<Option<Identity>, IdentityError> {
        let path = folder.join(FILE);
        let failed = |source| IdentityError::File { path: path.clone(), what: "read", source };
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let mode = fs::metadata(&path).map_err(failed)?.permissions().mode();
        if mode & 0o077 != 0 {
            tracing::warn!("others can read the relay's own key: run `chmod 600 {}`", path.display());
        }
        let keypair = nip19::parse_secret_key(&text).map_err(|why| IdentityError::NoKey { path: path.clone(), why })?;
        Ok(Some(Identity { keypair, pubkey: PublicKey(keypair.x_only_public_key().0.to_byte_array()) }))
    }

    /// The key of this data folder, made now if there is none. Of several processes that do so at once all get the same.
    pub fn load_or_create(folder: &Path) -> Result<Identity, IdentityError> {
        let path = folder.join(FILE);
        let failed = |source| IdentityError::File { path: path.clone(), what: "written", source };
        loop {
            if let Some(identity) = Identity::load(folder)? {
                return Ok(identity);
            }
            let made = write_new(folder, &path);
            if let Err(error) = made
                && error.kind() != io::ErrorKind::AlreadyExists
            {
                return Err(failed(error));
            }
        }
    }

    /// The public key: NIP-11 `self`.
    pub fn pubkey(&self) -> PublicKey {
        self.pubkey
    }

    /// An event of the relay's own.
    pub fn sign(&self, created_at: u64, kind: Kind, tags: Tags, content: &str) -> Event {
        UnsignedEvent { created_at, kind, tags, content: content.into() }.sign(&self.keypair)
    }
}

/// Writes a fresh key. It appears under its name when it is on disk as a whole, and never in the place of another.
fn write_new(folder: &Path, path: &Path) -> io::Result<()> {
    let (mut secret, mut salt) = ([0; 32], [0; 8]);
    getrandom::fill(&mut salt).map_err(io::Error::other)?;
    let keypair = loop {
        getrandom::fill(&mut secret).map_err(io::Error::other)?;
        // Of 2^256 numbers some 2^128 are no keys.
        if let Ok(keypair) = Keypair::from_secret_bytes(secret) {
            break keypair;
        }
    };
    let line = Entity::SecretKey(keypair.secret_key()).encode().map_err(io::Error::other)? + "\n";
    // Of a name that nobody else writes to: the link leads to the same file.
    let draft = path.with_extension(format!("{}.new", const_hex::encode(salt)));
    let written = (|| {
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(&draft)?;
        file.write_all(line.as_bytes())?;
        file.sync_all()?;
        // Unlike a renaming, a link does not replace what is there.
        fs::hard_link(&draft, path)?;
        File::open(folder)?.sync_all()
    })();
    let _ = fs::remove_file(&draft);
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_for_its_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Identity::load(folder.path()).unwrap().is_none());
        let keys: Vec<PublicKey> = std::thread::scope(|scope| {
            let make = || Identity::load_or_create(folder.path()).unwrap().pubkey();
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(make)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(keys.iter().all(|key| *key == keys[0]), "{keys:?}");
        let path = folder.path().join(FILE);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no draft is left");
        let event = Identity::load(folder.path()).unwrap().unwrap().sign(5, Kind(1), Tags::default(), "I");
        assert_eq!((event.pubkey, event.check_id(), event.check_signature()), (keys[0], Ok(()), Ok(())));
    }

    #[test]
    fn a_key_of_ones_own_is_taken_and_a_broken_one_never_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        fs::write(&path, format!("{}\n", "01".repeat(32))).unwrap();
        let known = Keypair::from_secret_bytes([1; 32]).unwrap().x_only_public_key().0.to_byte_array();
        assert_eq!(Identity::load_or_create(folder.path()).unwrap().pubkey(), PublicKey(known));
        for broken in ["", "nsec1nonsense", &"00".repeat(32)] {
            fs::write(&path, broken).unwrap();
            assert!(matches!(Identity::load_or_create(folder.path()), Err(IdentityError::NoKey { .. })), "{broken:?}");
            assert_eq!(fs::read_to_string(&path).unwrap(), broken);
        }
    }
}
