//! Changes to the operator's lists, and what follows from them where the relay has members (NIP-43).
//!
//! The writer works one task after the other, each in a transaction of its own: whether it may be done, the changes, and the
//! events in which the relay tells of them. An invite code that admits one person admits one, however many come with it at once.
//!
//! The list of members is an event that replaces its predecessor, so it needs a later time; and other processes change lists too. So
//! it is not made from the change but from the lists: whenever what is published differs from them, it is published anew, once a
//! second at most.

use std::sync::atomic::Ordering::Relaxed;

use serde::{Deserialize, Serialize};

use super::identity::Identity;
use super::live_event::LiveEvent;
use super::outcome::{Outcome, Reply};
use super::policy::membership::claim;
use super::policy::moderation::names;
use super::queue::{Answer, Task, ToWriter, Told};
use super::{Admission, Core, live};
use crate::nostr::{Event, Kind, Tags};
use crate::store::{Applied, Batch, Change, Entry, List, Prepared, StoreError};

/// Invite codes that may be open at once.
const MOST_INVITES: usize = 10_000;

/// Invite codes that an administrator's client may have open; `ratite admin` makes any number.
const INVITES_OF_ADMIN: usize = 100;

/// The longest text that may be a key of a list, in bytes.
pub(super) const MAX_NAME: usize = 100;

/// An invite code on its list.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Invite {
    /// It is no good from then on, in unix seconds.
    pub until: Option<u64>,
    /// So many may still use it.
    pub uses: Option<u32>,
    /// The member who had it made; without one it was an administrator, by other means.
    pub issuer: Option<String>,
}

impl Invite {
    pub fn of(entry: &Entry) -> Invite {
        serde_json::from_str(&entry.detail).unwrap_or_default()
    }

    pub fn is_over(&self, now: u64) -> bool {
        self.until.is_some_and(|until| until <= now)
    }
}

/// A role on its list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Role {
    pub label: String,
    pub description: String,
    /// A hue, 0 to 360.
    pub color: Option<u16>,
    /// Its place among the roles.
    pub order: Option<u32>,
}

fn json(detail: &impl Serialize) -> String {
    // Structs and lists of text and numbers can always be written.
    serde_json::to_string(detail).unwrap_or_default()
}

/// An entry with this detail.
pub(super) fn entry(reason: &str, since: u64, detail: &impl Serialize) -> Entry {
    Entry { reason: reason.into(), since, detail: json(detail) }
}

/// Hands a request to join or to leave, whose signature is right, to the writer.
pub(super) fn request(core: &Core, event: &Event, admission: Admission, reply: Reply) {
    let key = event.pubkey;
    let task = match claim(event) {
        Some(code) if event.kind == Kind::JOIN_REQUEST => Task::Join { key, code: code.to_owned() },
        _ => Task::Leave { key },
    };
    let done: Told = Box::new(move |answer| {
        drop(admission);
        reply.send(match answer {
            Ok(Answer::Done(outcome)) => outcome,
            Ok(Answer::Code(_)) => Outcome::Granted(String::new()),
            Err(error) => Outcome::Failed(format!("error: {error}")),
        });
    });
    // A failed send drops the reply, and a dropped reply answers that the relay is shutting down.
    let _ = core.writer.send(ToWriter::Lists { task, done });
}

/// Does a task, on the writer's thread. What is answered is on disk and in force.
pub(super) fn run(core: &Core, task: Task) -> Result<Answer, StoreError> {
    let store = core.store();
    let mut batch = core.batch(&store)?;
    let (changes, answer) = plan(core, &batch, task)?;
    let mut told = Vec::new();
    for change in changes {
        apply(core, &mut batch, change, &mut told)?;
    }
    let up_to_date = match core.members() {
        Some(identity) => publish(core, identity, &mut batch, &mut told)?,
        None => true,
    };
    let next_seq = batch.next_seq();
    batch.commit()?;
    if !up_to_date {
        core.unpublished.store(true, Relaxed);
    }
    core.moderation.refresh(&store)?;
    if !told.is_empty() {
        core.live.committed(next_seq);
        core.live.send(live::Message::Committed(told));
    }
    Ok(answer)
}

