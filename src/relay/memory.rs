//! Memory that peers' questions hold: counted, and bounded for each peer and for all of them together.
//!
//! Each peer has a [`SHARE`] that nobody can take from it. What it holds beyond comes out of one pool, of which a group of peers
//! gets a part only. So a few greedy peers cannot use the pool up, and if many do, still nobody loses the handful of
//! subscriptions that a client lives on.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock};

use super::lock;

/// What each peer may hold whatever others do.
const SHARE: usize = 16 << 10;

/// The part of the pool that one group may take.
const GROUP_PART: usize = 4;

/// What all peers hold beyond their shares comes from here.
pub(super) struct Pool {
    total: usize,
    free: AtomicUsize,
    /// What one peer may hold at most, its share included.
    peer_max: usize,
}

impl Pool {
    pub fn new(total: usize, peer_max: usize) -> Arc<Pool> {
        Arc::new(Pool { total, free: AtomicUsize::new(total), peer_max: peer_max.max(SHARE) })
    }

    /// Opens the books of one peer.
    pub fn account(self: &Arc<Pool>) -> Arc<Account> {
        Arc::new(Account { pool: self.clone(), group: OnceLock::new(), held: Mutex::new(0) })
    }

    /// What the peers of one group may take out of this pool.
    pub fn part(&self) -> Arc<Pool> {
        Pool::new(self.total / GROUP_PART, self.peer_max)
    }

    fn take(&self, bytes: usize) -> bool {
        self.free.fetch_update(Relaxed, Relaxed, |free| free.checked_sub(bytes)).is_ok()
    }

    fn give(&self, bytes: usize) {
        self.free.fetch_add(bytes, Relaxed);
    }
}

/// What one peer holds.
pub(super) struct Account {
    pool: Arc<Pool>,
    group: OnceLock<Arc<Pool>>,
    held: Mutex<usize>,
}

/// Why there is no memory for a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shortage {
    /// The peer holds as much as one may.
    Peer,
    /// The group holds as much as one may.
    Group,
    /// All together hold as much as they may.
    Everybody,
}

impl Account {
    /// Has this account share a group's part. To be said once, before anything is taken.
    pub fn join(&self, part: Arc<Pool>) {
        let _ = self.group.set(part);
    }

    /// Takes memory for as long as the lease lives, within the peer's own bound.
    pub fn lease(self: &Arc<Account>, bytes: usize) -> Result<Lease, Shortage> {
        let mut lease = self.empty();
        self.change(0, bytes, true)?;
        lease.bytes = bytes;
        Ok(lease)
    }

    /// A lease of nothing, to be resized.
    pub fn empty(self: &Arc<Account>) -> Lease {
        Lease { account: self.clone(), bytes: 0 }
    }

    fn change(&self, from: usize, to: usize, bounded: bool) -> Result<(), Shortage> {
        let mut held = lock(&self.held);
        let new = *held - from + to;
        if bounded && to > from && new > self.pool.peer_max {
            return Err(Shortage::Peer);
        }
        let (before, after) = (held.saturating_sub(SHARE), new.saturating_sub(SHARE));
        let (more, less) = (after.saturating_sub(before), before.saturating_sub(after));
        let group = self.group.get();
        if group.is_some_and(|group| !group.take(more)) {
            return Err(Shortage::Group);
        }
        if !self.pool.take(more) {
            group.inspect(|group| group.give(more));
            return Err(Shortage::Everybody);
        }
        group.inspect(|group| group.give(less));
        self.pool.give(less);
        *held = new;
        Ok(())
    }
}

/// Memory that is taken; given back when dropped.
pub(super) struct Lease {
    account: Arc<Account>,
    bytes: usize,
}

impl Lease {
    /// Makes it another size, whatever the peer's own bound is. On failure it stays as it was.
    pub fn resize(&mut self, bytes: usize) -> Result<(), Shortage> {
        self.account.change(self.bytes, bytes, false)?;
        self.bytes = bytes;
        Ok(())
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // Giving back cannot fail.
        let _ = self.account.change(self.bytes, 0, false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_has_its_share_and_the_rest_comes_from_the_pool() {
        let pool = Pool::new(1000, SHARE + 600);
        let (one, two, three) = (pool.account(), pool.account(), pool.account());
        let mut first = one.lease(SHARE + 500).expect("there is room");
        assert_eq!(one.lease(101).err(), Some(Shortage::Peer));
        let second = two.lease(SHARE + 500).expect("the pool is used up with this");
        assert_eq!(one.lease(1).err(), Some(Shortage::Everybody));
        let own = three.lease(SHARE).expect("the share stays");
        assert_eq!(three.lease(1).err(), Some(Shortage::Everybody));
        assert_eq!(first.resize(SHARE + 501), Err(Shortage::Everybody));
        drop(second);
        assert_eq!(first.resize(SHARE + 601), Ok(()), "beyond the peer's bound");
        assert_eq!(one.lease(1).err(), Some(Shortage::Peer));
        assert_eq!(first.resize(10), Ok(()));
        drop((first, own));
        assert_eq!(pool.free.load(Relaxed), 1000);
        assert_eq!(*lock(&one.held), 0);
    }

    #[test]
    fn a_group_gets_a_part_and_leaves_the_rest() {
        let pool = Pool::new(1000, SHARE + 1000);
        let part = pool.part();
        let (one, two, other) = (pool.account(), pool.account(), pool.account());
        one.join(part.clone());
        two.join(part.clone());
        let first = one.lease(SHARE + 200).expect("there is room");
        assert_eq!(two.lease(SHARE + 51).err(), Some(Shortage::Group));
        let rest = other.lease(SHARE + 770).expect("for others there is more");
        assert_eq!(two.lease(SHARE + 40).err(), Some(Shortage::Everybody));
        drop(rest);
        let second = two.lease(SHARE + 50).expect("what could not be had was given back");
        drop((first, second));
        assert_eq!((part.free.load(Relaxed), pool.free.load(Relaxed)), (250, 1000));
    }
}