/// What is to be changed, and what is answered.
fn plan(core: &Core, batch: &Batch<'_>, task: Task) -> Result<(Vec<Change>, Answer), StoreError> {
    let now = core.settings().clock.now();
    let say = |outcome: Outcome| Ok((Vec::new(), Answer::Done(outcome)));
    let granted = |text: &str| Outcome::Granted(text.into());
    let refused = |text: &str| Outcome::Refused(text.into());
    match task {
        Task::Change(changes) => Ok((changes, Answer::Done(granted("")))),
        Task::Publish => say(granted("")),
        Task::Join { key, code } => {
            if batch.list_entry(List::AllowedKeys, &key.0)?.is_some() || core.moderation.gate().is_insider(&key) {
                return say(granted("duplicate: you are a member of this relay already"));
            }
            let known = if code.len() > MAX_NAME { None } else { batch.list_entry(List::Invites, code.as_bytes())? };
            let Some(known) = known else { return say(refused("restricted: this invite code is not a valid one")) };
            let mut invite = Invite::of(&known);
            if invite.is_over(now) {
                return say(refused("restricted: this invite code has expired"));
            }
            let reason = match &invite.issuer {
                Some(issuer) => format!("invited by {issuer}"),
                None if known.reason.is_empty() => "invited".into(),
                None => format!("invited: {}", known.reason),
            };
            let left = invite.uses.map(|uses| uses.saturating_sub(1));
            let used = match left {
                Some(0) => Change::Remove(List::Invites, code.into_bytes()),
                _ => {
                    invite.uses = left;
                    Change::Put(List::Invites, code.into_bytes(), entry(&known.reason, known.since, &invite))
                }
            };
            let admitted = Entry { reason, since: now, detail: String::new() };
            let changes = vec![used, Change::Put(List::AllowedKeys, key.0.to_vec(), admitted)];
            Ok((changes, Answer::Done(granted("info: welcome, you are a member of this relay now"))))
        }
        Task::Leave { key } => {
            if batch.list_entry(List::AllowedKeys, &key.0)?.is_none() {
                return say(match core.moderation.gate().is_insider(&key) {
                    true => refused("restricted: who manages this relay cannot leave it"),
                    false => granted("duplicate: you are no member of this relay"),
                });
            }
            let gone = vec![Change::Remove(List::AllowedKeys, key.0.to_vec())];
            Ok((gone, Answer::Done(granted("info: you are a member of this relay no more"))))
        }
        Task::Invite { issuer, uses, lifetime, note } => {
            let (over, open): (Vec<_>, Vec<_>) =
                batch.list(List::Invites)?.into_iter().partition(|(_, known)| Invite::of(known).is_over(now));
            let mut changes: Vec<Change> =
                over.into_iter().map(|(code, _)| Change::Remove(List::Invites, code)).collect();
            if let Some(issuer) = &issuer {
                let own = issuer.to_string();
                let mut own: Vec<_> =
                    open.iter().filter(|(_, known)| Invite::of(known).issuer.as_ref() == Some(&own)).collect();
                let most = match core.moderation.gate().is_insider(issuer) {
                    true => INVITES_OF_ADMIN,
                    false => core.settings().membership.invites_per_member as usize,
                };
                own.sort_by_key(|(_, known)| known.since);
                if own.len() >= most
                    && let Some((code, _)) = own.last()
                {
                    return Ok((changes, Answer::Code(String::from_utf8_lossy(code).into_owned())));
                }
            }
            if open.len() >= MOST_INVITES {
                return say(refused("error: too many invite codes are open"));
            }
            let Some(code) = fresh_code() else { return say(refused("error: the system gives no random bytes")) };
            let until = lifetime.map(|lifetime| now.saturating_add(lifetime));
            let invite = Invite { until, uses, issuer: issuer.map(|issuer| issuer.to_string()) };
            changes.push(Change::Put(List::Invites, code.clone().into_bytes(), entry(&note, now, &invite)));
            Ok((changes, Answer::Code(code)))
        }
        Task::Assign { key, role, given } => {
            let Some(member) = batch.list_entry(List::AllowedKeys, &key.0)? else {
                return say(refused("this key is no member; allowpubkey makes it one"));
            };
            if given && batch.list_entry(List::Roles, role.as_bytes())?.is_none() {
                return say(refused("there is no such role; createrole makes one"));
            }
            let mut has = names(&member);
            has.retain(|known| *known != role);
            if given {
                has.push(role);
                has.sort();
            }
            let put = Change::Put(List::AllowedKeys, key.0.to_vec(), entry(&member.reason, member.since, &has));
            Ok((vec![put], Answer::Done(granted(""))))
        }
    }
}

/// Makes a change, with what follows from it; `told` gets the events that tell of it.
fn apply(core: &Core, batch: &mut Batch<'_>, change: Change, told: &mut Vec<LiveEvent>) -> Result<(), StoreError> {
    match change {
        Change::Put(List::AllowedKeys, key, mut entry) => {
            let known = batch.list_entry(List::AllowedKeys, &key)?;
            let is_new = known.is_none();
            // Who is allowed once more keeps what it has.
            if let (true, Some(known)) = (entry.detail.is_empty(), known) {
                entry.detail = known.detail;
            }
            batch.change_list(&Change::Put(List::AllowedKeys, key.clone(), entry))?;
            if is_new { tell(core, batch, Kind::MEMBER_ADDED, &key, told) } else { Ok(()) }
        }
        Change::Remove(List::AllowedKeys, key) => {
            if batch.list_entry(List::AllowedKeys, &key)?.is_none() {
                return Ok(());
            }
            // Nobody is invited by those who have left.
            let issuer = const_hex::encode(&key);
            for (code, known) in batch.list(List::Invites)? {
                if Invite::of(&known).issuer.as_ref() == Some(&issuer) {
                    batch.change_list(&Change::Remove(List::Invites, code))?;
                }
            }
            batch.change_list(&Change::Remove(List::AllowedKeys, key.clone()))?;
            tell(core, batch, Kind::MEMBER_REMOVED, &key, told)
        }
        Change::Remove(List::Roles, id) => {
            let name = String::from_utf8_lossy(&id).into_owned();
            for (key, member) in batch.list(List::AllowedKeys)? {
                let mut has = names(&member);
                if has.contains(&name) {
                    has.retain(|known| *known != name);
                    let put = Change::Put(List::AllowedKeys, key, entry(&member.reason, member.since, &has));
                    batch.change_list(&put)?;
                }
            }
            if let Some(identity) = core.members()
                && let Some(event) = batch.current(Kind::ROLE, &identity.pubkey(), &name)?
            {
                batch.remove_id(&event.id)?;
            }
            batch.change_list(&Change::Remove(List::Roles, id))
        }
        other => batch.change_list(&other),
    }
}

/// Tells, where the relay has members, that this key has become one or is one no more (N43-04).
fn tell(
    core: &Core,
    batch: &mut Batch<'_>,
    kind: Kind,
    key: &[u8],
    told: &mut Vec<LiveEvent>,
) -> Result<(), StoreError> {
    let Some(identity) = core.members() else { return Ok(()) };
    let mut tags = protected_tags();
    tags.push(["p", &const_hex::encode(key)]);
    store(core, batch, identity.sign(core.settings().clock.now(), kind, tags, ""), told)
}

/// Publishes the list of members and the roles as they are now, where what is published differs (N43-02, N43-03, N43-06). False when
/// that has to wait for the next second.
fn publish(
    core: &Core,
    identity: &Identity,
    batch: &mut Batch<'_>,
    told: &mut Vec<LiveEvent>,
) -> Result<bool, StoreError> {
    let mut tags = protected_tags();
    // The list need not be complete, and an event has to stay one that others take.
    for (key, member) in batch.list(List::AllowedKeys)?.into_iter().take(core.settings().limits.max_event_tags - 1) {
        tags.push(["member".to_owned(), const_hex::encode(key)].into_iter().chain(names(&member)));
    }
    let mut wanted = vec![(Kind::MEMBERS, String::new(), tags)];
    for (id, role) in batch.list(List::Roles)? {
        let id = String::from_utf8_lossy(&id).into_owned();
        let role: Role = serde_json::from_str(&role.detail).unwrap_or_default();
        let mut tags = protected_tags();
        tags.push(["d", &id]);
        let numbers = [("color", role.color.map(u32::from)), ("order", role.order)];
        let numbers = numbers.into_iter().filter_map(|(name, number)| Some((name, number?.to_string())));
        let texts = [("label", role.label), ("description", role.description)];
        for (name, value) in texts.into_iter().filter(|(_, text)| !text.is_empty()).chain(numbers) {
            tags.push([name, &value]);
        }
        wanted.push((Kind::ROLE, id, tags));
    }
    let now = core.settings().clock.now();
    let mut up_to_date = true;
    for (kind, id, tags) in wanted {
        let current = batch.current(kind, &identity.pubkey(), &id)?;
        let differs = match &current {
            Some(current) => current.tags != tags,
            // Where nobody ever was a member, no list is missing.
            None => tags.len() > 1,
        };
        if !differs {
            continue;
        }
        if current.is_some_and(|current| current.created_at >= now) {
            up_to_date = false;
            continue;
        }
        store(core, batch, identity.sign(now, kind, tags, ""), told)?;
    }
    Ok(up_to_date)
}

/// All that the relay says of its members is protected (N43-01).
fn protected_tags() -> Tags {
    let mut tags = Tags::default();
    tags.push(["-"]);
    tags
}

fn store(core: &Core, batch: &mut Batch<'_>, event: Event, told: &mut Vec<LiveEvent>) -> Result<(), StoreError> {
    let event: Prepared = core.store().prepare(&event);
    if let Applied::Stored(seq) = batch.apply(&event)? {
        told.push(LiveEvent::new(Some(seq), event.into_record(), None));
    }
    Ok(())
}

/// The event that brings an invite code to whoever asked for it (N43-07).
pub(super) fn invitation(identity: &Identity, now: u64, code: &str) -> Event {
    let mut tags = protected_tags();
    tags.push(["claim", code]);
    identity.sign(now, Kind::INVITE, tags, "")
}

/// Eighty random bits in letters and digits that nobody mistakes for others.
fn fresh_code() -> Option<String> {
    const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).ok()?;
    Some(bytes.iter().map(|byte| char::from(ALPHABET[usize::from(byte % 32)])).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_fresh_and_easy_to_read_out() {
        let (one, other) = (fresh_code().unwrap(), fresh_code().unwrap());
        assert_ne!(one, other);
        assert!(one.len() == 16 && one.bytes().all(|byte| !b"lo01".contains(&byte)), "{one}");
    }

    #[test]
    fn what_lists_keep_is_read_as_it_was_written() {
        let invite = Invite { until: Some(7), uses: Some(3), issuer: None };
        let read = Invite::of(&entry("", 0, &invite));
        assert_eq!((read.until, read.uses, &read.issuer), (Some(7), Some(3), &None));
        assert!(read.is_over(7) && !read.is_over(6));
        assert_eq!(names(&entry("", 0, &vec!["a".to_owned()])), ["a"]);
        assert!(names(&Entry::default()).is_empty());
    }
}
